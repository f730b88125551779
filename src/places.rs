//! How many clients' sockets this process carries at a time, those that are held until there is a browser included. Whoever
//! holds one session's token takes no more places than one session may have, and leaves the others theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::SessionId;
use crate::session::MAX_CONNECTIONS;

/// If nobody has said how many.
pub const USUAL_SOCKETS: usize = 10_000;
/// Of one session: its connections, and as many who watch it or ask for its address.
const MAX_OF_A_SESSION: u64 = 2 * MAX_CONNECTIONS;

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The session has as many as one may have.
    OfSession,
    AtAll,
}

/// Clones share the places.
#[derive(Debug, Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<SessionId, u64>>>,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    session: SessionId,
    taken: Arc<Mutex<HashMap<SessionId, u64>>>,
    _one_of_all: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), taken: Arc::default() }
    }

    /// # Errors
    /// When there is none.
    pub fn take(&self, session: &SessionId) -> Result<Place, NoPlace> {
        let one_of_all = Arc::clone(&self.free).try_acquire_owned().map_err(|_| NoPlace::AtAll)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_session = taken.entry(session.clone()).or_default();
        if *of_session >= MAX_OF_A_SESSION {
            return Err(NoPlace::OfSession);
        }
        *of_session += 1;
        drop(taken);
        Ok(Place { session: session.clone(), taken: Arc::clone(&self.taken), _one_of_all: one_of_all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_takes_no_more_places_than_one_may_have_and_what_is_given_back_can_be_taken_again() {
        let places = Places::new(usize::try_from(MAX_OF_A_SESSION).expect("few") + 2);
        let (greedy, other) = (SessionId::random(), SessionId::random());
        let mut held: Vec<Place> = (0..MAX_OF_A_SESSION).map(|_| places.take(&greedy).expect("a place")).collect();
        assert_eq!(places.take(&greedy).expect_err("no more"), NoPlace::OfSession);
        let others = [places.take(&other).expect("a place"), places.take(&other).expect("a place")];
        assert_eq!(places.take(&other).expect_err("there is none"), NoPlace::AtAll);
        held.pop();
        held.push(places.take(&greedy).expect("it has given one back"));
        drop((held, others));
        assert!(places.taken.lock().expect("not poisoned").is_empty(), "nothing is kept of sessions without sockets");
        assert_eq!(places.free.available_permits() as u64, MAX_OF_A_SESSION + 2);
    }
}
