//! What the control plane asks of a container about its sessions, their gateway clients and pages: plain HTTP on the
//! inside of the network, with the session's secret.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::ids::ConnectionId;
use crate::protocol::{CDP_SECRET_HEADER, MESSAGE_ID_HEADER, Page, PagesResponse, StoredResponse, UploadName};
use crate::session_log::MAX_ANSWERED_BYTES;
use crate::store::Route;

/// How long a container may take to answer: longer than it waits for its browser to take a connection or a message.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long it may take to say which pages a browser has: somebody waits for the answer, and asks again.
const PAGES_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to store files, or to take one: whoever asked has half a minute, and asks again.
const STORE_TIMEOUT: Duration = Duration::from_secs(20);
/// Of an answer that has a body.
const MAX_ANSWER: usize = 4 << 20;
const _: () = assert!(MAX_ANSWERED_BYTES <= MAX_ANSWER);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A container closes what was idle for long; and a function that was frozen must not trust what it held.
const IDLE: Duration = Duration::from_secs(20);

/// Keeps connections to containers open between requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContainerClient(Client<HttpConnector, Body>);

/// What a container said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    Done,
    /// It has closed that connection: the browser is done with it, or the client was found gone.
    Closed,
    /// It does not have that session.
    Elsewhere,
}

/// A container could not be asked, or is too busy.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("the container did not answer in time")]
    Late,
    #[error("the container cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the container answered {0}")]
    Status(StatusCode),
    #[error("the container's answer cannot be read")]
    Unreadable,
}

impl Default for ContainerClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self(Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector))
    }
}

impl ContainerClient {
    /// Has it open the connection's own way to the browser.
    pub async fn open(&self, route: &Route, connection: &ConnectionId) -> Result<Answered, ContainerError> {
        self.ask(Method::PUT, route, connection, "", Body::empty(), None).await
    }

    /// Brings it a message. The same message may be brought again: by its id it is known.
    pub async fn bring(
        &self,
        route: &Route,
        connection: &ConnectionId,
        message_id: &str,
        text: &str,
    ) -> Result<Answered, ContainerError> {
        let body = Body::from(text.to_owned());
        self.ask(Method::POST, route, connection, "/messages", body, Some(message_id)).await
    }

    /// Tells it that the client has gone.
    pub async fn close(&self, route: &Route, connection: &ConnectionId) -> Result<Answered, ContainerError> {
        self.ask(Method::DELETE, route, connection, "", Body::empty(), None).await
    }

    /// The pages of the session's browser, the one that was last active first.
    pub async fn pages(&self, route: &Route) -> Result<Vec<Page>, ContainerError> {
        let (_, body) = timeout(PAGES_TIMEOUT, self.read(route, "pages")).await.map_err(|_| ContainerError::Late)??;
        let answer: PagesResponse = serde_json::from_slice(&body).map_err(|_| ContainerError::Unreadable)?;
        Ok(answer.pages)
    }

    /// A file of the DevTools that its browser brings, with its type.
    pub async fn devtools_file(&self, route: &Route, path: &str) -> Result<(HeaderMap, Bytes), ContainerError> {
        timeout(ANSWER_TIMEOUT, self.read(route, &format!("devtools/{path}")))
            .await
            .map_err(|_| ContainerError::Late)?
    }

    /// Has it store what the session's browser has downloaded by now, and says how many files that is.
    pub async fn store_downloads(&self, route: &Route) -> Result<usize, ContainerError> {
        let asked = self.send(Method::POST, route, "downloads", Body::empty());
        let (_, body) = timeout(STORE_TIMEOUT, asked).await.map_err(|_| ContainerError::Late)??;
        let answer: StoredResponse = serde_json::from_slice(&body).map_err(|_| ContainerError::Unreadable)?;
        Ok(answer.files)
    }

    /// Has it forget them.
    pub async fn forget_downloads(&self, route: &Route) -> Result<(), ContainerError> {
        let asked = self.send(Method::DELETE, route, "downloads", Body::empty());
        timeout(STORE_TIMEOUT, asked).await.map_err(|_| ContainerError::Late)?.map(drop)
    }

    /// The session's log as it is by now: JSON.
    pub async fn log(&self, route: &Route) -> Result<Bytes, ContainerError> {
        let (_, body) = timeout(ANSWER_TIMEOUT, self.read(route, "logs")).await.map_err(|_| ContainerError::Late)??;
        Ok(body)
    }

    /// Gives the session a file.
    pub async fn upload(&self, route: &Route, name: &UploadName, content: Bytes) -> Result<(), ContainerError> {
        let what = format!("uploads/{}", in_path(name.as_str()));
        let asked = self.send(Method::PUT, route, &what, content.into());
        timeout(STORE_TIMEOUT, asked).await.map_err(|_| ContainerError::Late)?.map(drop)
    }

    async fn read(&self, route: &Route, what: &str) -> Result<(HeaderMap, Bytes), ContainerError> {
        self.send(Method::GET, route, what, Body::empty()).await
    }

    async fn send(
        &self,
        method: Method,
        route: &Route,
        what: &str,
        body: Body,
    ) -> Result<(HeaderMap, Bytes), ContainerError> {
        let unreachable = |error: Box<dyn std::error::Error + Send + Sync>| ContainerError::Unreachable(error);
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/sessions/{}/{what}", route.address, route.session))
            .header(CDP_SECRET_HEADER, &route.secret)
            .body(body)
            .map_err(|error| unreachable(error.into()))?;
        let answer = self.0.request(request).await.map_err(|error| unreachable(error.into()))?;
        if !answer.status().is_success() {
            return Err(ContainerError::Status(answer.status()));
        }
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(unreachable)?;
        Ok((parts.headers, body.to_bytes()))
    }

    async fn ask(
        &self,
        method: Method,
        route: &Route,
        connection: &ConnectionId,
        what: &str,
        body: Body,
        message_id: Option<&str>,
    ) -> Result<Answered, ContainerError> {
        let unreachable = |error: Box<dyn std::error::Error + Send + Sync>| ContainerError::Unreachable(error);
        let path = format!("/sessions/{}/connections/{}{what}", route.session, connection.in_path());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", route.address))
            .header(CDP_SECRET_HEADER, &route.secret)
            .body(body)
            .map_err(|error| unreachable(error.into()))?;
        if let Some(id) = message_id {
            let id = HeaderValue::from_str(id).map_err(|error| unreachable(error.into()))?;
            request.headers_mut().insert(HeaderName::from_static(MESSAGE_ID_HEADER), id);
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let answer = timeout(ANSWER_TIMEOUT, self.0.request(request)).await.map_err(|_| ContainerError::Late)?;
        match answer.map_err(|error| unreachable(error.into()))?.status() {
            status if status.is_success() => Ok(Answered::Done),
            StatusCode::GONE => Ok(Answered::Closed),
            StatusCode::NOT_FOUND => Ok(Answered::Elsewhere),
            status => Err(ContainerError::Status(status)),
        }
    }
}

/// As one part of a path, whatever it is.
fn in_path(name: &str) -> String {
    let mut text = String::with_capacity(3 * name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
