//! The stores of a configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use serde::Serialize;
use skytide_wal::WalFileName;
use skytide_wal::control::{self, ControlError, ControlFile};
use skytide_wal::store::identity::{Identity, IdentityError};
use skytide_wal::store::s3::Conditions;
use skytide_wal::store::{DirStore, LateStore, PeerStore, S3Store, Store, StoreError, layout};
use tracing::{info, warn};

use crate::cli::failure::{Advice, Failure};
use crate::cli::{Context, Outcome};
use crate::config::settings::{Role, StoreAt, WalmgrSettings};

/// All of them. A directory that is not there now is a store that cannot be reached: the others work without it, and a
/// process that lives long has it as soon as it is there.
pub fn open_all(settings: &WalmgrSettings) -> anyhow::Result<Vec<Arc<dyn Store>>> {
    let open = |at: &StoreAt| match at {
        StoreAt::Dir(path) => {
            let dir = path.clone();
            Ok(LateStore::open(path.display().to_string(), move || {
                Ok(Arc::new(DirStore::open(&dir)?))
            }))
        }
        StoreAt::Peer { .. } | StoreAt::S3(_) => open(at, settings),
    };
    settings.stores.iter().map(open).collect()
}

fn open(at: &StoreAt, settings: &WalmgrSettings) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match at {
        StoreAt::Dir(path) => Arc::new(DirStore::open(path)?),
        StoreAt::Peer { host, port } => {
            let tls = settings.tls.as_ref().ok_or_else(|| {
                Failure::usage(format!("store peer://{host}:{port} needs certificates"))
                    .hint("Set tls_certificate, tls_key and tls_authority.")
            })?;
            Arc::new(PeerStore::new(host, *port, tls)?)
        }
        StoreAt::S3(settings) => Arc::new(S3Store::new(settings)?),
    })
}

/// Removes from the directories what was being written when its writer died.
pub fn sweep(settings: &WalmgrSettings) -> anyhow::Result<()> {
    for at in &settings.stores {
        if let StoreAt::Dir(path) = at {
            let swept = match DirStore::open(path) {
                Ok(store) => store.sweep(SystemTime::now())?,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "a store is not there");
                    continue;
                }
            };
            if swept > 0 {
                info!(store = %path.display(), files = swept, "removed what was never finished");
            }
        }
    }
    Ok(())
}

/// The cluster of the configured data directory.
pub fn system_id(settings: &WalmgrSettings) -> anyhow::Result<Option<u64>> {
    Ok(identity(settings)?.map(|identity| identity.system_id))
}

fn identity(settings: &WalmgrSettings) -> anyhow::Result<Option<Identity>> {
    let Some(dir) = &settings.data_dir else {
        return Ok(None);
    };
    let path = dir.join(control::PATH);
    if settings.role == Role::Standby && !path.exists() {
        // It is still to be made.
        return Ok(None);
    }
    let control = read_control(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(Identity {
        system_id: control.system_id,
        segment_size: control.segment_size,
    }))
}

/// A running server writes the file in place: half of a write is read again.
pub fn read_control(path: &Path) -> anyhow::Result<ControlFile> {
    let mut attempts = 10;
    loop {
        match ControlFile::parse(&std::fs::read(path)?) {
            Err(ControlError::Crc { .. }) if attempts > 0 => attempts -= 1,
            parsed => return Ok(parsed?),
        }
    }
}

impl Advice for StoreError {
    fn hint(&self) -> Option<String> {
        hint(self)
    }
}

impl Advice for IdentityError {
    fn hint(&self) -> Option<String> {
        match self {
            IdentityError::Store(error) => hint(error),
            IdentityError::Foreign { .. } => Some("Name another directory or path in stores.".into()),
            _ => None,
        }
    }
}

pub fn hint(error: &StoreError) -> Option<String> {
    match error {
        StoreError::File { source, .. } if source.is_full() => {
            Some("Make room there; PostgreSQL keeps its WAL and asks again.".into())
        }
        StoreError::File { source, .. } if source.source.kind() == std::io::ErrorKind::NotFound => Some(
            "Mount it if it is on a file system of its own; if the store is new: skytide walmgr CONF create-store"
                .into(),
        ),
        StoreError::Unreachable { source, .. } => hint(source.downcast_ref()?),
        _ => None,
    }
}

/// Makes what can be made, and claims it if the cluster is known.
pub async fn create(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Outcome> {
    let identity = identity(settings)?;
    for at in &settings.stores {
        if let StoreAt::Dir(path) = at {
            DirStore::create(path)?;
        }
        if let StoreAt::S3(s3) = at
            && S3Store::new(s3)?.conditions().await? == Conditions::Ignored
        {
            context.output.note(
                "its server ignores conditional puts: let only one server at a time write into that store",
            );
        }
        let store = open(at, settings)?;
        if let Some(identity) = identity {
            identity.claim(&*store).await?;
        }
        context
            .output
            .note(&format!("store {} is ready", store.location()));
    }
    if identity.is_none() {
        context
            .output
            .note("they become the cluster's that archives first; with master_data they are its now");
    }
    Ok(Outcome::Done)
}

#[derive(Serialize, Clone)]
struct Row {
    store: String,
    system_identifier: Option<u64>,
    segment_bytes: Option<u64>,
    timeline: Option<u32>,
    segments: usize,
    first: Option<String>,
    last: Option<String>,
    /// Segments that are not there between the first and the last.
    missing: u64,
    /// The newest segment of which there is the beginning only.
    partial: Option<String>,
    /// Of segments and partials, as stored.
    bytes: u64,
    /// Why nothing is known of the store.
    error: Option<String>,
}

impl Row {
    fn empty(store: &dyn Store, identity: Option<Identity>) -> Row {
        Row {
            store: store.location().to_owned(),
            system_identifier: identity.map(|identity| identity.system_id),
            segment_bytes: identity.map(|identity| identity.segment_size.bytes()),
            timeline: None,
            segments: 0,
            first: None,
            last: None,
            missing: 0,
            partial: None,
            bytes: 0,
            error: None,
        }
    }
}

pub async fn list(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Outcome> {
    let mut rows = Vec::new();
    for store in open_all(settings)? {
        match lines(&*store).await {
            Ok(lines) => rows.extend(lines),
            Err(error) => rows.push(Row {
                error: Some(format!("{error:#}")),
                ..Row::empty(&*store, None)
            }),
        }
    }
    let heads = [
        "Store", "Timeline", "Segments", "First", "Last", "Missing", "Partial", "Bytes",
    ];
    context.output.rows(&heads, &rows, |row| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        vec![
            row.store.clone(),
            row.timeline
                .map(|timeline| timeline.to_string())
                .unwrap_or_default(),
            match row.error {
                Some(_) => "unknown".to_owned(),
                None => row.segments.to_string(),
            },
            text(&row.first),
            text(&row.last),
            row.missing.to_string(),
            text(&row.partial),
            row.bytes.to_string(),
        ]
    })?;
    for error in rows.iter().filter_map(|row| row.error.as_ref()) {
        context.output.warn(error);
    }
    match rows.iter().any(|row| row.error.is_some()) {
        true => Ok(Outcome::Code(1)),
        false => Ok(Outcome::Done),
    }
}

/// One line a timeline; one for a store that has none.
async fn lines(store: &dyn Store) -> anyhow::Result<Vec<Row>> {
    let identity = Identity::read(store).await?;
    let empty = Row::empty(store, identity);
    let Some(identity) = identity else {
        return Ok(vec![empty]);
    };
    // By timeline: its line, and the number of the segment before.
    let mut timelines: BTreeMap<u32, (Row, Option<u64>)> = BTreeMap::new();
    for object in store.list(&layout::wal_files()).await? {
        let Some(WalFileName::Segment(segment)) = layout::wal_file_of(&object.name) else {
            continue;
        };
        let Some(number) = segment.number(identity.segment_size) else {
            continue;
        };
        let timeline = segment.timeline().as_u32();
        let (line, before) = timelines.entry(timeline).or_insert_with(|| (empty.clone(), None));
        line.timeline = Some(timeline);
        line.segments += 1;
        line.bytes += object.bytes;
        line.first.get_or_insert_with(|| segment.to_string());
        line.last = Some(segment.to_string());
        line.missing += before.map_or(0, |before| number.as_u64().saturating_sub(before + 1));
        *before = Some(number.as_u64());
    }
    for listed in store.partials(&layout::all_partials()).await? {
        let Some(segment) = layout::segment_of(&listed.name) else {
            continue;
        };
        let timeline = segment.timeline().as_u32();
        let (line, _) = timelines.entry(timeline).or_insert_with(|| (empty.clone(), None));
        line.timeline = Some(timeline);
        line.partial = Some(segment.to_string());
        line.bytes += listed.bytes;
    }
    match timelines.is_empty() {
        true => Ok(vec![empty]),
        false => Ok(timelines.into_values().map(|(line, _)| line).collect()),
    }
}
