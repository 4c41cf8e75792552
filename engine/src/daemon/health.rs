//! One optional port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever watches us.
//!
//! Three fixed answers to GET need no web framework. Strangers are bounded: so many connections,
//! so many bytes of request, so many seconds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

const MAX_CONNECTIONS: usize = 32;
const MAX_REQUEST_BYTES: usize = 8 << 10;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The exporter wants its histograms drained now and then, scraped or not.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Whether the process does its work: what `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Readiness {
    Ready,
    /// Not now, and why, in words for a person.
    Waiting(String),
}

/// The worker's side: say what holds it up, or that nothing does.
#[derive(Debug, Clone)]
pub struct Health {
    readiness: Arc<watch::Sender<Readiness>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            readiness: Arc::new(watch::Sender::new(Readiness::Waiting("starting".into()))),
        }
    }
}

impl Health {
    pub fn ready(&self) {
        self.become_(Readiness::Ready);
    }

    pub fn waiting(&self, reason: impl Into<String>) {
        self.become_(Readiness::Waiting(reason.into()));
    }

    fn become_(&self, next: Readiness) {
        self.readiness.send_if_modified(|now| {
            let changed = *now != next;
            *now = next;
            changed
        });
    }
}

/// Install the metrics recorder and serve `listen` until `shutdown`.
pub async fn serve(listen: &str, health: Health, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on metrics_listen = {listen}"))?;
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).context("install the metrics recorder")?;
    crate::metrics::describe();
    info!("serve metrics and health on http://{}", listener.local_addr()?);
    tokio::spawn(Server { metrics, health }.run(listener, shutdown));
    Ok(())
}

#[derive(Clone)]
struct Server {
    metrics: PrometheusHandle,
    health: Health,
}

impl Server {
    async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut upkeep = tokio::time::interval(UPKEEP_PERIOD);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = upkeep.tick() => {
                    self.metrics.run_upkeep();
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of descriptors, mostly: it passes, and the next upkeep is soon enough.
                    warn!(%error, "accept on the metrics port");
                    upkeep.tick().await;
                    continue;
                }
            };
            // Over the limit the caller is hung up on; he will come again.
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                let _place = place;
                match tokio::time::timeout(REQUEST_TIMEOUT, server.answer(socket)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "request on the metrics port"),
                    Err(_) => debug!("a request on the metrics port took too long"),
                }
            });
        }
    }

    async fn answer(&self, mut socket: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        let complete = loop {
            if request.windows(4).any(|end| end == b"\r\n\r\n") {
                break true;
            }
            if request.len() >= MAX_REQUEST_BYTES || socket.read_buf(&mut request).await? == 0 {
                break false;
            }
        };
        let response = if complete {
            self.respond(&request)
        } else {
            Response::new("400 Bad Request", "bad request\n")
        };
        socket.write_all(&response.bytes(is_head(&request))).await?;
        socket.shutdown().await
    }

    fn respond(&self, request: &[u8]) -> Response {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
            return Response::new("400 Bad Request", "bad request\n");
        }
        if !matches!(method, Some("GET" | "HEAD")) {
            return Response::new("405 Method Not Allowed", "GET only\n");
        }
        match target.map(|target| target.split('?').next().unwrap_or(target)) {
            Some("/metrics") => Response::new("200 OK", self.metrics.render()),
            Some("/healthz") => Response::new("200 OK", "alive\n"),
            Some("/readyz") => match &*self.health.readiness.borrow() {
                Readiness::Ready => Response::new("200 OK", "ready\n"),
                Readiness::Waiting(reason) => Response::new("503 Service Unavailable", format!("{reason}\n")),
            },
            _ => Response::new("404 Not Found", "/metrics, /healthz, /readyz\n"),
        }
    }
}

fn is_head(request: &[u8]) -> bool {
    request.starts_with(b"HEAD ")
}

struct Response {
    status: &'static str,
    body: String,
}

impl Response {
    fn new(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
        }
    }

    fn bytes(&self, head_only: bool) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.status,
            self.body.len()
        );
        let body = if head_only { "" } else { &self.body };
        [head.as_bytes(), body.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        let recorder = PrometheusBuilder::new().build_recorder();
        Server {
            metrics: recorder.handle(),
            health: Health::default(),
        }
    }

    async fn ask(server: &Server, request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).await.expect("connect");
        let (socket, _) = listener.accept().await.expect("accept");
        client.write_all(request).await.expect("send");
        client.shutdown().await.expect("no more to say");
        let mut text = String::new();
        let (answered, read) = tokio::join!(server.answer(socket), client.read_to_string(&mut text));
        answered.expect("answer");
        read.expect("read");
        text
    }

    #[tokio::test]
    async fn readiness_follows_the_worker() {
        let server = server();
        let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
        let text = ask(&server, request).await;
        assert!(
            text.starts_with("HTTP/1.1 503 ") && text.ends_with("starting\n"),
            "{text}"
        );
        server.health.ready();
        assert!(ask(&server, request).await.starts_with("HTTP/1.1 200 OK"));
        server.health.waiting("spool is full");
        assert!(ask(&server, request).await.ends_with("\r\n\r\nspool is full\n"));
    }

    #[tokio::test]
    async fn strangers_get_short_answers() {
        let server = server();
        assert!(
            ask(&server, b"GET /healthz HTTP/1.0\r\n\r\n")
                .await
                .ends_with("\r\n\r\nalive\n")
        );
        assert!(
            ask(&server, b"HEAD /healthz HTTP/1.1\r\n\r\n")
                .await
                .ends_with("\r\n\r\n")
        );
        assert!(
            ask(&server, b"POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
        assert!(
            ask(&server, b"GET / HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            ask(&server, b"\x16\x03\x01\x00 nonsense\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 400")
        );
        assert!(ask(&server, b"GET /metrics").await.starts_with("HTTP/1.1 400"));
        let endless = [
            b"GET /healthz HTTP/1.1\r\nX: ".as_slice(),
            &[b'x'; MAX_REQUEST_BYTES],
        ]
        .concat();
        assert!(ask(&server, &endless).await.starts_with("HTTP/1.1 400"));
    }
}
