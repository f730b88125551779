//! The clients of sessions, whoever holds their sockets.

use serde_json::json;

use super::{Connect, Entered, Limits, Route, Routed, Store, StoreError, reply, unexpected};
use crate::ids::{ConnectionId, ContainerId, ServerId, SessionId};
use crate::protocol::{HELD_BYTES, HELD_MESSAGES};
use crate::session::{EndReason, MAX_CONNECTIONS};

impl Store {
    /// Enters a client's connection, if the session's browser can be dialled now.
    pub async fn connect(
        &self,
        id: &SessionId,
        connection: &ConnectionId,
        server: &ServerId,
        now_ms: u64,
    ) -> Result<Connect, StoreError> {
        let args = json!({
            "now": now_ms, "id": id, "connection": connection, "server": server, "max_connections": MAX_CONNECTIONS,
        });
        let mut reply = self.call(&self.scripts.connect, args).await?;
        match reply.word()?.as_str() {
            "ready" => {
                let (address, secret) = (reply.text()?, reply.text()?);
                Ok(Connect::Ready { address, secret, expires_at_ms: reply.number()?, reached: reply.number()? == 1 })
            }
            "waiting" => Ok(Connect::Waiting),
            "ended" => Ok(Connect::Ended(reply::parse("end reason", &reply.text()?)?)),
            "unknown" => Ok(Connect::Unknown),
            "crowded" => Ok(Connect::Crowded),
            word => Err(unexpected("connect", word)),
        }
    }

    /// Notes that an entered connection has reached the browser. False: the session has ended or moved since.
    pub async fn reach(&self, id: &SessionId, connection: &ConnectionId, now_ms: u64) -> Result<bool, StoreError> {
        let args = json!({ "now": now_ms, "id": id, "connection": connection });
        match self.call(&self.scripts.reach, args).await?.word()?.as_str() {
            "reached" => Ok(true),
            "lost" => Ok(false),
            word => Err(unexpected("reach", word)),
        }
    }

    /// Takes a connection out; `id` is its session, where that is known. If a gateway held its socket, and a container
    /// knows it, the way there is returned.
    pub async fn disconnect(
        &self,
        connection: &ConnectionId,
        id: Option<&SessionId>,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Option<Route>, StoreError> {
        self.take_out(connection, id, false, limits, now_ms).await
    }

    /// The same of one whose client was refused after it had been entered, and perhaps noted as having reached the
    /// browser: no client has come yet.
    pub async fn back_out(
        &self,
        connection: &ConnectionId,
        id: &SessionId,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.take_out(connection, Some(id), true, limits, now_ms).await.map(drop)
    }

    async fn take_out(
        &self,
        connection: &ConnectionId,
        id: Option<&SessionId>,
        never_in: bool,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Option<Route>, StoreError> {
        let args = json!({
            "now": now_ms, "connection": connection, "id": id, "never_in": never_in, "grace": limits.grace_ms,
            "connect_wait": limits.connect_wait_ms,
        });
        let mut reply = self.call(&self.scripts.disconnect, args).await?;
        match reply.word()?.as_str() {
            "disconnected" => reply.route(),
            "already" => Ok(None),
            word => Err(unexpected("disconnect", word)),
        }
    }

    /// Enters a connection whose socket a gateway holds.
    pub async fn enter(&self, id: &SessionId, connection: &ConnectionId, now_ms: u64) -> Result<Entered, StoreError> {
        let args = json!({
            "now": now_ms, "id": id, "connection": connection, "max_connections": MAX_CONNECTIONS,
        });
        let mut reply = self.call(&self.scripts.enter, args).await?;
        match reply.word()?.as_str() {
            "entered" => Ok(Entered::Now(reply.route()?)),
            "ended" => Ok(Entered::Ended(reply::parse("end reason", &reply.text()?)?)),
            "unknown" => Ok(Entered::Unknown),
            "crowded" => Ok(Entered::Crowded),
            word => Err(unexpected("enter", word)),
        }
    }

    /// Where a gateway client's message goes. `again`: it was asked for before, so the message is kept already.
    pub async fn route(
        &self,
        connection: &ConnectionId,
        message: &str,
        text: &str,
        again: bool,
    ) -> Result<Routed, StoreError> {
        let args = json!({
            "connection": connection, "message": message, "text": text, "again": again,
            "max_messages": HELD_MESSAGES, "max_bytes": HELD_BYTES,
        });
        let mut reply = self.call(&self.scripts.route, args).await?;
        match reply.word()?.as_str() {
            "route" => match reply.route()? {
                Some(route) => Ok(Routed::To { route, settled: reply.number()? == 1 }),
                None => Err(StoreError::Unexpected("route: without an address".to_owned())),
            },
            "held" => Ok(Routed::Held),
            "full" => Ok(Routed::Full),
            "unknown" => Ok(Routed::Unknown),
            word => Err(unexpected("route", word)),
        }
    }

    /// Whether the container may deliver to the connection: how many messages it has had, or `None`.
    pub async fn deliver(&self, connection: &ConnectionId, container: &ContainerId) -> Result<Option<u64>, StoreError> {
        let args = json!({ "connection": connection, "container": container });
        let mut reply = self.call(&self.scripts.deliver, args).await?;
        match reply.word()?.as_str() {
            "deliver" => Ok(Some(reply.number()?)),
            "unknown" => Ok(None),
            word => Err(unexpected("deliver", word)),
        }
    }

    /// Notes how many messages a connection has had. False: it has ended.
    pub async fn delivered(&self, connection: &ConnectionId, delivered: u64) -> Result<bool, StoreError> {
        let args = json!({ "connection": connection, "delivered": delivered });
        match self.call(&self.scripts.delivered, args).await?.word()?.as_str() {
            "noted" => Ok(true),
            "unknown" => Ok(false),
            word => Err(unexpected("delivered", word)),
        }
    }

    /// At most `limit` gateway connections that are to be closed because their sessions have ended; those of the
    /// last time have been.
    pub async fn closing(
        &self,
        closed: &[(ConnectionId, EndReason)],
        limit: u64,
    ) -> Result<Vec<(ConnectionId, EndReason)>, StoreError> {
        let closed: Vec<&str> = closed.iter().flat_map(|(id, reason)| [id.as_str(), reason.as_str()]).collect();
        let mut reply = self.call(&self.scripts.closing, json!({ "closed": closed, "limit": limit })).await?;
        match reply.word()?.as_str() {
            "closing" => reply.list()?.pairs("closing connection"),
            word => Err(unexpected("closing", word)),
        }
    }
}
