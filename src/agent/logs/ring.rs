//! Messages one after another in so much memory. It is divided, and when there is no room the oldest part of it is used anew:
//! to keep a message is to copy it, and nothing else is looked at.

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
/// Of one part, in bytes: some messages of the largest kind.
pub const PART: usize = 64 * 1024;

pub struct Ring {
    /// The newest is the last.
    parts: VecDeque<Vec<u8>>,
    most: usize,
}

impl Ring {
    /// Of at most so many parts, each of which is there when it is needed.
    pub fn new(most: usize) -> Self {
        Self { parts: VecDeque::with_capacity(most), most }
    }

    /// What is larger than a part is not kept.
    pub fn push(&mut self, said: &Said<'_>) {
        let bytes = HEADER + said.head.len() + said.tail.len();
        if bytes > PART {
            return;
        }
        if self.parts.back().is_none_or(|part| part.len() + bytes > PART) {
            let oldest = if self.parts.len() == self.most { self.parts.pop_front() } else { None };
            let mut part = oldest.unwrap_or_else(|| Vec::with_capacity(PART));
            part.clear();
            self.parts.push_back(part);
        }
        if let Some(part) = self.parts.back_mut() {
            part.extend_from_slice(&header(said));
            part.extend_from_slice(said.head);
            part.extend_from_slice(said.tail);
        }
    }

    /// All of it, for [`messages`].
    pub fn copy(&self) -> Vec<u8> {
        self.parts.iter().map(Vec::as_slice).collect::<Vec<_>>().concat()
    }

    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.parts.iter().map(Vec::capacity).sum()
    }
}

/// The messages in a copy of a ring, oldest first.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Said<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let (head, rest) = rest.split_at(u32::from_le_bytes(part(header, 0)) as usize);
        let (tail, rest) = rest.split_at(u32::from_le_bytes(part(header, 4)) as usize);
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
    // They fit into a part.
    header[..4].copy_from_slice(&(said.head.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&(said.tail.len() as u32).to_le_bytes());
    header[8] = u8::from(said.by == Speaker::Browser);
    header[9..13].copy_from_slice(&said.connection.to_le_bytes());
    header[13..21].copy_from_slice(&said.at_ms.to_le_bytes());
    header[21..].copy_from_slice(&(said.length as u64).to_le_bytes());
    header
}

fn part<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("within the header")
}
