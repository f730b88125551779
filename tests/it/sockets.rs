//! The same router on a port: keep-alive, pipelining, and requests that wait.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wallcrawler::ids::SessionId;
use wallcrawler::native::{ServeOptions, serve};

use crate::audit::Contents;
use crate::world::{World, container_token, eventually};

/// What follows the first line.
const UPGRADE: &str = "host: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(10);

async fn listen(world: &World) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = world.router.clone();
    let serving = tokio::spawn(async move {
        serve(listener, router, ServeOptions::default(), std::future::pending()).await.expect("serves");
    });
    (address, serving)
}

/// Reads `count` answers and returns their statuses and bodies.
async fn answers(socket: &mut TcpStream, count: usize) -> Vec<(u16, String)> {
    let mut bytes = Vec::new();
    let mut answers = Vec::new();
    while answers.len() < count {
        if let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse::<usize>().expect("a length"));
            let end = head_end + 4 + length;
            if bytes.len() >= end {
                let status = head[9..12].parse().expect("a status");
                answers.push((status, String::from_utf8_lossy(&bytes[head_end + 4..end]).into_owned()));
                bytes.drain(..end);
                continue;
            }
        }
        let read = timeout(PATIENCE, socket.read_buf(&mut bytes)).await.expect("an answer in time").expect("a socket");
        assert!(read > 0, "the socket was closed after {} answers", answers.len());
    }
    assert!(bytes.is_empty(), "more was answered than asked");
    answers
}

#[tokio::test]
async fn one_socket_carries_many_requests_one_after_another() {
    let world = World::new(&[]).await;
    let (address, serving) = listen(&world).await;
    let mut socket = TcpStream::connect(address).await.expect("connects");
    for number in 0..5 {
        let body = format!("{{\"userMetadata\":{{\"number\":{number}}}}}");
        let request = format!(
            "POST /sessions HTTP/1.1\r\nhost: x\r\nx-api-key: key-one\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.expect("sends");
        let answer = answers(&mut socket, 1).await;
        assert_eq!(answer[0].0, 201);
        assert!(answer[0].1.contains(&format!("\"number\":{number}")));
    }
    serving.abort();
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order_bad_ones_among_them() {
    let world = World::new(&[]).await;
    let (address, serving) = listen(&world).await;
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: key-one\r\n\r\n");
    let post = |body: &str| {
        format!(
            "POST /sessions HTTP/1.1\r\nhost: x\r\nx-api-key: key-one\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let all = [
        get("/health"),
        post("{\"timeout\":7}"),
        post("{broken"),
        get("/sessions?limit=1"),
        get("/nothing"),
        // Refused unread: what is left of its body must not be taken for the next request.
        "POST /sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        get("/ready"),
    ];
    socket.write_all(all.concat().as_bytes()).await.expect("sends");
    let answers = answers(&mut socket, all.len()).await;
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [200, 201, 400, 200, 404, 401, 200]);
    assert!(answers[3].1.contains("\"timeout\":420000"), "the list has what was created before it");
    serving.abort();
}

#[tokio::test]
async fn a_container_that_hangs_up_while_its_claim_waits_is_given_nothing() {
    let world = World::new(&[]).await;
    let (address, serving) = listen(&world).await;
    let claim = |id: &str| {
        let body = format!(
            "{{\"containerId\":\"{id}\",\"currentSessions\":0,\"maxSessions\":9,\"waitSeconds\":20,\"sessionIds\":[]}}"
        );
        let token = container_token(id);
        format!(
            "POST /sessions/claim HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let redis = world.redis.client().await;
    let registered = async |id: &'static str| {
        eventually(PATIENCE, async || {
            let seen = Contents::read(&redis).await;
            if seen.hashes.contains_key(&format!("container:{id}")) {
                Ok(())
            } else {
                Err(format!("{:?}", seen.hashes))
            }
        })
        .await;
    };
    let mut gone = TcpStream::connect(address).await.expect("connects");
    gone.write_all(claim("ctr-gone").as_bytes()).await.expect("sends");
    registered("ctr-gone").await;
    drop(gone);
    let mut there = TcpStream::connect(address).await.expect("connects");
    there.write_all(claim("ctr-there").as_bytes()).await.expect("sends");
    registered("ctr-there").await;
    let id = world.client("key-one").create().await;
    let answer = answers(&mut there, 1).await;
    assert!(answer[0].1.contains(&id), "{answer:?}");
    serving.abort();
}

/// Taken out: that those who are held take a place; that it is given back.
#[tokio::test]
async fn as_many_sockets_are_held_as_may_be_and_everything_else_is_answered() {
    let world = World::new(&[("MAX_SOCKETS", "2")]).await;
    let (address, serving) = listen(&world).await;
    let session = world.client("key-one").post("/sessions", &serde_json::json!({})).await.body;
    let (id, token) = (session["id"].as_str().expect("an id"), session["token"].as_str().expect("a token"));
    let upgrade = format!("GET /cdp?sessionId={id}&token={token} HTTP/1.1\r\n{UPGRADE}");
    let discover = format!("GET /sessions/{id}/json/version?token={token} HTTP/1.1\r\nhost: x\r\n\r\n");
    let held = async |request: &str| {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("sends");
        let answered = timeout(Duration::from_millis(200), socket.read_u8()).await;
        assert!(answered.is_err(), "it is held while its session waits");
        socket
    };
    let waiting = [held(&upgrade).await, held(&discover).await];
    for request in [&upgrade, &discover] {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("sends");
        let (status, body) = answers(&mut socket, 1).await.remove(0);
        assert!(status == 503 && body.contains("too_many_sockets"), "{status} {body}");
    }
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let list = "GET /sessions HTTP/1.1\r\nhost: x\r\nx-api-key: key-one\r\n\r\n";
    socket.write_all(list.as_bytes()).await.expect("sends");
    assert_eq!(answers(&mut socket, 1).await[0].0, 200);
    drop(waiting);
    eventually(PATIENCE, async || {
        world.app.places.take(&SessionId::random()).map(drop).map_err(|none| format!("{none:?}"))
    })
    .await;
    held(&upgrade).await;
    serving.abort();
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_is_parked_leaves_no_connection() {
    let world = World::new(&[]).await;
    let (address, serving) = listen(&world).await;
    let session = world.client("key-one").post("/sessions", &serde_json::json!({})).await.body;
    let (id, token) = (session["id"].as_str().expect("an id"), session["token"].as_str().expect("a token"));
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let upgrade = format!("GET /cdp?sessionId={id}&token={token} HTTP/1.1\r\n{UPGRADE}");
    socket.write_all(upgrade.as_bytes()).await.expect("sends");
    let mut byte = [0u8; 1];
    let answered = timeout(Duration::from_millis(300), socket.read(&mut byte)).await;
    assert!(answered.is_err(), "it is held while its session waits");
    drop(socket);
    let redis = world.redis.client().await;
    eventually(PATIENCE, async || {
        let seen = Contents::read(&redis).await;
        seen.check();
        if seen.hashes.keys().any(|key| key.starts_with("connection:")) {
            Err(format!("{:?}", seen.hashes))
        } else {
            Ok(())
        }
    })
    .await;
    serving.abort();
}
