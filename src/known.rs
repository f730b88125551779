//! What a warm process remembers of gateway connections, so that a message costs no question to Redis. Only what
//! cannot change any more is remembered: a session that is settled stays in its container to its end, and an id is
//! never used for a second connection.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;

use crate::ids::{ConnectionId, ContainerId};
use crate::store::Route;

/// Two or three hundred bytes each. A function serves one client's messages after the other's, and is not told when
/// a connection ends elsewhere: what was not used for long makes room.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

#[derive(Debug)]
pub struct Known {
    routes: Mutex<LruCache<ConnectionId, Route>>,
    holders: Mutex<LruCache<ConnectionId, ContainerId>>,
}

impl Default for Known {
    fn default() -> Self {
        // Room is made as it is needed.
        let (routes, holders) = (LruCache::unbounded(), LruCache::unbounded());
        let known = Self { routes: Mutex::new(routes), holders: Mutex::new(holders) };
        known.routes.lock().expect("not poisoned").resize(REMEMBERED);
        known.holders.lock().expect("not poisoned").resize(REMEMBERED);
        known
    }
}

impl Known {
    /// To where a connection's messages go.
    pub fn route(&self, connection: &ConnectionId) -> Option<Route> {
        self.routes.lock().expect("not poisoned").get(connection).cloned()
    }

    pub fn settled(&self, connection: &ConnectionId, route: &Route) {
        self.routes.lock().expect("not poisoned").put(connection.clone(), route.clone());
    }

    /// Whether it was this container that the connection's browser runs in.
    pub fn is_held_by(&self, connection: &ConnectionId, container: &ContainerId) -> bool {
        self.holders.lock().expect("not poisoned").get(connection) == Some(container)
    }

    pub fn held_by(&self, connection: &ConnectionId, container: &ContainerId) {
        self.holders.lock().expect("not poisoned").put(connection.clone(), container.clone());
    }

    pub fn forget(&self, connection: &ConnectionId) {
        self.routes.lock().expect("not poisoned").pop(connection);
        self.holders.lock().expect("not poisoned").pop(connection);
    }
}
