//! What the provider has: its names of the tables that are followed, and the list of its set.

use skytide_sql::TableName;
use skytide_sql::api::londiste;
use skytide_sql::conn::{Session, connect};
use tracing::{debug, warn};

use super::WorkerError;
use super::replay::Context;
use crate::table::registry::{ProviderTable, Registry, SetChange, set_of};

/// A table's changes come under the provider's name for it. That list is never guessed: under a wrong
/// name, changes that wait in the spool would be passed over.
pub(super) async fn load_registry(context: &Context, control: &Session) -> Result<Registry, WorkerError> {
    let settings = &context.shared.settings;
    let fresh: Result<Vec<ProviderTable>, WorkerError> = async {
        let provider = connect(&context.capture.provider, &settings.job_name).await?;
        Ok(ProviderTable::all(&provider, &settings.queue).await?)
    }
    .await;
    match fresh {
        Ok(names) => {
            let registry = Registry::load(control, &settings.queue, &names).await?;
            refuse_lost(&registry, &names)?;
            *context.provider_names.lock().await = Some(names);
            Ok(registry)
        }
        Err(e) => {
            let known = context.provider_names.lock().await.clone().unwrap_or_default();
            let registry = Registry::load(control, &settings.queue, &known).await?;
            let is_known = |name: &TableName| known.iter().any(|there| there.table == *name);
            if !registry.tables.iter().all(|t| is_known(&t.table)) {
                return Err(e);
            }
            debug!(error = %e, "the provider's table list is not to be had now");
            Ok(registry)
        }
    }
}

/// The changes of a table that is renamed come under a name that says nothing here.
fn refuse_lost(registry: &Registry, there: &[ProviderTable]) -> Result<(), WorkerError> {
    let mut copied = registry.tables.iter().filter(|t| t.state.is_copied());
    let is_lost = |name: &TableName| {
        there
            .iter()
            .any(|there| there.table == *name && there.oid.is_none())
    };
    let Some(lost) = copied.find(|t| is_lost(&t.table)) else {
        return Ok(());
    };
    Err(lost_table(&lost.table, &lost.source))
}

/// `table` is the set's name for it.
pub(super) fn lost_table(table: &TableName, source: &TableName) -> WorkerError {
    WorkerError::Setup {
        what: format!("the provider has no table {source} any more"),
        fix: format!(
            "if it was renamed there: rename it back, then with this configuration: resync {table}; if it was dropped: with \
             the root's configuration: remove-table {table}"
        ),
    }
}

/// Makes this node's list of the set's tables what the provider has now. Events after the anchor come to the same end
/// again. True: something was changed.
pub(super) async fn learn_set(context: &Context, control: &Session) -> Result<bool, WorkerError> {
    let settings = &context.shared.settings;
    let provider = connect(&context.capture.provider, &settings.job_name).await?;
    let there = set_of(&provider, &settings.queue).await?;
    let known = londiste::get_table_list(&**control, &settings.queue).await?;
    let change = SetChange::between(&known, &there)?;
    for table in &change.come {
        londiste::global_add_table(&**control, &settings.queue, table).await?;
    }
    for (table, local) in &change.gone {
        if *local {
            warn!(%table, "the provider's set does not have this table any more: it is not followed here either");
        }
        londiste::global_remove_table(&**control, &settings.queue, table).await?;
    }
    Ok(!change.is_empty())
}
