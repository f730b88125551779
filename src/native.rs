//! The native home's HTTP/1.1 server: takes connections from a listener and hands their requests to the
//! router. What happens to a socket after an upgrade is the business of whoever accepted the upgrade.

mod answered;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tower::Service as _;

use self::answered::Answered;

#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How long a new connection may take to send the head of its first request.
    pub header_read_timeout: Duration,
    /// How long a connection may stay idle between requests. Longer than what is in front keeps its own
    /// connections (60 s in an ALB by default), or that would now and then send a request into a closing one
    /// and answer it with 502.
    pub keep_alive: Duration,
    /// How long a client may take none of what it is being answered.
    pub write_stall: Duration,
    /// Connections that speak HTTP. Those beyond wait in the listener's backlog. One counts no more when it is upgraded,
    /// or has given up its [`HttpPlace`].
    pub max_connections: usize,
    /// The most a request's head may measure, in bytes. API Gateway allows 10,240.
    pub max_head_bytes: usize,
    /// How long requests in flight may still take once the server is told to stop.
    pub drain_deadline: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            max_connections: 20_000,
            max_head_bytes: 64 * 1024,
            drain_deadline: Duration::from_secs(25),
        }
    }
}

/// How long to let go of accepting when the process or the system has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The place of a connection among those that speak HTTP, in the extensions of each of its requests. A request that is held
/// for long is counted by whoever holds it and gives its place up, so that however many are held, others are answered. What
/// is answered then, short of an upgrade, is the last on its connection.
#[derive(Debug, Clone)]
pub struct HttpPlace(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl HttpPlace {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(Mutex::new(Some(permit))))
    }

    pub fn give_up(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_given_up(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// What a server has accepted.
pub type Accepted = Answered<TcpStream>;

/// Serves until `shutdown` resolves; then takes no new connection and no new request, and returns when those
/// in flight are answered or the deadline has passed. Handlers that are still running then are dropped, as is
/// a handler whose client has gone away. Fails only if the listener cannot be used at all.
///
/// Best spawned: the thread that blocks on a runtime is none of its workers, and each connection accepted there
/// would first have to wake one.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let places = Arc::new(Semaphore::new(options.max_connections));
    let (stop, stopped) = watch::channel(());
    // Owned here, so that none outlives the deadline.
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.expect("never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = HttpPlace::new(place);
                connections.spawn(serve_connection(stream, peer, place, app.clone(), options.clone(), stopped.clone()));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    // Whoever connects from here on is refused by the system, not left waiting in the backlog.
    drop(listener);
    let _ = stop.send(());
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(options.drain_deadline, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests in flight were cut off at the deadline");
        connections.shutdown().await;
    }
    Ok(())
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    place: HttpPlace,
    app: Router,
    options: ServeOptions,
    mut stopped: watch::Receiver<()>,
) {
    // Answers are small and written whole; waiting for more to send along only delays them.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(place.clone());
        // A router is always ready.
        let answering = app.clone().call(request);
        let place = place.clone();
        async move {
            let mut answer = answering.await?;
            if place.is_given_up() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let timer = HeadTimer {
        had_first: AtomicBool::new(false),
        longer: options.keep_alive.saturating_sub(options.header_read_timeout),
    };
    let connection = http1::Builder::new()
        .timer(timer)
        .header_read_timeout(options.header_read_timeout)
        .max_buf_size(options.max_head_bytes.max(MIN_BUFFER))
        .serve_connection(TokioIo::new(Answered::new(stream, options.write_stall)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Somebody else's doing nearly always: gone away, too slow, not HTTP.
        tracing::debug!(%error, "connection ended");
    }
}

/// hyper refuses to work with a smaller one.
const MIN_BUFFER: usize = 8_192;

fn report(ended: Result<(), tokio::task::JoinError>) {
    // A panic costs the request's connection, not the server.
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request panicked");
    }
}

/// Errors `accept` passes on from a connection that died in the backlog; the next one is not affected.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// hyper knows one deadline for the head of a request, and runs it from the end of the request before, so that
/// it is also the time a connection may idle. They are different things here: the first head of a connection
/// has the short time, and later ones the longer one of keeping alive.
#[derive(Debug)]
struct HeadTimer {
    had_first: AtomicBool,
    longer: Duration,
}

impl HeadTimer {
    fn extra(&self) -> Duration {
        if self.had_first.swap(true, Ordering::Relaxed) { self.longer } else { Duration::ZERO }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration + self.extra())
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(deadline + self.extra())
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        TokioTimer::new().reset(sleep, deadline + self.extra());
    }
}

#[cfg(test)]
mod tests;
