use proptest::prelude::*;
use serde_json::Map;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::agent::egress::Egress;
use crate::agent::logs::Logs;

struct Scene {
    client: TcpStream,
    browser: TcpStream,
    logs: Logs,
    relay: JoinHandle<io::Result<()>>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (far, _) = listener.accept().await.expect("accepts");
    (near, far)
}

async fn scene(client_said: &[u8], browser_said: &[u8]) -> Scene {
    let ((client, near), (browser, far)) = (pair().await, pair().await);
    let mut near = Leg { stream: near, read_ahead: client_said.to_vec().into() };
    let mut far = Leg { stream: far, read_ahead: browser_said.to_vec().into() };
    let logs = Logs::of(&Map::new());
    let ear = logs.listen();
    let relay = tokio::spawn(async move {
        relay(&mut near, &mut far, &Filter::new("/nowhere".into(), Egress::closed()), ear).await
    });
    Scene { client, browser, logs, relay }
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(Duration::from_secs(10), stream.read_exact(&mut bytes)).await.expect("it comes").expect("it is there");
    bytes
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.expect("it ends").expect("in order");
    bytes
}

const HARMLESS: &str = r#"{"id":1,"method":"Runtime.enable"}"#;
const FILE: &str = r#"{"id":2,"method":"Page.navigate","params":{"url":"file:///"}}"#;

fn refusal() -> String {
    match Filter::new("/nowhere".into(), Egress::closed()).judge(FILE) {
        Verdict::Refuse(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn answer() -> Vec<u8> {
    frames::for_client(&refusal())
}

#[tokio::test]
async fn a_refused_command_is_answered_and_the_others_reach_the_browser() {
    let said = [HARMLESS, FILE, HARMLESS].map(frames::for_browser).concat();
    // As well if it was read with the handshake.
    for (ahead, now) in [(&said[..], &b""[..]), (&b""[..], &said[..]), said.split_at(60)] {
        let mut scene = scene(ahead, b"\x81\x02{}").await;
        scene.client.write_all(now).await.expect("sent");
        let passed = [HARMLESS, HARMLESS].map(frames::for_browser).concat();
        assert_eq!(read(&mut scene.browser, passed.len()).await, passed);
        let heard = read(&mut scene.client, 4 + answer().len()).await;
        // Whichever comes first: they have nothing to do with each other.
        assert!([[b"\x81\x02{}", &answer()[..]].concat(), [&answer()[..], b"\x81\x02{}"].concat()].contains(&heard));
        drop(scene.client);
        assert_eq!(rest(&mut scene.browser).await, b"");
        drop(scene.browser);
        scene.relay.await.expect("no panic").expect("in order");
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_end_of_the_browsers_message() {
    let mut scene = scene(b"", b"").await;
    scene.browser.write_all(b"\x01\x03one").await.expect("sent");
    assert_eq!(read(&mut scene.client, 5).await, b"\x01\x03one");
    scene.client.write_all(&[FILE, HARMLESS].map(frames::for_browser).concat()).await.expect("sent");
    // What comes after it has arrived: so the answer exists.
    read(&mut scene.browser, frames::for_browser(HARMLESS).len()).await;
    let mut says = async |bytes: &[u8], heard: &[u8]| {
        scene.browser.write_all(bytes).await.expect("sent");
        assert_eq!(read(&mut scene.client, heard.len()).await, heard);
    };
    says(b"\x89\x01p\x80\x03t", b"\x89\x01p\x80\x03t").await;
    says(b"wo\x81\x05three", &[b"wo", &answer()[..], b"\x81\x05three"].concat()).await;
}

#[tokio::test]
async fn nothing_follows_a_goodbye_on_either_side() {
    let mut scene = scene(b"", b"").await;
    let goodbye = b"\x88\x80\0\0\0\0";
    scene.client.write_all(&[goodbye, &frames::for_browser(HARMLESS)[..]].concat()).await.expect("sent");
    assert_eq!(read(&mut scene.browser, 6).await, goodbye);
    scene.browser.write_all(b"\x88\x00").await.expect("sent");
    assert_eq!(read(&mut scene.client, 2).await, b"\x88\x00");
    drop(scene.client);
    assert_eq!(rest(&mut scene.browser).await, b"");
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_hears_why_and_takes_nobody_with_it() {
    let too_large = [&[0x81, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    for (broken, code) in [(&b"\x81\x02{}"[..], 1002u16), (&too_large, 1009)] {
        let mut scene = scene(b"", b"").await;
        scene.client.write_all(&frames::for_browser(HARMLESS)).await.expect("sent");
        scene.client.write_all(broken).await.expect("sent");
        let heard = rest(&mut scene.client).await;
        assert_eq!((heard[0], &heard[2..4]), (0x88, &code.to_be_bytes()[..]), "{heard:?}");
        drop(scene.client);
        assert_eq!(rest(&mut scene.browser).await, frames::for_browser(HARMLESS));
        drop(scene.browser);
        scene.relay.await.expect("no panic").expect("in order");
    }
}

#[tokio::test]
async fn a_browser_that_does_not_read_stops_its_client() {
    let mut scene = scene(b"", b"").await;
    let message =
        frames::for_browser(&format!(r#"{{"id":1,"method":"x","params":{{"a":"{}"}}}}"#, "x".repeat(100_000)));
    let mut sent = 0;
    // Until it does not go on for a while: what was taken is in sockets and one buffer.
    while timeout(Duration::from_millis(500), scene.client.write_all(&message)).await.is_ok() {
        sent += message.len();
        assert!(sent < 64 << 20, "it is read without end");
    }
    assert_eq!(read(&mut scene.browser, message.len()).await, message);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_refusals_is_not_read_either() {
    let mut scene = scene(b"", b"").await;
    // With answers that fill the sockets soon.
    let command = format!(r#"{{"id":1,"method":"Tethering.{}","sessionId":"{}"}}"#, "x".repeat(500), "s".repeat(200));
    let refused = frames::for_browser(&command).repeat(50);
    let mut sent = 0;
    while timeout(Duration::from_secs(1), scene.client.write_all(&refused)).await.is_ok() {
        sent += refused.len();
        assert!(sent < 64 << 20, "answers are kept without end");
    }
    let Verdict::Refuse(answer) = Filter::new("/nowhere".into(), Egress::closed()).judge(&command) else {
        panic!("it passes")
    };
    let answer = frames::for_client(&answer);
    assert_eq!(read(&mut scene.client, answer.len()).await, answer);
}

/// A browser's message in frames, with what is about the connection between them.
fn in_frames(message: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut at, mut cuts) = (0, cuts.iter());
    loop {
        let end = cuts.next().map_or(message.len(), |cut| (at + cut).min(message.len()));
        let (opcode, is_last) = (if at == 0 { 1 } else { 0 }, end == message.len());
        bytes.push(if is_last { 0x80 } else { 0 } | opcode);
        match end - at {
            short @ ..=125 => bytes.push(short as u8),
            medium @ ..=0xffff => bytes.extend([&[126][..], &(medium as u16).to_be_bytes()].concat()),
            long => bytes.extend([&[127][..], &(long as u64).to_be_bytes()].concat()),
        }
        bytes.extend_from_slice(&message[at..end]);
        if is_last {
            return bytes;
        }
        bytes.extend(b"\x89\x04ping\x8a\x00");
        at = end;
    }
}

proptest! {
    /// Taken out: that pings are no messages; that a message may come in several frames; its first pieces; what is kept of
    /// pieces beyond the head.
    #[test]
    fn whole_messages_are_heard_wherever_reads_end_and_however_they_are_fragmented(
        messages in prop::collection::vec((1usize..30_000, prop::collection::vec(1usize..9_000, 0..4)), 1..5),
        reads in prop::collection::vec(prop_oneof![1usize..8, 1usize..3_000, 1usize..70_000], 1..20),
    ) {
        let messages: Vec<(Vec<u8>, Vec<usize>)> = messages
            .into_iter()
            .enumerate()
            .map(|(n, (length, cuts))| ((0..length).map(|at| (at * 31 / 7 + n) as u8).collect(), cuts))
            .collect();
        let bytes: Vec<u8> = messages.iter().flat_map(|(message, cuts)| in_frames(message, cuts)).collect();
        let logs = Logs::of(&Map::new());
        let mut listener = Listener { cursor: FrameCursor::default(), ear: logs.listen() };
        let mut rest = &bytes[..];
        for read in reads.iter().cycle() {
            let (now, later) = rest.split_at((*read).min(rest.len()));
            listener.follow(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let expected: Vec<_> = messages
            .into_iter()
            .map(|(message, _)| match message.len() {
                ..=8192 => (Speaker::Browser, message.len(), message, Vec::new()),
                length => (Speaker::Browser, length, message[..7168].to_vec(), message[length - 1024..].to_vec()),
            })
            .collect();
        prop_assert!(logs.heard() == expected, "something else was heard");
    }
}

/// Taken out: each of the three.
#[tokio::test]
async fn what_both_sides_say_is_heard_as_they_said_it_and_so_is_what_is_answered_in_the_browsers_place() {
    const REWRITTEN: &str = r#"{"id":3, "method":"Page.navigate","params":{"url":"data:,"}}"#;
    let mut scene = scene(b"", b"").await;
    let said = [HARMLESS, FILE, REWRITTEN].map(frames::for_browser).concat();
    scene.client.write_all(&said).await.expect("sent");
    assert_eq!(read(&mut scene.client, answer().len()).await, answer());
    let passed = [HARMLESS, &REWRITTEN.replace(' ', "")].map(frames::for_browser).concat();
    assert_eq!(read(&mut scene.browser, passed.len()).await, passed);
    scene.browser.write_all(b"\x81\x02{}").await.expect("sent");
    assert_eq!(read(&mut scene.client, 4).await, b"\x81\x02{}");
    let heard: Vec<_> = scene.logs.heard().into_iter().map(|(by, _, head, _)| (by, head)).collect();
    let expected = [
        (Speaker::Client, HARMLESS.into()),
        (Speaker::Client, FILE.into()),
        (Speaker::Browser, refusal().into()),
        (Speaker::Client, REWRITTEN.into()),
        (Speaker::Browser, b"{}".to_vec()),
    ];
    assert_eq!(heard, expected);
}
