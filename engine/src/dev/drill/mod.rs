//! A primary is killed under load, or told to go, and a standby takes its place: what clients were told, against what is
//! there.

mod clients;
mod figures;
mod stand;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skytide_fixtures::wait;

use self::clients::{Clients, Probe};
pub use self::figures::Figures;
use self::stand::Stand;
use super::place::{Place, default_dir};
use crate::cli::output::Output;
use crate::config::unit::show_count;

const PATIENCE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seconds: u64,
    pub clients: usize,
    pub standbys: usize,
    /// Commits wait for the stores.
    pub synchronous: bool,
    /// The primary's disk dies with it.
    pub lose_disk: bool,
    /// It is not killed, but told to go.
    pub switchover: bool,
}

/// Beside the demo's directory.
pub fn default_drill_dir() -> PathBuf {
    default_dir().with_file_name("dev-drill")
}

/// From nothing to a new primary. The directory is emptied first.
pub async fn promote(place: &Place, plan: &Plan, output: &Output) -> anyhow::Result<Figures> {
    remove(place).await?;
    output.note(&format!(
        "A primary, {} standbys, a store and a receiver in {}",
        plan.standbys,
        place.dir().display()
    ));
    let mut stand = Stand::up(place, plan).await?;
    output.note(&format!(
        "\n{} clients commit for {} seconds",
        plan.clients, plan.seconds
    ));
    let clients = Clients::start(&stand.primary, plan.clients).await?;
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    clients.check()?;
    let probe = Probe::start(stand.standbys.iter().map(|(_, server)| server)).await?;

    let gone = Instant::now();
    if plan.switchover {
        output.note("\nThe primary is told to go");
    } else {
        output.note("\nThe primary and its receiver are killed");
        stand.kill_primary()?;
    }
    let mut arguments = vec!["--json", "promote", "--yes"];
    if plan.switchover {
        arguments.extend(["--switchover", "--to", "b"]);
    }
    let promotion = stand.program(&arguments, output).await?;
    let acknowledged = clients.end().await?;
    let first_write = probe.end().await?;

    let new = promotion["new_primary"].as_str().unwrap_or_default();
    let primary = stand.server(new).context("the report names a server")?;
    let there: HashSet<i64> = ids(primary).await?.into_iter().collect();
    let lost: Vec<&(i64, Instant)> = acknowledged
        .iter()
        .filter(|(id, _)| !there.contains(id))
        .collect();
    let oldest = lost.iter().map(|(_, at)| *at).min();
    let mut following = 0;
    for (name, server) in &stand.standbys {
        if name != new {
            wait::until_eq(
                "the standby to have all rows",
                there.len(),
                PATIENCE,
                async || Ok(ids(server).await?.len()),
            )
            .await?;
            following += 1;
        }
    }
    let ms = |name: &str| promotion[name].as_f64();
    Ok(Figures {
        postgresql: primary.version().to_string(),
        switchover: plan.switchover,
        synchronous: plan.synchronous,
        disk: !plan.lose_disk,
        clients: plan.clients,
        acknowledged: acknowledged.len(),
        lost: lost.len(),
        loss_window_ms: oldest.map_or(0.0, |oldest| {
            gone.saturating_duration_since(oldest).as_secs_f64() * 1e3
        }),
        unavailable_ms: first_write.saturating_duration_since(gone).as_secs_f64() * 1e3,
        decision_ms: promotion["outlook"]["decision_ms"].as_f64(),
        until_writes_ms: ms("until_writes_ms"),
        server_ms: ms("server_ms"),
        following,
        promotion,
    })
}

async fn ids(server: &skytide_fixtures::server::Server) -> anyhow::Result<Vec<i64>> {
    let client = server.connect("postgres").await?;
    let rows = client.query("select id from drill", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Stops what runs in the directory and empties it.
pub async fn remove(place: &Place) -> anyhow::Result<()> {
    stand::stop(place).await?;
    for entry in std::fs::read_dir(place.dir())? {
        let path = entry?.path();
        // The claim on the directory is held by us.
        if path.file_name().is_some_and(|name| name == "dev.pid") {
            continue;
        }
        let removed = match path.is_dir() && !path.is_symlink() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    place.mark()
}

impl Figures {
    /// For people.
    pub fn show(&self, output: &Output) -> anyhow::Result<()> {
        let ms = |value: Option<f64>| value.map_or("?".to_owned(), |ms| format!("{ms:.0} ms"));
        output.line(format!(
            "acknowledged commits   {}",
            show_count(self.acknowledged as u64)
        ))?;
        output.line(format!("lost of them           {}", self.lost))?;
        output.line(format!("loss window            {:.0} ms", self.loss_window_ms))?;
        output.line(format!(
            "no writes for          {:.0} ms, seen by a client",
            self.unavailable_ms
        ))?;
        output.line(format!(
            "the command took       {} until the first commit: decision {}, PostgreSQL's promotion {}",
            ms(self.until_writes_ms),
            ms(self.decision_ms),
            ms(self.server_ms)
        ))?;
        output.line(format!("standbys that follow   {}", self.following))
    }
}
