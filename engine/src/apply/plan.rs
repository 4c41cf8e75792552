//! The planner: drains a batch on a thread of its own, chunk by chunk, into work for the subscriber.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skytide_sql::{Oid, Snapshot, TableName, Xid};
use tokio::sync::mpsc;

use super::load;
use super::net::{Format, Net, Refused, Taken};
use super::outbox::{Message, Op, Outbox, Way, Work};
use super::patch::Patch;
use super::shape::Shape;
use super::statement::{ARRAY_HEADER, Action, BadValue, Form};
use super::{ApplyError, ChangeSource, Targets};
use crate::change::{ColumnValue, Relation, RelationId, RowChange, Values};

/// Rows go in one statement up to these.
const STATEMENT_BYTES: usize = 4 << 20;
const ARRAY_ROWS: u32 = 16_384;
/// Up to so many rows an INSERT costs less than COPY's two round trips.
const FEW_ROWS: usize = 20;
/// Inserts without anything to net go out in portions of this, so that the subscriber has work from the start.
const INSERT_BYTES: usize = 1 << 20;
#[derive(Clone, Debug, Default)]
pub(super) struct Planned {
    pub rows_in: u64,
    pub rows_out: u64,
    pub truncates: u64,
    pub missing_updates: u64,
    pub missing_deletes: u64,
    pub chunks: u64,
    /// Time spent in the planner itself, waiting for the subscriber left out.
    pub busy: Duration,
}

/// Kept from batch to batch, so that shapes, statements and buffers are.
#[derive(Debug)]
pub(super) struct Planner {
    tables: Vec<Table>,
    by_dest: HashMap<TableName, usize>,
    /// The provider's numbers of tables, as their last changes had them.
    seen: HashMap<TableName, Oid>,
    chunk_bytes: usize,
    next_form: u64,
}

#[derive(Debug)]
struct Table {
    shape: Arc<Shape>,
    net: Net,
    forms: HashMap<(Action, Box<[u8]>), Arc<Form>>,
}

/// One batch's run.
struct Run<'a> {
    planner: &'a mut Planner,
    targets: &'a Targets,
    /// Tables whose changes keep their order.
    exact: &'a HashSet<TableName>,
    outbox: Outbox<'a>,
    known: HashMap<RelationId, Known>,
    last: Option<(RelationId, Known)>,
    /// Bytes the chunk takes, at most.
    held_bytes: usize,
    planned: Planned,
}

/// A relation of the batch.
#[derive(Clone, Debug)]
enum Known {
    Ignored,
    /// A followed table under another name.
    Renamed(Arc<Renamed>),
    Table {
        at: usize,
        skip: Option<Arc<Snapshot>>,
        exact: bool,
    },
}

#[derive(Debug)]
struct Renamed {
    table: TableName,
    now: TableName,
    skip: Option<Snapshot>,
}

impl Renamed {
    /// Changes that the table's copy has are of no concern.
    fn check(&self, xid: Xid) -> Result<(), ApplyError> {
        if self.skip.as_ref().is_some_and(|snapshot| snapshot.sees(xid)) {
            return Ok(());
        }
        Err(ApplyError::Renamed {
            table: self.table.clone(),
            now: self.now.clone(),
        })
    }
}

impl Planner {
    pub fn new(chunk_bytes: usize) -> Planner {
        Planner {
            tables: Vec::new(),
            by_dest: HashMap::new(),
            seen: HashMap::new(),
            chunk_bytes,
            next_form: 0,
        }
    }

    /// Forgets what it knows of the subscriber's tables.
    pub fn forget(&mut self) {
        self.tables.clear();
        self.by_dest.clear();
    }

    /// Takes a table's shape in; what was prepared for an equal one stays.
    fn fit(&mut self, shape: Arc<Shape>, known_at: Option<usize>) -> usize {
        if let Some(at) = known_at
            && self.tables[at].shape == shape
        {
            return at;
        }
        let dest = shape.dest.clone();
        let mut net = Net::new(shape.key.clone(), shape.columns.len());
        net.keep_others(!shape.others.is_empty());
        let table = Table {
            net,
            shape,
            forms: HashMap::new(),
        };
        if let Some(at) = known_at {
            self.tables[at] = table;
            return at;
        }
        self.tables.push(table);
        self.by_dest.insert(dest, self.tables.len() - 1);
        self.tables.len() - 1
    }

    /// Drains the batch into `sender`.
    pub fn run<S: ChangeSource>(
        &mut self,
        source: &S,
        targets: &Targets,
        exact: &HashSet<TableName>,
        sender: &mpsc::Sender<Message>,
    ) -> Result<Planned, ApplyError> {
        let started = Instant::now();
        for table in &mut self.tables {
            table.net.clear();
        }
        self.seen.retain(|table, _| targets.get(table).is_some());
        let mut run = Run {
            planner: self,
            targets,
            exact,
            outbox: Outbox::new(sender),
            known: HashMap::new(),
            last: None,
            held_bytes: 0,
            planned: Planned::default(),
        };
        source.drain(&mut |xid, change| run.take(source, xid, change))?;
        run.end_chunk()?;
        run.outbox.send()?;
        let mut planned = run.planned;
        planned.busy = started.elapsed().saturating_sub(run.outbox.waited());
        Ok(planned)
    }
}

impl Run<'_> {
    fn take<S: ChangeSource>(
        &mut self,
        source: &S,
        xid: Xid,
        change: &RowChange<'_>,
    ) -> Result<(), ApplyError> {
        let relation = match change {
            RowChange::Insert { relation, .. }
            | RowChange::Update { relation, .. }
            | RowChange::Delete { relation, .. } => *relation,
            RowChange::Truncate {
                relations,
                restart_identity,
                ..
            } => return self.truncate(source, xid, relations, *restart_identity),
        };
        let (at, skip, exact) = match self.known(source, relation)? {
            Known::Ignored => return Ok(()),
            Known::Renamed(renamed) => return renamed.check(xid),
            Known::Table { at, skip, exact } => (at, skip, exact),
        };
        let (at, exact) = (*at, *exact);
        if skip.as_ref().is_some_and(|snapshot| snapshot.sees(xid)) {
            return Ok(());
        }
        self.planned.rows_in += 1;
        if exact && !matches!(change, RowChange::Insert { .. }) {
            self.end_table(at)?;
        }
        let net = &mut self.planner.tables[at].net;
        let before = net.bytes();
        let taken = match offer(net, change) {
            Err(Refused::OtherFormat) => {
                self.end_chunk()?;
                offer(&mut self.planner.tables[at].net, change)
            }
            taken => taken,
        };
        match taken {
            Ok(Taken::Yes) => {}
            Ok(Taken::RowWasGone) if matches!(change, RowChange::Delete { .. }) => {
                self.planned.missing_deletes += 1;
            }
            Ok(Taken::RowWasGone) => self.planned.missing_updates += 1,
            Err(refused) => return Err(explain(refused, &self.planner.tables[at].shape)),
        }
        if exact && !matches!(change, RowChange::Insert { .. }) {
            self.end_table(at)?;
        }
        let net = &self.planner.tables[at].net;
        self.held_bytes += net.bytes().saturating_sub(before);
        if net.only_inserts() && net.bytes() >= INSERT_BYTES {
            self.held_bytes = self.held_bytes.saturating_sub(net.bytes());
            self.end_table(at)?;
        } else if self.held_bytes >= self.planner.chunk_bytes {
            self.end_chunk()?;
        }
        Ok(())
    }

    fn truncate<S: ChangeSource>(
        &mut self,
        source: &S,
        xid: Xid,
        relations: &[RelationId],
        restart_identity: bool,
    ) -> Result<(), ApplyError> {
        let mut tables = Vec::new();
        for relation in relations {
            let (at, skip) = match self.known(source, *relation)?.clone() {
                Known::Ignored => continue,
                Known::Renamed(renamed) => {
                    renamed.check(xid)?;
                    continue;
                }
                Known::Table { at, skip, .. } => (at, skip),
            };
            if skip.is_some_and(|snapshot| snapshot.sees(xid)) {
                continue;
            }
            let table = &mut self.planner.tables[at];
            table.net.clear();
            tables.push(table.shape.clone());
        }
        if tables.is_empty() {
            return Ok(());
        }
        self.planned.truncates += 1;
        self.outbox.push(Op::Truncate {
            tables,
            restart_identity,
        })
    }

    fn known<S: ChangeSource>(&mut self, source: &S, id: RelationId) -> Result<&Known, ApplyError> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != id) {
            let known = match self.known.get(&id) {
                Some(known) => known.clone(),
                None => {
                    let known = self.meet(source, id)?;
                    self.known.insert(id, known.clone());
                    known
                }
            };
            self.last = Some((id, known));
        }
        Ok(&self.last.as_ref().expect("set above").1)
    }

    /// A relation's first change in this batch.
    fn meet<S: ChangeSource>(&mut self, source: &S, id: RelationId) -> Result<Known, ApplyError> {
        let relation = source.relation(id).ok_or(ApplyError::UnknownRelation(id))?;
        let Some(target) = self.targets.get(&relation.table) else {
            return Ok(self.under_another_name(&relation));
        };
        self.planner.seen.insert(relation.table.clone(), relation.oid);
        let known_at = self.planner.by_dest.get(&target.dest).copied();
        // A column that the subscriber lacked may have been added since.
        let fits = |table: &Table| *table.shape.relation == *relation && table.shape.ignored.is_empty();
        let at = match known_at {
            Some(at) if fits(&self.planner.tables[at]) => at,
            _ => {
                // Rows in another version of the table's shape have to go first.
                self.end_chunk()?;
                self.known.clear();
                let shape = self.outbox.resolve(relation, target.dest.clone())?;
                self.planner.fit(shape, known_at)
            }
        };
        Ok(Known::Table {
            at,
            skip: target.skip_visible_in.clone().map(Arc::new),
            exact: self.exact.contains(&target.dest),
        })
    }

    /// Changes of a table that is followed must not be passed over because it was renamed, or moved to another schema.
    fn under_another_name(&self, relation: &Relation) -> Known {
        let seen = &self.planner.seen;
        let last = seen.iter().find(|(_, oid)| **oid == relation.oid);
        // Another table may have its name by now.
        let is_that = |table: &&TableName| seen.get(*table).is_none_or(|oid| *oid == relation.oid);
        let known = self.targets.of_oid(relation.oid).filter(is_that);
        let table = last.map(|(table, _)| table).or(known);
        match table.and_then(|table| Some((table, self.targets.get(table)?))) {
            None => Known::Ignored,
            Some((table, target)) => Known::Renamed(Arc::new(Renamed {
                table: table.clone(),
                now: relation.table.clone(),
                skip: target.skip_visible_in.clone(),
            })),
        }
    }

    fn end_chunk(&mut self) -> Result<(), ApplyError> {
        fail::fail_point!("apply::mid_batch");
        for at in 0..self.planner.tables.len() {
            self.end_table(at)?;
        }
        self.held_bytes = 0;
        self.planned.chunks += 1;
        Ok(())
    }

    /// Turns one table's net effect into work.
    fn end_table(&mut self, at: usize) -> Result<(), ApplyError> {
        let table = &mut self.planner.tables[at];
        if table.net.is_empty() {
            return Ok(());
        }
        let mut settled = table.net.settle(table.shape.whole_updates);
        for list in [&mut settled.deletes, &mut settled.updates] {
            table.net.sort_by_key(list);
        }
        let pairs = |list: &[u32]| list.iter().map(|at| (*at, *at)).collect::<Vec<_>>();
        let every = |_| true;
        if !settled.deletes.is_empty() {
            let form = self.form(at, Action::Delete, &every);
            self.rows(at, form, &pairs(&settled.deletes))?;
        }
        for (action, list) in [
            (Action::Rekey, settled.rekeys),
            (Action::Update, pairs(&settled.updates)),
        ] {
            for (sent, list) in by_columns_sent(&self.planner.tables[at].net, list) {
                let form = self.form(at, action, &|column| {
                    sent.get(column).is_none_or(|kind| *kind != b'u')
                });
                if !form.is_idle() {
                    self.rows(at, form, &list)?;
                }
            }
        }
        if !settled.inserts.is_empty() {
            let form = self.form(at, Action::Insert, &every);
            self.rows(at, form, &pairs(&settled.inserts))?;
        }
        self.planner.tables[at].net.clear();
        Ok(())
    }

    /// The form for an action and the columns sent, kept for the next time.
    fn form(&mut self, at: usize, action: Action, sent: &dyn Fn(usize) -> bool) -> Arc<Form> {
        let Table { shape, net, forms } = &mut self.planner.tables[at];
        let kind = |(column, format): (usize, &Format)| match (sent(column), format) {
            (false, _) => b'u',
            (true, Format::Text) => b't',
            (true, Format::Binary | Format::Unknown) => b'b',
        };
        let kinds: Box<[u8]> = net.formats().iter().enumerate().map(kind).collect();
        if let Some(form) = forms.get(&(action, kinds.clone())) {
            return form.clone();
        }
        self.planner.next_form += 1;
        let form = Arc::new(Form::new(
            self.planner.next_form,
            shape,
            action,
            net.formats(),
            sent,
        ));
        forms.insert((action, kinds), form.clone());
        form
    }

    /// Encodes rows and hands them over.
    fn rows(&mut self, at: usize, form: Arc<Form>, list: &[FromTo]) -> Result<(), ApplyError> {
        let way = match form.copy {
            Some(format) if list.len() > FEW_ROWS => Way::Copy(format),
            _ => Way::Array,
        };
        let most = match way {
            Way::Array => ARRAY_ROWS,
            Way::Copy(_) => u32::MAX,
        };
        let mut list = list.iter().peekable();
        while list.peek().is_some() {
            let mut payload = Vec::new();
            match way {
                Way::Array => payload.extend_from_slice(&ARRAY_HEADER),
                Way::Copy(format) => load::start(&mut payload, format),
            }
            let mut rows = 0;
            let net = &self.planner.tables[at].net;
            while rows < most && payload.len() < STATEMENT_BYTES {
                let Some((from, to)) = list.next() else { break };
                let put = match way {
                    Way::Array => form.put_element(&mut payload, net.key(*from), net.image(*to)),
                    Way::Copy(format) => load::put_row(&mut payload, &form, format, net.image(*to)),
                };
                put.map_err(|BadValue(column)| bad_value(column, &form.shape))?;
                rows += 1;
            }
            if let Way::Copy(format) = way {
                load::finish(&mut payload, format);
            }
            self.planned.rows_out += u64::from(rows);
            self.outbox.push(Op::Work(Work {
                form: form.clone(),
                rows,
                payload,
                way,
            }))?;
        }
        Ok(())
    }
}

fn offer(net: &mut Net, change: &RowChange<'_>) -> Result<Taken, Refused> {
    match change {
        RowChange::Insert { new, .. } => net.insert(*new),
        RowChange::Update { old, new, .. } => net.update(*old, *new),
        RowChange::Delete { old, .. } => net.delete(*old),
        RowChange::Truncate { .. } => Ok(Taken::Yes),
    }
}

/// A position whose key finds a row, and the one that holds what the row becomes.
type FromTo = (u32, u32);
/// The columns sent (nothing: all of them), and the rows they were sent of.
type BySent = (Vec<u8>, Vec<FromTo>);

/// Splits a list by the columns that were sent: one statement sets the same columns for all its rows.
fn by_columns_sent(net: &Net, list: Vec<FromTo>) -> Vec<BySent> {
    let (whole, part): (Vec<_>, Vec<_>) = list.into_iter().partition(|(_, at)| net.is_whole(*at));
    let mut groups = Vec::new();
    if !whole.is_empty() {
        groups.push((Vec::new(), whole));
    }
    let mut index: HashMap<Vec<u8>, usize> = HashMap::new();
    for pair in part {
        let sent: Vec<u8> = Values::of_body(net.image(pair.1))
            .map(|value| match value {
                ColumnValue::Unchanged => b'u',
                _ => b's',
            })
            .collect();
        let group = match index.get(&sent) {
            Some(group) => *group,
            None => {
                groups.push((sent.clone(), Vec::new()));
                index.insert(sent, groups.len() - 1);
                groups.len() - 1
            }
        };
        groups[group].1.push(pair);
    }
    groups
}

fn bad_value(at: usize, shape: &Shape) -> ApplyError {
    let table = shape.dest.clone();
    let column = shape.relation.columns[at].name.clone();
    match &shape.columns[at] {
        Some(local) if local.patch == Patch::Foreign => ApplyError::ForeignType { table, column },
        _ => ApplyError::BadBinary { table, column },
    }
}

fn explain(refused: Refused, shape: &Shape) -> ApplyError {
    let table = shape.dest.clone();
    let quoted = shape.relation.table.quoted();
    match refused {
        Refused::NullKey => ApplyError::NullKey(table, quoted),
        Refused::OtherRow => ApplyError::SharedKey(table, quoted),
        Refused::NoKey => ApplyError::NoIdentity(table, quoted),
        Refused::ColumnCount(found) => ApplyError::ColumnCount {
            table,
            expected: shape.columns.len(),
            found,
        },
        Refused::NotSent(column) => ApplyError::ValueNotSent {
            table,
            quoted,
            column: shape.relation.columns[column].name.clone(),
        },
        // A single change in two forms, or a row of gigabytes.
        Refused::OtherFormat | Refused::TooLarge => ApplyError::TooLarge(table),
    }
}
