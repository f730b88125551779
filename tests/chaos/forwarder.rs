//! The way from a server to its Redis: an address that stays the same while what is behind it changes, as a name
//! in DNS does; and a way that can be cut, or swallow what is sent.

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

pub struct Forwarder {
    pub port: u16,
    /// The socket of the Redis it leads to.
    target: watch::Sender<PathBuf>,
    /// How often all connections were cut.
    cuts: watch::Sender<u64>,
    /// While it is blocked nothing arrives, and nobody is told.
    blocked: watch::Sender<bool>,
}

impl Forwarder {
    pub async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let forwarder = Self {
            port,
            target: watch::Sender::new(socket),
            cuts: watch::Sender::new(0),
            blocked: watch::Sender::new(false),
        };
        let (target, cuts, blocked) =
            (forwarder.target.subscribe(), forwarder.cuts.subscribe(), forwarder.blocked.subscribe());
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(client, target.borrow().clone(), cuts.clone(), blocked.clone()));
            }
        });
        forwarder
    }

    pub fn point_at(&self, socket: PathBuf) {
        self.target.send_replace(socket);
        self.cut();
    }

    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub fn block(&self, blocked: bool) {
        self.blocked.send_replace(blocked);
    }
}

async fn carry(client: TcpStream, target: PathBuf, mut cuts: watch::Receiver<u64>, blocked: watch::Receiver<bool>) {
    cuts.mark_unchanged();
    // Who connects to a Redis that is not there is refused by the system; here, at once after.
    let Ok(redis) = UnixStream::connect(target).await else { return };
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_redis, to_redis) = redis.into_split();
    tokio::select! {
        _ = one_way(from_client, to_redis, blocked.clone()) => {}
        _ = one_way(from_redis, to_client, blocked) => {}
        _ = cuts.changed() => {}
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut blocked: watch::Receiver<bool>,
) -> Option<()> {
    let mut buffer = vec![0; 16 * 1_024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        blocked.wait_for(|blocked| !blocked).await.ok()?;
        to.write_all(&buffer[..read]).await.ok()?;
    }
}
