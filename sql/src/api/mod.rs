//! Typed calls of the SQL modules' functions: one function here for each there, of the same name.
//!
//! They run on a client or in a transaction, as the caller wants. Functions of `pgq_node` and `londiste`
//! answer with a code: from 400 on it becomes [`ApiError::Refused`], and the caller must roll back.

pub mod londiste;
pub mod pgq;
pub mod pgq_coop;
pub mod pgq_ext;
pub mod pgq_node;

use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row, ToStatement};

use crate::fault::{Fault, fault_of};

/// What a function answered that did its work: 1xx and 2xx done, 3xx a warning to pass on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub code: i32,
    pub note: String,
}

impl Outcome {
    pub fn is_warning(&self) -> bool {
        self.code >= 300
    }

    /// Reads columns `ret_code` and `ret_note`.
    fn read(function: &'static str, row: &Row) -> Result<Outcome, ApiError> {
        let code: Option<i32> = row.try_get("ret_code")?;
        let note: Option<String> = row.try_get("ret_note")?;
        let (code, note) = (code.unwrap_or(500), note.unwrap_or_default());
        if code >= 400 {
            return Err(ApiError::Refused { function, code, note });
        }
        Ok(Outcome { code, note })
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The function refused, and wants its transaction rolled back.
    #[error("{function}: {note} ({code})")]
    Refused {
        function: &'static str,
        code: i32,
        note: String,
    },

    #[error("call {function}")]
    Call {
        function: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error("read the answer of an SQL function")]
    Answer(#[from] tokio_postgres::Error),
}

impl ApiError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<i32> {
        match self {
            ApiError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the server said so; else the connection broke, and what became of the call is not known.
    pub fn is_from_server(&self) -> bool {
        match self {
            ApiError::Refused { .. } => true,
            ApiError::Call { source, .. } | ApiError::Answer(source) => source.as_db_error().is_some(),
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            ApiError::Refused { .. } => Fault::Operator,
            ApiError::Call { source, .. } | ApiError::Answer(source) => fault_of(source),
        }
    }
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A function that always gives one row.
async fn one<C: GenericClient>(
    client: &C,
    function: &'static str,
    statement: &(impl ToStatement + ?Sized + Sync + Send),
    params: Params<'_>,
) -> Result<Row, ApiError> {
    client
        .query_one(statement, params)
        .await
        .map_err(|source| ApiError::Call { function, source })
}

async fn many<C: GenericClient>(
    client: &C,
    function: &'static str,
    sql: &'static str,
    params: Params<'_>,
) -> Result<Vec<Row>, ApiError> {
    client
        .query(sql, params)
        .await
        .map_err(|source| ApiError::Call { function, source })
}

/// `select * from name(arguments)`: one row, or `many` rows. The text is put together by the compiler.
macro_rules! call {
    ($client:expr, $function:literal, $arguments:literal, [$($param:expr),* $(,)?]) => {
        crate::api::one(
            $client,
            $function,
            concat!("select * from ", $function, $arguments),
            &[$($param as &(dyn tokio_postgres::types::ToSql + Sync)),*],
        )
        .await
    };
    (many $client:expr, $function:literal, $arguments:literal, [$($param:expr),* $(,)?]) => {
        crate::api::many(
            $client,
            $function,
            concat!("select * from ", $function, $arguments),
            &[$($param as &(dyn tokio_postgres::types::ToSql + Sync)),*],
        )
        .await
    };
}

/// A function that answers with a code and a note only.
macro_rules! outcome {
    ($client:expr, $function:literal, $arguments:literal, [$($param:expr),* $(,)?]) => {{
        let row = crate::api::call!($client, $function, $arguments, [$($param),*])?;
        crate::api::Outcome::read($function, &row)
    }};
}

use {call, outcome};
