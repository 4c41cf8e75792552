//! `skytide dev`: servers for trying things out.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::output::OutputMode;
use super::{Context, Outcome};
use crate::daemon::pidfile::Pidfile;
use crate::daemon::process;
use crate::dev::demo::{self, Plan};
use crate::dev::drill;
use crate::dev::steps::Steps;
use crate::dev::{Place, Running, State, World, default_dir, down};

/// Throw-away local PostgreSQL servers for trying things out
///
/// Two servers, a provider and a subscriber, in one directory, with a ticker and a worker. Needs
/// PostgreSQL's server programs, 13 or newer: the newest installed is taken, or what SKYTIDE_PG_BIN and
/// SKYTIDE_PG_MAJOR name.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide dev demo
  skytide dev demo --rows 100000 --seconds 5 --down
  skytide dev up --dir /tmp/play
  skytide dev drill promote --lose-disk")]
pub struct DevArgs {
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Subcommand, Debug)]
enum DevCommand {
    Demo(DemoArgs),
    Up(UpArgs),
    Down(DownArgs),
    Status(StatusArgs),
    /// Let something go wrong, and measure what it costs.
    #[command(subcommand)]
    Drill(DrillCommand),
}

#[derive(Subcommand, Debug)]
enum DrillCommand {
    Promote(PromoteDrillArgs),
}

/// Kill a primary under load and promote a standby; compare what clients were told with what is there
///
/// The directory is emptied first, and at the end unless --keep is given. Exit code 3: something was lost that must not be.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide dev drill promote
  skytide dev drill promote --lose-disk --synchronous
  skytide dev drill promote --switchover")]
struct PromoteDrillArgs {
    /// Directory of everything [default: beside that of dev demo, dev-drill]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// How long clients commit before the primary goes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=50))]
    clients: u16,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=5))]
    standbys: u16,
    /// Commits wait until the store has them
    #[arg(long)]
    synchronous: bool,
    /// The primary's disk dies with it
    #[arg(long)]
    lose_disk: bool,
    /// Do not kill the primary: tell it to go
    #[arg(long, conflicts_with = "lose_disk")]
    switchover: bool,
    /// Leave servers and files
    #[arg(long)]
    keep: bool,
}

#[derive(Args, Debug)]
struct Dir {
    /// Directory of everything [default: ~/.skytide/dev; for root /var/lib/skytide/dev]
    #[arg(long, value_name = "DIRECTORY", env = "SKYTIDE_DEV_DIR")]
    dir: Option<PathBuf>,
}

impl Dir {
    fn place(&self) -> anyhow::Result<Place> {
        Place::new(&self.dir.clone().unwrap_or_else(default_dir))
    }
}

/// Copy a shop's tables from one server to another, follow them under load, and compare
///
/// What an earlier demo left in the directory is removed first, unless --reuse is given. Servers, ticker
/// and worker go on running afterwards, unless --down is given; a failure or Ctrl-C stops them and keeps
/// their files. Exit code 3: the tables differ.
#[derive(Args, Debug)]
struct DemoArgs {
    #[command(flatten)]
    dir: Dir,
    /// Rows to begin with, over all tables
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    rows: u64,
    /// How long the load runs after the copy
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Clients of the load
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=50))]
    clients: u16,
    /// Transactions a second of all clients together; 0 is as fast as they can
    #[arg(long, default_value_t = 500, value_name = "N")]
    rate: u64,
    /// Go on with the servers and tables of an earlier run
    #[arg(long)]
    reuse: bool,
    /// Stop everything at the end and remove its files
    #[arg(long)]
    down: bool,
}

/// Start the servers, or make them, with root, leaf, ticker and worker
#[derive(Args, Debug)]
struct UpArgs {
    #[command(flatten)]
    dir: Dir,
}

/// Stop worker, ticker and servers
#[derive(Args, Debug)]
struct DownArgs {
    #[command(flatten)]
    dir: Dir,
    /// Remove their files too
    #[arg(long)]
    remove: bool,
}

/// Show what runs; exit code 3: not everything does
#[derive(Args, Debug)]
struct StatusArgs {
    #[command(flatten)]
    dir: Dir,
}

pub async fn run(args: DevArgs, context: &Context) -> anyhow::Result<Outcome> {
    match args.command {
        DevCommand::Demo(args) => run_demo(&args, context).await,
        DevCommand::Drill(DrillCommand::Promote(args)) => run_promote_drill(&args, context).await,
        DevCommand::Up(args) => run_up(&args, context).await,
        DevCommand::Down(args) => {
            let place = args.dir.place()?;
            if place.dir().is_dir() {
                let claim = place.claim()?;
                down(&place, args.remove).await?;
                leave(&place, claim, args.remove);
            }
            let end = if args.remove {
                "stopped and removed"
            } else {
                "stopped"
            };
            context.output.note(&format!("{}: {end}", place.dir().display()));
            Ok(Outcome::Done)
        }
        DevCommand::Status(args) => {
            let state = State::of(&args.dir.place()?)?;
            show(&state, context)?;
            Ok(if state.all_run() {
                Outcome::Done
            } else {
                Outcome::No
            })
        }
    }
}

async fn run_demo(args: &DemoArgs, context: &Context) -> anyhow::Result<Outcome> {
    let plan = Plan {
        rows: args.rows,
        seconds: args.seconds,
        clients: usize::from(args.clients),
        pace: args.rate,
        reuse: args.reuse,
    };
    let place = args.dir.place()?;
    let claim = place.claim()?;
    let output = &context.output;
    let figures = guarded(&place, context, demo::run(&place, &plan, output)).await?;
    output.note("");
    match output.mode() {
        OutputMode::Json => output.json(&figures)?,
        OutputMode::Table => figures.show(output)?,
    }
    output.note("");
    if args.down {
        down(&place, true).await?;
        leave(&place, claim, true);
        output.note("Everything is stopped and removed.");
    } else {
        next_steps(&State::of(&place)?, context);
    }
    Ok(if figures.equal { Outcome::Done } else { Outcome::No })
}

async fn run_promote_drill(args: &PromoteDrillArgs, context: &Context) -> anyhow::Result<Outcome> {
    let plan = drill::Plan {
        seconds: args.seconds,
        clients: usize::from(args.clients),
        standbys: usize::from(args.standbys),
        synchronous: args.synchronous,
        lose_disk: args.lose_disk,
        switchover: args.switchover,
    };
    let dir = args.dir.clone().unwrap_or_else(drill::default_drill_dir);
    let place = Place::new(&dir)?;
    let claim = place.claim()?;
    let output = &context.output;
    let drilled = guarded(&place, context, drill::promote(&place, &plan, output)).await;
    if !args.keep && drilled.is_ok() {
        drill::remove(&place).await?;
        place.remove_files()?;
        leave(&place, claim, true);
    }
    let figures = drilled?;
    output.note("");
    match output.mode() {
        OutputMode::Json => output.json(&figures)?,
        OutputMode::Table => figures.show(output)?,
    }
    Ok(if figures.is_good() {
        Outcome::Done
    } else {
        Outcome::No
    })
}

async fn run_up(args: &UpArgs, context: &Context) -> anyhow::Result<Outcome> {
    let place = args.dir.place()?;
    let _claim = place.claim()?;
    guarded(&place, context, async {
        let world = World::up(&place, &context.output).await?;
        world
            .replicate(&Steps {
                output: &context.output,
            })
            .await
    })
    .await?;
    let state = State::of(&place)?;
    show(&state, context)?;
    context.output.note("");
    next_steps(&state, context);
    Ok(Outcome::Done)
}

/// Gives the directory back; an empty one goes too.
fn leave(place: &Place, claim: Pidfile, remove: bool) {
    drop(claim);
    if remove {
        // It stays if somebody put something there.
        let _ = std::fs::remove_dir(place.dir());
    }
}

/// Runs it to its end; stops everything if that is a failure or a signal.
async fn guarded<T>(
    place: &Place,
    context: &Context,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let _reloads = process::arm(context.shutdown.clone(), context.log.clone())?;
    let mut work = Box::pin(work);
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = context.shutdown.cancelled() => Err(Failure::new("interrupted").into()),
    };
    // Its connections and clients go before the servers.
    drop(work);
    if ended.is_err() && place.dir().is_dir() {
        let kept = place.dir().display();
        match down(place, false).await {
            Ok(()) => context
                .output
                .note(&format!("Everything is stopped; files and logs are in {kept}")),
            Err(error) => context
                .output
                .warn(&format!("not everything could be stopped: {error:#}")),
        }
    }
    ended
}

fn show(state: &State, context: &Context) -> anyhow::Result<()> {
    if context.output.mode() == OutputMode::Json {
        return context.output.json(state);
    }
    let rows: Vec<Running> = state.running();
    context.output.rows(&["what", "state", "where"], &rows, |row| {
        vec![row.what.clone(), row.state.clone(), row.place.clone()]
    })
}

fn next_steps(state: &State, context: &Context) {
    let dir = &state.dir;
    let own = if *dir == default_dir().display().to_string() {
        String::new()
    } else {
        format!(" --dir {dir}")
    };
    let mut text = String::from("It goes on running. To look around:\n");
    for server in &state.servers {
        text.push_str(&format!("    psql \"{}\"    # {}\n", server.dsn, server.name));
    }
    text.push_str(&format!(
        "    skytide londiste {dir}/leaf.ini status\n\
         \x20   skytide londiste {dir}/leaf.ini compare\n\
         To follow a table of your own, make it on both sides, then:\n\
         \x20   skytide londiste {dir}/root.ini add-table my_table\n\
         \x20   skytide londiste {dir}/leaf.ini add-table my_table --wait-sync\n\
         To stop, to see what runs, to start again:\n\
         \x20   skytide dev down{own}     # --remove: the files too\n\
         \x20   skytide dev status{own}\n\
         \x20   skytide dev up{own}"
    ));
    context.output.note(&text);
}
