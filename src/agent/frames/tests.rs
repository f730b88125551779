use proptest::prelude::*;

use super::*;

/// A frame written by the book, apart from the code under test.
fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..=125 => frame.push(0x80 | short as u8),
        medium @ ..=65_535 => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Message(Vec<u8>, Vec<u8>),
    Control(Vec<u8>, bool),
}

/// Everything that comes out, with the bytes fed as they are cut.
fn hear(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Heard>, Violation> {
    let (mut frames, mut heard, mut rest) = (Frames::default(), Vec::new(), bytes);
    for cut in cuts.iter().cycle() {
        let (now, later) = rest.split_at(*cut.min(&rest.len()));
        frames.buffer().extend_from_slice(now);
        while let Some(piece) = frames.next()? {
            heard.push(match piece {
                Piece::Message { frame, payload } => Heard::Message(frame.to_vec(), payload.to_vec()),
                Piece::Control { frame, closes } => Heard::Control(frame.to_vec(), closes),
            });
        }
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    Ok(heard)
}

/// A message in fragments with pings among them, as it is sent and as it must be heard.
fn said(binary: bool, fragments: &[Vec<u8>], mask: [u8; 4], ping: bool) -> (Vec<u8>, Vec<Heard>) {
    let (mut sent, mut heard) = (Vec::new(), Vec::new());
    let opcode = if binary { BINARY } else { TEXT };
    for (at, fragment) in fragments.iter().enumerate() {
        let last = if at + 1 == fragments.len() { FINAL } else { 0 };
        sent.extend(masked(last | if at == 0 { opcode } else { CONTINUATION }, fragment, mask));
        if ping && last == 0 {
            sent.extend(masked(0x89, b"ping", mask));
            heard.push(Heard::Control(masked(0x89, b"ping", [0; 4]), false));
        }
    }
    let payload = fragments.concat();
    heard.push(Heard::Message(masked(FINAL | opcode, &payload, [0; 4]), payload));
    (sent, heard)
}

proptest! {
    #[test]
    fn messages_are_the_same_wherever_the_bytes_are_cut(
        messages in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..4), any::<[u8; 4]>(), any::<bool>()),
            1..8,
        ),
        cuts in prop::collection::vec(1usize..300, 1..50),
    ) {
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for (binary, fragments, mask, ping) in &messages {
            let (bytes, heard) = said(*binary, fragments, *mask, *ping);
            sent.extend(bytes);
            expected.extend(heard);
        }
        prop_assert_eq!(hear(&sent, &cuts).expect("by the book"), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(1usize..40, 1..9)) {
        let _ = hear(&bytes, &cuts);
    }
}

#[test]
fn lengths_of_every_form_are_read_and_written() {
    for length in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let text = "x".repeat(length);
        let sent = masked(0x81, text.as_bytes(), [1, 2, 3, 4]);
        let written = for_browser(&text);
        assert_eq!(written, masked(0x81, text.as_bytes(), [0; 4]));
        assert_eq!(hear(&sent, &[4_096]).expect("by the book"), [Heard::Message(written, text.into_bytes())]);
    }
}

#[test]
fn a_goodbye_is_told_from_other_control_frames() {
    let sent = [masked(0x8a, b"", [5; 4]), masked(0x88, b"\x03\xe8", [9; 4])].concat();
    assert_eq!(
        hear(&sent, &[1]).expect("by the book"),
        [Heard::Control(masked(0x8a, b"", [0; 4]), false), Heard::Control(masked(0x88, b"\x03\xe8", [0; 4]), true)]
    );
}

#[test]
fn what_breaks_the_rules_is_not_read_in_some_way_or_other() {
    let mask = [1, 2, 3, 4];
    for broken in [
        vec![0x81, 0x02, b'{', b'}'],
        masked(0xc1, b"{}", mask),
        masked(0x91, b"{}", mask),
        masked(0x83, b"{}", mask),
        masked(0x8b, b"", mask),
        masked(0x09, b"", mask),
        masked(0x89, &[0; 126], mask),
        masked(0x80, b"{}", mask),
        [masked(0x01, b"{", mask), masked(0x81, b"}", mask)].concat(),
    ] {
        assert!(matches!(hear(&broken, &[1_000]), Err(Violation::Protocol(_))), "{broken:?}");
    }
}

#[test]
fn a_message_that_is_too_large_is_refused_at_its_header_and_in_its_fragments() {
    let header = |first: u8, length: u64| [&[first, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    let max = MAX_MESSAGE as u64;
    assert_eq!(hear(&header(0x81, max), &[100]), Ok(Vec::new()));
    for length in [max + 1, 1 << 63, u64::MAX] {
        assert_eq!(hear(&header(0x81, length), &[100]), Err(Violation::TooLarge));
    }
    let fragments = [masked(0x01, b"12", [0; 4]), header(0x80, max - 1)].concat();
    assert_eq!(hear(&fragments, &[100]), Err(Violation::TooLarge));
    assert_eq!(Violation::TooLarge.close_frame().code, 1009);
}

#[test]
fn a_large_message_leaves_no_large_buffer_behind() {
    let mut frames = Frames::default();
    frames.buffer().extend(masked(0x81, &vec![b'x'; 1 << 20], [7; 4]));
    assert!(frames.next().expect("by the book").is_some());
    assert_eq!(frames.buffer().capacity(), 0);
}
