//! Pings: that they come, and that they only ever fall between frames.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::WebSocket;

use super::*;

#[tokio::test]
async fn an_idle_client_is_pinged_and_its_pongs_pass() {
    let options = SpliceOptions { ping_after: Duration::from_millis(50), ..SpliceOptions::default() };
    let Spliced { client, browser, close: _close, .. } = spliced(options).await;
    let (mut client, mut browser) = (as_client(client).await, as_browser(browser).await);
    for _ in 0..3 {
        assert!(matches!(next(&mut client).await, Some(Ok(Message::Ping(payload))) if payload.is_empty()));
        client.flush().await.expect("the pong leaves");
        assert!(matches!(next(&mut browser).await, Some(Ok(Message::Pong(payload))) if payload.is_empty()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_is_pinged_every_interval_and_one_that_is_sent_something_is_not() {
    let Spliced { mut client, mut browser, close: _close, .. } = spliced(SpliceOptions::default()).await;
    let started = Instant::now();
    let mut frame = [0; 2];
    for pings in 1..=5u32 {
        client.read_exact(&mut frame).await.expect("open");
        assert_eq!(frame, PING);
        assert_eq!(started.elapsed().as_secs(), u64::from(pings) * 20);
    }
    for _ in 0..20 {
        sleep(Duration::from_secs(9)).await;
        browser.write_all(b"\x81\x00").await.expect("sent");
        client.read_exact(&mut frame).await.expect("open");
        assert_eq!(&frame, b"\x81\x00", "a ping between messages");
    }
}

/// What tungstenite makes of a server's bytes: its messages, and how many pings were among them.
fn decode(bytes: Vec<u8>) -> (Vec<Message>, usize) {
    struct OneWay(Cursor<Vec<u8>>);
    impl Read for OneWay {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Read::read(&mut self.0, buffer)
        }
    }
    impl Write for OneWay {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut socket = WebSocket::from_raw_socket(OneWay(Cursor::new(bytes)), Role::Client, Some(limits()));
    let (mut messages, mut pings) = (Vec::new(), 0);
    loop {
        match socket.read().expect("valid frames to the last") {
            Message::Ping(_) => pings += 1,
            Message::Close(_) => return (messages, pings),
            message => messages.push(message),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn pings_only_ever_fall_between_frames(
        lens in prop::collection::vec(prop_oneof![0usize..10, 100usize..140, 65_530usize..65_540], 1..6),
        cuts in prop::collection::vec((1usize..40, 0u64..70), 1..60),
    ) {
        let messages: Vec<Message> = lens.iter().map(|len| Message::binary(vec![0x89; *len])).collect();
        let mut bytes = Vec::new();
        for message in &messages {
            let data = message.clone().into_data();
            match data.len() {
                len @ ..126 => bytes.extend([0x82, len as u8]),
                len @ 126..65_536 => bytes.extend([0x82, 126, (len >> 8) as u8, len as u8]),
                len => bytes.extend(large_header(len as u64)),
            }
            bytes.extend(data);
        }
        bytes.extend([0x88, 0x00]);
        // Time stands still while anybody has work, and jumps when nobody has: pauses cost nothing, and
        // pings come wherever they may.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("starts");
        let (received, pauses_between) = runtime.block_on(async {
            let Spliced { mut client, mut browser, close: _close, .. } = spliced(SpliceOptions::default()).await;
            let reader = tokio::spawn(async move {
                let mut received = Vec::new();
                client.read_to_end(&mut received).await.map(|_| received)
            });
            let (mut cursor, mut at, mut pauses_between) = (FrameCursor::default(), 0, 0);
            for (step, (cut, pause)) in cuts.iter().cycle().enumerate() {
                // Small pieces at first, then long strides, or a large frame would take all day.
                let end = (at + if step < 60 { *cut } else { cut * 2_000 }).min(bytes.len());
                browser.write_all(&bytes[at..end]).await.expect("sent");
                cursor.follow(&bytes[at..end]);
                at = end;
                if at == bytes.len() {
                    break;
                }
                sleep(Duration::from_secs(*pause)).await;
                pauses_between += usize::from(*pause > 35 && cursor.is_between_frames());
            }
            drop(browser);
            (reader.await.expect("no panic").expect("not reset"), pauses_between)
        });
        let (decoded, pings) = decode(received);
        prop_assert_eq!(decoded, messages);
        prop_assert!(pings >= pauses_between, "{} pings in {} long pauses", pings, pauses_between);
    }
}
