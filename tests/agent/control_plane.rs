//! The other side of the wire, scripted: hands out what a test queues, and writes down what it is told.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{post, put};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, oneshot};
use wallcrawler::clock::{now_ms, rfc3339};
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::{
    ClaimRequest, ClaimResponse, ClaimedSession, ContainerPhase, EndedRequest, FileKind, FileRequest, FileResponse,
    FilesToken, ReadyRequest, ReadyResponse, ReportResponse, WaitingConnection,
};

use crate::deliveries::{Deliveries, deliver};

pub const TOKEN: &str = "token-of-the-container";
pub const FILES_TOKEN: &str = "token-for-the-files-of-a-session";

#[derive(Default)]
pub struct Script {
    /// Handed out to the next claim that has room.
    pub queue: VecDeque<ClaimedSession>,
    pub end: Vec<SessionId>,
    pub drain: bool,
    /// Answers with this status instead, on every route.
    pub broken: Option<u16>,
    /// The next claim's answer is made and thrown away.
    pub lose_answer: bool,
    /// What was handed out and not reported as ended.
    pub held: Vec<ClaimedSession>,
    pub claims: Vec<ClaimRequest>,
    pub ready: Vec<(SessionId, ReadyRequest)>,
    pub ended: Vec<(SessionId, EndedRequest)>,
    pub refused: usize,
    /// Gateway clients that every `ready` is answered with.
    pub waiting: Vec<WaitingConnection>,
    pub deliveries: Deliveries,
    /// Whether there is nowhere to put files.
    pub no_storage: bool,
    /// What the storage fails to take.
    pub not_taken: Option<FileKind>,
    /// Of which files the address was asked for, and how often when the last end was reported.
    pub addresses: Vec<FileKind>,
    pub addresses_before_end: usize,
    /// The next downloads that are put to such an address wait for this.
    pub storage_waits_for: Option<oneshot::Receiver<()>>,
    /// What was put to such an address.
    pub stored: Vec<(SessionId, FileKind, Vec<u8>)>,
}

#[derive(Clone)]
pub struct ControlPlane {
    pub script: Arc<Mutex<Script>>,
    news: Arc<Notify>,
    pub endpoint: String,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let plane = Self { script: Arc::default(), news: Arc::default(), endpoint };
        let router = Router::new()
            .route("/sessions/claim", post(claim))
            .route("/sessions/{id}/ready", post(ready))
            .route("/sessions/{id}/ended", post(ended))
            .route("/connections/{id}/messages", post(deliver))
            .route("/sessions/{id}/files", post(address_file))
            .route("/storage/{id}/{kind}", put(store).layer(DefaultBodyLimit::disable()))
            .with_state(plane.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        plane
    }

    /// Changes the script and wakes the claims that wait.
    pub fn now<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let changed = change(&mut self.script.lock().expect("not poisoned"));
        self.news.notify_waiters();
        changed
    }

    pub fn hand_out(&self, settings: Value, lease: u64, remaining: Duration) -> SessionId {
        self.hand_out_as(SessionId::random(), settings, lease, remaining)
    }

    pub fn hand_out_as(&self, session: SessionId, settings: Value, lease: u64, remaining: Duration) -> SessionId {
        let Value::Object(browser_settings) = settings else { panic!("settings are an object") };
        let claimed = claimed(session.clone(), browser_settings, lease, remaining);
        self.now(|script| script.queue.push_back(claimed));
        session
    }

    /// With something of its own.
    pub fn hand_out_with(
        &self,
        settings: Value,
        lease: u64,
        remaining: Duration,
        change: impl FnOnce(&mut ClaimedSession),
    ) -> SessionId {
        let Value::Object(browser_settings) = settings else { panic!("settings are an object") };
        let mut claimed = claimed(SessionId::random(), browser_settings, lease, remaining);
        change(&mut claimed);
        let session = claimed.session_id.clone();
        self.now(|script| script.queue.push_back(claimed));
        session
    }

    /// Waits until `look` finds something, and says what was there when it never did.
    pub async fn until<T, D: Debug>(
        &self,
        what: &str,
        look: impl Fn(&Script) -> Option<T>,
        show: impl Fn(&Script) -> D,
    ) -> T {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(found) = look(&self.script.lock().expect("not poisoned")) {
                return found;
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                panic!("{what}; last seen: {:?}", show(&self.script.lock().expect("not poisoned")));
            }
        }
    }

    pub async fn ready(&self, session: &SessionId, lease: u64) -> ReadyRequest {
        let find = |script: &Script| {
            let mut reports = script.ready.iter();
            reports.find(|(id, report)| id == session && report.lease == lease).map(|(_, report)| report.clone())
        };
        self.until("the session never became ready", find, |script| script.ended.clone()).await
    }

    pub async fn ended(&self, session: &SessionId) -> EndedRequest {
        let find =
            |script: &Script| script.ended.iter().find(|(id, _)| id == session).map(|(_, report)| report.clone());
        self.until("the session's end was not reported", find, |script| script.ready.len()).await
    }

    /// The last of a session's files of that kind that was stored.
    pub async fn stored(&self, session: &SessionId, wanted: FileKind) -> Vec<u8> {
        let find = |script: &Script| {
            let mut stored = script.stored.iter();
            let found = stored.rfind(|(id, kind, _)| (id, *kind) == (session, wanted));
            found.map(|(_, _, content)| content.clone())
        };
        self.until("nothing was stored", find, |script| script.addresses.clone()).await
    }

    pub async fn claim_where(&self, what: &str, wanted: impl Fn(&ClaimRequest) -> bool) -> ClaimRequest {
        let find = |script: &Script| script.claims.iter().rev().find(|claim| wanted(claim)).cloned();
        self.until(what, find, |script| script.claims.last().cloned()).await
    }

    pub fn refuse(&self, headers: &HeaderMap) -> Option<StatusCode> {
        let authorized = headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"));
        self.now(|script| {
            let status = if authorized { script.broken } else { Some(401) };
            script.refused += usize::from(status.is_some());
            status.map(|status| StatusCode::from_u16(status).expect("a status"))
        })
    }
}

fn claimed(
    session_id: SessionId,
    browser_settings: Map<String, Value>,
    lease: u64,
    remaining: Duration,
) -> ClaimedSession {
    let remaining_ms = u64::try_from(remaining.as_millis()).expect("short");
    ClaimedSession {
        session_id,
        user_id: "usr_test".parse().expect("an id"),
        browser_settings,
        created_at: rfc3339(now_ms()),
        expires_at: rfc3339(now_ms() + remaining_ms),
        remaining_ms,
        keep_alive: false,
        context: None,
        lease,
        files_token: Some(FilesToken(FILES_TOKEN.into())),
        extension: None,
        proxy_credentials: None,
    }
}

type Answer<T> = Result<Json<T>, (StatusCode, Json<Value>)>;

fn refusal(status: StatusCode) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "statusCode": status.as_u16() })))
}

async fn claim(
    State(plane): State<ControlPlane>,
    headers: HeaderMap,
    Json(request): Json<ClaimRequest>,
) -> Answer<ClaimResponse> {
    if let Some(status) = plane.refuse(&headers) {
        return Err(refusal(status));
    }
    plane.now(|script| script.claims.push(request.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(request.wait_seconds);
    loop {
        let news = plane.news.notified();
        tokio::pin!(news);
        news.as_mut().enable();
        let late = tokio::time::Instant::now() >= deadline;
        let answer = {
            let mut script = plane.script.lock().expect("not poisoned");
            answer(&mut script, &request, late)
        };
        if let Some(answer) = answer {
            if plane.now(|script| std::mem::take(&mut script.lose_answer)) {
                return Err(refusal(StatusCode::BAD_GATEWAY));
            }
            return Ok(Json(answer));
        }
        let _ = tokio::time::timeout_at(deadline, news).await;
    }
}

fn answer(script: &mut Script, request: &ClaimRequest, late: bool) -> Option<ClaimResponse> {
    let ids = request.session_ids.clone().expect("the agent always sends them");
    // Handed out by an answer that never arrived.
    let mut sessions: Vec<ClaimedSession> =
        script.held.iter().filter(|held| !ids.contains(&held.session_id)).cloned().collect();
    let room = request.max_sessions.saturating_sub(request.current_sessions) as usize;
    while request.phase == ContainerPhase::Serving && sessions.len() < room {
        let Some(next) = script.queue.pop_front() else { break };
        script.held.push(next.clone());
        sessions.push(next);
    }
    let end: Vec<SessionId> = script.end.drain(..).collect();
    script.held.retain(|held| !end.contains(&held.session_id) || sessions.iter().any(|new| new.lease == held.lease));
    let something = !sessions.is_empty() || !end.is_empty() || script.drain;
    (something || late).then(|| ClaimResponse {
        success: true,
        claimed_count: sessions.len(),
        sessions,
        end,
        drain: script.drain,
    })
}

async fn ready(
    State(plane): State<ControlPlane>,
    Path(session): Path<SessionId>,
    headers: HeaderMap,
    Json(report): Json<ReadyRequest>,
) -> Answer<ReadyResponse> {
    if let Some(status) = plane.refuse(&headers) {
        return Err(refusal(status));
    }
    let connections = plane.now(|script| {
        script.ready.push((session, report));
        script.waiting.clone()
    });
    Ok(Json(ReadyResponse { success: true, connections }))
}

async fn ended(
    State(plane): State<ControlPlane>,
    Path(session): Path<SessionId>,
    headers: HeaderMap,
    Json(report): Json<EndedRequest>,
) -> Answer<ReportResponse> {
    if let Some(status) = plane.refuse(&headers) {
        return Err(refusal(status));
    }
    plane.now(|script| {
        script.held.retain(|held| held.session_id != session || held.lease != report.lease);
        script.ended.push((session, report));
        script.addresses_before_end = script.addresses.len();
    });
    Ok(Json(ReportResponse { success: true }))
}

async fn address_file(
    State(plane): State<ControlPlane>,
    Path(session): Path<SessionId>,
    headers: HeaderMap,
    Json(request): Json<FileRequest>,
) -> Answer<FileResponse> {
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {FILES_TOKEN}")) {
        return Err(refusal(StatusCode::UNAUTHORIZED));
    }
    let none = plane.now(|script| {
        script.addresses.push(request.kind);
        script.no_storage
    });
    if none {
        return Err(refusal(StatusCode::NOT_IMPLEMENTED));
    }
    let kind = match request.kind {
        FileKind::Downloads => "downloads",
        FileKind::Logs => "logs",
        FileKind::Context => return Err(refusal(StatusCode::BAD_REQUEST)),
    };
    let url = format!("{}/storage/{session}/{kind}", plane.endpoint);
    Ok(Json(FileResponse { url, expires_in_seconds: 60 }))
}

/// As a bucket does: with the length said beforehand, and nobody's token.
async fn store(
    State(plane): State<ControlPlane>,
    Path((session, kind)): Path<(SessionId, FileKind)>,
    headers: HeaderMap,
    content: Bytes,
) -> StatusCode {
    let is_its_type = headers.get("content-type").is_some_and(|value| value == kind.content_type());
    if headers.contains_key("authorization") || !headers.contains_key("content-length") || !is_its_type {
        return StatusCode::BAD_REQUEST;
    }
    if kind == FileKind::Downloads
        && let Some(let_through) = plane.now(|script| script.storage_waits_for.take())
    {
        let _ = let_through.await;
    }
    if plane.now(|script| script.not_taken == Some(kind)) {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    plane.now(|script| script.stored.push((session, kind, content.into())));
    StatusCode::OK
}
