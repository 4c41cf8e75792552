//! The memory map of one segment: the only unsafe code of the engine.
//!
//! A map has one writer half and any number of readers. Bytes below the published length never change
//! again, and readers get slices of nothing else; the writer half changes bytes from there on only.
//! Segment files are preallocated before they are mapped and never truncated, and a lock file keeps
//! other writers of ours away; whoever else writes into them breaks the map's promise.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};

/// At least a page of any machine; offsets that are multiples of it are page boundaries.
const PAGE: usize = 64 << 10;

/// What readers hold.
pub(super) struct Map {
    raw: MmapRaw,
    published: AtomicUsize,
}

/// What the writer holds: there is one for a map, and it is not `Clone`.
pub(super) struct MapWriter {
    map: Arc<Map>,
}

impl Map {
    /// Maps `len` bytes of `file` for writing; nothing is published yet.
    pub fn writable(file: &File, len: usize) -> io::Result<MapWriter> {
        let raw = MmapOptions::new().len(len).map_raw(file)?;
        let published = AtomicUsize::new(0);
        Ok(MapWriter {
            map: Arc::new(Map { raw, published }),
        })
    }

    /// Maps `len` bytes of `file`, of which the first `published` are final.
    pub fn read_only(file: &File, len: usize, published: usize) -> io::Result<Arc<Map>> {
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let published = AtomicUsize::new(published.min(len));
        Ok(Arc::new(Map { raw, published }))
    }

    /// The bytes that are final.
    #[inline]
    pub fn published(&self) -> &[u8] {
        let len = self.published.load(Ordering::Acquire);
        // SAFETY: the map is at least `len` bytes long (`publish` and `read_only` see to it) and lives as long
        // as `self`. The writer never again changes bytes below a length it published, and its
        // earlier changes happen before the Release store that this Acquire load saw.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr(), len) }
    }
}

impl Map {
    /// Another process has made everything below `len` final; never less than before, nor more than there is.
    pub fn extend(&self, len: usize) {
        self.published
            .fetch_max(len.min(self.raw.len()), Ordering::AcqRel);
    }

    /// Takes the pages below `len` out of this process's memory; they come back from the page cache when
    /// somebody looks.
    pub fn forget_below(&self, len: usize) {
        let len = len.min(self.published.load(Ordering::Acquire));
        let len = len - len % PAGE;
        if len > 0 {
            // SAFETY: the map is a shared one of a file, where DONTNEED drops page table entries only: whoever
            // reads such a page next gets the same bytes again.
            let advised = unsafe { self.raw.unchecked_advise_range(UncheckedAdvice::DontNeed, 0, len) };
            // Only advice: without it the process is larger, not wrong.
            let _ = advised;
        }
    }
}

impl MapWriter {
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    fn published_len(&self) -> usize {
        // Only this half stores it.
        self.map.published.load(Ordering::Relaxed)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// If that is outside the segment or below the published length.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.check_room(offset, bytes.len());
        // SAFETY: the target lies within the map (checked above) and above the published length, where no reader
        // looks, and `&mut self` excludes a second writer. Nobody has a slice of that part, so source and target
        // cannot overlap.
        unsafe {
            let target = self.map.raw.as_mut_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
    }

    /// Zeroes `from..to`.
    ///
    /// # Panics
    /// If `from` is below the published length or `to` outside the segment.
    pub fn clear(&mut self, from: usize, to: usize) {
        const STEP: usize = 4096;
        for at in (from..to).step_by(STEP) {
            self.write(at, &[0; STEP][..STEP.min(to - at)]);
        }
    }

    /// Makes everything below `len` final and visible to readers.
    ///
    /// # Panics
    /// If `len` is outside the segment or below what is published already.
    pub fn publish(&mut self, len: usize) {
        self.check_room(len, 0);
        self.map.published.store(len, Ordering::Release);
    }

    fn check_room(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(offset >= self.published_len(), "published bytes are final");
        assert!(
            end.is_some_and(|end| end <= self.map.raw.len()),
            "outside the segment"
        );
    }
}
