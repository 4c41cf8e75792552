//! Schemas that somebody else made: are they PgQ's, and which?

use std::fmt;

use tokio_postgres::GenericClient;

use super::{InstallError, Module, queries};

/// Who made a schema that is to be adopted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `create extension`, of this version.
    Extension(String),
    /// The scripts of PgQ 3, Londiste 3 and their like, without an extension.
    Scripts,
    /// The scripts of SkyTools 2.
    SkyTools2,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Extension(version) => write!(f, "extension {version}"),
            Origin::Scripts => f.write_str("scripts 3.x"),
            Origin::SkyTools2 => f.write_str("scripts 2.1"),
        }
    }
}

/// A column or a function that tells a maker.
enum Mark {
    /// `table.column` of the schema.
    Column(&'static str),
    /// `function(types)` of the schema.
    Function(&'static str),
}

/// What every version has.
const fn marks(module: Module) -> &'static [Mark] {
    use Mark::{Column, Function};
    match module {
        Module::Pgq => &[
            Column("queue.queue_id"),
            Column("queue.queue_name"),
            Column("queue.queue_ntables"),
            Column("queue.queue_cur_table"),
            Column("queue.queue_switch_step1"),
            Column("queue.queue_switch_step2"),
            Column("queue.queue_data_pfx"),
            Column("queue.queue_event_seq"),
            Column("queue.queue_tick_seq"),
            Column("consumer.co_id"),
            Column("consumer.co_name"),
            Column("tick.tick_queue"),
            Column("tick.tick_id"),
            Column("tick.tick_snapshot"),
            Column("subscription.sub_id"),
            Column("subscription.sub_queue"),
            Column("subscription.sub_consumer"),
            Column("subscription.sub_last_tick"),
            Column("subscription.sub_active"),
            Column("subscription.sub_batch"),
            Column("subscription.sub_next_tick"),
            Column("event_template.ev_id"),
            Column("event_template.ev_txid"),
            Column("event_template.ev_owner"),
            Column("retry_queue.ev_retry_after"),
            Column("retry_queue.ev_owner"),
            Function("create_queue(text)"),
            Function("insert_event(text, text, text)"),
            Function("finish_batch(bigint)"),
        ],
        Module::PgqCoop => &[
            Function("register_subconsumer(text, text, text)"),
            Function("next_batch(text, text, text)"),
            Function("finish_batch(bigint)"),
        ],
        Module::PgqExt => &[
            Column("completed_tick.last_tick_id"),
            Column("completed_batch.last_batch_id"),
            Column("completed_event.event_id"),
            Column("partial_batch.cur_batch_id"),
        ],
        Module::PgqNode => &[
            Column("node_location.node_location"),
            Column("node_info.node_type"),
            Column("node_info.worker_name"),
            Column("local_state.last_tick_id"),
            Column("subscriber_info.watermark_name"),
        ],
        Module::Londiste => &[
            Column("table_info.table_name"),
            Column("table_info.merge_state"),
            Column("table_info.custom_snapshot"),
            Column("seq_info.last_value"),
            Column("applied_execute.execute_file"),
            Column("pending_fkeys.fkey_def"),
        ],
    }
}

/// What Londiste 2 has instead.
const LONDISTE_2: &[Mark] = &[
    Mark::Column("provider_table.table_name"),
    Mark::Column("subscriber_table.merge_state"),
];

/// What came with PgQ 3.
const PGQ_3: &[Mark] = &[Mark::Column("queue.queue_disable_insert")];

/// Who made the schema; an error if that was nobody we know.
pub(super) async fn recognise<C: GenericClient>(
    client: &C,
    module: Module,
    extension: Option<String>,
) -> Result<Origin, InstallError> {
    let londiste_2 = module == Module::Londiste && missing(client, module, LONDISTE_2).await?.is_none();
    if !londiste_2 && let Some(missing) = missing(client, module, marks(module)).await? {
        return Err(InstallError::ForeignSchema {
            schema: module,
            missing,
        });
    }
    if let Some(version) = extension {
        return Ok(Origin::Extension(version));
    }
    let old = londiste_2 || module == Module::Pgq && missing(client, module, PGQ_3).await?.is_some();
    Ok(if old { Origin::SkyTools2 } else { Origin::Scripts })
}

/// The first mark that the schema lacks.
async fn missing<C: GenericClient>(
    client: &C,
    module: Module,
    marks: &[Mark],
) -> Result<Option<String>, tokio_postgres::Error> {
    let (mut columns, mut functions) = (Vec::new(), Vec::new());
    for mark in marks {
        match mark {
            Mark::Column(name) => columns.push(*name),
            Mark::Function(name) => functions.push(*name),
        }
    }
    let row = client
        .query_opt(queries::MISSING_MARK, &[&module.schema(), &columns, &functions])
        .await?;
    Ok(row.map(|row| row.get(0)))
}
