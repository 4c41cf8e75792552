//! Tables whose changes are applied in their exact order.
//!
//! A set-based update can meet a unique value that a later row of the same set would have freed. Then the
//! batch starts again with that table in exact order; and as such tables tend to do it again, they keep
//! the exact order for a while.

use std::collections::{HashMap, HashSet};

use skytide_sql::TableName;
use tokio_postgres::error::SqlState;

/// Batches a table stays in exact order after a conflict.
const BATCHES: u32 = 100;

#[derive(Debug, Default)]
pub(super) struct ExactTables {
    left: HashMap<TableName, u32>,
}

impl ExactTables {
    pub fn names(&self) -> HashSet<TableName> {
        self.left.keys().cloned().collect()
    }

    /// Notes a conflict; false if the table had the exact order already, so that the conflict is real.
    pub fn note(&mut self, table: &TableName) -> bool {
        self.left.insert(table.clone(), BATCHES).is_none()
    }

    /// Counts a batch down.
    pub fn batch_done(&mut self) {
        self.left.retain(|_, left| {
            *left -= 1;
            *left > 0
        });
    }
}

/// True for an error that another order of the same changes may not meet.
pub(super) fn may_be_order(error: &tokio_postgres::Error) -> bool {
    let order = [&SqlState::UNIQUE_VIOLATION, &SqlState::EXCLUSION_VIOLATION];
    error.code().is_some_and(|code| order.contains(&code))
}

/// True for an error that says the table is not what it was when the statement was made.
pub(super) fn may_be_new_shape(error: &tokio_postgres::Error) -> bool {
    let stale = [
        &SqlState::UNDEFINED_COLUMN,
        &SqlState::UNDEFINED_TABLE,
        &SqlState::UNDEFINED_OBJECT,
        &SqlState::UNDEFINED_FUNCTION,
        &SqlState::FEATURE_NOT_SUPPORTED,
        &SqlState::DATATYPE_MISMATCH,
        &SqlState::CANNOT_COERCE,
        &SqlState::INVALID_BINARY_REPRESENTATION,
        &SqlState::PROTOCOL_VIOLATION,
        &SqlState::GENERATED_ALWAYS,
    ];
    error.code().is_some_and(|code| stale.contains(&code))
}
