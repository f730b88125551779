//! An error with all its causes, as a line of the log should have it. Given the error itself, the log's JSON form keeps
//! only the first of them.

use std::error::Error;
use std::fmt;

/// Shows `redis is not available: IO error: connection refused`.
#[derive(Debug, Clone, Copy)]
pub struct Causes<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn the_first_error_comes_first_and_the_last_cause_last() {
        let error = Layer("it failed", Some(Box::new(Layer("no answer", Some(Box::new(Layer("cut off", None)))))));
        assert_eq!(Causes(&error).to_string(), "it failed: no answer: cut off");
    }
}
