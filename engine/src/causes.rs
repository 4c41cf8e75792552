//! Errors in one line.

pub use skytide_sql::causes::chain;
