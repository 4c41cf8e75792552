//! Clients that note each commit they were told of, and one that waits for somebody to write to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use skytide_fixtures::server::Server;
use tokio::task::{JoinHandle, JoinSet};

/// Ids of one client.
const IDS: i64 = 1_000_000_000;
const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A commit and when its client was told of it.
type Acknowledged = (i64, Instant);

pub struct Clients {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<Acknowledged>>>,
}

impl Clients {
    pub async fn start(primary: &Server, count: usize) -> anyhow::Result<Clients> {
        let stop = Arc::new(AtomicBool::new(false));
        let counter = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for number in 0..count {
            let connection = primary.connect("postgres").await?;
            let insert = "insert into drill (id, filler) values ($1, repeat(md5($1::bigint::text), 8))";
            let insert = connection.prepare(insert).await?;
            let (stop, counter) = (stop.clone(), counter.clone());
            let mut id = i64::try_from(number)? * IDS;
            clients.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    id += 1;
                    if connection.execute(&insert, &[&id]).await.is_err() {
                        break;
                    }
                    acknowledged.push((id, Instant::now()));
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                acknowledged
            }));
        }
        Ok(Clients {
            stop,
            count: counter,
            clients,
        })
    }

    pub fn check(&self) -> anyhow::Result<()> {
        let working =
            self.count.load(Ordering::Relaxed) > 0 && !self.clients.iter().any(JoinHandle::is_finished);
        ensure!(working, "the primary does not serve its clients");
        Ok(())
    }

    pub async fn end(self) -> anyhow::Result<Vec<Acknowledged>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(client.await.context("a client broke down")?);
        }
        Ok(all)
    }
}

/// Tries each standby until one takes a write.
pub struct Probe {
    tries: JoinSet<anyhow::Result<Instant>>,
}

impl Probe {
    pub async fn start(standbys: impl Iterator<Item = &Server>) -> anyhow::Result<Probe> {
        let mut tries = JoinSet::new();
        for (number, server) in (1..).zip(standbys) {
            let connection = server.connect("postgres").await?;
            tries.spawn(async move {
                loop {
                    let id: i64 = -number;
                    let insert = "insert into drill (id) values ($1)";
                    match connection.execute(insert, &[&id]).await {
                        Ok(_) => return Ok(Instant::now()),
                        Err(error) if connection.is_closed() => return Err(error.into()),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                }
            });
        }
        Ok(Probe { tries })
    }

    /// When the first write was taken.
    pub async fn end(mut self) -> anyhow::Result<Instant> {
        let first = async {
            let mut trouble = anyhow::anyhow!("no standby took a write");
            while let Some(ended) = self.tries.join_next().await {
                match ended? {
                    Ok(at) => return Ok(at),
                    Err(error) => trouble = error,
                }
            }
            Err(trouble)
        };
        tokio::time::timeout(PATIENCE, first)
            .await
            .context("no standby took a write in time")?
    }
}
