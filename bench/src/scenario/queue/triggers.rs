//! Capture triggers under bulk statements: what a row costs more than without one.

use super::{Effort, Findings, ORIGINAL, OURS, QUEUE, Stage};
use crate::figures::{Verdict, median};

const TABLE: &str = "create table captured (id int primary key, a int, b text, c numeric, d timestamptz default now(), \
                     e boolean, f text, g bigint)";

struct Way {
    name: &'static str,
    database: &'static str,
    function: &'static str,
    compiled: bool,
    /// µs a row.
    mark: Option<f64>,
}

const WAYS: [Way; 6] = [
    Way {
        name: "jsontriga, for any table",
        database: OURS,
        function: "jsontriga",
        compiled: false,
        mark: Some(100.0),
    },
    Way {
        name: "logutriga, for any table",
        database: OURS,
        function: "logutriga",
        compiled: false,
        mark: Some(100.0),
    },
    Way {
        name: "jsontriga, made for the table",
        database: OURS,
        function: "jsontriga",
        compiled: true,
        mark: Some(40.0),
    },
    Way {
        name: "logutriga, made for the table",
        database: OURS,
        function: "logutriga",
        compiled: true,
        mark: Some(40.0),
    },
    Way {
        name: "jsontriga, C",
        database: ORIGINAL,
        function: "jsontriga",
        compiled: false,
        mark: None,
    },
    Way {
        name: "logutriga, C",
        database: ORIGINAL,
        function: "logutriga",
        compiled: false,
        mark: None,
    },
];

pub async fn run(stage: &Stage, effort: Effort, findings: &mut Findings) -> anyhow::Result<()> {
    let rows = effort.size(50_000, 20_000);
    for client in [&stage.ours, &stage.original] {
        client.batch_execute(TABLE).await?;
    }
    let mut seen: Vec<Vec<f64>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.reps {
        stage.clear().await?;
        let bare = change(stage, OURS, rows).await?;
        for (way, seen) in WAYS.iter().zip(&mut seen) {
            let client = stage.client(way.database);
            client
                .batch_execute(&format!(
                    "create trigger capture after insert or update or delete on captured \
                     for each row execute function pgq.{}('{QUEUE}')",
                    way.function
                ))
                .await?;
            if way.compiled {
                let done: bool = client
                    .query_one("select pgq.compile_trigger('captured', 'capture')", &[])
                    .await?
                    .get(0);
                anyhow::ensure!(done, "the trigger was not compiled");
            }
            let with = change(stage, way.database, rows).await?;
            client.batch_execute("drop trigger capture on captured").await?;
            seen.push(with - bare);
        }
    }
    let mut lines = Vec::new();
    for (way, seen) in WAYS.iter().zip(&seen) {
        let added = median(seen);
        if let Some(mark) = way.mark {
            findings.verdicts.push(Verdict::at_most(
                format!("{}: CPU a row", way.name),
                mark,
                added,
                "µs",
            ));
        }
        lines.push(vec![
            way.name.to_owned(),
            format!("{added:.1}"),
            way.mark.map_or("–".into(), |mark| format!("≤ {mark}")),
        ]);
    }
    findings.table(
        &[
            "capture trigger, 8 columns, a row inserted and updated in bulk",
            "CPU µs a change, added",
            "mark",
        ],
        &lines,
    );
    Ok(())
}

/// Inserts and updates the rows. µs a change.
async fn change(stage: &Stage, database: &str, rows: i32) -> anyhow::Result<f64> {
    let client = stage.client(database);
    client.batch_execute("truncate captured").await?;
    stage
        .cpu_of(rows * 2, async {
            client
                .batch_execute(&format!(
                    "insert into captured (id, a, b, c, e, f, g) \
                     select i, i, 'some text ' || i, i * 1.5, true, 'e' || i, i from generate_series(1, {rows}) i"
                ))
                .await?;
            Ok(client.batch_execute("update captured set a = a + 1").await?)
        })
        .await
}
