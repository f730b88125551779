//! Where a stream of WebSocket frames stands (RFC 6455, section 5.2). It follows frame headers and skips
//! payloads, whatever is in them; that the frames make sense is the business of those who exchange them.

use std::ops::Range;

const CLOSE: u8 = 0x8;
/// Two bytes, eight of a long length, four of a mask.
const MAX_HEADER: usize = 14;

/// Fed with the bytes of one direction, in any portions, it knows whether the last one ended a frame.
#[derive(Debug, Clone, Default)]
pub struct FrameCursor {
    header: [u8; MAX_HEADER],
    /// How much of a header that is not complete yet was seen.
    header_len: u8,
    payload_left: u64,
    opcode: u8,
    /// Fragments of a message have gone by, and not the last.
    unfinished: bool,
    closed: bool,
}

impl FrameCursor {
    /// Whether another frame could begin here.
    pub fn is_between_frames(&self) -> bool {
        self.payload_left == 0 && self.header_len == 0
    }

    /// Whether another message could begin here: unlike a control frame it may not stand between two fragments.
    pub fn is_between_messages(&self) -> bool {
        self.is_between_frames() && !self.unfinished
    }

    /// Whether a close frame has gone by, to its last byte. No frame may follow one.
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Whether the frame that was begun last is a part of a message, and not about the connection.
    pub fn is_of_message(&self) -> bool {
        self.opcode < CLOSE
    }

    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.follow_to_boundary(bytes)..];
        }
    }

    /// Follows the bytes to the end of the frame they belong to, or to their own end. Tells how many that
    /// are. Between two frames this is one whole frame, if it is there.
    pub fn follow_to_boundary(&mut self, bytes: &[u8]) -> usize {
        self.follow_frame(bytes).end
    }

    /// The same, and tells where among them the frame's payload is.
    pub fn follow_frame(&mut self, bytes: &[u8]) -> Range<usize> {
        let mut at = 0;
        if self.payload_left == 0 {
            // Read into place byte by byte: nearly all headers here are two to eight bytes long.
            loop {
                let Some(&byte) = bytes.get(at) else { return at..at };
                self.header[usize::from(self.header_len)] = byte;
                self.header_len += 1;
                at += 1;
                if self.header_len >= 2 && usize::from(self.header_len) == header_len(self.header[1]) {
                    break;
                }
            }
            self.begin_frame();
        }
        let skipped = usize::try_from(self.payload_left).map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
        self.payload_left -= skipped as u64;
        if self.payload_left == 0 && self.opcode == CLOSE {
            self.closed = true;
        }
        at..at + skipped
    }

    fn begin_frame(&mut self) {
        self.opcode = self.header[0] & 0x0f;
        if self.opcode < CLOSE {
            self.unfinished = self.header[0] & 0x80 == 0;
        }
        self.payload_left = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => u64::from_be_bytes(self.header[2..10].try_into().expect("eight bytes")),
            short => u64::from(short),
        };
        self.header_len = 0;
    }
}

/// How long the header is whose second byte this is.
fn header_len(second: u8) -> usize {
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    2 + length + mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame written by the book, apart from the code under test.
    fn frame(opcode: u8, masked: bool, length_bytes: u8, payload: &[u8]) -> Vec<u8> {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length_bytes {
            0 => frame.push(mask_bit | payload.len() as u8),
            2 => {
                frame.push(mask_bit | 126);
                frame.extend((payload.len() as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask_bit | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(payload);
        frame
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        // Payloads of bytes that look like headers; lengths in the shortest form and in longer ones.
        (0u8..=7, any::<bool>(), prop_oneof![Just(0u8), Just(2), Just(8)], 0usize..300).prop_map(
            |(opcode, masked, length_bytes, len)| {
                let len = if length_bytes == 0 { len.min(125) } else { len };
                frame(opcode, masked, length_bytes, &vec![0x88; len])
            },
        )
    }

    proptest! {
        #[test]
        fn it_knows_the_boundaries_wherever_the_bytes_are_cut(
            frames in prop::collection::vec(any_frame(), 1..12),
            cuts in prop::collection::vec(1usize..64, 1..200),
        ) {
            let bytes = frames.concat();
            let mut boundaries = vec![0];
            for frame in &frames {
                boundaries.push(boundaries[boundaries.len() - 1] + frame.len());
            }
            let (mut cursor, mut at) = (FrameCursor::default(), 0);
            for cut in cuts.iter().cycle() {
                prop_assert_eq!(cursor.is_between_frames(), boundaries.contains(&at));
                if at == bytes.len() {
                    break;
                }
                let end = (at + cut).min(bytes.len());
                // Either way of following leads to the same place.
                if cut % 2 == 0 {
                    cursor.follow(&bytes[at..end]);
                    at = end;
                } else {
                    let next = boundaries.iter().copied().find(|boundary| *boundary > at).expect("not at the end");
                    let followed = cursor.follow_to_boundary(&bytes[at..end]);
                    prop_assert_eq!(followed, next.min(end) - at);
                    at += followed;
                }
                prop_assert!(!cursor.has_closed());
            }
        }
    }

    #[test]
    fn a_close_frame_counts_once_its_last_byte_has_gone_by() {
        for masked in [true, false] {
            for payload in [&b""[..], b"\x03\xe8bye"] {
                let mut cursor = FrameCursor::default();
                cursor.follow(&frame(1, masked, 0, b"\x88\x00"));
                let close = frame(CLOSE, masked, 0, payload);
                cursor.follow(&close[..close.len() - 1]);
                assert!(!cursor.has_closed());
                cursor.follow(&close[close.len() - 1..]);
                assert!(cursor.has_closed() && cursor.is_between_frames());
            }
        }
    }

    #[test]
    fn between_the_fragments_of_a_message_there_is_no_room_for_another() {
        let mut cursor = FrameCursor::default();
        // A text in three fragments, with a ping among them.
        for (bytes, between) in
            [(b"\x01\x01a", false), (b"\x00\x01b", false), (b"\x89\x01p", false), (b"\x80\x01c", true)]
        {
            cursor.follow(&bytes[..2]);
            assert!(!cursor.is_between_messages());
            cursor.follow(&bytes[2..]);
            assert!(cursor.is_between_frames());
            assert_eq!(cursor.is_between_messages(), between);
        }
    }

    #[test]
    fn a_length_of_sixty_three_bits_is_followed() {
        let mut cursor = FrameCursor::default();
        cursor.follow(&[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(cursor.follow_to_boundary(&[0x88; 1_000]), 1_000);
        assert!(!cursor.is_between_frames() && !cursor.has_closed());
    }
}
