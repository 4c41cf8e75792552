//! The net effect of a chunk of changes on one table.
//!
//! The model is a set of *positions*, one for each key value the chunk touches. A position knows whether
//! the table had a row there before the chunk, and which row is there now. A row that moves to another
//! key with all its values known is gone from the old position and new at the other. A row that moves
//! with values unknown (unchanged TOAST) stays tied to the position it came from, its *origin*, because
//! only an UPDATE of that row can carry those values over. So does every row of a table that has columns
//! of its own on the subscriber.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::change::{ColumnValue, OldRow, Tuple, Values};

/// Bytes of a position in the chunk's budget, with its share of the index.
const POSITION_BYTES: usize = std::mem::size_of::<Position>() + 8;
/// Emptied buffers above this size are given back.
const KEEP_BYTES: usize = 1 << 20;

/// A piece of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    at: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Gone,
    /// Every value is known.
    Whole(Span),
    /// Some values, of the image or of columns it knows nothing of, are those of the table's row at the origin's key
    /// before the chunk.
    Part {
        image: Span,
        origin: u32,
    },
}

#[derive(Clone, Debug)]
struct Position {
    hash: u64,
    key: Span,
    row: Row,
    /// The table had a row here before the chunk.
    was: bool,
    /// That row is tied to another position now.
    moved_away: bool,
    /// That row gave way to another one.
    replaced: bool,
}

/// Wire form of a column's values in this chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    /// Only nulls so far.
    Unknown,
    Text,
    Binary,
}

/// Why a change was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A column comes in another form than before: end the chunk and offer the change again.
    OtherFormat,
    NullKey,
    NoKey,
    /// The row is not the one that earlier changes left at this key: two rows had the key for a moment.
    OtherRow,
    ColumnCount(usize),
    /// An insert lacks this column's value.
    NotSent(usize),
    TooLarge,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// It changes a row that an earlier change of the chunk removed.
    RowWasGone,
}

/// What has to be done to the table, in this order. Numbers are positions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub deletes: Vec<u32>,
    /// Updates that change the key, with the position whose key the row has now.
    pub rekeys: Vec<(u32, u32)>,
    pub updates: Vec<u32>,
    pub inserts: Vec<u32>,
}

/// What an update with every value known may be turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WholeUpdates {
    Update,
    /// A column can't be SET (GENERATED ALWAYS AS IDENTITY): delete and insert.
    Replace,
    /// Every column is part of the key: there is nothing to set.
    Nothing,
}

fn full_image(old: OldRow<'_>) -> Option<&[u8]> {
    match old {
        OldRow::Full(row) => Some(row.as_bytes()),
        OldRow::Key(_) => None,
    }
}

#[derive(Debug)]
pub(super) struct Net {
    /// Numbers of the key's columns, ascending; none for a table that only gets inserts.
    key: Box<[usize]>,
    formats: Box<[Format]>,
    arena: Vec<u8>,
    positions: Vec<Position>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The subscriber's table has columns that the provider's lacks.
    has_others: bool,
    /// Nothing but inserts of new keys so far: there was nothing to net.
    only_inserts: bool,
    /// The key just read.
    scratch: Vec<u8>,
    other_key: Vec<u8>,
}

impl Net {
    pub fn new(key: Box<[usize]>, columns: usize) -> Net {
        Net {
            key,
            formats: vec![Format::Unknown; columns].into(),
            arena: Vec::new(),
            positions: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            has_others: false,
            only_inserts: true,
            scratch: Vec::new(),
            other_key: Vec::new(),
        }
    }

    /// Whether rows have values that no image knows: then a row that moves is updated, not deleted and inserted.
    pub fn keep_others(&mut self, has_others: bool) {
        self.has_others = has_others;
    }

    pub fn clear(&mut self) {
        self.formats.fill(Format::Unknown);
        self.only_inserts = true;
        if self.arena.capacity() + self.positions.capacity() * POSITION_BYTES > KEEP_BYTES {
            self.arena = Vec::new();
            self.positions = Vec::new();
            self.index = HashTable::new();
        } else {
            self.arena.clear();
            self.positions.clear();
            self.index.clear();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.arena.len() + self.positions.len() * POSITION_BYTES
    }

    /// Whether holding back what is here has gained nothing so far.
    pub fn only_inserts(&self) -> bool {
        self.only_inserts
    }

    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// The key's values, one after the other; several columns are prefixed with their lengths.
    pub fn key(&self, position: u32) -> &[u8] {
        self.bytes_of(self.positions[position as usize].key)
    }

    /// The row's values as a tuple's body; empty if there is no row.
    pub fn image(&self, position: u32) -> &[u8] {
        match self.positions[position as usize].row {
            Row::Gone => &[],
            Row::Whole(image) | Row::Part { image, .. } => self.bytes_of(image),
        }
    }

    pub fn is_whole(&self, position: u32) -> bool {
        matches!(self.positions[position as usize].row, Row::Whole(_))
    }

    fn bytes_of(&self, span: Span) -> &[u8] {
        &self.arena[span.at as usize..][..span.len as usize]
    }

    pub fn insert(&mut self, new: Tuple<'_>) -> Result<Taken, Refused> {
        self.check(&new)?;
        self.read(new, None)?;
        if let Some(column) = new.values().position(|v| v == ColumnValue::Unchanged) {
            return Err(Refused::NotSent(column));
        }
        if self.key.is_empty() {
            let image = self.keep(new.as_bytes())?;
            let key = Span { at: 0, len: 0 };
            self.positions.push(Position {
                hash: 0,
                key,
                row: Row::Whole(image),
                was: false,
                moved_away: false,
                replaced: false,
            });
            return Ok(Taken::Yes);
        }
        let (at, added) = self.find_or_add(false)?;
        self.only_inserts &= added;
        self.vacate(at);
        self.settle_whole(at, new.as_bytes())?;
        Ok(Taken::Yes)
    }

    pub fn delete(&mut self, old: OldRow<'_>) -> Result<Taken, Refused> {
        let full = full_image(old);
        let (OldRow::Key(old) | OldRow::Full(old)) = old;
        self.check(&old)?;
        self.need_key()?;
        self.only_inserts = false;
        self.read(old, None)?;
        let (at, added) = self.find_or_add(true)?;
        if !added && self.positions[at].row == Row::Gone {
            return Ok(Taken::RowWasGone);
        }
        self.check_row(at, full)?;
        self.vacate(at);
        Ok(Taken::Yes)
    }

    pub fn update(&mut self, old: Option<OldRow<'_>>, new: Tuple<'_>) -> Result<Taken, Refused> {
        self.check(&new)?;
        self.need_key()?;
        self.only_inserts = false;
        let Some(old) = old else {
            let whole = self.read(new, None)?;
            let (at, added) = self.find_or_add(true)?;
            return self.change(at, at, added, new, whole, None);
        };
        let (OldRow::Key(old_tuple) | OldRow::Full(old_tuple)) = old;
        self.check(&old_tuple)?;
        self.read(old_tuple, None)?;
        std::mem::swap(&mut self.scratch, &mut self.other_key);
        let whole = self.read(new, Some(old_tuple))?;
        std::mem::swap(&mut self.scratch, &mut self.other_key);
        let (from, added) = self.find_or_add(true)?;
        self.check_row(from, full_image(old))?;
        let there = added || self.positions[from].row != Row::Gone;
        let to = if there && self.scratch != self.other_key {
            std::mem::swap(&mut self.scratch, &mut self.other_key);
            self.find_or_add(false)?.0
        } else {
            from
        };
        self.change(from, to, added, new, whole, Some(old))
    }

    /// With identity FULL the provider sends the whole row as it was, and its key may have been another row's too, as
    /// where the key is deferrable.
    fn check_row(&self, at: usize, old: Option<&[u8]>) -> Result<(), Refused> {
        let (Row::Whole(image) | Row::Part { image, .. }, Some(old)) = (self.positions[at].row, old) else {
            return Ok(());
        };
        let image = self.bytes_of(image);
        let known = || Values::of_body(image).all(|value| value != ColumnValue::Unchanged);
        if image != old && known() {
            return Err(Refused::OtherRow);
        }
        Ok(())
    }

    fn need_key(&self) -> Result<(), Refused> {
        if self.key.is_empty() {
            return Err(Refused::NoKey);
        }
        Ok(())
    }

    fn check(&self, tuple: &Tuple<'_>) -> Result<(), Refused> {
        if tuple.len() != self.formats.len() {
            return Err(Refused::ColumnCount(tuple.len()));
        }
        Ok(())
    }

    /// Walks over a tuple: leaves its key in `scratch`, notes the columns' formats, and says whether all
    /// values are there. Key values not sent are taken from `old`.
    fn read(&mut self, tuple: Tuple<'_>, old: Option<Tuple<'_>>) -> Result<bool, Refused> {
        self.scratch.clear();
        let mut whole = true;
        let mut next_key = 0;
        for (column, value) in tuple.values().enumerate() {
            let (format, bytes) = match value {
                ColumnValue::Binary(bytes) => (Format::Binary, bytes),
                ColumnValue::Text(bytes) => (Format::Text, bytes),
                ColumnValue::Null => (Format::Unknown, &[][..]),
                ColumnValue::Unchanged => {
                    whole = false;
                    (Format::Unknown, &[][..])
                }
            };
            if format != Format::Unknown && self.formats[column] != format {
                if self.formats[column] != Format::Unknown {
                    return Err(Refused::OtherFormat);
                }
                self.formats[column] = format;
            }
            if self.key.get(next_key) == Some(&column) {
                next_key += 1;
                let bytes = match (value, old) {
                    (ColumnValue::Null, _) => return Err(Refused::NullKey),
                    (ColumnValue::Unchanged, None) => return Err(Refused::NotSent(column)),
                    (ColumnValue::Unchanged, Some(old)) => match old.values().nth(column) {
                        Some(ColumnValue::Text(bytes) | ColumnValue::Binary(bytes)) => bytes,
                        _ => return Err(Refused::NotSent(column)),
                    },
                    _ => bytes,
                };
                if self.key.len() > 1 {
                    let len = u32::try_from(bytes.len()).map_err(|_| Refused::TooLarge)?;
                    self.scratch.extend_from_slice(&len.to_be_bytes());
                }
                self.scratch.extend_from_slice(bytes);
            }
        }
        Ok(whole)
    }

    /// The position of the key in `scratch`, and whether it is new.
    fn find_or_add(&mut self, was: bool) -> Result<(usize, bool), Refused> {
        let hash = self.hasher.hash_one(self.scratch.as_slice());
        let (positions, arena, wanted) = (&self.positions, &self.arena, &self.scratch);
        let same = |at: &u32| {
            let Position { hash: h, key, .. } = &positions[*at as usize];
            *h == hash && arena[key.at as usize..][..key.len as usize] == **wanted
        };
        if let Some(at) = self.index.find(hash, same) {
            return Ok((*at as usize, false));
        }
        let at = u32::try_from(self.positions.len()).map_err(|_| Refused::TooLarge)?;
        let scratch = std::mem::take(&mut self.scratch);
        let key = self.keep(&scratch);
        self.scratch = scratch;
        self.positions.push(Position {
            hash,
            key: key?,
            row: Row::Gone,
            was,
            moved_away: false,
            replaced: false,
        });
        let positions = &self.positions;
        self.index
            .insert_unique(hash, at, |at| positions[*at as usize].hash);
        Ok((at as usize, true))
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Span, Refused> {
        let at = u32::try_from(self.arena.len()).map_err(|_| Refused::TooLarge)?;
        let len = u32::try_from(bytes.len()).map_err(|_| Refused::TooLarge)?;
        at.checked_add(len).ok_or(Refused::TooLarge)?;
        self.arena.extend_from_slice(bytes);
        Ok(Span { at, len })
    }

    /// Keeps an image, in the place of the one it follows if it fits there.
    fn keep_over(&mut self, place: Option<Span>, bytes: &[u8]) -> Result<Span, Refused> {
        match place {
            Some(Span { at, len }) if len as usize >= bytes.len() => {
                self.arena[at as usize..][..bytes.len()].copy_from_slice(bytes);
                let len = bytes.len() as u32; // fits: shorter than the old one
                Ok(Span { at, len })
            }
            _ => self.keep(bytes),
        }
    }

    /// Takes the row out of a position.
    fn vacate(&mut self, at: usize) {
        if let Row::Part { origin, .. } = self.positions[at].row {
            self.positions[origin as usize].moved_away = false;
        }
        self.positions[at].row = Row::Gone;
    }

    fn settle_whole(&mut self, at: usize, image: &[u8]) -> Result<(), Refused> {
        let image = self.keep(image)?;
        let position = &mut self.positions[at];
        position.replaced = position.was;
        position.row = Row::Whole(image);
        Ok(())
    }

    fn change(
        &mut self,
        from: usize,
        to: usize,
        added: bool,
        new: Tuple<'_>,
        whole: bool,
        old: Option<OldRow<'_>>,
    ) -> Result<Taken, Refused> {
        let (before, origin) = match self.positions[from].row {
            Row::Gone if !added => return Ok(Taken::RowWasGone),
            Row::Gone => (None, Some(from)),
            Row::Whole(image) => (Some(image), None),
            Row::Part { image, origin } => (Some(image), Some(origin as usize)),
        };
        let (image, whole) = if whole {
            (self.keep_over(before, new.as_bytes())?, true)
        } else {
            let (merged, whole) = {
                let before = before.map(|span| self.bytes_of(span));
                merge(new, before, old, self.formats.len())
            };
            (self.keep_over(before, &merged)?, whole)
        };
        self.vacate(from);
        if to != from {
            self.vacate(to);
        }
        match origin {
            Some(origin) if !whole || self.has_others => {
                self.positions[origin].moved_away = origin != to;
                let origin = origin as u32; // positions are counted in u32
                self.positions[to].row = Row::Part { image, origin };
            }
            _ => {
                let position = &mut self.positions[to];
                position.replaced |= position.was && (to != from || origin.is_some_and(|o| o != to));
                position.row = Row::Whole(image);
            }
        }
        Ok(Taken::Yes)
    }

    /// What the chunk comes to.
    pub fn settle(&self, whole_updates: WholeUpdates) -> Settled {
        let mut settled = Settled::default();
        for (at, position) in (0..).zip(&self.positions) {
            let base_goes = position.was && !position.moved_away;
            match position.row {
                Row::Gone => {
                    if base_goes {
                        settled.deletes.push(at);
                    }
                }
                Row::Whole(_) if !base_goes => settled.inserts.push(at),
                Row::Whole(_) if position.replaced || whole_updates == WholeUpdates::Replace => {
                    settled.deletes.push(at);
                    settled.inserts.push(at);
                }
                Row::Whole(_) if whole_updates == WholeUpdates::Nothing => {}
                Row::Whole(_) => settled.updates.push(at),
                Row::Part { origin, .. } if origin == at => settled.updates.push(at),
                Row::Part { origin, .. } => {
                    if base_goes {
                        settled.deletes.push(at);
                    }
                    settled.rekeys.push((origin, at));
                }
            }
        }
        settled
    }

    /// Puts positions into the order of their keys, so that neighbours in the index are met together.
    pub fn sort_by_key(&self, list: &mut Vec<u32>) {
        let prefix = |at: u32| {
            let key = self.key(at);
            let mut first = [0; 8];
            let len = key.len().min(8);
            first[..len].copy_from_slice(&key[..len]);
            (u64::from_be_bytes(first), at)
        };
        let mut keyed: Vec<(u64, u32)> = list.iter().map(|at| prefix(*at)).collect();
        keyed.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| self.key(*x).cmp(self.key(*y))));
        list.clear();
        list.extend(keyed.into_iter().map(|(_, at)| at));
    }
}

/// The new image, with what it leaves out taken from the earlier one or from the old row.
fn merge(new: Tuple<'_>, before: Option<&[u8]>, old: Option<OldRow<'_>>, columns: usize) -> (Vec<u8>, bool) {
    let mut merged = Vec::with_capacity(new.as_bytes().len() + before.map_or(0, <[u8]>::len));
    let mut whole = true;
    let mut before = before.map(Values::of_body);
    let old_row = old.as_ref().map(|(OldRow::Key(t) | OldRow::Full(t))| t.values());
    let mut old_row = old_row.into_iter().flatten();
    for (_, value) in (0..columns).zip(new.values()) {
        let earlier = before.as_mut().and_then(Iterator::next);
        let old_value = old_row.next();
        let value = match (value, earlier, old_value) {
            (ColumnValue::Unchanged, Some(earlier), _) if earlier != ColumnValue::Unchanged => earlier,
            (ColumnValue::Unchanged, _, Some(old_value)) => match (old_value, &old) {
                (ColumnValue::Null, Some(OldRow::Key(_))) => ColumnValue::Unchanged,
                _ => old_value,
            },
            (value, _, _) => value,
        };
        whole &= value != ColumnValue::Unchanged;
        put_value(&mut merged, value);
    }
    (merged, whole)
}

fn put_value(out: &mut Vec<u8>, value: ColumnValue<'_>) {
    let (kind, bytes) = match value {
        ColumnValue::Null => return out.push(b'n'),
        ColumnValue::Unchanged => return out.push(b'u'),
        ColumnValue::Text(bytes) => (b't', bytes),
        ColumnValue::Binary(bytes) => (b'b', bytes),
    };
    out.push(kind);
    let len = bytes.len() as u32; // it came with a 32-bit length
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
