//! What a browser container and the control plane say to each other, and the limits both keep to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::ids::{ArchiveHash, ConnectionId, ContainerId, SessionId, UserId};
use crate::session::EndReason;
use crate::whole;

/// A container is lost when this many heartbeats in a row were missed.
pub const MISSED_HEARTBEATS: u64 = 3;
/// The longest a claim may wait at the server, in seconds. API Gateway cuts a request off at 29.
pub const MAX_CLAIM_WAIT_SECONDS: u64 = 20;
/// The most sessions one container may offer to run.
pub const MAX_SESSIONS_LIMIT: u32 = 1_000;
/// From 1 to 65535, as a pattern.
pub const PORT: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// In characters. AWS gives none that is longer.
pub const MAX_TASK_ARN: usize = 2_048;
/// The header in which the proxy shows a container the secret of the session it wants to reach.
pub const CDP_SECRET_HEADER: &str = "x-wallcrawler-cdp-secret";
/// The header that names a message of a gateway client, the same each time it is brought to the container.
pub const MESSAGE_ID_HEADER: &str = "x-wallcrawler-message-id";

/// How long API Gateway waits for an integration, in seconds.
pub const GATEWAY_CALL_SECONDS: u64 = 29;
/// The largest message API Gateway carries to or from a WebSocket client.
pub const GATEWAY_MESSAGE_BYTES: usize = 128 * 1024;
/// The largest frame it takes from one.
pub const GATEWAY_FRAME_BYTES: usize = 32 * 1024;
/// How many messages, and bytes of them, a container delivers to a gateway client by one request. Beyond the
/// first message: one that is large goes alone.
pub const BATCH_MESSAGES: usize = 100;
pub const BATCH_BYTES: usize = 512 * 1024;
/// How many messages, and bytes of them, are kept for the gateway clients of one session until it has a browser.
pub const HELD_MESSAGES: usize = 256;
pub const HELD_BYTES: usize = 1024 * 1024;

const _: () = assert!(MAX_CLAIM_WAIT_SECONDS < GATEWAY_CALL_SECONDS);
const _: () = assert!(GATEWAY_FRAME_BYTES < GATEWAY_MESSAGE_BYTES && GATEWAY_MESSAGE_BYTES < BATCH_BYTES);

/// Whether a container wants work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerPhase {
    /// Takes sessions while it has room.
    #[default]
    Serving,
    /// Takes no more, and finishes those it has.
    Draining,
    /// Has none left and is about to exit: forget it.
    Leaving,
}

/// `POST /containers`: a container that a service of ECS runs asks for a token of its own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// `task-` and its task's id.
    pub container_id: ContainerId,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinResponse {
    pub container_id: ContainerId,
    pub token: String,
}

/// `POST /sessions/claim`: asks for work, reports what runs, and is the heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRequest {
    pub container_id: ContainerId,
    /// How many sessions hold a slot there, those being shut down included.
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(max = MAX_SESSIONS_LIMIT))]
    pub current_sessions: u32,
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(min = 1, max = MAX_SESSIONS_LIMIT))]
    pub max_sessions: u32,
    /// `host:port` at which the proxy reaches this container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = format!(r"^[A-Za-z0-9._\[\]:-]+:{PORT}$")))]
    pub address: Option<String>,
    /// How long the server may hold the answer back until there is something to say (0..20).
    #[serde(default, deserialize_with = "whole::number")]
    #[schemars(range(max = MAX_CLAIM_WAIT_SECONDS))]
    pub wait_seconds: u64,
    /// The sessions the container holds. With it a claim can be repeated safely: what an earlier answer
    /// handed out and the container never got is handed out again, and what it runs without holding
    /// it any more comes back under `end`. A session stays listed until its end was reported, or asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_SESSIONS_LIMIT))]
    pub session_ids: Option<Vec<SessionId>>,
    /// How much went through the proxies of sessions, in bytes and both directions, since each was claimed: of those that
    /// the container holds, and of those that have ended since it last said so. What is said twice counts once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proxy_bytes: BTreeMap<SessionId, u64>,
    #[serde(default)]
    pub phase: ContainerPhase,
    /// Whether the control plane started this container (and so counts it against `MAX_CONTAINERS`).
    #[serde(default)]
    pub launched: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_TASK_ARN), regex(pattern = "^[!-~]*$"))]
    pub task_arn: Option<String>,
    /// A name of the process's own. Two that were given one container id are told apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9]{1,64}$"))]
    pub process: Option<String>,
    /// Whether this process has had no answer yet. Then it takes the place of another one of the same id, which is
    /// refused from then on.
    #[serde(default)]
    pub first: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResponse {
    pub success: bool,
    pub sessions: Vec<ClaimedSession>,
    pub claimed_count: usize,
    /// Sessions the container runs and no longer holds: kill their browsers.
    pub end: Vec<SessionId>,
    /// Take no more work; exit when the last session has ended.
    pub drain: bool,
}

/// A context, as the container of a session gets it.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedContext {
    /// Where it is read. There is nothing there if it is new. `None`: it cannot be had, and so neither can the session.
    pub url: Option<String>,
    /// Whether it is to be written when the session ends.
    pub persist: bool,
}

/// The address is good for whoever has it.
impl fmt::Debug for ClaimedContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimedContext").field("persist", &self.persist).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedSession {
    pub session_id: SessionId,
    pub user_id: UserId,
    pub browser_settings: Map<String, Value>,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: String,
    /// When the session's time is up, as a countdown: the two machines' clocks need not agree.
    pub remaining_ms: u64,
    pub keep_alive: bool,
    /// What its browser begins with, if not with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ClaimedContext>,
    /// Which claim of this session this is. A report that names an older one is about a browser that
    /// no longer counts.
    pub lease: u64,
    /// What its browser is started with, if `browserSettings.extensionId` names an extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<ClaimedExtension>,
    /// What the container shows at `POST /sessions/{id}/files`, for some minutes longer than the session lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_token: Option<FilesToken>,
    /// For the proxy that `browserSettings` names, if that asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_credentials: Option<ProxyCredentials>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct FilesToken(pub String);

impl fmt::Debug for FilesToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilesToken")
    }
}

/// What the proxy that a session is to use asks for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyCredentials {
    pub username: String,
    /// Empty if there is none.
    pub password: String,
}

impl fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyCredentials")
    }
}

/// What a session leaves that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// The profile that goes into its context.
    Context,
    /// A ZIP of what its browser has downloaded.
    Downloads,
    /// JSON: what was said between the browser and its clients.
    Logs,
}

impl FileKind {
    /// What whoever gets it may take it for.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Context => "application/octet-stream",
            Self::Downloads => "application/zip",
            Self::Logs => "application/json",
        }
    }
}

/// `POST /sessions/{id}/files`: where such a file is to be put. By the session's `filesToken`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub struct FileRequest {
    pub kind: FileKind,
}

/// Answer to `files`. The URL takes one `PUT` of the whole file, and no header of who asks.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileResponse {
    pub url: String,
    pub expires_in_seconds: u64,
}

/// Answer to the container's own `POST /sessions/{id}/downloads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResponse {
    /// How many files the session's browser has downloaded; if any, they are stored now.
    pub files: usize,
}

/// How long a container's token is good for. Its own routes are all it opens.
pub const CONTAINER_TOKEN_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// The largest file that a session is given, in bytes: it is held whole on its way. Through a function less comes: Lambda
/// carries 6 MB, base64 included.
pub const MAX_UPLOAD_BYTES: usize = 32 * 1024 * 1024;

/// What a file that a session is given is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UploadName(String);

impl UploadName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UploadName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = (1..=255).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
        if plain { Ok(Self(text)) } else { Err("not the name of a file: at most 255 bytes, without / and \\") }
    }
}

impl From<UploadName> for String {
    fn from(name: UploadName) -> Self {
        name.0
    }
}

/// The archive of an extension, for whoever is to load it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedExtension {
    pub sha256: ArchiveHash,
    /// Where it is read, for some minutes. Nothing: it cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Whoever has the address reads the archive.
impl fmt::Debug for ClaimedExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimedExtension").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

/// `POST /sessions/{id}/ready`: its browser answers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadyRequest {
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(max = whole::EXACT))]
    pub lease: u64,
    /// What the proxy must show (`CDP_SECRET_HEADER`) to reach this session's browser.
    #[schemars(length(min = 16, max = 256), regex(pattern = "^[!-~]*$"))]
    pub cdp_secret: String,
    /// Chrome's own `/json/version`, without its `webSocketDebuggerUrl`.
    #[serde(default)]
    pub version: Map<String, Value>,
}

/// `POST /sessions/{id}/ended`: its browser is gone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndedRequest {
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(max = whole::EXACT))]
    pub lease: u64,
    /// `released` (a client sent `Browser.close`), `browser_crashed`, `failed_to_start`, `timeout`, or
    /// `container_lost` (the container is being stopped).
    #[schemars(schema_with = "reportable")]
    pub reason: EndReason,
}

impl EndedRequest {
    /// The ends that a container can know of.
    pub const REASONS: [EndReason; 5] = [
        EndReason::Released,
        EndReason::BrowserCrashed,
        EndReason::FailedToStart,
        EndReason::Timeout,
        EndReason::ContainerLost,
    ];
}

fn reportable(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": EndedRequest::REASONS })
}

/// Answer to `ready`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadyResponse {
    pub success: bool,
    /// The gateway clients that came before the browser did. A repeated report gets the same ones again, with what
    /// they have sent since; `message_id` tells what is known already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<WaitingConnection>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingConnection {
    pub connection_id: ConnectionId,
    pub messages: Vec<HeldMessage>,
}

/// A message of a client, kept until its session had a browser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldMessage {
    pub message_id: String,
    pub text: String,
}

/// Answer to `GET /sessions/{id}/json/version`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiscoverResponse {
    /// As Chrome answers it: `Browser`, `Protocol-Version`, `User-Agent`, ..
    #[serde(flatten)]
    pub version: Map<String, Value>,
    /// Leads to the session's browser, through this service.
    pub web_socket_debugger_url: String,
}

/// Answer to the container's own `GET /sessions/{id}/pages`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct PagesResponse {
    pub pages: Vec<Page>,
}

/// A page of a session's browser. What it says of itself is its user's, and not for the log.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    pub id: PageId,
    pub url: String,
    pub title: String,
    /// Empty if none is known.
    pub favicon_url: String,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Chrome's name for a page: it can stand in a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageId(String);

impl JsonSchema for PageId {
    fn schema_name() -> Cow<'static, str> {
        "PageId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$" })
    }
}

impl PageId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PageId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if plain { Ok(Self(text)) } else { Err("not a valid page id") }
    }
}

impl From<PageId> for String {
    fn from(id: PageId) -> Self {
        id.0
    }
}

/// Answer to `ended`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportResponse {
    pub success: bool,
}

/// `POST /connections/{connectionId}/messages`: what the browser says to a gateway client. One request at a time for
/// each connection, so that it arrives in order.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliverRequest {
    /// How many messages of this connection came before these.
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(max = whole::EXACT))]
    pub first: u64,
    /// Whether the answer to an earlier request with some of these was lost: then it is looked up which of them
    /// have been delivered, so that none is delivered twice.
    #[serde(default)]
    pub again: bool,
    /// CDP messages as the browser sent them, each of at most 128 KiB.
    #[schemars(with = "Vec<Value>", length(max = BATCH_MESSAGES))]
    pub messages: Vec<Box<RawValue>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliverResponse {
    pub success: bool,
    /// How many of the request's messages are with the client now, from the first on. If not all: wait a little, and
    /// send the others again.
    pub delivered: usize,
}
