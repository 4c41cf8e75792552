//! The maintenance loop: what `pgq.maint_operations` lists, one transaction each.

use skytide_sql::conn::{ConnectString, Session};
use skytide_sql::ident::{quote_ident, quote_literal};
use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use crate::database::connect_for_chores;
use crate::metrics::Tally;
use crate::trouble::{Grievances, Trouble, in_full};

/// One operation as PgQ lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operation {
    function: String,
    argument: Option<String>,
}

impl Operation {
    /// The statement, and what people call it.
    fn sql(&self) -> String {
        let Operation { function, argument } = self;
        let verb = function.to_ascii_lowercase();
        match (verb.as_str(), argument) {
            ("vacuum" | "vacuum analyze", Some(table)) => format!("{verb} {}", quote_name(table)),
            (_, Some(argument)) => format!("select {}({})", quote_name(function), quote_literal(argument)),
            (_, None) => format!("select {}()", quote_name(function)),
        }
    }

    fn name(&self) -> String {
        match &self.argument {
            Some(argument) => format!("maintenance {}({argument})", self.function),
            None => format!("maintenance {}()", self.function),
        }
    }
}

/// `schema.name` split at the first dot, both quoted.
fn quote_name(name: &str) -> String {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// One round. An operation that fails is told, and the next ones are done all the same; only a lost
/// session ends the round.
pub(crate) async fn step(
    target: &ConnectString,
    tally: &Tally,
    grievances: &mut Grievances,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    let session = connect_for_chores(target).await?;
    for operation in operations(&session).await? {
        let (name, sql) = (operation.name(), operation.sql());
        loop {
            if stop.is_cancelled() {
                return Ok(());
            }
            match session.simple_query(&sql).await {
                Ok(answer) => {
                    grievances.worked(&name);
                    if asks_again(&answer) {
                        continue;
                    }
                }
                Err(error) if error.is_closed() || error.code().is_none() => {
                    return Err(Trouble::Query {
                        what: "maintenance",
                        source: error,
                    });
                }
                Err(error) => {
                    tally.error();
                    grievances.failed(&name, in_full(&error));
                }
            }
            break;
        }
    }
    tally.maintenance();
    Ok(())
}

async fn operations(session: &Session) -> Result<Vec<Operation>, Trouble> {
    let rows = session
        .query("select func_name, func_arg from pgq.maint_operations()", &[])
        .await
        .map_err(Trouble::query("list maintenance operations"))?;
    let operation = |row: &tokio_postgres::Row| Operation {
        function: row.get(0),
        argument: row.get(1),
    };
    Ok(rows.iter().map(operation).collect())
}

/// A first column that is a number other than 0 asks for another call at once. Composites and the
/// command status of VACUUM are no numbers.
fn asks_again(answer: &[SimpleQueryMessage]) -> bool {
    let first = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    first
        .and_then(|text| text.trim().parse::<i64>().ok())
        .is_some_and(|n| n != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_calls_or_vacuum() {
        let sql = |function: &str, argument: Option<&str>| {
            Operation {
                function: function.into(),
                argument: argument.map(str::to_owned),
            }
            .sql()
        };
        assert_eq!(sql("pgq.step1", Some("it's")), r#"select "pgq"."step1"('it''s')"#);
        assert_eq!(sql("step2", None), r#"select "public"."step2"()"#);
        assert_eq!(sql("VACUUM", Some("pgq.a.b")), r#"vacuum "pgq"."a.b""#);
        assert_eq!(
            sql("Vacuum Analyze", Some("pgq.tick")),
            r#"vacuum analyze "pgq"."tick""#
        );
    }
}
