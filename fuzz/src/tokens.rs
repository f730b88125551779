//! Any text, read as a token: nobody who has no key makes one that opens anything.
//!
//! The first byte says what the text is put into, so that more than the outer envelope is reached. It is signed or
//! encrypted nowhere, so whatever is taken was forged.

use std::sync::LazyLock;

use wallcrawler::tokens::{Subject, TokenError, Tokens};

const NOW_MS: u64 = 1_767_225_600_000;

static TOKENS: LazyLock<[Tokens; 2]> = LazyLock::new(|| {
    [false, true].map(|accept_signed| {
        Tokens::new(&["a secret of the fuzzer, 32 bytes", "one before it, of 32 bytes as well"], accept_signed)
            .expect("long enough")
    })
});

/// One that is good, into which the text is put.
static GOOD: LazyLock<String> = LazyLock::new(|| {
    let subject = Subject::Container("ctr-a".parse().expect("an id"));
    TOKENS[0].mint(&subject, NOW_MS, NOW_MS + 60_000)
});

pub fn check(data: &[u8]) {
    let Some((&place, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let mut parts: Vec<&str> = GOOD.split('.').collect();
    let token = match place % 8 {
        place @ 0..5 => {
            let unchanged = parts[usize::from(place)] == text;
            parts[usize::from(place)] = text;
            if unchanged {
                return;
            }
            parts.join(".")
        }
        _ => text.to_owned(),
    };
    for tokens in TOKENS.iter() {
        match tokens.verify(&token, NOW_MS) {
            Err(TokenError::Invalid | TokenError::UnknownSecret) => {}
            // Its end is told of a token that is genuine only.
            taken => panic!("{taken:?}"),
        }
    }
}
