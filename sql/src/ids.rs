//! Numbers that name things.

use std::fmt;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name($repr);

        impl $name {
            pub const fn new(value: $repr) -> Self {
                Self(value)
            }

            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id_type!(
    /// A tick of one queue: a position that means the same on every node of a cascade.
    TickId, i64
);
id_type!(
    /// An open batch, from `pgq.batch_id_seq`.
    BatchId, i64
);
id_type!(
    /// An event of one queue. Retried events keep theirs, so it is not unique.
    EventId, i64
);
id_type!(
    /// A PostgreSQL object id. Means nothing in another database.
    Oid, u32
);
