//! Whose WAL a store holds: written once, read before anything else.

use std::fmt;

use super::{Content, Put, Store, StoreError, layout};
use crate::SegmentSize;

const VERSION: u32 = 1;
const FIRST_LINE: &str = "skytide store";

/// The cluster a store belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub system_id: u64,
    pub segment_size: SegmentSize,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "store {location} belongs to the cluster with {field} {found}, not {expected}: give each cluster a store of its own"
    )]
    Foreign {
        location: String,
        field: &'static str,
        found: String,
        expected: String,
    },
    #[error("the identity of store {location} cannot be read: {what}")]
    Damaged { location: String, what: String },
    #[error(
        "store {location} has format version {found}, this program knows {VERSION}: use the program that wrote it"
    )]
    Version { location: String, found: u32 },
}

impl Identity {
    /// Makes an empty store this cluster's, and refuses a store of another one.
    pub async fn claim(self, store: &dyn Store) -> Result<(), IdentityError> {
        // Nearly always it is there: reading first spares writing a file for nothing.
        if let Some(found) = Identity::read(store).await? {
            return self.expect(store.location(), found);
        }
        match store
            .put(&layout::identity(), Content::new(self.to_string()))
            .await?
        {
            Put::Stored => Ok(()),
            Put::Exists => match Identity::read(store).await? {
                Some(found) => self.expect(store.location(), found),
                None => Err(damaged(store, "it came and went")),
            },
        }
    }

    /// `None` if nobody has claimed the store.
    pub async fn read(store: &dyn Store) -> Result<Option<Identity>, IdentityError> {
        let Some(bytes) = store.get(&layout::identity()).await? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged(store, "it is no text"))?;
        let (body, crc) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once("crc = "))
            .ok_or_else(|| damaged(store, "it is cut off"))?;
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged(store, "its checksum is wrong"));
        }
        let value = |key: &str| {
            let mut pairs = body.lines().filter_map(|line| line.split_once(" = "));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let number = |key: &str| value(key).and_then(|value| value.parse::<u64>().ok());
        let missing = || damaged(store, "a line is missing");
        let version = value("version")
            .and_then(|version| version.parse().ok())
            .ok_or_else(missing)?;
        if version != VERSION {
            return Err(IdentityError::Version {
                location: store.location().to_owned(),
                found: version,
            });
        }
        let segment_bytes = number("segment_bytes").and_then(|bytes| u32::try_from(bytes).ok());
        Ok(Some(Identity {
            system_id: number("system_identifier").ok_or_else(missing)?,
            segment_size: segment_bytes.and_then(SegmentSize::new).ok_or_else(missing)?,
        }))
    }

    /// Compares what is there with what shall be.
    pub fn expect(self, location: &str, found: Identity) -> Result<(), IdentityError> {
        let foreign = |field, found: u64, expected: u64| IdentityError::Foreign {
            location: location.to_owned(),
            field,
            found: found.to_string(),
            expected: expected.to_string(),
        };
        if found.system_id != self.system_id {
            return Err(foreign("system identifier", found.system_id, self.system_id));
        }
        if found.segment_size != self.segment_size {
            let (found, expected) = (found.segment_size.bytes(), self.segment_size.bytes());
            return Err(foreign("segment size", found, expected));
        }
        Ok(())
    }
}

/// The file's text.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = format!(
            "{FIRST_LINE}\nversion = {VERSION}\nsystem_identifier = {}\nsegment_bytes = {}\n",
            self.system_id,
            self.segment_size.bytes()
        );
        writeln!(f, "{body}crc = {:08x}", crc32c::crc32c(body.as_bytes()))
    }
}

fn damaged(store: &dyn Store, what: &str) -> IdentityError {
    IdentityError::Damaged {
        location: store.location().to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirStore;

    fn of(system_id: u64, mib: u32) -> Identity {
        Identity {
            system_id,
            segment_size: SegmentSize::new(mib << 20).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_store_belongs_to_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::create(dir.path()).unwrap();
        assert_eq!(Identity::read(&store).await.unwrap(), None);
        let ours = of(7_600_000_000_000_000_001, 16);
        ours.claim(&store).await.unwrap();
        ours.claim(&store).await.unwrap();
        assert_eq!(Identity::read(&store).await.unwrap(), Some(ours));
        for (other, field) in [
            (of(1, 16), "system identifier"),
            (of(ours.system_id, 64), "segment size"),
        ] {
            let error = other.claim(&store).await.unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[tokio::test]
    async fn an_identity_that_cannot_be_trusted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::create(dir.path()).unwrap();
        let ours = of(7, 16);
        let text = ours.to_string();
        for end in 0..text.len() {
            std::fs::write(dir.path().join("identity"), text.get(..end).unwrap()).unwrap();
            assert!(ours.claim(&store).await.is_err(), "cut at {end}");
        }
        std::fs::write(dir.path().join("identity"), text.replace("= 7", "= 8")).unwrap();
        assert!(ours.claim(&store).await.is_err());
    }
}
