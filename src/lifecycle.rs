//! What happens to sessions and containers, whoever asks for it: an HTTP request, a message, an event, or
//! the timer. One line is logged for each change of a session's status.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::app::App;
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::container::LaunchSpec;
use crate::extension;
use crate::fleet::{FailureKind, FleetError};
use crate::hex;
use crate::ids::{ConnectionId, ContainerId, Owner, ServerId, SessionId};
use crate::protocol::{
    CONTAINER_TOKEN_MS, ClaimRequest, ContainerPhase, EndedRequest, MAX_SESSIONS_LIMIT, ReadyRequest,
};
use crate::push::Pushed;
use crate::secrets::Unavailable;
use crate::session::{EndReason, NewSession, Session};
use crate::storage::{Kind, StorageError};
use crate::store::{
    Claimed, Created, Ended, EndedBy, Idempotency, Limits, Look, Lost, NotComing, Outcome, Readied, Route, StoreError,
    Turn, Unanswered,
};
use crate::tokens::{Subject, Tokens};

/// How long a service's is, which people put into its task definition.
pub const SERVICE_TOKEN_MS: u64 = 365 * 24 * 60 * 60 * 1_000;
/// How long what a session leaves is kept; a bucket's own rules say the same.
pub const FILES_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// How many sessions or connections one script works on.
const BATCH: u64 = 200;

/// Writes a session within `limits`, which may be its user's or project's own, and starts a container if slots are short. Never
/// waits for a browser.
pub async fn create(
    app: &App,
    new: &NewSession,
    idempotency: Option<&Idempotency>,
    limits: &Limits,
) -> Result<Created, StoreError> {
    let container = ContainerId::random();
    let doubt = Doubt::of(app, new, idempotency, &container);
    let created = app.store.create(new, idempotency, &container, limits, &app.policy, now_ms()).await?;
    let doubt = doubt.created();
    if let Created::New { session, launch, .. } = &created {
        tracing::info!(
            session.id = %session.id, user.id = %session.user_id, session.status = "pending",
            queue.position = session.queue_position, "session created"
        );
        app.metrics.sessions_created.inc();
        if let Some(container) = launch {
            // The session waits either way.
            let _ = self::launch(app, container).await;
        }
    }
    doubt.resolved();
    Ok(created)
}

/// More unanswered creates are not remembered: their own deadlines take care of them.
const MAX_UNANSWERED: usize = 10_000;

/// Remembers a create as unanswered when it is dropped, unless it was resolved.
struct Doubt<'a>(&'a App, Option<Unanswered>);

impl<'a> Doubt<'a> {
    fn of(app: &'a App, new: &NewSession, idempotency: Option<&Idempotency>, container: &ContainerId) -> Self {
        let unwanted = idempotency.is_none().then(|| (new.id.clone(), new.owner()));
        Self(app, Some(Unanswered { container: container.clone(), unwanted }))
    }

    /// Only the launch is still to come. A client that hangs up during it leaves a reservation for a container that
    /// perhaps nobody has started; its session is wanted, as far as anybody knows.
    fn created(mut self) -> Self {
        if let Some(unanswered) = &mut self.1 {
            unanswered.unwanted = None;
        }
        self
    }

    fn resolved(mut self) {
        self.1 = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        doubt(self.0, self.1.take());
    }
}

/// To be settled by a later look.
fn doubt(app: &App, unanswered: impl IntoIterator<Item = Unanswered>) {
    let mut list = app.unanswered.lock().expect("not poisoned");
    let room = MAX_UNANSWERED.saturating_sub(list.len());
    list.extend(unanswered.into_iter().take(room));
}

/// Removes what sessions have left long ago, and extensions that were uploaded long ago.
pub async fn forget_files(app: &App, now_ms: u64) -> Result<(), StorageError> {
    extension::forget_old(&app.storage, now_ms).await?;
    for kind in [Kind::Downloads, Kind::Logs] {
        app.storage.forget(kind, now_ms.saturating_sub(FILES_KEPT_MS)).await?;
    }
    Ok(())
}

/// Reserves as many containers as are short at this moment, at most `wanted`.
pub async fn reserve(app: &App, wanted: u64) -> Result<Vec<ContainerId>, StoreError> {
    let candidates: Vec<_> = (0..wanted).map(|_| ContainerId::random()).collect();
    let reserved = app.store.reserve(&candidates, &app.policy, now_ms()).await;
    if reserved.is_err() {
        // They may have been reserved all the same, and nobody starts them.
        doubt(app, candidates.into_iter().map(|container| Unanswered { container, unwanted: None }));
    }
    reserved
}

/// Undoes the creates and reservations that were not answered. Commands of one connection are carried out in order: what Redis was
/// slow to do is done by the time it does this.
pub async fn settle(app: &App) -> Result<(), StoreError> {
    loop {
        let Some(next) = app.unanswered.lock().expect("not poisoned").last().cloned() else { return Ok(()) };
        app.store.give_back(&next.container, NotComing::Unwanted, now_ms()).await?;
        if let Some((session, owner)) = &next.unwanted {
            release(app, session, owner).await?;
        }
        app.unanswered.lock().expect("not poisoned").retain(|other| other.container != next.container);
    }
}

/// Starts a container that was reserved. If that fails the reservation is given back, and a later look will see what is
/// missing.
pub async fn launch(app: &App, container: &ContainerId) -> Result<(), FailureKind> {
    let launched = async {
        let minted_ms = now_ms();
        let no_token = |error: Unavailable| FleetError {
            action: "making its token",
            kind: FailureKind::Other,
            cause: error.into(),
        };
        let tokens = app.tokens.get(minted_ms).await.map_err(no_token)?;
        let subject = Subject::Launched {
            container: container.clone(),
            max_sessions: u32::try_from(app.policy.sessions_per_container).unwrap_or(MAX_SESSIONS_LIMIT),
        };
        let spec = LaunchSpec {
            container_id: container.clone(),
            token: tokens.mint(&subject, minted_ms, minted_ms + CONTAINER_TOKEN_MS),
            api_endpoint: app.addresses.api_endpoint.clone(),
            max_sessions: app.policy.sessions_per_container,
            warm_browsers: app.warm_browsers,
            heartbeat: app.heartbeat,
        };
        app.fleet.launch(&spec).await
    };
    let Err(error) = launched.await else {
        app.metrics.containers_started.inc();
        return Ok(());
    };
    app.metrics.container_start_failed(error.kind);
    let why = Causes(&error).to_string();
    tracing::error!(
        container.id = %container, failure.kind = error.kind.as_str(), error = why, "container could not be started"
    );
    let not_coming = if error.kind == FailureKind::Throttled { NotComing::Throttled } else { NotComing::Failed(&why) };
    give_back(app, container, not_coming).await;
    Err(error.kind)
}

/// A token for a container that a service has started. `None`: one of its name is there, and has one.
pub async fn join(
    app: &App,
    container: &ContainerId,
    tokens: &Tokens,
    now_ms: u64,
) -> Result<Option<String>, StoreError> {
    if !app.store.join(container, &app.policy, now_ms).await? {
        return Ok(None);
    }
    tracing::info!(container.id = %container, "a container of a service comes");
    Ok(Some(tokens.mint(&Subject::Container(container.clone()), now_ms, now_ms + CONTAINER_TOKEN_MS)))
}

/// Gives the reservation of a container back that will not come. What cannot be given back now, its deadline gives back.
pub async fn give_back(app: &App, container: &ContainerId, why: NotComing<'_>) {
    if let Err(error) = app.store.give_back(container, why, now_ms()).await {
        tracing::warn!(container.id = %container, error = %Causes(&error), "reservation could not be given back");
    }
}

/// A container's heartbeat and request for work; waits, if it may, until there is something to say.
pub async fn claim(app: &App, request: &ClaimRequest) -> Result<Claimed, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(request.wait_seconds);
    let serving = request.phase == ContainerPhase::Serving;
    let has_room = serving && request.current_sessions < request.max_sessions;
    let watch = app.events.container(&request.container_id);
    let (claim, pace) = (hex::random(8), app.claim_pace);
    let mut again = false;
    loop {
        // Who cannot wait cannot let others go first.
        let yield_for = if Instant::now() + pace.yield_for < deadline { pace.yield_for } else { Duration::ZERO };
        let look = Look { claim: &claim, again, yield_for };
        let claimed = app.store.claim(request, look, &app.limits, &app.policy, now_ms()).await?;
        again = true;
        for (session, details) in &claimed.sessions {
            let waited_ms = now_ms().saturating_sub(session.created_at_ms);
            app.metrics.session_claimed(waited_ms);
            tracing::info!(
                session.id = %session.id, container.id = %request.container_id, session.status = "active",
                lease = details.lease,
                queue.duration_ms = waited_ms, "session claimed"
            );
        }
        let news = !claimed.sessions.is_empty() || !claimed.end.is_empty() || (claimed.drain && serving);
        if news
            || claimed.superseded
            || claimed.replaced
            || request.phase == ContainerPhase::Leaving
            || Instant::now() >= deadline
        {
            return Ok(claimed);
        }
        let pause = match claimed.turn {
            Turn::Next => pace.look / 4,
            Turn::Yields => pace.yield_for,
            Turn::Waits => pace.look,
        };
        tokio::select! {
            () = app.events.work(request.current_sessions), if has_room => {}
            () = watch.next() => {}
            // Events can be lost, and not every home hears them.
            () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => {}
            () = app.stopping.cancelled() => return Ok(claimed),
        }
    }
}

/// Its browser answers. `None`: the session is no longer that container's.
pub async fn ready(
    app: &App,
    id: &SessionId,
    container: &ContainerId,
    report: &ReadyRequest,
) -> Result<Option<Readied>, StoreError> {
    let readied = app.store.ready(id, container, report, &app.limits, now_ms()).await?;
    if let Some(Readied { since_created_ms, waiting }) = &readied {
        app.metrics.session_ready(*since_created_ms);
        tracing::info!(
            session.id = %id, container.id = %container, duration_ms = since_created_ms, waiting = waiting.len(),
            "session ready"
        );
    }
    Ok(readied)
}

/// Its browser is gone, says the container. False: the session is no longer that container's.
pub async fn ended(
    app: &App,
    id: &SessionId,
    container: &ContainerId,
    report: &EndedRequest,
) -> Result<bool, StoreError> {
    let by = EndedBy::Holder { container, lease: report.lease };
    let ended = app.store.end(id, by, report.reason, &app.limits, now_ms()).await?;
    match &ended {
        Ended::Now(session) => {
            note_end(app, &session.id, session.end_reason.unwrap_or(report.reason));
            close_soon(app).await;
        }
        Ended::Requeued => note_requeue(app, id),
        Ended::Already(_) | Ended::Unknown => {}
    }
    Ok(!matches!(ended, Ended::Unknown))
}

/// A session, for its owner. `None`: there is no such session, as far as they may know.
pub async fn find(app: &App, id: &SessionId, owner: &Owner) -> Result<Option<Session>, StoreError> {
    let found = app.store.get(id).await?;
    Ok(found.map(|(session, _)| session).filter(|session| session.owner() == *owner))
}

/// Ends a session at its owner's word, however often it is said. `None`: there is no such session.
pub async fn release(app: &App, id: &SessionId, owner: &Owner) -> Result<Option<Session>, StoreError> {
    match app.store.end(id, EndedBy::Owner(owner), EndReason::Released, &app.limits, now_ms()).await? {
        Ended::Now(session) => {
            note_end(app, &session.id, EndReason::Released);
            close_soon(app).await;
            Ok(Some(session))
        }
        Ended::Already(session) => Ok(Some(session)),
        Ended::Requeued | Ended::Unknown => Ok(None),
    }
}

/// Ends what is due, closes the gateway's connections of what has ended, and forgets what has been kept long enough.
/// Returns how many sessions it ended.
pub async fn expire(app: &App) -> Result<usize, StoreError> {
    let mut count = 0;
    loop {
        let expired = app.store.expire(&app.limits, BATCH, now_ms()).await?;
        count += expired.len();
        for (id, reason) in &expired {
            note_end(app, id, *reason);
        }
        if (expired.len() as u64) < BATCH {
            break;
        }
    }
    while app.store.purge(BATCH, now_ms()).await? == BATCH {}
    close_ended(app).await?;
    Ok(count)
}

/// Hands no more work to a container that is about to end, whatever it holds. False: that was known.
pub async fn drain(app: &App, container: &ContainerId, why: &str) -> Result<bool, StoreError> {
    let drained = app.store.drain(container, None, &app.policy, now_ms()).await?;
    if drained {
        tracing::warn!(container.id = %container, why, "container is about to end and drains");
    }
    Ok(drained)
}

/// Gives up a container: ends what it ran, and requeues what nobody has reached yet. With
/// `silent_since_ms` only if it gave no sign of life after that. `why` is what is known of its end; `task` is its name
/// in the fleet, if the fleet has told it. False: there was nothing to give up.
pub async fn lose_container(
    app: &App,
    container: &ContainerId,
    why: &str,
    silent_since_ms: Option<u64>,
) -> Result<bool, StoreError> {
    let lost = app.store.lose_container(container, why, silent_since_ms, &app.limits, now_ms()).await?;
    let Lost::Now(sessions) = lost else { return Ok(false) };
    app.metrics.containers_lost.inc();
    tracing::warn!(container.id = %container, why, sessions = sessions.len(), "container lost");
    for (id, outcome) in sessions {
        match outcome {
            Outcome::Requeued => note_requeue(app, &id),
            Outcome::Ended(reason) => note_end(app, &id, reason),
        }
    }
    close_soon(app).await;
    Ok(true)
}

/// Ends a container that was given up, in case it only hangs: nobody else would.
pub async fn stop(app: &App, container: &ContainerId, task: Option<&str>, why: &str) {
    if let Err(error) = app.fleet.stop(container, task, why).await {
        tracing::error!(container.id = %container, error = %Causes(&error), "container could not be stopped");
    }
}

/// Gives up a server: the connections it carried are closed.
pub async fn lose_server(app: &App, server: &ServerId, silent_since_ms: Option<u64>) -> Result<(), StoreError> {
    while let Lost::Now(connections) = app.store.lose_server(server, silent_since_ms, BATCH, now_ms()).await? {
        if connections.is_empty() {
            tracing::warn!(server.id = %server, "server lost");
            break;
        }
        for (connection, session) in &connections {
            disconnect(app, connection, Some(session)).await?;
        }
    }
    Ok(())
}

/// Enters again what this server carries. Others have taken its connections out if they gave it up while it was only
/// out of reach, and would soon end their sessions under clients that never left.
pub async fn enter_again(app: &App) -> Result<(), StoreError> {
    let carried = app.carried.lock().expect("not poisoned").clone();
    tracing::warn!(connections = carried.len(), "this server was out of reach: its connections are entered again");
    for (connection, session) in carried {
        app.store.connect(&session, &connection, &app.server_id, now_ms()).await?;
        // Whoever left in between has been taken out, perhaps before this.
        if !app.carried.lock().expect("not poisoned").contains_key(&connection) {
            disconnect(app, &connection, Some(&session)).await?;
        }
    }
    Ok(())
}

/// This server is about to end, and its connections have: nobody needs to miss its heartbeat. One that is still
/// entered keeps the server's place, until others find it lost.
pub async fn sign_off(app: &App) -> Result<(), StoreError> {
    app.store.lose_server(&app.server_id, None, 1, now_ms()).await.map(drop)
}

/// A client's connection has ended. Returns the way to the container that must be told, if a gateway held it.
pub async fn disconnect(
    app: &App,
    connection: &ConnectionId,
    id: Option<&SessionId>,
) -> Result<Option<Route>, StoreError> {
    app.store.disconnect(connection, id, &app.limits, now_ms()).await
}

/// After an end, without letting it fail: what is not closed now the next look closes.
async fn close_soon(app: &App) {
    if let Err(error) = close_ended(app).await {
        tracing::warn!(error = %Causes(&error), "connections of ended sessions could not be closed");
    }
}

/// How long one request or look goes on closing: it may find what others could not close, and somebody waits for it.
const CLOSING: Duration = Duration::from_secs(5);

/// Closes the gateway's connections whose sessions have ended. What cannot be closed now stays noted, for the next
/// look.
async fn close_ended(app: &App) -> Result<(), StoreError> {
    let Some(push) = &app.push else { return Ok(()) };
    let deadline = Instant::now() + CLOSING;
    let (mut closed, mut enough) = (Vec::new(), false);
    loop {
        let closing = app.store.closing(&closed, BATCH).await?;
        if closing.is_empty() || enough {
            return Ok(());
        }
        closed.clear();
        for (connection, reason) in closing {
            enough |= Instant::now() >= deadline;
            if enough {
                break;
            }
            // A gateway closes without a reason of ours. This is how CDP itself says why nothing more will come.
            let (_, text) = reason.close_code();
            let detached = json!({ "method": "Inspector.detached", "params": { "reason": text } }).to_string();
            let told = push.send(&connection, &detached).await;
            let done = match told {
                Ok(Pushed::Gone) => Ok(()),
                Ok(Pushed::Sent) | Err(_) => push.close(&connection).await,
            };
            match done {
                Ok(()) => closed.push((connection, reason)),
                Err(error) => {
                    tracing::warn!(
                        connection.id = %connection, error = %Causes(&error), "a connection could not be closed"
                    );
                    // Of these the next look is the retry, and not the rest of this one.
                    enough = true;
                    break;
                }
            }
        }
    }
}

fn note_end(app: &App, id: &SessionId, reason: EndReason) {
    app.metrics.session_ended(reason);
    tracing::info!(session.id = %id, session.status = "ended", end.reason = %reason, "session ended");
}

fn note_requeue(app: &App, id: &SessionId) {
    app.metrics.sessions_requeued.inc();
    tracing::info!(session.id = %id, session.status = "pending", "session requeued");
}
