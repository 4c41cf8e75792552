//! A table's state is changed only if it still is what its writer last saw: the operator may set it back
//! at any moment. Else the transaction fails with 40001, and its owner looks anew.

use skytide_sql::ident::quote_literal;
use skytide_sql::{QueueName, TableName};

use super::MergeState;

fn refuse(message: &str) -> String {
    format!(
        "raise exception using errcode = '40001', message = {}",
        quote_literal(message)
    )
}

/// Locks a table's state and fails unless it is this one.
pub fn state_is(queue: &QueueName, table: &TableName, state: MergeState) -> String {
    let stored = state.stored().map_or("null".to_owned(), |s| quote_literal(&s));
    let body = format!(
        "begin perform 1 from londiste.table_info where queue_name = {} and local \
         and table_name = londiste.make_fqname({}) and merge_state is not distinct from {stored} for update; \
         if not found then {}; end if; end",
        quote_literal(queue.as_str()),
        quote_literal(&table.to_string()),
        refuse(&format!("table {table} is not in state {state} any more")),
    );
    format!("do {}", quote_literal(&body))
}
