use proptest::prelude::*;
use serde_json::json;

use super::ring::messages;
use super::*;

impl Logs {
    /// What is kept of each message: who said it, how long it was, and its ends.
    pub fn heard(&self) -> Vec<(Speaker, usize, Vec<u8>, Vec<u8>)> {
        let all = self.0.as_ref().expect("it listens").lock().all.copy();
        messages(&all).map(|said| (said.by, said.length, said.head.to_owned(), said.tail.to_owned())).collect()
    }
}

fn on() -> Logs {
    Logs::of(&Map::new())
}

fn read(logs: &Logs) -> Vec<Value> {
    let session = SessionId::random();
    let json = logs.read(&session, usize::MAX).expect("something was said");
    let entries: Vec<Value> = serde_json::from_slice(&json).expect("JSON");
    assert!(entries.iter().all(|entry| entry["sessionId"] == session.as_str()));
    entries
}

fn client(ear: &Ear, message: &str) {
    ear.hear(Speaker::Client, message.as_bytes(), 1);
}

fn browser(ear: &Ear, message: &str) {
    ear.hear(Speaker::Browser, message.as_bytes(), 2);
}

const MOST_SAID: usize = 7_100;

fn any_said() -> impl Strategy<Value = (bool, Vec<u8>, Vec<u8>)> {
    let bytes = |most: usize| (any::<u8>(), 0..most).prop_map(|(byte, length)| vec![byte; length]);
    (any::<bool>(), bytes(6_000), bytes(1_000))
}

proptest! {
    /// Taken out: that the oldest part goes; that its bytes go with it; that a message is in one part.
    #[test]
    fn a_ring_keeps_the_newest_messages_as_they_were_in_so_much_memory(
        said in prop::collection::vec(any_said(), 1..200),
        most in 1usize..5,
    ) {
        let (mut ring, mut pushed) = (Ring::new(most), Vec::new());
        for (at, (by_client, head, tail)) in said.iter().enumerate() {
            let by = if *by_client { Speaker::Client } else { Speaker::Browser };
            let (connection, at_ms) = (u32::MAX - at as u32, u64::MAX / 2 + at as u64);
            pushed.push(Said { by, connection, at_ms, length: usize::MAX - at, head, tail });
            ring.push(&pushed[at]);
            prop_assert!(ring.memory() <= most * PART, "{} bytes", ring.memory());
        }
        let copy = ring.copy();
        let kept: Vec<_> = messages(&copy).collect();
        prop_assert_eq!(&kept[..], &pushed[pushed.len() - kept.len()..]);
        // At the end of each part there may be no room for another one, and the last part may have just been begun.
        let room = (most - 1) * (PART - MOST_SAID);
        prop_assert!(kept.len() == pushed.len() || copy.len() > room, "{} bytes in {most} parts", copy.len());
    }
}

/// Taken out: that anything goes to make room.
#[test]
fn however_much_is_said_a_session_keeps_2_mib_of_it_and_the_newest() {
    let logs = on();
    let ears = [logs.listen(), logs.listen()];
    let x = "x".repeat(900);
    let message = |at: usize| format!(r#"{{"method":"Page.frameNavigated","params":{{"at":{at},"x":"{x}"}}}}"#);
    for at in 0..7_000 {
        browser(&ears[at % 2], &message(at));
    }
    let attached = format!(r#"{{"method":"Target.attachedToTarget","params":{{"sessionId":"s","x":"{x}"}}}}"#);
    (0..3_000).for_each(|_| browser(&ears[0], &attached));
    browser(&ears[0], &message(7_000));
    let rings = logs.0.as_ref().expect("it listens").lock();
    assert!(rings.all.memory() + rings.attached.memory() <= 2 << 20);
    drop(rings);
    let heard = logs.heard();
    assert!((1_600..2_000).contains(&heard.len()), "{} are kept", heard.len());
    assert_eq!(heard.last().map(|(_, _, head, _)| head.as_slice()), Some(message(7_000).as_bytes()));
}

/// Taken out: the setting.
#[test]
fn who_wants_no_log_has_none() {
    for (settings, logged) in [
        (json!({}), true),
        (json!({ "logSession": null }), true),
        (json!({ "logSession": true }), true),
        (json!({ "logSession": false }), false),
    ] {
        let logs = Logs::of(settings.as_object().expect("an object"));
        let ear = logs.listen();
        assert_eq!(ear.is_deaf(), !logged);
        client(&ear, r#"{"id":1,"method":"Browser.getVersion"}"#);
        assert_eq!(logs.read(&SessionId::random(), usize::MAX).is_some(), logged, "{settings}");
    }
    assert!(on().read(&SessionId::random(), usize::MAX).is_none(), "nobody has said anything");
}

/// Taken out: the session, and the connection, among what an answer is found by.
#[test]
fn a_command_and_its_answer_are_one_entry_and_an_event_is_one() {
    let logs = on();
    let (one, other) = (logs.listen(), logs.listen());
    client(&one, r#"{"id":1,"method":"Page.navigate","params":{"url":"data:,"},"sessionId":"A"}"#);
    client(&one, r#"{"id":1,"method":"Page.enable","sessionId":"B"}"#);
    client(&other, r#"{"method":"Browser.getVersion","params":{},"id":1}"#);
    client(&one, r#"{"id":1,"method":"Target.getTargets"}"#);
    browser(&one, r#"{"id":1,"result":{},"sessionId":"B"}"#);
    browser(
        &one,
        r#"{"method":"Page.frameNavigated","params":{"frameId":"F2","deep":[{"\ud800":1e400}]},"sessionId":"A"}"#,
    );
    browser(&one, r#"{"id":1,"result":{"frameId":"F","loaderId":"L","isDownload":false},"sessionId":"A"}"#);
    browser(&other, r#"{"id":1,"error":{"code":-32000,"message":"no"}}"#);
    browser(&other, r#"{"id":77,"result":{"of":"nothing"}}"#);
    client(&one, r#"{"id":2,"method":"Page.crash","params":[1],"sessionId":"A"}"#);
    let session = SessionId::random();
    let json = logs.read(&session, usize::MAX).expect("something was said");
    assert!(
        String::from_utf8(json).expect("a text").contains(r#""params":{"frameId":"F2","deep":[{"\ud800":1e400}]}"#)
    );
    // A number and a text that no other reader would take: the rest of the entry is read without them.
    browser(&one, "{}");
    let logs = {
        let json = logs.read(&session, usize::MAX).expect("something was said");
        let text = String::from_utf8(json)
            .expect("a text")
            .replace(r"\\ud800", "x")
            .replace(r"\ud800", "x")
            .replace("1e400", "1");
        serde_json::from_str::<Vec<Value>>(&text).expect("JSON")
    };
    let methods: Vec<&str> = logs.iter().filter_map(|entry| entry["method"].as_str()).collect();
    assert_eq!(
        methods,
        [
            "Page.navigate",
            "Page.enable",
            "Browser.getVersion",
            "Target.getTargets",
            "Page.frameNavigated",
            "Page.crash"
        ]
    );
    let navigate = &logs[0];
    assert_eq!((&navigate["frameId"], &navigate["loaderId"]), (&json!("F"), &json!("L")));
    assert_eq!(navigate["request"]["params"], json!({ "url": "data:," }));
    assert_eq!(navigate["response"]["result"]["isDownload"], false);
    let body = r#"{"id":1,"method":"Page.navigate","params":{"url":"data:,"},"sessionId":"A"}"#;
    assert_eq!(navigate["request"]["rawBody"], body);
    assert!(navigate["timestamp"].is_u64() && navigate["response"]["timestamp"].is_u64());
    assert_eq!((&logs[1]["request"]["params"], &logs[1]["response"]["result"]), (&json!({}), &json!({})));
    assert_eq!(logs[2]["response"]["result"], json!({}));
    assert!(logs[2]["response"]["rawBody"].as_str().is_some_and(|body| body.contains("-32000")));
    assert!(logs[3].get("response").is_none(), "it was the other's");
    assert!(logs[4]["frameId"] == "F2" && logs[4].get("response").is_none());
    assert!(logs[5]["request"]["params"] == json!({}) && logs[5].get("response").is_none());
}

/// Taken out: the parent of what is no page; that the same page has one number.
#[test]
fn pages_have_numbers_as_they_appear_and_what_they_bring_has_theirs() {
    let logs = on();
    let ear = logs.listen();
    let attached = |session: &str, target: &str, kind: &str, parent: &str| {
        let parent = if parent.is_empty() { String::new() } else { format!(r#","sessionId":"{parent}""#) };
        let info = format!(r#"{{"targetId":"{target}","type":"{kind}","title":"\"type\":\"page\"","url":"u"}}"#);
        let params = format!(r#"{{"sessionId":"{session}","targetInfo":{info},"waitingForDebugger":false}}"#);
        browser(&ear, &format!(r#"{{"method":"Target.attachedToTarget","params":{params}{parent}}}"#));
    };
    attached("S1", "T1", "page", "");
    attached("F1", "TF", "iframe", "S1");
    attached("W1", "TW", "worker", "F1");
    attached("S2", "T2", "page", "");
    attached("B", "TB", "browser", "");
    attached("S1again", "T1", "page", "");
    attached("P", "T3", "page", "B");
    // It is not needed that this is still in the log.
    (0..3_000).for_each(|_| browser(&ear, &format!(r#"{{"method":"x","params":{{"x":"{}"}}}}"#, "x".repeat(900))));
    let sessions = ["S1", "F1", "W1", "S2", "B", "S1again", "P", "unheard"];
    for session in sessions {
        browser(&ear, &format!(r#"{{"method":"Page.loadEventFired","params":{{}},"sessionId":"{session}"}}"#));
    }
    browser(&ear, r#"{"method":"Target.targetCreated","params":{}}"#);
    let entries = read(&logs);
    assert!(entries.iter().all(|entry| entry["method"] != "Target.attachedToTarget"));
    let pages: Vec<_> =
        entries[entries.len() - 9..].iter().map(|entry| entry["pageId"].as_u64().expect("a number")).collect();
    assert_eq!(pages, [1, 1, 1, 2, 0, 1, 3, 0, 0]);
}

/// Taken out: the end of a large message, which has its session and, of Puppeteer, its number.
#[test]
fn a_large_message_is_known_by_its_ends_and_says_what_is_left_out() {
    let large = "x,\\\"id\\\":5,".repeat(100_000);
    let logs = on();
    let mut ear = logs.listen();
    browser(
        &ear,
        r#"{"method":"Target.attachedToTarget","params":{"sessionId":"S","targetInfo":{"targetId":"T","type":"page"}}}"#,
    );
    client(
        &ear,
        &format!(
            r#"{{"method":"Runtime.evaluate","params":{{"expression":"{large}","id":9}},"id":4,"sessionId":"S"}}"#
        ),
    );
    let answer = format!(r#"{{"id":4,"result":{{"data":"{large}ü"}},"sessionId":"S"}}"#);
    for piece in answer.as_bytes()[..answer.len() - 1].chunks(4_321) {
        ear.hear_piece(piece, false, 1);
    }
    ear.hear_piece(b"}", true, 2);
    // In no order that anybody has seen.
    client(&ear, &format!(r#"{{"params":{{"a":"{large}","method":"no"}},"id":5,"method":"Page.enable"}}"#));
    client(&ear, &format!(r#"{{"params":{{"a":{{"id":7,"method":"no"}},"b":"{large}"}}}}"#));
    let entries = read(&logs);
    assert_eq!(entries.len(), 3, "{entries:?}");
    let entry = &entries[1];
    assert_eq!((&entry["method"], &entry["pageId"]), (&json!("Runtime.evaluate"), &json!(1)));
    assert_eq!((&entry["request"]["params"], &entry["response"]["result"]), (&json!({}), &json!({})));
    let body = entry["response"]["rawBody"].as_str().expect("a text");
    let left_out = answer.len() - HEAD - TAIL;
    assert!(body.starts_with(r#"{"id":4,"result":{"data":"x,"#) && body.ends_with(r#"ü"},"sessionId":"S"}"#), "{body}");
    assert!(body.contains(&format!(" [.. {left_out} bytes are left out here ..] ")), "{body}");
    assert_eq!((&entries[2]["method"], &entries[2]["pageId"]), (&json!("Page.enable"), &json!(0)));
}

/// Taken out: that what is in between is dropped.
#[test]
fn of_a_message_that_never_ends_little_is_kept_meanwhile() {
    let mut ear = on().listen();
    for size in [1, 1_000, 64 * 1024] {
        (0..2_000).for_each(|_| ear.hear_piece(&vec![b'x'; size], false, 1));
        assert!(ear.pieces.kept.capacity() <= 4 * (HEAD + TAIL), "{} bytes", ear.pieces.kept.capacity());
    }
}

#[test]
fn what_is_no_message_of_the_protocol_does_no_harm() {
    let logs = on();
    let ear = logs.listen();
    let deep = format!(r#"{{"method":"Deep.event","params":{{"a":{}{}}}}}"#, "[".repeat(3_000), "]".repeat(3_000));
    for message in ["", "null", "[]", "{", "{}", r#"{"id":"x","method":7}"#, "\0", "x", r#"{"id":1e999}"#, &deep] {
        client(&ear, message);
        browser(&ear, message);
    }
    ear.hear(Speaker::Browser, &[b"{\"method\":\"Odd.event\",\"params\":{\"a\":\"\xff\"}}"[..].to_vec()].concat(), 1);
    ear.hear(Speaker::Browser, &[0xff; 20_000], 1);
    client(&ear, r#"{"id":1,"id":2,"method":"a","method":"b"}"#);
    browser(&ear, r#"{"id":2,"result":{}}"#);
    let session = SessionId::random();
    let json = String::from_utf8(logs.read(&session, usize::MAX).expect("something was said")).expect("a text");
    for expected in [r#""method":"Odd.event""#, "\"a\":\"\u{fffd}\"", r#""method":"b""#, r#""response":{"result":{}"#] {
        assert!(json.contains(expected), "{expected}: {json}");
    }
    assert!(!json.contains(r#""method":"a""#));
}

/// Taken out: that it begins with the newest; that it ends.
#[test]
fn an_answer_is_as_large_as_it_may_be_and_has_the_newest() {
    let logs = on();
    let ear = logs.listen();
    for at in 0..1_000 {
        browser(&ear, &format!(r#"{{"method":"x","params":{{"at":{at}}}}}"#));
    }
    let session = SessionId::random();
    for most in [2, 10, 500, 10_000, 1_000_000] {
        let json = logs.read(&session, most).expect("something was said");
        assert!(json.len() <= most, "{} of {most}", json.len());
        let entries: Vec<Value> = serde_json::from_slice(&json).expect("JSON");
        let numbers: Vec<_> =
            entries.iter().map(|entry| entry["request"]["params"]["at"].as_u64().expect("one")).collect();
        assert!(numbers.iter().copied().eq(1_000 - numbers.len() as u64..1_000), "{numbers:?}");
        assert_eq!(numbers.len() > 10, most > 5_000);
    }
}

#[test]
fn what_was_said_is_in_no_log_of_ours() {
    let logs = on();
    client(&logs.listen(), "hunter2");
    assert_eq!(format!("{logs:?}"), "Logs");
}
