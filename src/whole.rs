//! Whole numbers as JSON has them: it knows one kind of number, and `5.0` is a 5.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// Up to here floating-point numbers have no gaps, and every reader of JSON has the same number.
pub const EXACT: u64 = 9_007_199_254_740_991;

/// For `#[serde(deserialize_with = "whole::number")]`.
///
/// # Errors
/// If it has a fraction, is negative, or does not fit.
pub fn number<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    let number = deserializer.deserialize_u64(Whole)?;
    T::try_from(number).map_err(|_| Error::invalid_value(Unexpected::Unsigned(number), &Whole))
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, not negative")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        if number.fract() == 0.0 && (0.0..=EXACT as f64).contains(&number) {
            // Whole, and in range.
            return Ok(number as u64);
        }
        Err(E::invalid_type(Unexpected::Float(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[derive(serde::Deserialize)]
    struct Sample {
        #[serde(deserialize_with = "super::number")]
        count: u32,
    }

    #[test]
    fn a_number_is_whole_by_its_value_and_not_by_how_it_is_written() {
        let read = |count: Value| serde_json::from_value::<Sample>(json!({ "count": count })).map(|it| it.count).ok();
        assert_eq!(
            [json!(0), json!(5), json!(5.0), json!(-0.0), json!(u32::MAX), json!(4_294_967_295.0)].map(read),
            [Some(0), Some(5), Some(5), Some(0), Some(u32::MAX), Some(u32::MAX)]
        );
        for refused in
            [json!(0.5), json!(-1), json!(-1.0), json!(1e308), json!(4_294_967_296u64), json!("5"), json!(null)]
        {
            assert_eq!(read(refused.clone()), None, "{refused}");
        }
    }
}
