//! Who wrote the WAL: records and bytes by resource manager and by relation, and how much of it is page images.

use hashbrown::HashMap;

use crate::commit::TransactionEnd;
use crate::decode::Record;
use crate::format::record::RelationFile;
use crate::format::rmgr::Rmgr;
use crate::verify::Commits;

/// A sum over records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    pub records: u64,
    /// Bytes of records without their page images.
    pub record_bytes: u64,
    /// Page images.
    pub images: u64,
    pub image_bytes: u64,
}

impl Share {
    pub const fn bytes(&self) -> u64 {
        self.record_bytes + self.image_bytes
    }

    fn add(&mut self, other: &Share) {
        self.records += other.records;
        self.record_bytes += other.record_bytes;
        self.images += other.images;
        self.image_bytes += other.image_bytes;
    }
}

/// Sums over everything that was added.
#[derive(Clone, Debug)]
pub struct WalStats {
    pub total: Share,
    pub commits: Commits,
    rmgrs: [Share; 256],
    relations: Relations,
}

/// Sums by relation. A few relations have most of the records; those are found without hashing.
#[derive(Clone, Debug, Default)]
struct Relations {
    sums: Vec<(RelationFile, Share)>,
    places: HashMap<RelationFile, usize>,
    /// Places of relations used last, by the last digits of their numbers.
    recent: [usize; 16],
}

impl Relations {
    #[inline]
    fn of(&mut self, file: RelationFile) -> &mut Share {
        let recent = &mut self.recent[file.number as usize % 16];
        if self.sums.get(*recent).is_none_or(|(known, _)| *known != file) {
            *recent = *self.places.entry(file).or_insert_with(|| {
                self.sums.push((file, Share::default()));
                self.sums.len() - 1
            });
        }
        &mut self.sums[*recent].1
    }
}

impl Default for WalStats {
    fn default() -> Self {
        WalStats {
            total: Share::default(),
            commits: Commits::default(),
            rmgrs: [Share::default(); 256],
            relations: Relations::default(),
        }
    }
}

impl WalStats {
    pub fn new() -> WalStats {
        WalStats::default()
    }

    /// Adds a record. Of a relation it counts the page images and the data of its own blocks; what a record says beside
    /// that goes to the relation of its first block.
    pub fn add(&mut self, record: &Record<'_>) {
        let length = u64::from(record.header.length);
        let (mut images, mut image_bytes) = (0, 0);
        if let Some(first) = record.blocks().first().map(|block| block.relation) {
            // Most records have blocks of one relation, which is looked up once.
            let mut of_first = Share {
                records: 1,
                record_bytes: length,
                ..Share::default()
            };
            for block in record.blocks() {
                let image = block.image.map_or(0, |image| u64::from(image.bytes.len()));
                images += u64::from(block.image.is_some());
                image_bytes += image;
                let mut share = &mut of_first;
                if block.relation != first {
                    let data = u64::from(block.data.len());
                    of_first.record_bytes -= data;
                    share = self.relations.of(block.relation);
                    share.record_bytes += data;
                }
                share.images += u64::from(block.image.is_some());
                share.image_bytes += image;
            }
            of_first.record_bytes -= image_bytes;
            self.relations.of(first).add(&of_first);
        }
        let whole = Share {
            records: 1,
            record_bytes: length - image_bytes,
            images,
            image_bytes,
        };
        self.total.add(&whole);
        if let Some(share) = self.rmgrs.get_mut(usize::from(record.rmgr().as_u8())) {
            share.add(&whole);
        }
        if record.rmgr() == Rmgr::TRANSACTION
            && let Some(end) = TransactionEnd::of(record)
        {
            self.commits.add(&end);
        }
    }

    /// Resource managers that wrote something, by id.
    pub fn rmgrs(&self) -> impl Iterator<Item = (Rmgr, &Share)> {
        let all = self.rmgrs.iter().zip(0..=u8::MAX);
        all.filter(|(share, _)| share.records > 0)
            .map(|(share, id)| (Rmgr::new(id), share))
    }

    /// Relations' files, the one with most bytes first.
    pub fn relations(&self) -> Vec<(RelationFile, Share)> {
        let mut all = self.relations.sums.clone();
        all.sort_by_key(|(file, share)| (std::cmp::Reverse(share.bytes()), *file));
        all
    }
}
