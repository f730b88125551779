//! Messages one after another in so much memory. For each that has no room the oldest make it.

use std::collections::VecDeque;

use super::Speaker;

/// A message, and what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said<'a> {
    pub by: Speaker,
    /// Of the client, by a number of its own.
    pub connection: u32,
    pub at_ms: u64,
    /// In bytes, whatever is kept.
    pub length: usize,
    pub head: &'a [u8],
    /// Empty if the head is all of it.
    pub tail: &'a [u8],
}

/// Before each message: the lengths of its head and its tail, and the rest in order.
const HEADER: usize = 4 + 4 + 1 + 4 + 8 + 8;

pub struct Ring {
    bytes: VecDeque<u8>,
    most: usize,
}

impl Ring {
    /// Takes its memory as it needs it.
    pub fn new(most: usize) -> Self {
        Self { bytes: VecDeque::new(), most }
    }

    pub fn push(&mut self, said: &Said<'_>) {
        let more = HEADER + said.head.len() + said.tail.len();
        if more > self.most {
            return;
        }
        while self.bytes.len() + more > self.most {
            self.drop_oldest();
        }
        if self.bytes.capacity() < self.bytes.len() + more {
            // It would double by itself, beyond what it may have.
            let wanted = (2 * self.bytes.capacity()).clamp(self.bytes.len() + more, self.most);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend(&header(said));
        self.bytes.extend(said.head);
        self.bytes.extend(said.tail);
    }

    fn drop_oldest(&mut self) {
        let mut header = [0; HEADER];
        header.iter_mut().zip(&self.bytes).for_each(|(to, from)| *to = *from);
        let (head, tail) = lengths(&header);
        self.bytes.drain(..HEADER + head + tail);
    }

    /// All of it, for [`messages`].
    pub fn copy(&self) -> Vec<u8> {
        let (first, second) = self.bytes.as_slices();
        [first, second].concat()
    }

    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The messages in a copy of a ring, oldest first.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Said<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let (head, tail) = lengths(header);
        let (head, rest) = rest.split_at(head);
        let (tail, rest) = rest.split_at(tail);
        bytes = rest;
        Some(Said {
            by: if header[8] == 0 { Speaker::Client } else { Speaker::Browser },
            connection: u32::from_le_bytes(part(header, 9)),
            at_ms: u64::from_le_bytes(part(header, 13)),
            length: usize::try_from(u64::from_le_bytes(part(header, 21))).unwrap_or(usize::MAX),
            head,
            tail,
        })
    })
}

fn header(said: &Said<'_>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let parts: [&[u8]; 6] = [
        // What is kept of a message is some KiB.
        &(said.head.len() as u32).to_le_bytes(),
        &(said.tail.len() as u32).to_le_bytes(),
        &[u8::from(said.by == Speaker::Browser)],
        &said.connection.to_le_bytes(),
        &said.at_ms.to_le_bytes(),
        &(said.length as u64).to_le_bytes(),
    ];
    let mut at = 0;
    for part in parts {
        header[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    header
}

fn lengths(header: &[u8; HEADER]) -> (usize, usize) {
    (u32::from_le_bytes(part(header, 0)) as usize, u32::from_le_bytes(part(header, 4)) as usize)
}

fn part<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("within the header")
}
