//! `q`, by which sessions are found by their metadata: `user_metadata['team']['name']:'alpha'`.

use crate::error::ApiError;
use crate::store::MetadataQuery;

/// One text, compared as a whole.
pub fn parse(q: &str) -> Result<MetadataQuery, ApiError> {
    read(q).ok_or_else(|| ApiError::invalid("q: must be as in user_metadata['team']['name']:'alpha'"))
}

fn read(q: &str) -> Option<MetadataQuery> {
    let mut rest = q.trim().strip_prefix("user_metadata")?;
    let mut path = Vec::new();
    while let Some(inner) = rest.strip_prefix('[') {
        let (name, after) = quoted(inner)?;
        path.push(name.to_owned());
        rest = after.strip_prefix(']')?;
    }
    let (value, end) = quoted(rest.strip_prefix(':')?)?;
    (end.is_empty() && !path.is_empty()).then(|| MetadataQuery { path, value: value.to_owned() })
}

/// A text in quotation marks of either kind, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mark = text.chars().next().filter(|mark| matches!(mark, '\'' | '"'))?;
    text[1..].split_once(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_path_and_a_text_and_nothing_else_is_one() {
        let query = |path: &[&str], value: &str| {
            Some(MetadataQuery { path: path.iter().map(|name| (*name).to_owned()).collect(), value: value.to_owned() })
        };
        assert_eq!(read("user_metadata['a']:'b'"), query(&["a"], "b"));
        assert_eq!(read("user_metadata['a']['b c']:\"it's\""), query(&["a", "b c"], "it's"));
        assert_eq!(read("user_metadata['é']:''"), query(&["é"], ""));
        for q in [
            "",
            "a",
            "user_metadata",
            "user_metadata:'a'",
            "user_metadata['a']",
            "user_metadata['a']:b",
            "user_metadata['a]:'b'",
            "user_metadata['a']:'b' AND user_metadata['c']:'d'",
            "user_metadata[é]:'b'",
        ] {
            assert_eq!(read(q), None, "{q}");
        }
    }
}
