//! A value that is made from something elsewhere, a secret: kept, and made anew when it may be out of date.
//!
//! Nothing is done in the background, since a Lambda freezes between requests: whoever asks and finds the value too
//! old makes it anew, and others meanwhile go on with what is known. So does everybody while it cannot be read. And
//! whoever misses something in it may have it made anew before its time, though not at any rate: what is missing may
//! have been made up.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex as Turns;

use super::SecretError;
use crate::causes::Causes;

/// Makes the value.
pub type Read<T> = Box<dyn Fn() -> BoxFuture<'static, Result<T, SecretError>> + Send + Sync>;

/// How long a value is good, and how often it may be made.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub max_age: Duration,
    /// From one try to the next, while there is a value.
    pub pause: Duration,
    /// The same while there is none, and nobody can be served.
    pub first_pause: Duration,
}

impl Timing {
    pub fn of(max_age: Duration) -> Self {
        Self { max_age, pause: Duration::from_secs(10).min(max_age), first_pause: Duration::from_secs(1) }
    }
}

/// There is no value, and could not be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{name} could not be read")]
pub struct Unavailable {
    pub name: &'static str,
    #[source]
    pub cause: Arc<SecretError>,
}

pub struct Kept<T> {
    /// As it is configured: for the log.
    name: &'static str,
    /// `None`: it never changes.
    read: Option<(Read<T>, Timing)>,
    known: Mutex<Known<T>>,
    /// Held while the value is made: once for all who want it.
    turn: Turns<()>,
}

struct Known<T> {
    value: Option<Arc<T>>,
    /// Wall time, all three: a frozen machine's other clocks may have stood still.
    made_at_ms: u64,
    tried_at_ms: Option<u64>,
    failure: Option<Arc<SecretError>>,
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.name).finish()
    }
}

fn within(duration: Duration, now_ms: u64, since_ms: u64) -> bool {
    // A clock that was put back must not make anything last for ever.
    u128::from(now_ms.abs_diff(since_ms)) < duration.as_millis()
}

impl<T> Kept<T> {
    /// A value that never changes.
    pub fn fixed(name: &'static str, value: T) -> Self {
        Self::new(name, None, Some(Arc::new(value)))
    }

    /// A value that is made when it is first needed.
    pub fn read(name: &'static str, timing: Timing, read: Read<T>) -> Self {
        Self::new(name, Some((read, timing)), None)
    }

    fn new(name: &'static str, read: Option<(Read<T>, Timing)>, value: Option<Arc<T>>) -> Self {
        let known = Known { value, made_at_ms: 0, tried_at_ms: None, failure: None };
        Self { name, read, known: Mutex::new(known), turn: Turns::default() }
    }

    /// The value, as it is or was lately. Fails only if there has never been one.
    pub async fn get(&self, now_ms: u64) -> Result<Arc<T>, Unavailable> {
        let (value, made_at_ms) = {
            let known = self.known();
            (known.value.clone(), known.made_at_ms)
        };
        let Some((read, timing)) = &self.read else { return self.value() };
        match value {
            Some(value) if within(timing.max_age, now_ms, made_at_ms) => return Ok(value),
            Some(_) => {
                if let Ok(_turn) = self.turn.try_lock() {
                    self.make(read, timing.pause, now_ms).await;
                }
            }
            None => {
                let _turn = self.turn.lock().await;
                // Whoever had the turn before may have made it.
                if self.known().value.is_none() {
                    self.make(read, timing.first_pause, now_ms).await;
                }
            }
        }
        self.value()
    }

    /// Another value than `old`, in which something was missing; `None` if there is none, or it is too early to look
    /// for one again.
    pub async fn newer(&self, old: &Arc<T>, now_ms: u64) -> Option<Arc<T>> {
        let (read, timing) = self.read.as_ref()?;
        let _turn = self.turn.lock().await;
        let other = || self.known().value.clone().filter(|value| !Arc::ptr_eq(value, old));
        if let Some(value) = other() {
            return Some(value);
        }
        self.make(read, timing.pause, now_ms).await;
        other()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known<T>> {
        // Each change is one assignment after the other; none of them panics.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value(&self) -> Result<Arc<T>, Unavailable> {
        let known = self.known();
        let cause = || known.failure.clone().unwrap_or_else(|| Arc::new(SecretError::NotRead));
        known.value.clone().ok_or_else(|| Unavailable { name: self.name, cause: cause() })
    }

    /// Once it is this caller's turn. What it was before stays if it cannot be made.
    async fn make(&self, read: &Read<T>, pause: Duration, now_ms: u64) {
        {
            let mut known = self.known();
            if known.tried_at_ms.is_some_and(|at| within(pause, now_ms, at)) {
                return;
            }
            // Now, and not when it is done: a caller that goes away meanwhile has tried, too.
            known.tried_at_ms = Some(now_ms);
        }
        let made = read().await;
        let mut known = self.known();
        match made {
            Ok(value) => {
                if known.failure.take().is_some() {
                    tracing::info!(secret = self.name, "the secret can be read again");
                }
                known.value = Some(Arc::new(value));
                known.made_at_ms = now_ms;
            }
            Err(error) => {
                let serving = known.value.is_some();
                tracing::error!(
                    secret = self.name, error = %Causes(&error), still_known = serving, "the secret could not be read"
                );
                known.failure = Some(Arc::new(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    const NOW: u64 = 1_767_225_600_000;
    const TIMING: Timing = Timing {
        max_age: Duration::from_secs(300),
        pause: Duration::from_secs(10),
        first_pause: Duration::from_secs(1),
    };

    #[derive(Default)]
    struct Elsewhere {
        reads: AtomicU64,
        down: AtomicBool,
    }

    /// What it was made from says how often it was read.
    fn kept() -> (Kept<u64>, Arc<Elsewhere>) {
        let elsewhere = Arc::new(Elsewhere::default());
        let there = elsewhere.clone();
        let read: Read<u64> = Box::new(move || {
            let there = there.clone();
            async move {
                // Others may come in between.
                tokio::task::yield_now().await;
                let count = there.reads.fetch_add(1, Ordering::Relaxed) + 1;
                if there.down.load(Ordering::Relaxed) { Err(SecretError::NotRead) } else { Ok(count) }
            }
            .boxed()
        });
        (Kept::read("A_SECRET_ARN", TIMING, read), elsewhere)
    }

    impl Elsewhere {
        fn reads(&self) -> u64 {
            self.reads.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn it_is_read_once_for_all_and_again_when_it_is_old() {
        let (kept, elsewhere) = kept();
        let all = futures_util::future::join_all((0..50).map(|_| kept.get(NOW))).await;
        assert!(all.into_iter().all(|value| *value.expect("read") == 1));
        assert_eq!(*kept.get(NOW + 299_999).await.expect("known"), 1);
        let all = futures_util::future::join_all((0..50).map(|_| kept.get(NOW + 300_000))).await;
        let all: Vec<u64> = all.into_iter().map(|value| *value.expect("known")).collect();
        assert_eq!((all[0], all[1], all.len()), (2, 1, 50), "one reads it, and nobody waits for that");
        assert_eq!(*kept.get(NOW + 300_000).await.expect("read"), 2);
        assert_eq!(elsewhere.reads(), 2);
        // The clock was put back.
        assert_eq!(*kept.get(NOW - 86_400_000).await.expect("read"), 3);
    }

    #[tokio::test]
    async fn what_is_missing_has_it_read_again_but_only_now_and_then() {
        let (kept, elsewhere) = kept();
        let old = kept.get(NOW).await.expect("read");
        assert!(kept.newer(&old, NOW + 9_999).await.is_none());
        assert_eq!(elsewhere.reads(), 1);
        let all = futures_util::future::join_all((0..50).map(|_| kept.newer(&old, NOW + 10_000))).await;
        assert!(all.into_iter().all(|value| value.is_some_and(|value| *value == 2)), "once for all");
        let new = kept.get(NOW + 10_000).await.expect("known");
        assert!(kept.newer(&new, NOW + 19_999).await.is_none());
        assert!(kept.newer(&old, NOW + 19_999).await.is_some_and(|value| *value == 2), "which has come since");
        assert_eq!(elsewhere.reads(), 2);
        assert!(Kept::fixed("A", 7).newer(&Arc::new(7), NOW).await.is_none());
        assert_eq!(*Kept::fixed("A", 7).get(NOW).await.expect("fixed"), 7);
    }

    #[tokio::test]
    async fn what_is_known_goes_on_while_it_cannot_be_read() {
        let (kept, elsewhere) = kept();
        let old = kept.get(NOW).await.expect("read");
        elsewhere.down.store(true, Ordering::Relaxed);
        for now_ms in (NOW + 300_000..NOW + 360_000).step_by(500) {
            assert_eq!(*kept.get(now_ms).await.expect("known"), 1);
            assert!(kept.newer(&old, now_ms).await.is_none());
        }
        assert_eq!(elsewhere.reads(), 1 + 6, "once in ten seconds");
        elsewhere.down.store(false, Ordering::Relaxed);
        assert_eq!(*kept.get(NOW + 360_000).await.expect("read"), 8);
    }

    #[tokio::test]
    async fn without_any_value_it_is_tried_once_a_second_and_says_why_not() {
        let (kept, elsewhere) = kept();
        elsewhere.down.store(true, Ordering::Relaxed);
        let all = futures_util::future::join_all((0..50).map(|_| kept.get(NOW))).await;
        assert!(all.into_iter().all(|value| value.is_err_and(|error| error.name == "A_SECRET_ARN")));
        assert!(kept.get(NOW + 999).await.is_err());
        assert_eq!(elsewhere.reads(), 1);
        elsewhere.down.store(false, Ordering::Relaxed);
        assert_eq!(*kept.get(NOW + 1_000).await.expect("read"), 2);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_turn_to_others() {
        let (kept, elsewhere) = kept();
        let old = kept.get(NOW).await.expect("read");
        assert!(kept.newer(&old, NOW + 10_000).now_or_never().is_none(), "it is being read");
        assert!(kept.newer(&old, NOW + 10_001).await.is_none(), "and was tried");
        assert!(kept.newer(&old, NOW + 20_000).await.is_some());
        assert_eq!(elsewhere.reads(), 2);
    }
}
