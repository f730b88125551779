//! Raw bytes against the server, over real sockets.

use axum::Extension;
use axum::extract::State;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq)]
enum Seen {
    Held,
    Dropped,
}

struct TellWhenDropped(mpsc::UnboundedSender<Seen>);

impl Drop for TellWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Dropped);
    }
}

/// Never answers, and tells when it is called and when it is dropped.
async fn hold(State(seen): State<mpsc::UnboundedSender<Seen>>) {
    let _held = TellWhenDropped(seen.clone());
    let _ = seen.send(Seen::Held);
    std::future::pending().await
}

struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    /// Lets `/gate` answer, one request for each permit.
    gate: Arc<Semaphore>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

async fn server(options: ServeOptions) -> Server {
    let (told, seen) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let gated = gate.clone();
    let at_gate = told.clone();
    let (gated_aside, aside) = (gate.clone(), told.clone());
    let app = Router::new()
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/echo", post(|body: String| async move { body }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("as asked")
                }
            }),
        )
        .route("/hold", get(hold))
        .route(
            "/gate",
            get(|| async move {
                let _ = at_gate.send(Seen::Held);
                gated.acquire().await.expect("open").forget();
                "through"
            }),
        )
        .route(
            "/aside",
            get(|Extension(place): Extension<HttpPlace>| async move {
                place.give_up();
                let _ = aside.send(Seen::Held);
                gated_aside.acquire().await.expect("open").forget();
                "after all"
            }),
        )
        .with_state(told);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(serve(listener, app, options, async {
        let _ = stopped.await;
    }));
    Server { address, seen, gate, stop, served }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.expect("connects")
}

async fn ask(stream: &mut TcpStream, request: &str) {
    stream.write_all(request.as_bytes()).await.expect("sent");
}

/// Reads until what was read ends like this.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let found = async {
        while !text.ends_with(end) {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).await.expect("not reset"), 1, "it ended");
            text.push(char::from(byte[0]));
        }
    };
    let found = timeout(SOON, found).await.is_ok();
    assert!(found, "no {end:?} in {text:?}");
    text
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.is_ok()
}

async fn next(server: &mut Server) -> Option<Seen> {
    timeout(SOON, server.seen.recv()).await.expect("something happens")
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order_even_if_sent_at_once() {
    let server = server(ServeOptions::default()).await;
    let mut stream = connect(&server).await;
    let request =
        |body: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    ask(&mut stream, &request("one")).await;
    assert!(read_until(&mut stream, "\r\n\r\none").await.starts_with("HTTP/1.1 200"));
    ask(&mut stream, &format!("{}GET /gate HTTP/1.1\r\nHost: a\r\n\r\n{}", request("two"), request("three"))).await;
    read_until(&mut stream, "\r\n\r\ntwo").await;
    server.gate.add_permits(1);
    read_until(&mut stream, "\r\n\r\nthrough").await;
    read_until(&mut stream, "\r\n\r\nthree").await;
    let peer = stream.local_addr().expect("connected").to_string();
    ask(&mut stream, "GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").await;
    read_until(&mut stream, &format!("\r\n\r\n{peer}")).await;
}

#[tokio::test]
async fn a_handler_is_dropped_as_soon_as_its_client_goes_away() {
    let mut server = server(ServeOptions::default()).await;
    for abruptly in [false, true] {
        let mut stream = connect(&server).await;
        ask(&mut stream, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(next(&mut server).await, Some(Seen::Held));
        if abruptly {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
        }
        drop(stream);
        assert_eq!(next(&mut server).await, Some(Seen::Dropped), "abruptly: {abruptly}");
    }
}

#[tokio::test]
async fn a_connection_that_does_not_finish_its_first_head_is_closed() {
    let options = ServeOptions { header_read_timeout: Duration::from_millis(100), ..ServeOptions::default() };
    let server = server(options).await;
    let (mut silent, mut slow) = (connect(&server).await, connect(&server).await);
    ask(&mut slow, "GET /peer HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    assert!(is_closed(&mut silent).await);
    // A byte now and then does not buy it time.
    let drip = async {
        while slow.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await
        }
    };
    timeout(SOON, drip).await.expect("cut off");
}

#[tokio::test]
async fn a_connection_that_had_a_request_may_idle_for_longer_but_not_for_ever() {
    let options = ServeOptions {
        header_read_timeout: Duration::from_millis(50),
        keep_alive: Duration::from_millis(600),
        ..ServeOptions::default()
    };
    let server = server(options).await;
    let mut stream = connect(&server).await;
    for _ in 0..2 {
        ask(&mut stream, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
        read_until(&mut stream, "\r\n\r\nhi").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let idle_since = Instant::now();
    assert!(is_closed(&mut stream).await);
    assert!(idle_since.elapsed() > Duration::from_millis(200));
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_cut_off() {
    let options = ServeOptions { write_stall: Duration::from_millis(100), ..ServeOptions::default() };
    let server = server(options).await;
    let mut stream = connect(&server).await;
    let body = "a".repeat(64 * 1024);
    let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let ask_on = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(SOON, ask_on).await.expect("cut off");
    // Whoever reads slowly is answered all the same.
    let mut slow = connect(&server).await;
    ask(&mut slow, &request).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(read_until(&mut slow, &body).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_finishes_what_it_has_begun_and_begins_nothing() {
    let mut server = server(ServeOptions::default()).await;
    let (mut busy, mut idle) = (connect(&server).await, connect(&server).await);
    ask(&mut idle, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    read_until(&mut idle, "\r\n\r\nhi").await;
    ask(&mut busy, "GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(next(&mut server).await, Some(Seen::Held));
    server.stop.send(()).expect("running");
    assert!(is_closed(&mut idle).await);
    assert!(TcpStream::connect(server.address).await.is_err());
    assert!(!server.served.is_finished());
    server.gate.add_permits(1);
    read_until(&mut busy, "\r\n\r\nthrough").await;
    assert!(is_closed(&mut busy).await);
    timeout(SOON, server.served).await.expect("in time").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_cut_off_at_the_deadline() {
    let options = ServeOptions { drain_deadline: Duration::from_millis(50), ..ServeOptions::default() };
    let mut server = server(options).await;
    let mut stream = connect(&server).await;
    ask(&mut stream, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(next(&mut server).await, Some(Seen::Held));
    server.stop.send(()).expect("running");
    assert_eq!(timeout(SOON, server.seen.recv()).await.expect("in time"), Some(Seen::Dropped));
    timeout(SOON, server.served).await.expect("in time").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_until_another_one_ends() {
    let mut server = server(ServeOptions { max_connections: 1, ..ServeOptions::default() }).await;
    let mut first = connect(&server).await;
    ask(&mut first, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(next(&mut server).await, Some(Seen::Held));
    let mut second = connect(&server).await;
    ask(&mut second, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let early = timeout(Duration::from_millis(100), server.seen.recv()).await;
    assert!(early.is_err(), "{early:?}");
    drop(first);
    assert_eq!(next(&mut server).await, Some(Seen::Dropped));
    assert_eq!(next(&mut server).await, Some(Seen::Held));
}

/// Taken out: that the place is given up; that the connection is closed then.
#[tokio::test]
async fn a_request_that_is_held_aside_takes_no_place_and_is_the_last_on_its_connection() {
    let mut server = server(ServeOptions { max_connections: 1, ..ServeOptions::default() }).await;
    let mut held = connect(&server).await;
    ask(&mut held, "GET /aside HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(next(&mut server).await, Some(Seen::Held));
    let mut other = connect(&server).await;
    ask(&mut other, "GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(read_until(&mut other, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    server.gate.add_permits(1);
    let answer = read_until(&mut held, "after all").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert!(is_closed(&mut held).await);
}

#[tokio::test]
async fn a_panic_a_malformed_request_and_a_head_too_large_cost_one_connection_each() {
    let server = server(ServeOptions { max_head_bytes: 8_192, ..ServeOptions::default() }).await;
    let mut stream = connect(&server).await;
    ask(&mut stream, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(is_closed(&mut stream).await);
    let mut stream = connect(&server).await;
    ask(&mut stream, "HELO there\r\n\r\n").await;
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let mut stream = connect(&server).await;
    ask(&mut stream, &format!("GET /peer HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "a".repeat(20_000))).await;
    assert!(read_until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 431"));
    let mut stream = connect(&server).await;
    ask(&mut stream, "GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(read_until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 200"));
}
