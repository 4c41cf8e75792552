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

    fn add(&mut self, record_bytes: u64, images: u64, image_bytes: u64) {
        self.records += 1;
        self.record_bytes += record_bytes;
        self.images += images;
        self.image_bytes += image_bytes;
    }
}

/// Sums over everything that was added.
#[derive(Clone, Debug)]
pub struct WalStats {
    pub total: Share,
    pub commits: Commits,
    rmgrs: [Share; 256],
    relations: HashMap<RelationFile, Share>,
}

impl Default for WalStats {
    fn default() -> Self {
        WalStats {
            total: Share::default(),
            commits: Commits::default(),
            rmgrs: [Share::default(); 256],
            relations: HashMap::new(),
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
        let mut first: Option<RelationFile> = None;
        for block in record.blocks() {
            let image = block.image.map_or(0, |image| u64::from(image.bytes.len()));
            images += u64::from(block.image.is_some());
            image_bytes += image;
            let of_first = first.is_none_or(|first| first == block.relation);
            first.get_or_insert(block.relation);
            let share = self.relations.entry(block.relation).or_default();
            share.images += u64::from(block.image.is_some());
            share.image_bytes += image;
            if !of_first {
                share.record_bytes += u64::from(block.data.len());
            }
        }
        if let Some(first) = first {
            let others = record.blocks().iter().filter(|block| block.relation != first);
            let elsewhere: u64 = others.map(|block| u64::from(block.data.len())).sum();
            let share = self.relations.entry(first).or_default();
            share.records += 1;
            share.record_bytes += length - image_bytes - elsewhere;
        }
        self.total.add(length - image_bytes, images, image_bytes);
        if let Some(share) = self.rmgrs.get_mut(usize::from(record.rmgr().as_u8())) {
            share.add(length - image_bytes, images, image_bytes);
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
        let mut all: Vec<_> = self
            .relations
            .iter()
            .map(|(file, share)| (*file, *share))
            .collect();
        all.sort_by_key(|(file, share)| (std::cmp::Reverse(share.bytes()), *file));
        all
    }
}
