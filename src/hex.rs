//! Bytes as lower-case hexadecimal digits, two a byte.

use aws_lc_rs::rand;

pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// So many bytes of the operating system's randomness.
pub fn random(bytes: usize) -> String {
    let mut random = vec![0u8; bytes];
    rand::fill(&mut random).expect("the operating system has randomness");
    encode(&random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is() {
        assert_eq!(encode(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(decode("00abFF"), Some(vec![0, 0xab, 0xff]));
        for text in ["0", "zz", "+1", "\u{e9}"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(random(16).len(), 32);
        assert_ne!(random(16), random(16));
    }
}
