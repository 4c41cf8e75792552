//! `skytide promote`: a standby becomes the primary.

mod advice;
mod show;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skytide_wal::promote::{
    Done, Journal, PromoteError, Promotion, Refusal, Settings, Wish, choose, reconsider, rejoin, survey,
    would_rejoin,
};

use super::failure::Failure;
use super::output::OutputMode;
use super::{Context, Outcome, walmgr};
use crate::config::keys::{NODE, PROMOTE};
use crate::config::pages;
use crate::config::settings::PromoteSettings;
use show::{Outlook, Report};

const HELP: &str = "\
Looks at all nodes, at the stores and at the dead primary's disk, shows what each standby would lose, and after a yes: \
fences the old primary, brings the missing WAL to the new one, promotes it, waits until it takes writes, and puts the \
other standbys behind it. Each step is written down: after a failure or a kill the same call goes on.

Exit code 0: done, or done before. 1: refused or failed; the message says at which step. 2: usage or configuration. \
3: the answer to the question was no.

Examples:
  skytide promote wal.ini --dry-run
  skytide promote wal.ini --yes
  skytide promote wal.ini --switchover --to b
  skytide promote wal.ini --rejoin a";

/// How long a standby may take to see that its connection to the primary has ended.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Make a standby the primary: after the primary's death without losing what is left of it, or in its place while it lives
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct PromoteArgs {
    /// Configuration file, sections [walmgr], [promote] and [node NAME].
    #[arg(required_unless_present = "ini")]
    conf: Option<PathBuf>,
    /// Print a commented sample configuration and leave.
    #[arg(long)]
    ini: bool,
    #[command(flatten)]
    wish: PromoteWish,
}

#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct PromoteWish {
    /// Promote this node; otherwise the one whose WAL goes furthest
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// The primary lives: stop it, and lose nothing
    #[arg(long, requires = "to")]
    switchover: bool,
    /// Show what there is and what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// This node was the primary, where that cannot be found out
    #[arg(long, value_name = "NODE")]
    old: Option<String>,
    /// The primary is dead though a standby seems to receive from it, or a process has its postmaster's number
    #[arg(long)]
    believe_dead: bool,
    /// A store cannot be asked how far its WAL goes: promote all the same, what only it has is lost
    #[arg(long)]
    without_silent_stores: bool,
    /// Rewind nodes though they have commits that the plan did not know of, and nobody else has
    #[arg(long)]
    discard_commits: bool,
    /// Put a former primary, or any node, behind the primary there is: rewind it if need be, start it
    #[arg(long, value_name = "NODE", conflicts_with_all = ["to", "switchover", "old", "believe_dead", "without_silent_stores", "discard_commits"])]
    rejoin: Option<String>,
}

pub async fn run(args: PromoteArgs, context: &Context) -> anyhow::Result<Outcome> {
    if args.ini {
        let text = format!("{}\n{}", pages::sample(&PROMOTE), pages::sample(&NODE));
        context.output.line(text.trim_end())?;
        return Ok(Outcome::Done);
    }
    let Some(conf) = args.conf else {
        return Err(Failure::usage("no configuration file is given").into());
    };
    carry_out(&conf, &args.wish, context).await
}

fn library(settings: &PromoteSettings, conf: &Path) -> anyhow::Result<Settings> {
    let mut nodes = settings.nodes.clone();
    for node in &mut nodes {
        if node.restore_command.is_none() && node.data_dir.is_some() {
            node.restore_command = Some(walmgr::restore_command(conf)?);
        }
    }
    Ok(Settings {
        nodes,
        stores: walmgr::open_all(&settings.walmgr)?,
        stores_needed: settings.walmgr.stores_needed,
        compression_level: settings.walmgr.compression_level,
        fence: settings.fence.clone(),
        fence_required: settings.fence_required,
        answer_timeout: settings.answer_timeout,
        hook_timeout: settings.hook_timeout,
        wait_timeout: settings.wait_timeout,
        switchover_max_lag: settings.switchover_max_lag,
        journal: settings.journal.clone(),
    })
}

pub async fn carry_out(conf: &Path, wish: &PromoteWish, context: &Context) -> anyhow::Result<Outcome> {
    let settings = library(&PromoteSettings::load(conf)?, conf)?;
    let out = &context.output;
    if let Some(name) = &wish.rejoin {
        let (primary, done) = match wish.dry_run {
            true => Box::pin(would_rejoin(&settings, name)).await?,
            false => Box::pin(rejoin(&settings, name)).await?,
        };
        match out.mode() {
            OutputMode::Json => out.json(&serde_json::json!({
                "node": name, "primary": primary, "done": done, "dry_run": wish.dry_run,
            }))?,
            OutputMode::Table => out.line(done)?,
        }
        if wish.dry_run {
            out.note("nothing was changed");
        }
        return Ok(Outcome::Done);
    }
    let asked = Wish {
        to: wish.to.clone(),
        switchover: wish.switchover,
        believe_dead: wish.believe_dead,
        old: wish.old.clone(),
        without_silent_stores: wish.without_silent_stores,
        discard_commits: wish.discard_commits,
    };
    let before = Journal::read(&settings.journal)?;
    let open = before.as_ref().filter(|journal| !journal.is_finished());
    if let Some(open) = open {
        match Box::pin(reconsider(&settings, open, &asked)).await? {
            None => return go_on(open, &settings, &asked, wish.dry_run, context).await,
            Some(why) => out.note(&format!(
                "the promotion of {} that was begun ({}) does not go on, and a new plan is made: {why}",
                open.new,
                show::begun(open)
            )),
        }
    }
    let began = Instant::now();
    let mut found = Box::pin(survey(&settings, wish.old.as_deref(), wish.believe_dead)).await?;
    let primary = found.primaries().next().map(str::to_owned);
    let finished = before.as_ref().filter(|journal| journal.is_finished());
    let done = done_before(finished, primary.as_deref(), wish);
    if let Some(done) = done.filter(|_| !wish.dry_run) {
        out.note(&done);
        return match out.mode() {
            OutputMode::Json => out
                .json(&Report::of(None, before.as_ref()))
                .map(|()| Outcome::Done),
            OutputMode::Table => Ok(Outcome::Done),
        };
    }
    let mut plan = choose(&found, &settings, &asked);
    // A standby of a primary that died this moment has not been told of it yet by its own kernel.
    while let Err(PromoteError::Refused(Refusal::StillReceiving { .. })) = &plan
        && began.elapsed() < NOTICED_WITHIN
    {
        tokio::time::sleep(LOOK_AGAIN).await;
        found = Box::pin(survey(&settings, wish.old.as_deref(), wish.believe_dead)).await?;
        plan = choose(&found, &settings, &asked);
    }
    let outlook = Outlook::of(&found, plan.as_ref().ok(), began.elapsed());
    let mut plan = match plan {
        Ok(plan) => plan,
        Err(refusal) => {
            // What was seen is why.
            match out.mode() {
                OutputMode::Table => outlook.print(out)?,
                OutputMode::Json if wish.dry_run => out.json(&Report::of(Some(&outlook), None))?,
                OutputMode::Json => {}
            }
            return Err(refusal.into());
        }
    };
    if out.mode() == OutputMode::Table {
        outlook.print(out)?;
    }
    if wish.dry_run {
        return match out.mode() {
            OutputMode::Json => out
                .json(&Report::of(Some(&outlook), None))
                .map(|()| Outcome::Done),
            OutputMode::Table => Ok(Outcome::Done),
        };
    }
    if !wish.yes {
        if !agreed(&plan.new)? {
            out.note("nothing was changed");
            return Ok(Outcome::No);
        }
        // A person takes his time, and a primary may come back meanwhile.
        found = Box::pin(survey(&settings, wish.old.as_deref(), wish.believe_dead)).await?;
        let now = choose(&found, &settings, &asked)?;
        if !now.does_as(&plan) {
            return Err(PromoteError::Refused(Refusal::Changed).into());
        }
        plan = now;
    }
    let begun = Promotion::begin(&settings, &plan, &asked, found.take_dead(), open);
    let promotion = Box::pin(begun).await?;
    finish(promotion, Some(&outlook), context).await
}

/// What a repeated call is told.
fn done_before(before: Option<&Journal>, primary: Option<&str>, wish: &PromoteWish) -> Option<String> {
    let primary = primary?;
    match wish.switchover {
        true => (wish.to.as_deref() == Some(primary)).then(|| format!("{primary} is the primary already")),
        false => {
            let journal = before.filter(|journal| journal.new == primary)?;
            let wanted = wish.to.as_deref().is_none_or(|to| to == primary);
            wanted.then(|| {
                format!(
                    "{primary} was promoted before, and every step of it is done ({})",
                    show::begun(journal)
                )
            })
        }
    }
}

async fn go_on(
    open: &Journal,
    settings: &Settings,
    wish: &Wish,
    dry_run: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let out = &context.output;
    if wish.to.as_deref().is_some_and(|to| to != open.new) {
        let refusal = Refusal::OtherBegun {
            new: open.new.clone(),
        };
        return Err(PromoteError::Refused(refusal).into());
    }
    let left: Vec<String> = open.open().map(ToString::to_string).collect();
    out.note(&format!(
        "the promotion of {} that was begun ({}) goes on; left: {}",
        open.new,
        show::begun(open),
        left.join(", ")
    ));
    if dry_run {
        return match out.mode() {
            OutputMode::Json => out.json(&Report::of(None, Some(open))).map(|()| Outcome::Done),
            OutputMode::Table => Ok(Outcome::Done),
        };
    }
    match Promotion::resume(settings, wish)? {
        Some(promotion) => finish(promotion, None, context).await,
        None => Ok(Outcome::Done),
    }
}

async fn finish(
    promotion: Promotion<'_>,
    outlook: Option<&Outlook>,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let out = &context.output;
    let tell = |done: &Done| {
        out.note(&format!(
            "{:<12} {:>8.1} ms  {}",
            done.step.to_string(),
            done.ms,
            done.note
        ))
    };
    let journal = Box::pin(promotion.run(tell)).await?;
    let report = Report::of(outlook, Some(&journal));
    match out.mode() {
        OutputMode::Json => out.json(&report)?,
        OutputMode::Table => report.print(out)?,
    }
    Ok(Outcome::Done)
}

fn agreed(new: &str) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "Promote {new}? [y/N] ").context("ask")?;
    stderr.flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
