//! Statements that take many rows at once, as one array of a staging type.
//!
//! The array is binary: elements are composites, whose columns are the key's values and then the row's,
//! still in the bytes they came in. Values in text form go through a column of type text and a cast.

use std::sync::Arc;

use skytide_sql::Oid;

use super::net::Format;
use super::patch::{Malformed, Patch};
use super::shape::{Local, Shape};
use crate::change::{ColumnValue, Values};

const TEXT: Oid = Oid::new(25);
const NULL: i32 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Delete,
    /// Update of a row's key with whatever else was sent.
    Rekey,
    Update,
    Insert,
}

/// One statement's form: table, action, columns and the forms their values come in.
#[derive(Debug)]
pub(super) struct Form {
    pub id: u64,
    pub shape: Arc<Shape>,
    pub action: Action,
    /// Types of the staging type's columns.
    pub stage: Vec<Oid>,
    /// Types of the key's values that start an element.
    key: Box<[Oid]>,
    /// By the provider's column number: the stage column's type, if the value is used.
    take: Box<[Option<Oid>]>,
    pub copy: Option<CopyFormat>,
}

/// How whole rows can go to the server without a staging type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CopyFormat {
    Binary,
    Text,
}

impl Form {
    /// `sent` tells the columns that have a value in the rows.
    pub fn new(
        id: u64,
        shape: &Arc<Shape>,
        action: Action,
        formats: &[Format],
        sent: impl Fn(usize) -> bool,
    ) -> Form {
        let stage_type = |at: usize, local: &Local| match formats[at] {
            Format::Text => TEXT,
            _ => local.binary,
        };
        let key_type = |at: &usize| shape.columns[*at].as_ref().map(|local| stage_type(*at, local));
        let key: Box<[Oid]> = match action {
            Action::Insert => Box::default(),
            _ => shape.key.iter().filter_map(key_type).collect(),
        };
        let used = |at: usize| match action {
            Action::Delete => false,
            Action::Update => sent(at) && !shape.key.contains(&at),
            Action::Rekey => sent(at),
            Action::Insert => true,
        };
        let take: Box<[Option<Oid>]> = (0..)
            .zip(&shape.columns)
            .map(|(at, local)| match local {
                Some(local) if used(at) => Some(stage_type(at, local)),
                _ => None,
            })
            .collect();
        let taken = || take.iter().enumerate().filter(|(_, oid)| oid.is_some());
        let copy = if action != Action::Insert {
            None
        } else if taken().all(|(at, _)| formats[at] != Format::Text && same_type(shape, at)) {
            Some(CopyFormat::Binary)
        } else if taken().all(|(at, _)| formats[at] != Format::Binary) {
            Some(CopyFormat::Text)
        } else {
            None
        };
        Form {
            id,
            action,
            stage: key
                .iter()
                .copied()
                .chain(take.iter().flatten().copied())
                .collect(),
            key,
            take,
            copy,
            shape: shape.clone(),
        }
    }

    /// True if the statement would change nothing.
    pub fn is_idle(&self) -> bool {
        self.action == Action::Update && self.take.iter().all(Option::is_none)
    }

    /// The statement; `$1` is an array of type `stage`.
    pub fn sql(&self, stage: &str) -> String {
        let keys = self.key.len();
        let table = self.shape.only();
        let from = format!("unnest($1::{stage}[]) as s");
        let matching = || {
            let key = self.key_columns().enumerate().map(|(n, (at, local))| {
                let value = self.value(n, local, self.key[n], same_type(&self.shape, at));
                // Operators of enums and arrays do not take domains over them.
                match &local.base_name {
                    Some(base) => format!("t.{}::{base} {} {value}::{base}", local.name, local.equals),
                    None => format!("t.{} {} {value}", local.name, local.equals),
                }
            });
            key.collect::<Vec<_>>().join(" and ")
        };
        let values = || {
            self.taken().enumerate().map(|(n, (at, oid, local))| {
                let value = self.value(keys + n, local, oid, same_type(&self.shape, at));
                (&local.name, value)
            })
        };
        match self.action {
            Action::Delete => format!("delete from {table} as t using {from} where {}", matching()),
            Action::Update | Action::Rekey if self.replaces() => {
                // The row's other values, and those that were sent, under names of ours.
                let columns = self.shape.columns.iter().zip(&self.take);
                let kept = columns
                    .filter(|(_, taken)| taken.is_none())
                    .filter_map(|(local, _)| local.as_ref());
                let kept: Vec<&String> = kept.map(|local| &local.name).chain(&self.shape.others).collect();
                let sent = self.taken().enumerate().map(|(n, (at, oid, local))| {
                    let value = self.value_in("d", keys + n, local, oid, same_type(&self.shape, at));
                    (&local.name, value)
                });
                let over = kept
                    .iter()
                    .enumerate()
                    .map(|(n, name)| (*name, format!("d.k{n}")));
                let (names, values): (Vec<_>, Vec<_>) = sent
                    .chain(over)
                    .map(|(name, value)| (name.as_str(), value))
                    .unzip();
                let returned: Vec<String> = (keys..self.stage.len())
                    .map(|n| format!("s.c{n} as c{n}"))
                    .chain(
                        kept.iter()
                            .enumerate()
                            .map(|(n, name)| format!("t.{name} as k{n}")),
                    )
                    .collect();
                format!(
                    "with d as (delete from {table} as t using {from} where {} returning {}) \
                     insert into {} ({}) overriding system value select {} from d",
                    matching(),
                    returned.join(", "),
                    self.shape.dest.quoted(),
                    names.join(", "),
                    values.join(", ")
                )
            }
            Action::Update | Action::Rekey => {
                let set: Vec<_> = values()
                    .map(|(name, value)| format!("{name} = {value}"))
                    .collect();
                let set = set.join(", ");
                format!("update {table} as t set {set} from {from} where {}", matching())
            }
            Action::Insert => {
                let (names, values): (Vec<_>, Vec<_>) =
                    values().map(|(name, value)| (name.as_str(), value)).unzip();
                let (names, values) = (names.join(", "), values.join(", "));
                let table = self.shape.dest.quoted();
                format!("insert into {table} ({names}) overriding system value select {values} from {from}")
            }
        }
    }

    /// COPY of whole rows.
    pub fn copy_sql(&self, format: CopyFormat) -> String {
        let names: Vec<_> = self.taken().map(|(_, _, local)| local.name.as_str()).collect();
        let format = match format {
            CopyFormat::Binary => "binary",
            CopyFormat::Text => "text",
        };
        let table = self.shape.dest.quoted();
        format!("copy {table} ({}) from stdin (format {format})", names.join(", "))
    }

    /// True of an update that sets a column which cannot be set: GENERATED ALWAYS AS IDENTITY. Only some of the row's
    /// values were sent, so the others are taken over from the row that is deleted.
    fn replaces(&self) -> bool {
        self.taken().any(|(_, _, local)| !local.settable)
    }

    fn value(&self, n: usize, local: &Local, staged: Oid, same_type: bool) -> String {
        self.value_in("s", n, local, staged, same_type)
    }

    /// A value of another type goes through its text, as in the initial copy: a cast could round it or cut it off. That is
    /// the output function's; a cast to text may say it otherwise.
    fn value_in(&self, stage: &str, n: usize, local: &Local, staged: Oid, same_type: bool) -> String {
        if staged == local.binary && same_type {
            format!("{stage}.c{n}")
        } else if staged == TEXT {
            format!("{stage}.c{n}::{}", local.type_name)
        } else {
            let type_name = &local.type_name;
            format!(
                "case when {stage}.c{n} is not null then pg_catalog.format('%s', {stage}.c{n})::{type_name} end"
            )
        }
    }

    fn key_columns(&self) -> impl Iterator<Item = (usize, &Local)> {
        let local = |at: &usize| Some((*at, self.shape.columns[*at].as_ref()?));
        self.shape.key.iter().filter_map(local)
    }

    /// Columns used of the row: number, staged type, local column.
    fn taken(&self) -> impl Iterator<Item = (usize, Oid, &Local)> {
        let columns = self.take.iter().zip(&self.shape.columns).enumerate();
        columns.filter_map(|(at, (oid, local))| Some((at, (*oid)?, local.as_ref()?)))
    }

    /// The row's values this form uses, in order, with how they are rewritten.
    pub fn values_of<'a>(
        &'a self,
        image: &'a [u8],
    ) -> impl Iterator<Item = (usize, Oid, &'a Patch, ColumnValue<'a>)> {
        let columns = self.take.iter().zip(&self.shape.columns);
        let values = Values::of_body(image).zip(columns).enumerate();
        values.filter_map(|(at, (value, (oid, local)))| Some((at, (*oid)?, &local.as_ref()?.patch, value)))
    }

    /// Adds one element to an array.
    pub fn put_element(&self, out: &mut Vec<u8>, key: &[u8], image: &[u8]) -> Result<(), BadValue> {
        let start = out.len();
        put_int(out, 0);
        put_int(out, self.stage.len() as i32); // a table has at most 1600 columns
        let mut rest = key;
        for (n, oid) in self.key.iter().enumerate() {
            let value = if self.shape.key.len() == 1 {
                rest
            } else {
                let (len, after) = rest.split_first_chunk::<4>().ok_or(BadValue(self.shape.key[n]))?;
                let len = u32::from_be_bytes(*len) as usize;
                let (value, after) = after.split_at_checked(len).ok_or(BadValue(self.shape.key[n]))?;
                rest = after;
                value
            };
            put_int(out, oid.get() as i32);
            put_int(out, value.len() as i32);
            let at = out.len();
            out.extend_from_slice(value);
            let column = self.shape.key[n];
            if let Some(local) = &self.shape.columns[column]
                && *oid != TEXT
            {
                local
                    .patch
                    .apply(&mut out[at..])
                    .map_err(|Malformed| BadValue(column))?;
            }
        }
        for (column, oid, patch, value) in self.values_of(image) {
            put_int(out, oid.get() as i32);
            put_value(out, column, patch, value)?;
        }
        let len = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

fn same_type(shape: &Shape, at: usize) -> bool {
    shape.columns[at].as_ref().is_some_and(|local| local.same_type)
}

/// A column's value that is not what its type says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadValue(pub usize);

/// Length and bytes; also what COPY's binary form wants.
#[inline]
pub(super) fn put_value(
    out: &mut Vec<u8>,
    column: usize,
    patch: &Patch,
    value: ColumnValue<'_>,
) -> Result<(), BadValue> {
    match value {
        ColumnValue::Null | ColumnValue::Unchanged => put_int(out, NULL),
        ColumnValue::Text(bytes) => {
            put_int(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
        ColumnValue::Binary(bytes) => {
            put_int(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
            if !patch.is_none() {
                let at = out.len() - bytes.len();
                patch
                    .apply(&mut out[at..])
                    .map_err(|Malformed| BadValue(column))?;
            }
        }
    }
    Ok(())
}

#[inline]
fn put_int(out: &mut Vec<u8>, int: i32) {
    out.extend_from_slice(&int.to_be_bytes());
}

/// An array's header: dimensions, null flag, element type, length, lower bound (PostgreSQL source:
/// array_send). Length and element type are filled in by [`finish_array`].
pub(super) const ARRAY_HEADER: [u8; 20] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

pub(super) fn finish_array(array: &mut [u8], element: Oid, rows: u32) {
    array[8..12].copy_from_slice(&element.get().to_be_bytes());
    array[12..16].copy_from_slice(&rows.to_be_bytes());
}
