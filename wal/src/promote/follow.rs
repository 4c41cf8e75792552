//! Other nodes behind the new primary: told of it, rewound where their WAL has left its history, started as standbys.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::gained::{self, Loss};
use super::hook::Hook;
use super::journal;
use super::node::{Answer, Node, conninfo_of};
use super::slots;
use super::source::walk;
use super::steps::cluster_of;
use super::survey::own_source;
use super::{NodeSettings, PromoteError, Refusal, Settings};
use crate::backup::recovery;
use crate::durable::{self, Attach};
use crate::server::Postmaster;
use crate::ship::{self, DeadServer};
use crate::tail::words;
use crate::{HistoryFile, SegmentNo, TimelineId, WalFileName};

const POLL: Duration = Duration::from_millis(5);
const KICK: Duration = Duration::from_millis(200);
/// Stands where all configuration files of a node that is rewound are kept.
const KEPT: &str = "all-kept";
/// What a server says before it has a log of its own.
const START_LOG: &str = "skytide-start.log";

/// The new primary.
pub(super) struct Leader {
    pub node: Arc<Node>,
    pub timeline: TimelineId,
    pub path: Arc<HistoryFile>,
    pub bin_dir: PathBuf,
}

impl Leader {
    pub async fn reach(settings: &Settings, node: &NodeSettings) -> Result<Leader, PromoteError> {
        let node = Node::reach(node, settings.answer_timeout).await?;
        let answer = node.ask().await?;
        if answer.in_recovery {
            return Err(PromoteError::Node {
                node: node.name().to_owned(),
                what: "it is still in recovery".into(),
            });
        }
        Ok(Leader {
            path: Arc::new(node.history(answer.timeline).await?),
            timeline: answer.timeline,
            bin_dir: answer.bin_dir,
            node,
        })
    }
}

/// Makes a node a standby of the cluster's primary: the former primary above all. Returns the primary and what was done.
pub async fn rejoin(settings: &Settings, name: &str) -> Result<(String, String), PromoteError> {
    let (leader, node) = leader_for(settings, name).await?;
    let done = Box::pin(follow(settings, &leader, node, Loss::Any)).await?;
    journal::followed(&settings.journal, leader.node.name(), name, &done)?;
    Ok((leader.node.name().to_owned(), done))
}

/// What [`rejoin`] would do; nothing is changed.
pub async fn would_rejoin(settings: &Settings, name: &str) -> Result<(String, String), PromoteError> {
    let (leader, node) = leader_for(settings, name).await?;
    let primary = leader.node.name().to_owned();
    let would = |how: &str| format!("{name} would be {how}, and stream from {primary}");
    let silence = match Node::reach(node, settings.answer_timeout).await {
        Ok(live) => {
            let answer = live.ask().await?;
            if !answer.in_recovery {
                return Err(trouble(node, "it is a primary itself: stop it first"));
            }
            if shares(&leader, &live, &answer).await? {
                return Ok((primary.clone(), would("told to follow")));
            }
            needs_disk(node)?;
            return Ok((primary.clone(), would("stopped, rewound and started")));
        }
        Err(error) => words(&error),
    };
    let Some(dir) = &node.data_dir else {
        return Err(elsewhere(node, &silence));
    };
    if let Some(Postmaster { pid, .. }) = Postmaster::find(dir)? {
        return Err(alive(node, pid, &silence));
    }
    let begun = kept_place(settings, node).join(KEPT).exists();
    let how = match begun || diverged(&leader, dir).await? {
        true => "rewound and started",
        false => "started",
    };
    Ok((primary.clone(), would(how)))
}

fn elsewhere(node: &NodeSettings, silence: &str) -> PromoteError {
    trouble(
        node,
        &format!("it is not on this host, and does not answer: {silence}"),
    )
}

fn alive(node: &NodeSettings, pid: i32, silence: &str) -> PromoteError {
    trouble(node, &format!("its postmaster (process {pid}) lives: {silence}"))
}

/// The primary there is, for a node that is to follow it.
async fn leader_for<'s>(
    settings: &'s Settings,
    name: &str,
) -> Result<(Leader, &'s NodeSettings), PromoteError> {
    let node = settings
        .node(name)
        .ok_or_else(|| Refusal::UnknownNode(name.to_owned()))?;
    let mut primary = None;
    for other in settings.nodes.iter().filter(|other| other.name != name) {
        if let Ok(leader) = Leader::reach(settings, other).await {
            if let Some(first) = &primary {
                let Leader { node: first, .. } = first;
                let names = (first.name().to_owned(), other.name.clone());
                return Err(Refusal::TwoPrimaries(names.0, names.1).into());
            }
            primary = Some(leader);
        }
    }
    match primary {
        Some(leader) => Ok((leader, node)),
        None if Leader::reach(settings, node).await.is_ok() => {
            Err(trouble(node, "it is a primary itself, and no other node is one"))
        }
        None => Err(Refusal::NoPrimary.into()),
    }
}

/// A server that was started a moment ago, by a call that was killed then, answers soon.
async fn reach_when_up(settings: &Settings, node: &NodeSettings) -> Result<Arc<Node>, PromoteError> {
    let began = Instant::now();
    loop {
        match Node::reach(node, settings.answer_timeout).await {
            Err(error) if error.is_starting() && began.elapsed() < settings.wait_timeout => {
                tokio::time::sleep(KICK).await;
            }
            reached => return reached,
        }
    }
}

/// Returns what was done, when the node streams from the leader. It is rewound if need be, but only for this loss.
pub(super) async fn follow(
    settings: &Settings,
    leader: &Leader,
    node: &NodeSettings,
    loss: Loss,
) -> Result<String, PromoteError> {
    let kept = kept_place(settings, node);
    let silence = match reach_when_up(settings, node).await {
        Ok(live) => {
            let answer = live.ask().await?;
            if !answer.in_recovery {
                return Err(trouble(node, "it is a primary itself: stop it first"));
            }
            if shares(leader, &live, &answer).await? {
                let done = direct(settings, leader, &live).await?;
                // Of an earlier call that was killed when it had started the node.
                remove_kept(&kept)?;
                return Ok(done + &slots::let_go(settings, leader, &live).await);
            }
            needs_disk(node)?;
            gained::check_live(leader, &live, &answer, loss).await?;
            drop(live);
            stop_server(settings, node, Some(&answer.bin_dir)).await?;
            None
        }
        Err(error) => Some(words(&error)),
    };
    let Some(dir) = &node.data_dir else {
        return Err(elsewhere(node, &silence.unwrap_or_default()));
    };
    if let Some(Postmaster { pid, .. }) = Postmaster::find(dir)? {
        return Err(alive(node, pid, &silence.unwrap_or_default()));
    }
    let begun = kept.join(KEPT).exists();
    let rewound = match begun || diverged(leader, dir).await? {
        true => {
            if !begun {
                gained::check_dead(leader, &node.name, dir, loss).await?;
            }
            rewind(leader, node, dir, &kept).await?;
            true
        }
        false => false,
    };
    make_standby(leader, dir)?;
    start_server(settings, leader, node, dir).await?;
    let live = reach_started(settings, node).await?;
    direct(settings, leader, &live).await?;
    remove_kept(&kept)?;
    let how = match rewound {
        true => "rewound",
        false => "started",
    };
    let slots = slots::let_go(settings, leader, &live).await;
    Ok(format!(
        "{} was {how} and streams from {}{slots}",
        node.name,
        leader.node.name()
    ))
}

fn trouble(node: &NodeSettings, what: &str) -> PromoteError {
    PromoteError::Node {
        node: node.name.clone(),
        what: what.to_owned(),
    }
}

/// All that the standby has is WAL of the new primary, too.
async fn shares(leader: &Leader, node: &Arc<Node>, answer: &Answer) -> Result<bool, PromoteError> {
    let path = Arc::new(node.history(answer.timeline).await?);
    let source = own_source(node, answer.segment_size);
    let end = walk(&[&source], &cluster_of(answer), &path, answer.lsn, None, |_| {}).await?;
    Ok(leader.path.shares(&path, end))
}

/// Tells a running standby whom to follow and waits until it does.
async fn direct(settings: &Settings, leader: &Leader, node: &Arc<Node>) -> Result<String, PromoteError> {
    let answer = node.ask().await?;
    if !answer.slot.is_empty() {
        leader.node.make_slot(&answer.slot).await?;
    }
    let conninfo = conninfo_of(&leader.node.settings, &answer.conninfo)?.to_libpq();
    if conninfo != answer.conninfo {
        node.set("primary_conninfo", Some(&conninfo)).await?;
        node.reload().await?;
    }
    let began = Instant::now();
    let mut kicked = Instant::now();
    while !node.streams(leader.timeline).await? {
        let waited = began.elapsed();
        if waited > settings.wait_timeout {
            let what = format!(
                "it does not stream timeline {} from {} after {waited:.0?}; {}",
                leader.timeline,
                leader.node.name(),
                held_back(&node.ask().await?)
            );
            return Err(trouble(&node.settings, &what));
        }
        if kicked.elapsed() > KICK {
            node.reload().await?;
            kicked = Instant::now();
        }
        tokio::time::sleep(POLL).await;
    }
    // It may stream and yet be about to end its recovery, or have ended it just now.
    if let Some(target) = node.promotes_at().await? {
        let what =
            format!("it would end its recovery and be a primary itself: {target}; reset that and restart it");
        return Err(trouble(&node.settings, &what));
    }
    if !node.in_recovery().await? {
        return Err(trouble(
            &node.settings,
            "it has ended its recovery and is a primary itself: stop it",
        ));
    }
    Ok(format!("{} streams from {}", node.name(), leader.node.name()))
}

/// Why a standby may not go on to a new timeline.
fn held_back(answer: &Answer) -> String {
    match (answer.paused, answer.apply_delay.is_zero()) {
        (true, _) => "its replay is paused: select pg_wal_replay_resume()".into(),
        (false, false) => format!(
            "its recovery_min_apply_delay of {:?} holds it back: reset that, and let it follow then",
            answer.apply_delay
        ),
        (false, true) => "its log says why".into(),
    }
}

fn needs_disk(node: &NodeSettings) -> Result<(), PromoteError> {
    match node.data_dir {
        Some(_) => Ok(()),
        None => Err(trouble(
            node,
            "it has WAL that the new primary does not have, and is not on this host: run pg_rewind there",
        )),
    }
}

/// The stopped server has WAL that is not the leader's.
async fn diverged(leader: &Leader, dir: &Path) -> Result<bool, PromoteError> {
    let dead = DeadServer::inspect(dir.to_owned(), false).await?;
    let damaged = dead.is_damaged() && !is_on_its_timeline(leader, dir)?;
    Ok(!leader.path.shares(&dead.path, dead.end_lsn()) || damaged)
}

/// `pg_rewind` has done its work, or has none to do: it writes the source's timeline into the control file as its last
/// step. Called again it would first recover the server as a primary, whose checkpoint is WAL that the leader does not
/// have, and then see two clusters on the same timeline.
fn is_on_its_timeline(leader: &Leader, dir: &Path) -> Result<bool, PromoteError> {
    let control = ship::control(dir)?;
    let recovered = control.min_recovery.map(|(_, timeline)| timeline);
    Ok(Some(control.checkpoint.timeline).max(recovered) == Some(leader.timeline))
}

/// `pg_rewind` replaces configuration files by the source's; the node's own are kept beside the journal until it runs.
async fn rewind(leader: &Leader, node: &NodeSettings, dir: &Path, kept: &Path) -> Result<(), PromoteError> {
    if !kept.join(KEPT).exists() {
        durable::create_dirs(kept)?;
        for name in configuration(dir)? {
            let text = std::fs::read(dir.join(&name)).to("read", &dir.join(&name))?;
            durable::replace(&kept.join(&name), &text)?;
        }
        keep_wal(leader, dir, kept)?;
        durable::replace(&kept.join(KEPT), b"")?;
    }
    let alone = alone(node, kept)?;
    if !is_on_its_timeline(leader, dir)? {
        // It cannot recover a server that crashed while it would be a standby.
        durable::remove(&dir.join("standby.signal"))?;
        // The new timeline is in the source's control file only from its next checkpoint on.
        leader.node.checkpoint().await?;
        let db = &leader.node.settings.db;
        let source = db.without_password().to_libpq();
        let password = db.hosts().first().and_then(|host| db.password_for(host));
        let environment: Vec<(&str, String)> =
            password.map(|word| ("PGPASSWORD", word)).into_iter().collect();
        let program = bin_dir(leader, node)?.join("pg_rewind");
        let target = dir.display().to_string();
        let arguments = ["--target-pgdata", &target, "--source-server", &source];
        let rewind = Hook::new(&program, &arguments);
        // Its time is that of the data.
        let limit = Duration::from_secs(24 * 3600);
        rewind.run_with(alone.into(), &environment, limit).await?;
    }
    fail::fail_point!("promote::rewound");
    for name in configuration(kept)? {
        let text = std::fs::read(kept.join(&name)).to("read", &kept.join(&name))?;
        durable::replace(&dir.join(&name), &text)?;
    }
    put_back_wal(dir, kept)
}

/// A lock that `pg_rewind` inherits: it goes on when this program is killed, and no other may run meanwhile.
fn alone(node: &NodeSettings, kept: &Path) -> Result<File, PromoteError> {
    let path = kept.join("lock");
    let file = File::create(&path).to("create", &path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(trouble(
            node,
            "the pg_rewind of an earlier call still runs: wait for its end, then make this call again",
        )),
        Err(errno) => Err(io::Error::from(errno)).to("lock", &path).map_err(Into::into),
    }
}

/// Before 17 `pg_rewind` removes what the source does not have any more, and with it WAL from the last common checkpoint
/// on, where the rewound server's recovery begins. The files are linked, or copied to another file system.
fn keep_wal(leader: &Leader, dir: &Path, kept: &Path) -> Result<(), PromoteError> {
    let size = ship::control(dir)?.segment_size;
    let switch = SegmentNo::holding(leader.path.begin(), size);
    let (from, to) = (dir.join("pg_wal"), kept.join("wal"));
    durable::create_dirs(&to)?;
    for entry in std::fs::read_dir(&from).to("list", &from)? {
        let name = entry.to("list", &from)?.file_name();
        let Some(Ok(WalFileName::Segment(segment))) = name.to_str().map(str::parse) else {
            continue;
        };
        // Behind the switch it is another history, or space for WAL to come.
        let ours = leader.path.range_of(segment.timeline()).is_some();
        if ours && segment.number(size).is_some_and(|number| number <= switch) {
            link(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

fn put_back_wal(dir: &Path, kept: &Path) -> Result<(), PromoteError> {
    let (from, to) = (kept.join("wal"), dir.join("pg_wal"));
    for entry in std::fs::read_dir(&from).to("list", &from)? {
        let name = entry.to("list", &from)?.file_name();
        link(&from.join(&name), &to.join(&name))?;
    }
    durable::sync_parent(&to.join("any"))?;
    Ok(())
}

/// A file that is there is left alone.
fn link(from: &Path, to: &Path) -> Result<(), PromoteError> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => {
            let bytes = std::fs::read(from).to("read", from)?;
            Ok(durable::replace(to, &bytes)?)
        }
    }
}

fn kept_place(settings: &Settings, node: &NodeSettings) -> PathBuf {
    settings.journal.with_extension(format!("{}.conf", node.name))
}

/// The names of the files in a directory that end in `.conf`.
fn configuration(dir: &Path) -> Result<Vec<std::ffi::OsString>, PromoteError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).to("list", dir)? {
        let entry = entry.to("list", dir)?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file
            && Path::new(&entry.file_name())
                .extension()
                .is_some_and(|end| end == "conf")
        {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

fn remove_kept(kept: &Path) -> Result<(), PromoteError> {
    match std::fs::remove_dir_all(kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed.to("remove", kept)?),
    }
}

/// A stopped server starts as the leader's standby from here on.
fn make_standby(leader: &Leader, dir: &Path) -> Result<(), PromoteError> {
    let path = dir.join("postgresql.auto.conf");
    let old = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.to("read", &path)?,
    };
    let is_conninfo = |line: &&str| {
        line.split('=')
            .next()
            .is_some_and(|name| name.trim() == "primary_conninfo")
    };
    let former = old
        .lines()
        .rfind(is_conninfo)
        .and_then(|line| line.split_once('='));
    let former = former.map_or(String::new(), |(_, value)| {
        value.trim().trim_matches('\'').replace("''", "'")
    });
    let conninfo = conninfo_of(&leader.node.settings, &former)?.to_libpq();
    let text = recovery::following(&old, &conninfo);
    durable::replace(&path, text.as_bytes())?;
    durable::replace(&dir.join("standby.signal"), b"")?;
    Ok(())
}

fn bin_dir(leader: &Leader, node: &NodeSettings) -> Result<PathBuf, PromoteError> {
    let here = leader.node.settings.data_dir.is_some();
    let found = node
        .bin_dir
        .clone()
        .or_else(|| here.then(|| leader.bin_dir.clone()));
    found.ok_or_else(|| trouble(node, "where its server's programs are is not known: set bin_dir"))
}

fn environment(node: &NodeSettings) -> [(&'static str, String); 1] {
    [("SKYTIDE_NODE", node.name.clone())]
}

/// Stops it in the manner of `pg_ctl stop -m fast` and waits until it is down.
pub(super) async fn stop_server(
    settings: &Settings,
    node: &NodeSettings,
    bin_dir: Option<&Path>,
) -> Result<(), PromoteError> {
    let bin_dir = node.bin_dir.as_deref().or(bin_dir);
    let stop = match (&node.stop, &node.data_dir, bin_dir) {
        (Some(stop), ..) => stop.clone(),
        (None, Some(dir), Some(bin_dir)) => {
            let seconds = settings.hook_timeout.as_secs().to_string();
            let dir = dir.display().to_string();
            Hook::new(
                &bin_dir.join("pg_ctl"),
                &["-D", &dir, "-m", "fast", "-w", "-t", &seconds, "stop"],
            )
        }
        _ => return Err(Refusal::CannotStop(node.name.clone()).into()),
    };
    Ok(stop.run(&environment(node), settings.hook_timeout).await?)
}

async fn start_server(
    settings: &Settings,
    leader: &Leader,
    node: &NodeSettings,
    dir: &Path,
) -> Result<(), PromoteError> {
    let start = match &node.start {
        Some(start) => start.clone(),
        None => {
            let dir_text = dir.display().to_string();
            let log = dir.join(START_LOG).display().to_string();
            // Whether it comes up is asked by connecting.
            Hook::new(
                &bin_dir(leader, node)?.join("pg_ctl"),
                &["-D", &dir_text, "-l", &log, "-W", "start"],
            )
        }
    };
    Ok(start.run(&environment(node), settings.hook_timeout).await?)
}

async fn reach_started(settings: &Settings, node: &NodeSettings) -> Result<Arc<Node>, PromoteError> {
    let began = Instant::now();
    loop {
        match Node::reach(node, settings.answer_timeout).await {
            Ok(live) => return Ok(live),
            Err(error) if began.elapsed() > settings.wait_timeout => {
                let why = words(&error);
                return Err(trouble(
                    node,
                    &format!(
                        "it was started and cannot be used: {why}; its log, or {START_LOG} in its data directory, says why"
                    ),
                ));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
