//! What the agent says to the control plane, and what each kind of answer means to it.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode};
use serde::Serialize;

use super::http;
use crate::ids::{ConnectionId, SessionId};
use crate::protocol::{
    ClaimRequest, ClaimResponse, ClaimedSession, DeliverRequest, DeliverResponse, EndedRequest, FileKind, FileRequest,
    FileResponse, GATEWAY_CALL_SECONDS, JoinRequest, JoinResponse, ReadyRequest, ReadyResponse,
};

/// What an answer may take beyond the wait that was asked for: a server may be starting.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// API Gateway itself gives up first: then it is known that the control plane has stopped trying.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(GATEWAY_CALL_SECONDS + 6);
const MAX_BACKOFF: Duration = Duration::from_secs(4);

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 401 or 403.
    #[error("the control plane refused the container's token ({0})")]
    Refused(StatusCode),
    /// 404, 409 or 410: it does not hold what the request is about.
    #[error("the control plane no longer holds it ({0})")]
    Gone(StatusCode),
    #[error("the control plane answered {0}")]
    Status(StatusCode),
    #[error("the control plane could not be reached")]
    Transport(#[from] reqwest::Error),
}

/// Clones share their connections.
#[derive(Clone)]
pub struct Api {
    client: Client,
    endpoint: String,
}

impl Api {
    /// # Errors
    /// When the token cannot be sent in a header, or TLS cannot be set up.
    pub fn new(endpoint: &str, token: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
        bearer.set_sensitive(true);
        let client = http::builder(endpoint).default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]));
        Ok(Self { client: client.build()?, endpoint: endpoint.trim_end_matches('/').to_owned() })
    }

    pub async fn join(&self, request: &JoinRequest) -> Result<JoinResponse, ApiError> {
        Ok(self.post("/containers", request, ANSWER_DEADLINE).await?.json().await?)
    }

    pub async fn claim(&self, claim: &ClaimRequest) -> Result<ClaimResponse, ApiError> {
        let deadline = Duration::from_secs(claim.wait_seconds) + ANSWER_DEADLINE;
        Ok(self.post("/sessions/claim", claim, deadline).await?.json().await?)
    }

    pub async fn ready(&self, session: &SessionId, report: &ReadyRequest) -> Result<ReadyResponse, ApiError> {
        Ok(self.post(&format!("/sessions/{session}/ready"), report, ANSWER_DEADLINE).await?.json().await?)
    }

    pub async fn ended(&self, session: &SessionId, report: &EndedRequest) -> Result<(), ApiError> {
        self.post(&format!("/sessions/{session}/ended"), report, ANSWER_DEADLINE).await.map(drop)
    }

    /// Where a file that a session leaves is to be written.
    pub async fn file_address(&self, claimed: &ClaimedSession, kind: FileKind) -> Result<String, ApiError> {
        let url = format!("{}/sessions/{}/files", self.endpoint, claimed.session_id);
        let token = claimed.files_token.as_ref().map_or("", |token| &token.0);
        let request = self.client.post(url).bearer_auth(token).json(&FileRequest { kind }).timeout(ANSWER_DEADLINE);
        let answer: FileResponse = successful(request.send().await?)?.json().await?;
        Ok(answer.url)
    }

    pub async fn deliver(
        &self,
        connection: &ConnectionId,
        messages: &DeliverRequest,
    ) -> Result<DeliverResponse, ApiError> {
        let path = format!("/connections/{}/messages", connection.in_path());
        Ok(self.post(&path, messages, DELIVERY_DEADLINE).await?.json().await?)
    }

    async fn post(&self, path: &str, body: &impl Serialize, deadline: Duration) -> Result<reqwest::Response, ApiError> {
        let url = format!("{}{path}", self.endpoint);
        successful(self.client.post(url).json(body).timeout(deadline).send().await?)
    }
}

fn successful(answer: reqwest::Response) -> Result<reqwest::Response, ApiError> {
    match answer.status() {
        status if status.is_success() => Ok(answer),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(ApiError::Refused(status)),
        status @ (StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::GONE) => Err(ApiError::Gone(status)),
        status => Err(ApiError::Status(status)),
    }
}

/// Waits that double up to a few seconds, each drawn from its upper half so that a fleet does not come back
/// in step.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn next_wait(&mut self) -> Duration {
        let longest = MAX_BACKOFF.min(Duration::from_millis(100) * 2u32.saturating_pow(self.failures.min(10)));
        self.failures = self.failures.saturating_add(1);
        let mut random = [0u8; 2];
        aws_lc_rs::rand::fill(&mut random).expect("the operating system has randomness");
        longest / 2 + longest.mul_f64(f64::from(u16::from_be_bytes(random)) / 65_535.0 / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_a_few_seconds() {
        let mut backoff = Backoff::default();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
        let waits: Vec<Duration> = (0..50).map(|_| backoff.next_wait()).collect();
        assert!(waits.iter().all(|&wait| wait <= MAX_BACKOFF));
        assert!(waits[10..].iter().all(|&wait| wait >= MAX_BACKOFF / 2));
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]), "without jitter a fleet comes back in step");
    }
}
