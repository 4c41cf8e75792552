//! `daemon`: answers `archive` and `restore-wal` over a Unix socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use metrics::{counter, gauge};
use skytide_wal::archive::{Ahead, AheadFigures, Source};
use skytide_wal::restore::Prefetch;
use skytide_wal::store::{DirStore, Store, peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::level::Level;
use super::wire::{self, Ask, Request};
use super::{archive, reload, restore, store};
use crate::cli::failure::Failure;
use crate::cli::{Context, Outcome};
use crate::config::settings::{StoreAt, WalmgrSettings};
use crate::daemon::{
    self,
    control::{DaemonArgs, Next},
};
use crate::metrics as names;

/// Connections at the same time; PostgreSQL has one or two.
const MAX_CONNECTIONS: usize = 64;
const FIGURES: Duration = Duration::from_secs(1);

/// What a connection is answered with.
struct Service {
    ahead: Ahead,
    prefetch: Prefetch,
    restore_timeout: Duration,
    data_dir: Option<PathBuf>,
    /// What those before this one were asked to restore, and had at hand.
    restored_before: (u64, u64),
    _level: Option<Level>,
}

impl Service {
    /// One that goes on counting where `before` ends.
    fn new(settings: &WalmgrSettings, before: Option<&Service>) -> anyhow::Result<Arc<Service>> {
        let archiver = archive::archiver(settings)?;
        let window = settings.archive_ahead;
        let figures = before
            .map(|before| before.ahead.figures().clone())
            .unwrap_or_default();
        let ahead = Ahead::counting(archiver, window, figures);
        Ok(Arc::new(Service {
            prefetch: Prefetch::new(
                restore::restorer(settings)?,
                settings.restore_ahead_bytes,
                settings.restore_miss_time,
            ),
            restore_timeout: settings.restore_timeout,
            data_dir: settings.data_dir.clone(),
            restored_before: before.map(Service::restored).unwrap_or_default(),
            _level: Level::keep(store::open_all(settings)?, ahead.clone()),
            ahead,
        }))
    }

    fn restored(&self) -> (u64, u64) {
        let (requests, at_hand) = self.prefetch.figures();
        (
            self.restored_before.0 + requests,
            self.restored_before.1 + at_hand,
        )
    }
}

pub async fn run(
    args: &DaemonArgs,
    load: &impl Fn() -> anyhow::Result<WalmgrSettings>,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let mut settings = load()?;
    match args.handle(&settings.process, context)? {
        Next::Run => {}
        Next::Leave(outcome) => return Ok(outcome),
    }
    let mut daemon = daemon::start(&settings.process, context).await?;
    store::sweep(&settings)?;
    let mut service = Service::new(&settings, None)?;
    let socket = Socket::bind(&settings.socket)?;
    daemon.health.ready();
    let serving = serve_peers(&settings, context).await?;
    info!(socket = %settings.socket.display(), "walmgr daemon {} starts", env!("CARGO_PKG_VERSION"));

    let tasks = TaskTracker::new();
    let mut figures = tokio::time::interval(FIGURES);
    let mut stats = settings.process.stats_period.map(tokio::time::interval);
    let mut last_files = 0;
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            Ok(()) = daemon.reloads.changed() => {
                daemon.manager.reloading();
                // Even if no word has changed: files that are named may have.
                if let Some(new) = reload::read(load, &settings) {
                    let usable = || anyhow::Ok((Service::new(&new, Some(&service))?, served(&new)?));
                    match usable() {
                        Ok((new_service, new_served)) => {
                            // Who is being answered is answered by the old one.
                            service = new_service;
                            if let (Some(serving), Some(new_served)) = (&serving, new_served) {
                                serving.hand_over(new_served);
                            }
                            stats = new.process.stats_period.map(tokio::time::interval);
                            settings = new;
                        }
                        Err(error) => {
                            error!(error = format!("{error:#}"), "the old configuration stays in force");
                        }
                    }
                }
                daemon.manager.ready();
            }
            accepted = socket.listener.accept(), if tasks.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(tasks.spawn(serve(stream, service.clone()))),
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = figures.tick() => publish(&service),
            () = tick(&mut stats) => {
                let AheadFigures { files, backlog, failures, hits, .. } = &**service.ahead.figures();
                let files = files.load(Ordering::Relaxed);
                if files != last_files {
                    info!(
                        files,
                        ahead = hits.load(Ordering::Relaxed),
                        failures = failures.load(Ordering::Relaxed),
                        backlog = backlog.load(Ordering::Relaxed),
                        "archived so far"
                    );
                    last_files = files;
                }
            }
        }
    }
    if let Some(serving) = serving {
        let _ = serving.task.await;
    }
    // New clients do the work themselves; those that are here get their answer.
    drop(socket);
    tasks.close();
    if tokio::time::timeout(settings.process.shutdown_timeout, tasks.wait())
        .await
        .is_err()
    {
        warn!("requests were still worked on; PostgreSQL asks again");
    }
    info!("walmgr daemon stopped");
    Ok(Outcome::Done)
}

/// Other hosts find a store here.
struct Serving {
    store: watch::Sender<Arc<dyn Store>>,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    fn hand_over(&self, store: Arc<dyn Store>) {
        self.store.send_if_modified(|now| {
            let is_another = now.location() != store.location();
            if is_another {
                info!(
                    before = now.location(),
                    store = store.location(),
                    "other hosts archive here now"
                );
                *now = store;
            }
            is_another
        });
    }
}

/// The directory that other hosts find: the first among the stores, where the configuration says so.
fn served(settings: &WalmgrSettings) -> anyhow::Result<Option<Arc<dyn Store>>> {
    if settings.store_listen.is_none() {
        return Ok(None);
    }
    let dir = settings.stores.iter().find_map(|at| match at {
        StoreAt::Dir(path) => Some(path),
        StoreAt::Peer { .. } | StoreAt::S3(_) => None,
    });
    let (Some(dir), Some(_)) = (dir, &settings.tls) else {
        return Err(
            Failure::usage("store_listen serves a directory to other hosts, over TLS")
                .hint("Set stores to a directory, and tls_certificate, tls_key and tls_authority.")
                .into(),
        );
    };
    Ok(Some(Arc::new(DirStore::open(dir)?)))
}

async fn serve_peers(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Option<Serving>> {
    let (Some(store), Some(listen), Some(tls)) = (served(settings)?, &settings.store_listen, &settings.tls)
    else {
        return Ok(None);
    };
    let listener = tokio::net::TcpListener::bind(listen.as_str())
        .await
        .with_context(|| format!("listen at {listen}"))?;
    info!(%listen, store = store.location(), "other hosts may archive here");
    let stop = context.shutdown.clone().cancelled_owned();
    let (store, of_the_moment) = watch::channel(store);
    let task = tokio::spawn(peer::serve(listener, tls.server()?, of_the_moment, stop));
    Ok(Some(Serving { store, task }))
}

pub async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn publish(service: &Service) {
    let figures = service.ahead.figures();
    let of = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    counter!(names::WAL_FILES).absolute(of(&figures.files));
    counter!(names::WAL_BYTES).absolute(of(&figures.bytes));
    counter!(names::WAL_STORED).absolute(of(&figures.packed_bytes));
    counter!(names::WAL_FAILURES).absolute(of(&figures.failures));
    counter!(names::WAL_BEHIND).absolute(of(&figures.behind));
    counter!(names::WAL_AHEAD).absolute(of(&figures.hits));
    gauge!(names::WAL_BACKLOG).set(of(&figures.backlog) as f64);
    let (requests, at_hand) = service.restored();
    counter!(names::WAL_RESTORES).absolute(requests);
    counter!(names::WAL_RESTORES_AT_HAND).absolute(at_hand);
}

/// The socket, which is ours while this lives.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Mode 0600. It gets its name when it can be spoken to and not before, and takes that of a daemon that died.
    fn bind(path: &Path) -> anyhow::Result<Socket> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(
                Failure::new(format!("another daemon answers at {}", path.display()))
                    .hint("Stop that one first; each configuration has one daemon.")
                    .into(),
            );
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let bind = || -> io::Result<UnixListener> {
            match std::fs::remove_file(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&aside)?;
            std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&aside, path)?;
            Ok(listener)
        };
        let listener = bind().with_context(|| format!("listen at {}", path.display()))?;
        Ok(Socket {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A client that finds it after us is refused, and does the work itself.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: UnixStream, service: Arc<Service>) {
    if let Err(error) = answer(&mut stream, &service).await {
        // A client that was killed; PostgreSQL asks again.
        debug!(%error, "a request ended early");
    }
}

async fn answer(stream: &mut UnixStream, service: &Service) -> io::Result<()> {
    let mut header = [0; wire::REQUEST_HEADER];
    stream.read_exact(&mut header).await?;
    let Some(length) = Request::body_length(header) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let Some(request) = Request::decode(&body) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    let (code, message) = match request.ask {
        Ask::Archive => shown(stream, do_archive(request, service)).await?,
        Ask::Restore => do_restore(stream, request, service).await?,
    };
    stream.write_all(&wire::answer(code, &message)).await
}

/// Tells the client from time to time that the work goes on. A client that is gone ends it.
async fn shown<T>(stream: &mut UnixStream, work: impl Future<Output = T>) -> io::Result<T> {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(wire::STILL, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => stream.write_all(&[wire::WORKING]).await?,
        }
    }
}

async fn do_archive(request: Request, service: &Service) -> (u8, String) {
    let name = match archive::parse_name(&request.name) {
        Ok(name) => name,
        Err(error) => return (2, format!("ERROR: {error}")),
    };
    let source = Source {
        path: request.path,
        name,
    };
    match service.ahead.archive(source).await {
        Ok(report) => {
            service.prefetch.forget_misses();
            archive::say(&report);
            (0, String::new())
        }
        Err(failed) => {
            let text = archive::explain(&failed);
            error!(%name, "not archived: {text}");
            (1, text)
        }
    }
}

async fn do_restore(
    stream: &mut UnixStream,
    request: Request,
    service: &Service,
) -> io::Result<(u8, String)> {
    let name = match archive::parse_name(&request.name) {
        Ok(name) => name,
        Err(error) => return Ok((restore::STOP, format!("ERROR: {error}"))),
    };
    let cluster = restore::cluster_of(&request.path, service.data_dir.as_deref());
    let fetch = async || {
        if let Some(cluster) = cluster {
            service.prefetch.belongs_to(cluster).await?;
        }
        let found = service.prefetch.fetch(name).await?;
        let behind = async |segment| service.prefetch.behind(segment).await;
        restore::unless_hole(name, &request.path, found, behind).await
    };
    let patience = restore::patience(service.restore_timeout, name, &request.path);
    let fetched = shown(stream, restore::patiently(patience, fetch)).await?;
    // Whoever has given up gets no file: by now it would be in the way of another one.
    stream.write_all(&[wire::WORKING]).await?;
    let finish = tokio::task::spawn_blocking(move || restore::finish(name, &request.path, fetched));
    Ok(match shown(stream, finish).await? {
        Ok(answer) => (answer.code, answer.message),
        Err(error) => (restore::STOP, format!("{name} was not restored: {error}")),
    })
}
