//! What was found, what is planned, what was done: tables and JSON.

use std::time::Duration;

use serde::Serialize;
use skytide_wal::promote::{Done, Journal, OldDisk, Plan, Standing, Step, Survey, Way};

use crate::cli::output::{self, Output};
use crate::cli::walmgr::moment;
use crate::config::unit::show_size;

/// Before anything is done.
#[derive(Serialize)]
pub struct Outlook {
    system_identifier: u64,
    nodes: Vec<NodeRow>,
    stores: Vec<StoreRow>,
    old_primary: Option<Old>,
    known: Option<Known>,
    plan: Option<Planned>,
    /// From the first question to the plan.
    decision_ms: f64,
}

#[derive(Serialize, Default)]
struct NodeRow {
    node: String,
    is: &'static str,
    timeline: Option<u32>,
    replayed_lsn: Option<String>,
    end_lsn: Option<String>,
    /// What it would lose if it were promoted as it is.
    lacks_bytes: Option<u64>,
    lacks_commits: Option<u64>,
    lacks_ms: Option<f64>,
    /// Not all of that WAL could be read: there may be more commits.
    at_least: bool,
    last_commit: Option<String>,
    replay_paused: bool,
    receives_from: Option<String>,
    /// Why it cannot become the primary, or does not answer.
    obstacle: Option<String>,
}

#[derive(Serialize)]
struct StoreRow {
    store: String,
    timeline: Option<u32>,
    end_lsn: Option<String>,
    trouble: Option<String>,
}

#[derive(Serialize)]
struct Old {
    node: String,
    disk: String,
}

#[derive(Serialize)]
struct Known {
    end_lsn: String,
    at: String,
    /// The old primary's own end; otherwise it may have had more.
    exact: bool,
    last_commit: Option<String>,
}

#[derive(Serialize)]
struct Planned {
    switchover: bool,
    new_primary: String,
    target_lsn: Option<String>,
    brings_bytes: Option<u64>,
    steps: Vec<Sentence>,
}

#[derive(Serialize)]
struct Sentence {
    step: String,
    what: String,
}

/// What came of it.
#[derive(Serialize)]
pub struct Report<'a> {
    outlook: Option<&'a Outlook>,
    new_primary: Option<&'a str>,
    old_primary: Option<&'a str>,
    timeline: Option<u32>,
    switch_lsn: Option<String>,
    steps: &'a [Done],
    finished: bool,
    /// From the request to the end of recovery: PostgreSQL's own.
    server_ms: Option<f64>,
    /// The fence's.
    fence_ms: Option<f64>,
    /// From the first question to the first committed transaction; `null` when it was done in several calls.
    until_writes_ms: Option<f64>,
    #[serde(skip)]
    failed_over: bool,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// When a promotion was begun, in UTC.
pub fn begun(journal: &Journal) -> String {
    let seconds = i64::try_from(journal.begun).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S+00").to_string(),
        Err(_) => "at an impossible time".to_owned(),
    }
}

fn node_row(name: &str, standing: &Standing) -> NodeRow {
    let row = NodeRow {
        node: name.to_owned(),
        ..NodeRow::default()
    };
    match standing {
        Standing::Silent { why, .. } => NodeRow {
            is: "silent",
            obstacle: Some(why.clone()),
            ..row
        },
        Standing::Primary { timeline, flushed } => NodeRow {
            is: "primary",
            timeline: Some(timeline.as_u32()),
            end_lsn: Some(flushed.to_string()),
            ..row
        },
        Standing::Standby(standby) => NodeRow {
            is: "standby",
            timeline: Some(standby.timeline.as_u32()),
            replayed_lsn: Some(standby.replayed.to_string()),
            end_lsn: Some(standby.end.to_string()),
            lacks_bytes: standby.lacks.map(|lacks| lacks.bytes),
            lacks_commits: standby.lacks.map(|lacks| lacks.commits),
            lacks_ms: standby.lacks.and_then(|lacks| lacks.time).map(ms),
            at_least: standby.lacks.is_some_and(|lacks| !lacks.counted),
            last_commit: standby.last_commit.map(moment),
            replay_paused: standby.replay_paused,
            receives_from: standby.receives_from.clone(),
            obstacle: standby.obstacle.clone(),
            ..row
        },
    }
}

fn disk(disk: &OldDisk) -> String {
    match disk {
        OldDisk::Alive => "it answers".into(),
        OldDisk::Elsewhere => "its disk is not on this host".into(),
        OldDisk::Postmaster { pid } => format!("its postmaster lives (process {pid})"),
        OldDisk::Unreadable(why) => format!("its disk cannot be read: {why}"),
        OldDisk::Read(dead) => format!(
            "it was {}; its WAL ends at {}{}",
            dead.control.state,
            dead.end_lsn(),
            match dead.is_damaged() {
                true => ", where it is damaged",
                false => "",
            }
        ),
    }
}

/// A step, as a plan says it.
fn sentence(step: &Step, plan: &Plan) -> Sentence {
    let (new, old) = (&plan.new, plan.old.as_deref().unwrap_or("the old primary"));
    let target = plan.target.map_or("its end".to_owned(), |lsn| lsn.to_string());
    let what = match step {
        Step::Fence => format!("run fence_command: keep {old} from coming back"),
        Step::Stop => format!("make a checkpoint on {old}, stop it, and see that {new} has all of its WAL"),
        Step::Salvage => format!("copy the last WAL of {old} from its disk into the stores"),
        Step::Bring => match &plan.way {
            Way::Own => format!("let {new} replay its WAL up to {target}"),
            Way::Stores => format!("let {new} replay up to {target}, with the stores' WAL"),
            Way::Node(other) => format!("let {new} replay up to {target}, with the WAL of {other}"),
        },
        Step::Promote => format!("promote {new}"),
        Step::Write => format!("commit a transaction on {new}"),
        Step::Follow(node) if plan.old.as_ref() == Some(node) => {
            format!("start {node} as a standby of {new}")
        }
        Step::Follow(node) => {
            format!("put {node} behind {new}; rewind it if it has WAL that {new} does not have")
        }
        Step::Tidy => "put back settings that were changed on the way".into(),
    };
    Sentence {
        step: step.to_string(),
        what,
    }
}

impl Outlook {
    pub fn of(survey: &Survey, plan: Option<&Plan>, took: Duration) -> Outlook {
        let nodes = survey.nodes.iter();
        let stores = survey.stores.iter().map(|store| StoreRow {
            store: store.location.clone(),
            timeline: store.end.map(|(timeline, _)| timeline.as_u32()),
            end_lsn: store.end.map(|(_, end)| end.to_string()),
            trouble: store.trouble.clone(),
        });
        Outlook {
            system_identifier: survey.system_id,
            nodes: nodes.map(|node| node_row(&node.name, &node.standing)).collect(),
            stores: stores.collect(),
            old_primary: survey.old.as_ref().map(|old| Old {
                node: old.name.clone(),
                disk: disk(&old.disk),
            }),
            known: survey.furthest.as_ref().map(|furthest| Known {
                end_lsn: furthest.end.to_string(),
                at: furthest.at.to_string(),
                exact: furthest.exact,
                last_commit: furthest.last_commit.map(moment),
            }),
            plan: plan.map(|plan| Planned {
                switchover: plan.switchover,
                new_primary: plan.new.clone(),
                target_lsn: plan.target.map(|lsn| lsn.to_string()),
                brings_bytes: plan.target.and_then(|target| target.bytes_since(plan.from)),
                steps: plan.steps.iter().map(|step| sentence(step, plan)).collect(),
            }),
            decision_ms: ms(took),
        }
    }

    pub fn print(&self, out: &Output) -> anyhow::Result<()> {
        let heads = [
            "Node",
            "Is",
            "Timeline",
            "Replayed",
            "WAL up to",
            "Lacks bytes",
            "Commits",
            "ms",
            "Last commit",
            "Note",
        ];
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let count = |value: Option<u64>, more: bool| match value {
            None => String::new(),
            Some(value) if more => format!(">= {value}"),
            Some(value) => value.to_string(),
        };
        let rows = self.nodes.iter().map(|row| {
            let mut notes = Vec::new();
            notes.extend(row.obstacle.clone());
            notes.extend(
                row.receives_from
                    .as_ref()
                    .map(|from| format!("receives from {from}")),
            );
            notes.extend(row.replay_paused.then(|| "replay is paused".to_owned()));
            vec![
                row.node.clone(),
                row.is.to_owned(),
                row.timeline
                    .map(|timeline| timeline.to_string())
                    .unwrap_or_default(),
                text(&row.replayed_lsn),
                text(&row.end_lsn),
                count(row.lacks_bytes, false),
                count(row.lacks_commits, row.at_least),
                row.lacks_ms.map(|ms| format!("{ms:.0}")).unwrap_or_default(),
                text(&row.last_commit),
                notes.join("; "),
            ]
        });
        out.line(output::table(&heads, rows))?;
        out.line("")?;
        for store in &self.stores {
            let words = match (&store.trouble, &store.end_lsn) {
                (Some(why), _) => why.clone(),
                (None, Some(end)) => format!("has WAL up to {end}"),
                (None, None) => "has no WAL".into(),
            };
            out.line(format!("store {}  {words}", store.store))?;
        }
        if let Some(old) = &self.old_primary {
            out.line(format!("primary {}  {}", old.node, old.disk))?;
        }
        if let Some(known) = &self.known {
            let exact = match known.exact {
                true => "the primary's own end",
                false => "the primary may have had more",
            };
            out.line(format!(
                "WAL is known up to {}, by {}: {exact}",
                known.end_lsn, known.at
            ))?;
        }
        let Some(plan) = &self.plan else {
            return Ok(());
        };
        let exact = self.known.as_ref().is_some_and(|known| known.exact);
        let loses = match (plan.switchover, exact) {
            (true, _) | (false, true) => "it loses nothing",
            (false, false) => "it loses nothing of what is known",
        };
        let brings = match plan.brings_bytes {
            Some(bytes) if bytes > 0 => format!(" is given the {} that it lacks:", show_size(bytes)),
            _ => String::from(" has all of it:"),
        };
        let brings = match plan.switchover {
            true => " takes over when the primary has stopped:".to_owned(),
            false => brings,
        };
        out.line(format!("\n{}{brings} {loses}", plan.new_primary))?;
        for (number, step) in (1..).zip(&plan.steps) {
            out.line(format!("  {number}. {}", step.what))?;
        }
        Ok(())
    }
}

impl<'a> Report<'a> {
    pub fn of(outlook: Option<&'a Outlook>, journal: Option<&'a Journal>) -> Report<'a> {
        let steps = journal.map_or(&[][..], |journal| &journal.done);
        let time = |step: Step| steps.iter().find(|done| done.step == step).map(|done| done.ms);
        let until = |upto: usize| steps.iter().take(upto + 1).map(|done| done.ms).sum::<f64>();
        let write = steps.iter().position(|done| done.step == Step::Write);
        Report {
            outlook,
            new_primary: journal.map(|journal| journal.new.as_str()),
            old_primary: journal.and_then(|journal| journal.old.as_deref()),
            timeline: journal.and_then(|journal| journal.timeline),
            switch_lsn: journal
                .and_then(|journal| journal.switch_lsn)
                .map(|lsn| lsn.to_string()),
            steps,
            finished: journal.is_some_and(Journal::is_finished),
            server_ms: time(Step::Promote),
            fence_ms: time(Step::Fence),
            until_writes_ms: outlook
                .zip(write)
                .map(|(outlook, write)| outlook.decision_ms + until(write)),
            failed_over: journal.is_some_and(|journal| !journal.switchover),
        }
    }

    pub fn print(&self, out: &Output) -> anyhow::Result<()> {
        let (Some(new), Some(timeline)) = (self.new_primary, self.timeline) else {
            return Ok(());
        };
        let from = self.switch_lsn.as_deref().unwrap_or("?");
        out.line(format!(
            "\n{new} is the primary, on timeline {timeline} from {from} on"
        ))?;
        if let (Some(all), Some(server), Some(outlook)) = (self.until_writes_ms, self.server_ms, self.outlook)
        {
            let fence = self
                .fence_ms
                .map(|ms| format!(", the fence {ms:.0} ms"))
                .unwrap_or_default();
            out.line(format!(
                "from the call to the first commit: {all:.0} ms, of them the decision {:.0} ms, PostgreSQL's promotion \
                 {server:.0} ms{fence}",
                outlook.decision_ms
            ))?;
        }
        if let Some(old) = self.old_primary.filter(|_| self.failed_over) {
            out.line(format!(
                "{old} must not be started as it is; to put it behind {new}: skytide promote CONF --rejoin {old}"
            ))?;
        }
        Ok(())
    }
}
