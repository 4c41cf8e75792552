//! Is what lies in the stores what was put there?
//!
//! Each store is looked at alone. What was found sound, and when, is noted beside the backup, so that a later run can
//! leave it out.

mod gaps;
mod wal;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::content::{FRAME, FrameReader, finished, frame_range};
use super::manifest::Object;
use super::stores::{Chain, Stores, causes, list, read_manifest};
use super::{BackupError, Label, Progress, unix_now};
use crate::store::{Content, Prefix, Put, Store};

#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Only these; all, if empty.
    pub labels: Vec<Label>,
    /// Leave out what was found sound within this time.
    pub unless_within: Option<Duration>,
    /// Bytes a second to read at most.
    pub max_rate: Option<u64>,
    /// Read all archived WAL, too, and not only what the backups need to be consistent.
    pub all_wal: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub store: String,
    pub name: String,
    pub what: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub backups: u64,
    pub objects: u64,
    /// Files of archived WAL.
    pub wal_files: u64,
    pub bytes: u64,
    /// Objects and files of WAL that were found sound before, recently enough.
    pub left_out: u64,
    pub problems: Vec<Problem>,
}

pub async fn verify(
    stores: &Stores,
    settings: &Settings,
    progress: &Progress,
) -> Result<Report, BackupError> {
    let mut report = Report::default();
    let mut pace = Pace::new(settings.max_rate);
    for (location, what) in stores.left_out() {
        report.problems.push(silent(&location, what));
    }
    for store in stores.alive() {
        let alone = Stores::new(vec![store.clone()], 1);
        match in_one(&alone, &store, settings, &mut pace, progress, &mut report).await {
            // It answered a moment ago. The others are looked at all the same.
            Err(error @ BackupError::Store(_)) => {
                let what = causes(&error);
                report.problems.push(silent(store.location(), what));
            }
            done => done?,
        }
    }
    for label in &settings.labels {
        read_manifest(stores, label)
            .await
            .map(drop)
            .or_else(|error| match error {
                // It was found above, with its name.
                BackupError::Damaged { .. } => Ok(()),
                error => Err(error),
            })?;
    }
    Ok(report)
}

/// All of one store.
async fn in_one(
    alone: &Stores,
    store: &Arc<dyn Store>,
    settings: &Settings,
    pace: &mut Pace,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), BackupError> {
    let mut sound = Vec::new();
    for summary in list(alone).await? {
        let label = match summary {
            Ok(summary) => {
                sound.push(summary.clone());
                summary.label
            }
            Err(error) => {
                report.problems.push(problem(&**store, "manifest", &error));
                continue;
            }
        };
        if !settings.labels.is_empty() && !settings.labels.contains(&label) {
            continue;
        }
        report.backups += 1;
        one(alone, store, &label, settings, pace, progress, report).await?;
    }
    sound.retain(|backup| settings.labels.is_empty() || settings.labels.contains(&backup.label));
    gaps::find(alone, store, &sound, report).await?;
    if settings.all_wal {
        wal::all(store, pace, progress, report).await?;
    }
    Ok(())
}

/// Nothing can be said of what is in a store that does not answer.
fn silent(location: &str, what: String) -> Problem {
    Problem {
        store: location.to_owned(),
        name: "the store".to_owned(),
        what,
    }
}

fn problem(store: &dyn Store, name: &str, what: &dyn std::fmt::Display) -> Problem {
    Problem {
        store: store.location().to_owned(),
        name: name.to_owned(),
        what: what.to_string(),
    }
}

/// One backup in one store.
async fn one(
    alone: &Stores,
    store: &Arc<dyn Store>,
    label: &Label,
    settings: &Settings,
    pace: &mut Pace,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), BackupError> {
    let name = label.manifest();
    let chain = match Chain::read(alone, label).await {
        Ok(chain) => chain,
        Err(error @ BackupError::Store(_)) => return Err(error),
        Err(error) => {
            report.problems.push(problem(&**store, name.as_str(), &error));
            return Ok(());
        }
    };
    if let Some(what) = dangling(&chain) {
        report.problems.push(problem(&**store, name.as_str(), &what));
    }
    let objects = &chain.backup.contents.objects;
    let known = last_mark(&**store, label, settings.unless_within).await?;
    let total: u64 = objects.iter().map(Object::packed_bytes).sum();
    progress.enter(format!("verifying {label}"), total);
    // While its WAL is not sound, the backup is not noted as that.
    let before = report.problems.len();
    let summary = &chain.backup.summary;
    wal::needed(store, summary, known < objects.len(), pace, report).await?;
    for (number, object) in (0..).zip(objects) {
        progress.add(object.packed_bytes());
        if object.frames.is_empty() {
            continue;
        }
        if number < known {
            report.left_out += 1;
            continue;
        }
        let object_name = label.data(u32::try_from(number).unwrap_or(u32::MAX));
        pace.wait(object.packed_bytes()).await;
        report.objects += 1;
        report.bytes += object.packed_bytes();
        match store.get(&object_name).await? {
            None => report
                .problems
                .push(problem(&**store, object_name.as_str(), &"it is not there")),
            Some(packed) => {
                let object = object.clone();
                let work = tokio::task::spawn_blocking(move || sound(&object, &packed));
                if let Err(what) = finished(work.await)? {
                    report
                        .problems
                        .push(problem(&**store, object_name.as_str(), &what));
                }
            }
        }
        // A run that is broken off need not begin anew.
        const MARK_EVERY: usize = 256;
        if before == report.problems.len() && (number + 1) % MARK_EVERY == 0 {
            noted(&**store, label, number + 1).await;
        }
    }
    if before == report.problems.len() && known < objects.len() {
        noted(&**store, label, objects.len()).await;
    }
    Ok(())
}

fn sound(object: &Object, packed: &[u8]) -> Result<(), String> {
    if packed.len() as u64 != object.packed_bytes() {
        return Err(format!(
            "it has {} bytes, not {}",
            packed.len(),
            object.packed_bytes()
        ));
    }
    let mut reader = FrameReader::new().map_err(|error| error.to_string())?;
    let mut out = vec![0; FRAME];
    for frame in 0..object.frames.len() {
        let range = frame_range(object, frame..=frame);
        let range = usize::try_from(range.start).unwrap_or(0)..usize::try_from(range.end).unwrap_or(0);
        reader.read(object, frame, packed.get(range).unwrap_or_default(), &mut out)?;
    }
    Ok(())
}

/// A file with bytes that no stream has.
fn dangling(chain: &Chain) -> Option<String> {
    use super::content::OBJECT;
    let ends = |source: u16, object: u64| {
        let (_, objects) = chain.streams.get(usize::from(source))?;
        let object = objects.get(usize::try_from(object).ok()?)?;
        Some(u64::from(object.bytes))
    };
    let inside = |extent: &super::manifest::Extent| {
        let last = extent.at + extent.bytes.max(1) - 1;
        let object = OBJECT as u64;
        (extent.at / object..=last / object).all(|number| {
            let wanted = if number == last / object {
                last % object + 1
            } else {
                object
            };
            ends(extent.source, number).is_some_and(|end| end >= wanted)
        })
    };
    let mut files = chain.backup.contents.files.iter();
    let file = files.find(|file| !file.extents.iter().all(inside))?;
    Some(format!("{} has bytes that are in no object", file.path))
}

/// How many of the backup's objects, from the first on, were found sound within `age`.
async fn last_mark(store: &dyn Store, label: &Label, age: Option<Duration>) -> Result<usize, BackupError> {
    let Some(age) = age else { return Ok(0) };
    let oldest = unix_now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    let marks = marks(store, label).await?;
    let recent = marks.iter().filter(|(time, ..)| *time >= oldest);
    Ok(recent.map(|(_, objects, _)| *objects).max().unwrap_or(0))
}

/// When, how many objects, and under which name that is noted.
async fn marks(
    store: &dyn Store,
    label: &Label,
) -> Result<Vec<(i64, usize, crate::store::ObjectName)>, BackupError> {
    let prefix = format!("backup/{label}/verified/");
    let prefix = Prefix::new(prefix).map_err(|_| BackupError::NoBackup(label.clone()))?;
    let listed = store.list(&prefix).await?;
    Ok(listed
        .into_iter()
        .filter_map(|listed| {
            let (_, name) = listed.name.as_str().rsplit_once('/')?;
            let (time, objects) = name.split_once('-')?;
            Some((time.parse().ok()?, objects.parse().ok()?, listed.name))
        })
        .collect())
}

/// Notes that objects were found sound just now. Older notes go.
async fn mark(store: &dyn Store, label: &Label, objects: usize) -> Result<(), BackupError> {
    let old = marks(store, label).await?;
    let name = label.verified(unix_now(), objects);
    let (Put::Stored | Put::Exists) = store.put(&name, Content::new("sound\n")).await?;
    for (.., old) in old {
        if old != name {
            store.delete(&old).await?;
        }
    }
    Ok(())
}

/// The same, where a store may be one that can only be read: then everything is read again the next time.
async fn noted(store: &dyn Store, label: &Label, objects: usize) {
    if let Err(error) = mark(store, label, objects).await {
        let cause: &dyn std::error::Error = &error;
        tracing::warn!(store = store.location(), backup = %label, error = cause, "what was found sound is not noted");
    }
}

/// Keeps reading below a rate.
struct Pace {
    rate: Option<u64>,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(rate: Option<u64>) -> Pace {
        Pace {
            rate: rate.filter(|rate| *rate > 0),
            since: Instant::now(),
            bytes: 0,
        }
    }

    async fn wait(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        if let Some(early) = due.checked_sub(self.since.elapsed()) {
            tokio::time::sleep(early).await;
        }
    }
}
