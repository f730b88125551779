//! Browsers launched ahead, so that a session need not wait for one. Each serves one session at most.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::api::Backoff;
use super::browser::{Browser, LaunchError};
use crate::causes::Causes;

/// How long a browser must have lived for its death not to count as a failure to start one.
const HEALTHY: Duration = Duration::from_secs(10);

/// What the pool needs to know of the agent to decide how many browsers it may hold.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Slots no session holds.
    pub free_slots: usize,
    /// A session is waiting for its browser: the processor belongs to that one.
    pub starting: bool,
    pub draining: bool,
}

#[derive(Clone, Default)]
pub struct WarmPool {
    browsers: Arc<Mutex<VecDeque<Browser>>>,
    look_again: Arc<Notify>,
}

impl WarmPool {
    /// The one that has been waiting longest, if it still lives. Does not start another: the session that
    /// took it comes first, and `look_again` follows when that one is ready.
    pub fn take(&self) -> Option<Browser> {
        let mut browsers = self.lock();
        while let Some(browser) = browsers.pop_front() {
            if !browser.has_exited() {
                return Some(browser);
            }
        }
        None
    }

    /// Something changed that bears on how many browsers there should be.
    pub fn look_again(&self) {
        self.look_again.notify_one();
    }

    /// Keeps `size` browsers ready as long as it is polled.
    pub async fn keep<L>(&self, size: usize, room: impl Fn() -> Room, launch: impl Fn() -> L)
    where
        L: Future<Output = Result<Browser, LaunchError>>,
    {
        let mut backoff = Backoff::default();
        let mut launched_at = Instant::now();
        loop {
            if self.bury_dead() > 0 && launched_at.elapsed() < HEALTHY {
                tokio::time::sleep(backoff.next_wait()).await;
            }
            let room = room();
            let wanted = if room.draining { 0 } else { size.min(room.free_slots) };
            let surplus = self.shrink_to(wanted);
            for browser in surplus {
                browser.kill().await;
            }
            if self.lock().len() >= wanted || room.starting {
                let mut deaths: FuturesUnordered<_> = self.lock().iter().map(Browser::exited).collect();
                tokio::select! {
                    () = self.look_again.notified() => {}
                    Some(_) = deaths.next() => {}
                }
                continue;
            }
            if launched_at.elapsed() > HEALTHY {
                backoff = Backoff::default();
            }
            launched_at = Instant::now();
            match launch().await {
                Ok(browser) => {
                    tracing::debug!(browser.pid = browser.pid(), "a warm browser is ready");
                    self.lock().push_back(browser);
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    tracing::warn!(error = %Causes(&error), "a warm browser did not start");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Ends them all.
    pub async fn clear(&self) {
        for browser in self.shrink_to(0) {
            browser.kill().await;
        }
    }

    fn bury_dead(&self) -> usize {
        let mut browsers = self.lock();
        let before = browsers.len();
        // Dropping a browser removes what is left of it.
        browsers.retain(|browser| !browser.has_exited());
        before - browsers.len()
    }

    fn shrink_to(&self, size: usize) -> Vec<Browser> {
        let mut browsers = self.lock();
        let size = size.min(browsers.len());
        browsers.split_off(size).into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Browser>> {
        self.browsers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
