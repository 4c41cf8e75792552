//! Schema `londiste`: the tables and sequences of a queue.
//!
//! Global table names go to the server as `schema.name`, unquoted.

use tokio_postgres::{GenericClient, Row};

use super::{ApiError, Outcome, call, outcome};
use crate::{QueueName, Snapshot, TableName};

/// A row of `londiste.table_info`, with its part in a copy that several queues make together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableInfo {
    /// Global name.
    pub table_name: String,
    /// Attached on this node.
    pub local: bool,
    pub merge_state: Option<String>,
    /// Changes visible in it are in the copy.
    pub custom_snapshot: Option<String>,
    /// Urlencoded.
    pub table_attrs: Option<String>,
    /// What the copy dropped and has to make again.
    pub dropped_ddl: Option<String>,
    pub copy_role: Option<String>,
    pub copy_pos: i32,
    /// This node's table, if it has another name.
    pub dest_table: Option<String>,
}

pub async fn get_table_list<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<TableInfo>, ApiError> {
    let rows = call!(many client, "londiste.get_table_list", "($1)", [&queue.as_str()])?;
    rows.iter()
        .map(|row| {
            Ok(TableInfo {
                table_name: row.try_get("table_name")?,
                local: row.try_get("local")?,
                merge_state: row.try_get("merge_state")?,
                custom_snapshot: row.try_get("custom_snapshot")?,
                table_attrs: row.try_get("table_attrs")?,
                dropped_ddl: row.try_get("dropped_ddl")?,
                copy_role: row.try_get("copy_role")?,
                copy_pos: row.try_get("copy_pos")?,
                dest_table: row.try_get("dest_table")?,
            })
        })
        .collect()
}

/// How [`local_add_table`] attaches a table.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct AddTable {
    /// `expect_sync`, `skip_truncate`, `no_triggers` and the like.
    pub args: Vec<String>,
    /// Urlencoded.
    pub attrs: Option<String>,
    /// This node's table, if it has another name.
    pub dest: Option<TableName>,
}

pub async fn local_add_table<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
    how: &AddTable,
) -> Result<Outcome, ApiError> {
    let dest = how.dest.as_ref().map(TableName::to_string);
    outcome!(
        client,
        "londiste.local_add_table",
        "($1, $2, $3, $4, $5)",
        [&queue.as_str(), &table.to_string(), &how.args, &how.attrs, &dest]
    )
}

pub async fn local_remove_table<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "londiste.local_remove_table",
        "($1, $2)",
        [&queue.as_str(), &table.to_string()]
    )
}

pub async fn global_add_table<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "londiste.global_add_table",
        "($1, $2)",
        [&queue.as_str(), &table.to_string()]
    )
}

pub async fn global_remove_table<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "londiste.global_remove_table",
        "($1, $2)",
        [&queue.as_str(), &table.to_string()]
    )
}

/// Stores both, also when they are `None`.
pub async fn local_set_table_state<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
    snapshot: Option<&Snapshot>,
    merge_state: Option<&str>,
) -> Result<(), ApiError> {
    outcome!(
        client,
        "londiste.local_set_table_state",
        "($1, $2, $3, $4)",
        [
            &queue.as_str(),
            &table.to_string(),
            &snapshot.map(Snapshot::to_string),
            &merge_state
        ]
    )?;
    Ok(())
}

/// Stores what the copy dropped; allowed in states `in-copy` and `catching-up`.
pub async fn local_set_table_struct<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
    dropped_ddl: Option<&str>,
) -> Result<(), ApiError> {
    outcome!(
        client,
        "londiste.local_set_table_struct",
        "($1, $2, $3)",
        [&queue.as_str(), &table.to_string(), &dropped_ddl]
    )?;
    Ok(())
}

pub async fn local_set_table_attrs<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    table: &TableName,
    attrs: Option<&str>,
) -> Result<(), ApiError> {
    outcome!(
        client,
        "londiste.local_set_table_attrs",
        "($1, $2, $3)",
        [&queue.as_str(), &table.to_string(), &attrs]
    )?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    Table,
    Sequence,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    pub kind: ObjectKind,
    pub name: String,
}

/// On a root what the queue does not carry; elsewhere what it carries and this node does not.
pub async fn local_show_missing<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<Missing>, ApiError> {
    let rows = call!(many client, "londiste.local_show_missing", "($1)", [&queue.as_str()])?;
    rows.iter()
        .map(|row| {
            let kind = match row.try_get("obj_kind")? {
                "S" => ObjectKind::Sequence,
                _ => ObjectKind::Table,
            };
            Ok(Missing {
                kind,
                name: row.try_get("obj_name")?,
            })
        })
        .collect()
}

/// A foreign key, and the statement that makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignKey {
    /// `schema.name`, unquoted.
    pub from_table: String,
    pub to_table: String,
    pub fkey_name: String,
    pub fkey_def: String,
}

impl ForeignKey {
    fn read(row: &Row) -> Result<ForeignKey, ApiError> {
        Ok(ForeignKey {
            from_table: row.try_get("from_table")?,
            to_table: row.try_get("to_table")?,
            fkey_name: row.try_get("fkey_name")?,
            fkey_def: row.try_get("fkey_def")?,
        })
    }
}

/// Those from and to the table that are there.
pub async fn find_table_fkeys<C: GenericClient>(
    client: &C,
    table: &TableName,
) -> Result<Vec<ForeignKey>, ApiError> {
    let rows = call!(many client, "londiste.find_table_fkeys", "($1)", [&table.to_string()])?;
    rows.iter().map(ForeignKey::read).collect()
}

/// Those from and to the table that were dropped.
pub async fn get_table_pending_fkeys<C: GenericClient>(
    client: &C,
    table: &TableName,
) -> Result<Vec<ForeignKey>, ApiError> {
    let rows = call!(many client, "londiste.get_table_pending_fkeys", "($1)", [&table.to_string()])?;
    rows.iter().map(ForeignKey::read).collect()
}

/// Dropped ones that this queue's worker can bring back now.
pub async fn get_valid_pending_fkeys<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<ForeignKey>, ApiError> {
    let rows = call!(many client, "londiste.get_valid_pending_fkeys", "($1)", [&queue.as_str()])?;
    rows.iter().map(ForeignKey::read).collect()
}

/// Drops a foreign key and remembers it; says whether it was there. The table as in [`ForeignKey`].
pub async fn drop_table_fkey<C: GenericClient>(
    client: &C,
    from_table: &str,
    fkey_name: &str,
) -> Result<bool, ApiError> {
    let row = call!(
        client,
        "londiste.drop_table_fkey",
        "($1, $2)",
        [&from_table, &fkey_name]
    )?;
    Ok(row.try_get::<_, i32>(0)? > 0)
}

/// Brings a dropped foreign key back. `lazy`: changes nothing but gives the statement to run next; call
/// until it is empty.
pub async fn restore_table_fkey<C: GenericClient>(
    client: &C,
    from_table: &str,
    fkey_name: &str,
    lazy: bool,
) -> Result<String, ApiError> {
    let row = call!(
        client,
        "londiste.restore_table_fkey",
        "($1, $2, $3)",
        [&from_table, &fkey_name, &lazy]
    )?;
    Ok(row.try_get(0)?)
}

/// How a queue's table changes are captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capture {
    Wal,
    Trigger,
}

impl Capture {
    pub const fn as_str(self) -> &'static str {
        match self {
            Capture::Wal => "wal",
            Capture::Trigger => "trigger",
        }
    }
}

/// `None` if this database has no node of the queue.
pub async fn get_capture<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Option<Capture>, ApiError> {
    let row = call!(client, "londiste.get_capture", "($1)", [&queue.as_str()])?;
    Ok(row.try_get::<_, Option<&str>>(0)?.map(|word| match word {
        "trigger" => Capture::Trigger,
        _ => Capture::Wal,
    }))
}

pub async fn set_capture<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    capture: Capture,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "londiste.set_capture",
        "($1, $2)",
        [&queue.as_str(), &capture.as_str()]
    )
}

/// Tells all nodes something; on a root only.
pub async fn root_notify_change<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    ev_type: &str,
    ev_data: &str,
) -> Result<(), ApiError> {
    call!(
        client,
        "londiste.root_notify_change",
        "($1, $2, $3)",
        [&queue.as_str(), &ev_type, &ev_data]
    )?;
    Ok(())
}
