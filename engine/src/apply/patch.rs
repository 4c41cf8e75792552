//! Binary values that name types by oid: arrays and composites of user-made types.
//!
//! The oids in them are the provider's. They are overwritten with the subscriber's, in place, as the
//! receive functions compare them (PostgreSQL source: array_recv, record_recv, range_recv).

use skytide_sql::Oid;

/// How a type's values are rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Patch {
    /// They name no types that differ.
    #[default]
    None,
    Array {
        element: Oid,
        inner: Box<Patch>,
    },
    Record(Vec<(Oid, Patch)>),
    Range(Box<Patch>),
    /// They are of a type that the subscriber's column cannot take in binary form.
    Foreign,
}

/// The bytes are not a value of the type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

const RANGE_EMPTY: u8 = 0x01;
const RANGE_LOWER_INFINITE: u8 = 0x08;
const RANGE_UPPER_INFINITE: u8 = 0x10;

impl Patch {
    pub fn is_none(&self) -> bool {
        *self == Patch::None
    }

    pub fn apply(&self, value: &mut [u8]) -> Result<(), Malformed> {
        match self {
            Patch::None => Ok(()),
            Patch::Foreign => Err(Malformed),
            Patch::Array { element, inner } => {
                let (dimensions, rest) = int(value)?;
                let (_, rest) = int(rest)?;
                let rest = put_oid(rest, *element)?;
                let dimensions = usize::try_from(dimensions).map_err(|_| Malformed)?;
                let sizes = dimensions.checked_mul(8).ok_or(Malformed)?;
                if inner.is_none() {
                    return Ok(());
                }
                let mut rest = rest.get_mut(sizes..).ok_or(Malformed)?;
                while !rest.is_empty() {
                    rest = inner.apply_to_item(rest)?;
                }
                Ok(())
            }
            Patch::Record(columns) => {
                let (count, mut rest) = int(value)?;
                if usize::try_from(count) != Ok(columns.len()) {
                    return Err(Malformed);
                }
                for (oid, inner) in columns {
                    rest = inner.apply_to_item(put_oid(rest, *oid)?)?;
                }
                Ok(())
            }
            Patch::Range(inner) => {
                let (flags, mut rest) = value.split_first_mut().ok_or(Malformed)?;
                if *flags & RANGE_EMPTY != 0 {
                    return Ok(());
                }
                for infinite in [RANGE_LOWER_INFINITE, RANGE_UPPER_INFINITE] {
                    if *flags & infinite == 0 {
                        rest = inner.apply_to_item(rest)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Rewrites a value that its length precedes; returns what follows.
    fn apply_to_item<'a>(&self, bytes: &'a mut [u8]) -> Result<&'a mut [u8], Malformed> {
        let (len, rest) = int(bytes)?;
        let Ok(len) = usize::try_from(len) else {
            return Ok(rest); // -1: null
        };
        let (value, rest) = rest.split_at_mut_checked(len).ok_or(Malformed)?;
        self.apply(value)?;
        Ok(rest)
    }
}

fn int(bytes: &mut [u8]) -> Result<(i32, &mut [u8]), Malformed> {
    let (int, rest) = bytes.split_first_chunk_mut::<4>().ok_or(Malformed)?;
    Ok((i32::from_be_bytes(*int), rest))
}

fn put_oid(bytes: &mut [u8], oid: Oid) -> Result<&mut [u8], Malformed> {
    let (place, rest) = bytes.split_first_chunk_mut::<4>().ok_or(Malformed)?;
    *place = oid.get().to_be_bytes();
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested() -> Patch {
        let record = Patch::Record(vec![(Oid::new(23), Patch::None), (Oid::new(70000), Patch::None)]);
        Patch::Array {
            element: Oid::new(70001),
            inner: Box::new(record),
        }
    }

    #[test]
    fn an_array_of_records_gets_all_its_oids() {
        let with = |element: u32, enumeration: u32| {
            let mut v = Vec::new();
            for word in [1, 0, element, 2, 1, u32::MAX, 28, 2, 23, 4, 7, enumeration, 4] {
                v.extend_from_slice(&u32::to_be_bytes(word));
            }
            v.extend_from_slice(b"blue");
            v
        };
        let mut value = with(60001, 60000);
        nested().apply(&mut value).unwrap();
        assert_eq!(value, with(70001, 70000));
    }

    proptest! {
        #[test]
        fn any_bytes_are_patched_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = nested().apply(&mut bytes);
            let _ = Patch::Range(Box::new(nested())).apply(&mut bytes);
        }
    }
}
