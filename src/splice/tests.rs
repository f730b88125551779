//! Over real sockets: what a client and a browser see of each other, and of the end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, frame::CloseFrame as ClientClose};
use tokio_tungstenite::tungstenite::{self, Message};

use super::*;

mod pings;

/// Nothing here should take long; what does is a fault.
const SOON: Duration = Duration::from_secs(10);

/// A spliced connection as its two ends see it.
struct Spliced {
    client: TcpStream,
    browser: TcpStream,
    close: oneshot::Sender<CloseFrame>,
    report: JoinHandle<SpliceReport>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (far, _) = listener.accept().await.expect("accepts");
    (near, far)
}

async fn spliced(options: SpliceOptions) -> Spliced {
    spliced_after(b"", b"", options).await
}

async fn spliced_after(from_client: &'static [u8], from_browser: &'static [u8], options: SpliceOptions) -> Spliced {
    let ((client, client_leg), (browser, browser_leg)) = (pair().await, pair().await);
    let (close, closed) = oneshot::channel();
    let closed = async {
        match closed.await {
            Ok(frame) => frame,
            Err(_) => std::future::pending().await,
        }
    };
    let client_leg = Leg { stream: client_leg, read_ahead: from_client.into() };
    let browser_leg = Leg { stream: browser_leg, read_ahead: from_browser.into() };
    let report = tokio::spawn(splice(client_leg, browser_leg, options, closed));
    Spliced { client, browser, close, report }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

async fn as_client(stream: TcpStream) -> WebSocketStream<TcpStream> {
    WebSocketStream::from_raw_socket(stream, Role::Client, Some(limits())).await
}

async fn as_browser(stream: TcpStream) -> WebSocketStream<TcpStream> {
    WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits())).await
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Result<Message, tungstenite::Error>> {
    timeout(SOON, socket.next()).await.expect("a message in time")
}

async fn close_seen_by(socket: &mut WebSocketStream<TcpStream>) -> Option<(u16, String)> {
    match next(socket).await {
        Some(Ok(Message::Close(Some(ClientClose { code, reason })))) => Some((code.into(), reason.to_string())),
        _ => None,
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("an end in time");
    bytes
}

async fn report(handle: JoinHandle<SpliceReport>) -> SpliceReport {
    timeout(SOON, handle).await.expect("a report in time").expect("no panic")
}

fn released() -> CloseFrame {
    CloseFrame { code: 4002, reason: "released: the session was released".into() }
}

/// `len` bytes behind the header of a server's binary frame with a long length.
fn large_header(len: u64) -> Vec<u8> {
    let mut header = vec![0x82, 127];
    header.extend(len.to_be_bytes());
    header
}

#[tokio::test]
async fn messages_pass_both_ways_and_a_client_that_says_goodbye_is_answered() {
    let Spliced { client, browser, report: handle, close: _close } = spliced(SpliceOptions::default()).await;
    let (mut client, mut browser) = (as_client(client).await, as_browser(browser).await);
    for (index, len) in [0usize, 1, 125, 126, 65_535, 65_536, 3_000_000].into_iter().enumerate() {
        let message = Message::text("x".repeat(len));
        let (sent, received) = tokio::join!(client.send(message.clone()), next(&mut browser));
        sent.expect("sent");
        assert_eq!(received.expect("open").expect("valid"), message, "up, message {index}");
        let (sent, received) = tokio::join!(browser.send(message.clone()), next(&mut client));
        sent.expect("sent");
        assert_eq!(received.expect("open").expect("valid"), message, "down, message {index}");
    }
    client.close(None).await.expect("sent");
    assert!(matches!(next(&mut browser).await, Some(Ok(Message::Close(None)))));
    assert!(next(&mut browser).await.is_none());
    assert!(matches!(next(&mut client).await, Some(Ok(Message::Close(None)))));
    assert!(next(&mut client).await.is_none());
    let report = report(handle).await;
    assert_eq!(report.ended_by, EndedBy::Client);
    assert!(report.bytes_to_browser > 3_131_000 && report.bytes_to_client > 3_131_000, "{report:?}");
}

#[tokio::test]
async fn what_was_read_during_the_handshakes_arrives_first() {
    let options = SpliceOptions::default();
    // Both stop in the middle of a frame.
    let Spliced { mut client, mut browser, close, report: handle } =
        spliced_after(b"\x81\x85\x00\x00\x00\x00he", b"\x81\x05wo", options).await;
    client.write_all(b"llo").await.expect("sent");
    browser.write_all(b"rld").await.expect("sent");
    let mut bytes = [0; 11];
    timeout(SOON, browser.read_exact(&mut bytes)).await.expect("in time").expect("eleven bytes");
    assert_eq!(&bytes, b"\x81\x85\x00\x00\x00\x00hello");
    timeout(SOON, client.read_exact(&mut bytes[..7])).await.expect("in time").expect("seven bytes");
    assert_eq!(&bytes[..7], b"\x81\x05world");
    close.send(released()).expect("still relaying");
    // And the boundary was known: there are close frames now.
    assert_eq!(close_seen_by(&mut as_client(client).await).await, Some((4002, released().reason.into())));
    assert_eq!(close_seen_by(&mut as_browser(browser).await).await, Some((4002, released().reason.into())));
    assert_eq!(report(handle).await.ended_by, EndedBy::Close);
}

#[tokio::test]
async fn a_single_message_of_120_mb_passes() {
    const LEN: usize = 120 << 20;
    let Spliced { mut client, mut browser, report: handle, close: _close } = spliced(SpliceOptions::default()).await;
    let sender = tokio::spawn(async move {
        browser.write_all(&large_header(LEN as u64)).await.expect("sent");
        let pattern: Vec<u8> = (0..=250).cycle().take(251 << 10).collect();
        let mut left = LEN;
        while left > 0 {
            let sent = browser.write(&pattern[(LEN - left) % 251..][..left.min(100_000)]).await.expect("sent");
            left -= sent;
        }
        browser.write_all(b"\x88\x02\x03\xe8").await.expect("sent");
    });
    let (mut buffer, mut received) = (vec![0; 1 << 20], 0usize);
    client.read_exact(&mut buffer[..10]).await.expect("a header");
    assert_eq!(&buffer[..10], large_header(LEN as u64));
    while received < LEN {
        let read = timeout(SOON, client.read(&mut buffer[..(LEN - received).min(1 << 20)])).await.expect("in time");
        let read = read.expect("not reset");
        assert!(read > 0, "ended after {received} bytes");
        assert!(buffer[..read].iter().enumerate().all(|(at, byte)| usize::from(*byte) == (received + at) % 251));
        received += read;
    }
    assert_eq!(read_to_end(&mut client).await, b"\x88\x02\x03\xe8");
    sender.await.expect("everything was sent");
    let report = report(handle).await;
    assert_eq!((report.ended_by, report.bytes_to_client), (EndedBy::Browser, 10 + LEN as u64 + 4));
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_sender_and_later_gets_everything() {
    let ((mut client, client_leg), (mut browser, browser_leg)) = (pair().await, pair().await);
    for socket in [&client, &client_leg, &browser, &browser_leg] {
        SockRef::from(socket).set_send_buffer_size(64 << 10).expect("set");
        SockRef::from(socket).set_recv_buffer_size(64 << 10).expect("set");
    }
    let legs = [client_leg, browser_leg].map(|stream| Leg { stream, read_ahead: Bytes::new() });
    let [client_leg, browser_leg] = legs;
    let handle =
        tokio::spawn(splice(client_leg, browser_leg, SpliceOptions::default(), std::future::pending::<CloseFrame>()));
    const LEN: usize = 64 << 20;
    browser.write_all(&large_header(LEN as u64)).await.expect("sent");
    let chunk = vec![7; 32 << 10];
    let mut sent = 0;
    // Blocked: not a byte more is taken for a while.
    while let Ok(written) = timeout(Duration::from_millis(500), browser.write(&chunk)).await {
        sent += written.expect("open");
        assert!(sent < 4 << 20, "{sent} bytes vanished somewhere between a sender and a reader that does not read");
    }
    assert!(sent > 0);
    let sender = tokio::spawn(async move {
        let rest = vec![7; LEN - sent];
        browser.write_all(&rest).await.expect("sent");
        browser
    });
    let (mut buffer, mut received) = (vec![0; 1 << 20], 0);
    while received < LEN + 10 {
        received += timeout(SOON, client.read(&mut buffer)).await.expect("in time").expect("open");
    }
    drop(sender.await.expect("sent"));
    drop(client);
    assert_eq!(report(handle).await.bytes_to_client, received as u64);
}

#[tokio::test]
async fn a_session_that_ends_closes_the_client_with_exactly_its_code_and_reason() {
    let Spliced { client, browser, close, report: handle } = spliced(SpliceOptions::default()).await;
    let (mut client, mut browser) = (as_client(client).await, as_browser(browser).await);
    browser.send(Message::text("last words")).await.expect("sent");
    assert_eq!(next(&mut client).await.expect("open").expect("valid"), Message::text("last words"));
    close.send(released()).expect("still relaying");
    assert_eq!(close_seen_by(&mut client).await, Some((4002, "released: the session was released".to_owned())));
    assert!(next(&mut client).await.is_none());
    assert_eq!(close_seen_by(&mut browser).await.map(|(code, _)| code), Some(4002));
    assert_eq!(report(handle).await.ended_by, EndedBy::Close);
}

#[tokio::test]
async fn a_session_that_ends_within_a_frame_lets_the_frame_finish_and_no_more() {
    let Spliced { mut client, mut browser, close, report: handle } = spliced(SpliceOptions::default()).await;
    browser.write_all(b"\x81\x05he").await.expect("sent");
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).await.expect("half a frame");
    close.send(released()).expect("still relaying");
    browser.write_all(b"llo\x81\x04more").await.expect("sent");
    let mut expected = b"llo".to_vec();
    expected.extend(encode(&released(), None));
    let mut rest = vec![0; expected.len()];
    timeout(SOON, client.read_exact(&mut rest)).await.expect("in time").expect("the rest");
    assert_eq!(rest, expected);
    drop(client);
    assert_eq!(report(handle).await.ended_by, EndedBy::Close);
}

#[tokio::test]
async fn a_frame_that_never_finishes_does_not_hold_up_the_end() {
    let options = SpliceOptions { close_wait: Duration::from_millis(100), ..SpliceOptions::default() };
    let Spliced { mut client, mut browser, close, report: handle } = spliced(options).await;
    browser.write_all(b"\x81\x05he").await.expect("sent");
    client.read_exact(&mut [0; 4]).await.expect("half a frame");
    close.send(released()).expect("still relaying");
    // Not a close frame in the middle of another frame.
    assert_eq!(read_to_end(&mut client).await, b"");
    assert_eq!(report(handle).await.ended_by, EndedBy::Close);
}

#[tokio::test]
async fn a_client_that_does_not_answer_or_read_does_not_hold_up_the_end() {
    let options = SpliceOptions { close_wait: Duration::from_millis(100), ..SpliceOptions::default() };
    let Spliced { client: _silent, browser: _browser, close, report: handle } = spliced(options).await;
    close.send(released()).expect("still relaying");
    assert_eq!(report(handle).await.ended_by, EndedBy::Close);
}

#[tokio::test]
async fn a_client_whose_browser_broke_off_is_told_the_reason_when_it_arrives() {
    let Spliced { client, browser, close, report: handle } = spliced(SpliceOptions::default()).await;
    SockRef::from(&browser).set_linger(Some(Duration::ZERO)).expect("set");
    drop(browser);
    let crashed = CloseFrame { code: 4003, reason: "browser_crashed: the browser ended by itself".into() };
    let mut client = as_client(client).await;
    let (seen, ()) = tokio::join!(close_seen_by(&mut client), async {
        // The news of the session's end takes another way than the broken connection.
        sleep(Duration::from_millis(100)).await;
        close.send(crashed.clone()).expect("still waiting");
    });
    assert_eq!(seen, Some((4003, crashed.reason.into())));
    assert!(next(&mut client).await.is_none());
    assert_eq!(report(handle).await.ended_by, EndedBy::Browser);
}

#[tokio::test]
async fn a_client_whose_browser_broke_off_without_a_reason_is_told_so() {
    let options = SpliceOptions { reason_wait: Duration::from_millis(50), ..SpliceOptions::default() };
    let Spliced { client, browser, close: _close, report: handle } = spliced(options).await;
    drop(browser);
    let seen = close_seen_by(&mut as_client(client).await).await;
    assert_eq!(seen, Some((1011, "the browser's connection was lost".to_owned())));
    assert_eq!(report(handle).await.ended_by, EndedBy::Browser);
}

#[tokio::test]
async fn a_browser_that_broke_off_within_a_frame_leaves_no_close_frame_in_it() {
    // No reason could be told, so none is waited for.
    let options = SpliceOptions { reason_wait: Duration::from_secs(3_600), ..SpliceOptions::default() };
    let Spliced { mut client, mut browser, close, report: handle } = spliced(options).await;
    browser.write_all(b"\x81\x7e\x01").await.expect("sent");
    drop(browser);
    assert_eq!(read_to_end(&mut client).await, b"\x81\x7e\x01");
    assert_eq!(report(handle).await.ended_by, EndedBy::Browser);
    drop(close);
}

#[tokio::test]
async fn a_browser_that_says_goodbye_itself_is_not_followed_by_a_second_goodbye() {
    let Spliced { mut client, mut browser, close, report: handle } = spliced(SpliceOptions::default()).await;
    browser.write_all(b"\x88\x02\x03\xe8").await.expect("sent");
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).await.expect("a close frame");
    // The session ends because the browser did.
    let _ = close.send(released());
    client.write_all(b"\x88\x82\x00\x00\x00\x00\x03\xe8").await.expect("sent");
    assert_eq!(read_to_end(&mut client).await, b"");
    assert_eq!(read_to_end(&mut browser).await, b"\x88\x82\x00\x00\x00\x00\x03\xe8");
    drop((client, browser));
    assert_eq!(report(handle).await.ended_by, EndedBy::Browser);
}

#[tokio::test]
async fn both_goodbyes_at_the_same_moment_become_one() {
    let Spliced { mut client, mut browser, close, report: handle } = spliced(SpliceOptions::default()).await;
    // Half of the browser's own goodbye has passed when the session ends.
    browser.write_all(b"\x88\x02\x03").await.expect("sent");
    client.read_exact(&mut [0; 3]).await.expect("most of a close frame");
    close.send(released()).expect("still relaying");
    browser.write_all(b"\xe8").await.expect("sent");
    client.read_exact(&mut [0; 1]).await.expect("the rest");
    client.write_all(b"\x88\x80\x00\x00\x00\x00").await.expect("sent");
    assert_eq!(read_to_end(&mut client).await, b"");
    assert_eq!(report(handle).await.ended_by, EndedBy::Close);
}

#[tokio::test]
async fn a_client_that_hangs_up_or_is_cut_off_takes_the_browsers_connection_with_it() {
    for abruptly in [false, true] {
        let Spliced { mut client, mut browser, report: handle, close: _close } =
            spliced(SpliceOptions::default()).await;
        client.write_all(b"\x81\x83\x00\x00\x00\x00bye").await.expect("sent");
        browser.read_exact(&mut [0; 9]).await.expect("the message");
        if abruptly {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set");
        }
        drop(client);
        assert_eq!(read_to_end(&mut browser).await, b"");
        drop(browser);
        assert_eq!(report(handle).await.ended_by, EndedBy::Client);
    }
}

#[tokio::test]
async fn the_last_command_of_a_client_that_is_already_gone_reaches_the_browser() {
    let Spliced { mut client, mut browser, report: handle, close: _close } = spliced(SpliceOptions::default()).await;
    // The browser talks, so that the client's socket is reset by what it will not read.
    browser.write_all(b"\x81\x02hi").await.expect("sent");
    client.readable().await.expect("it is there");
    client.write_all(b"\x81\x83\x00\x00\x00\x00bye").await.expect("sent");
    drop(client);
    assert_eq!(read_to_end(&mut browser).await, b"\x81\x83\x00\x00\x00\x00bye");
    drop(browser);
    assert_eq!(report(handle).await.ended_by, EndedBy::Client);
}

#[test]
fn a_reason_that_is_too_long_is_cut_between_two_characters() {
    let frame = CloseFrame { code: 4000, reason: "é".repeat(100).into() };
    let encoded = encode(&frame, None);
    assert_eq!(encoded.len(), 2 + 2 + 122);
    assert!(std::str::from_utf8(&encoded[4..]).is_ok());
}
