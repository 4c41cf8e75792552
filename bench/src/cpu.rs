//! CPU time and memory as the kernel counts them.

use std::fs;
use std::path::Path;

use anyhow::Context;
use skytide_fixtures::server::Server;

/// CPU seconds, user and system.
pub type Seconds = f64;

struct Stat {
    parent: u32,
    own: Seconds,
    /// Of children that have ended.
    ended: Seconds,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything; count from its end.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(11)? + ticks(12)?) / per_second,
        ended: (ticks(13)? + ticks(14)?) / per_second,
    })
}

/// What one process has used.
pub fn of_process(pid: u32) -> Seconds {
    stat(pid).map_or(0.0, |s| s.own)
}

/// What children of this process that have ended used.
pub fn of_children() -> anyhow::Result<Seconds> {
    Ok(stat(std::process::id()).context("no /proc")?.ended)
}

/// What a server has used since it started: all of its processes, also those that have ended.
pub fn of_server(server: &Server) -> anyhow::Result<Seconds> {
    let postmaster = postmaster(server.data_dir())?;
    loop {
        let before = stat(postmaster).context("the postmaster is gone")?;
        let mut total = before.own + before.ended;
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok());
            if let Some(child) = pid.and_then(stat)
                && child.parent == postmaster
            {
                total += child.own + child.ended;
            }
        }
        // A child that ended meanwhile would be in neither sum.
        let after = stat(postmaster).context("the postmaster is gone")?;
        if after.ended == before.ended {
            return Ok(total);
        }
    }
}

fn postmaster(data: &Path) -> anyhow::Result<u32> {
    let file = data.join("postmaster.pid");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let first = text.lines().next().unwrap_or_default();
    first
        .trim()
        .parse()
        .with_context(|| format!("{}: {first:?}", file.display()))
}

/// The most memory the process has had resident, in MiB; pages of mapped files are in it, though the
/// kernel takes them back when it wants them.
pub fn peak_rss(pid: u32) -> f64 {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: u32, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
