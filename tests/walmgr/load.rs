//! Clients that note what they were told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use skytide_fixtures::server::Server;
use skytide_fixtures::wait;

use super::stage::PATIENCE;

const CLIENTS: i64 = 4;

/// Clients that commit one row after the other, and note each that the server acknowledged, and when.
pub struct Load {
    acknowledged: Arc<Mutex<Vec<(i64, Instant)>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub async fn start(server: &Server, round: usize) -> Load {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let connection = server.connect("postgres").await.unwrap();
            let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
            let mut id = (round as i64 * CLIENTS + client) * 1_000_000;
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    id += 1;
                    let insert =
                        "insert into k (id, filler) values ($1::bigint, repeat(md5($1::bigint::text), 20))";
                    if connection.execute(insert, &[&id]).await.is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().push((id, Instant::now()));
                }
            }));
        }
        Load {
            acknowledged,
            stop,
            clients,
        }
    }

    pub async fn until(&self, count: usize) {
        wait::until("enough commits", PATIENCE, async || {
            Ok((self.acknowledged.lock().unwrap().len() >= count).then_some(()))
        })
        .await
        .unwrap();
    }

    pub async fn end(self) -> Vec<(i64, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}
