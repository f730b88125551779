//! The claim loop: one long-poll that asks for work, says what runs here, and is the heartbeat.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::api::{ApiError, Backoff};
use super::held::Stop;
use super::life::live;
use super::{Agent, AgentError};
use crate::causes::Causes;
use crate::protocol::{ClaimRequest, ClaimResponse, ContainerPhase, MAX_CLAIM_WAIT_SECONDS};
use crate::session::EndReason;

/// The control plane has long given the container up by then, and its sessions with it.
pub(super) const OUT_OF_CONTACT: Duration = Duration::from_secs(120);
/// Between an answer with nothing in it and the next claim: a server that does not wait must not be flooded.
const PACE: Duration = Duration::from_millis(250);
/// How long sessions that were given up may take to report their end and to store what they leave.
const LAST_FILES: Duration = Duration::from_secs(25);
/// How long whatever still hangs may take to end before the container leaves without it.
const LAST_ENDS: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(2);

/// Where a shutdown stands.
enum Shutdown {
    NotAsked,
    /// Running sessions may go on until then.
    Until(Instant),
    /// They have been killed; their reports are waited for until then.
    GivenUp(Instant),
}

pub struct ClaimLoop<S> {
    agent: Arc<Agent>,
    shutdown_asked: Pin<Box<S>>,
    shutdown: Shutdown,
    draining: bool,
    /// When it is too old to take more sessions.
    retires_at: Option<Instant>,
    lives: JoinSet<()>,
    backoff: Backoff,
    last_contact: Instant,
    /// Whether there was no answer yet.
    first: bool,
}

/// What ended a wait for an answer.
enum Event {
    Answer(Result<ClaimResponse, ApiError>, Instant),
    /// What the waiting claim says is no longer true: it must be said anew.
    News,
    GiveUp,
}

impl<S: Future<Output = ()>> ClaimLoop<S> {
    pub fn new(agent: Arc<Agent>, shutdown: S) -> Self {
        Self {
            retires_at: agent.config.retire_after.map(|age| Instant::now() + age),
            agent,
            shutdown_asked: Box::pin(shutdown),
            shutdown: Shutdown::NotAsked,
            draining: false,
            lives: JoinSet::new(),
            backoff: Backoff::default(),
            last_contact: Instant::now(),
            first: true,
        }
    }

    /// Runs until the container is drained and empty.
    ///
    /// # Errors
    /// When the control plane refuses the token or cannot be reached any more. All browsers have been
    /// killed then.
    pub async fn run(mut self) -> Result<(), AgentError> {
        let mut delay = Duration::ZERO;
        loop {
            if self.draining && self.agent.held.is_empty() {
                break;
            }
            match self.wait(delay).await {
                Event::GiveUp => break,
                Event::News if self.backoff.failures() == 0 => delay = Duration::ZERO,
                Event::News => {}
                Event::Answer(Ok(answer), asked_at) => {
                    self.backoff = Backoff::default();
                    self.last_contact = Instant::now();
                    self.first = false;
                    let idle = answer.sessions.is_empty() && answer.end.is_empty();
                    delay = if idle { PACE.saturating_sub(asked_at.elapsed()) } else { Duration::ZERO };
                    self.follow(answer);
                }
                Event::Answer(Err(ApiError::Refused(status)), _) => {
                    self.abandon_all().await;
                    return Err(AgentError::Refused(status.as_u16()));
                }
                Event::Answer(Err(ApiError::Gone(StatusCode::CONFLICT)), _) => {
                    self.abandon_all().await;
                    return Err(AgentError::Replaced);
                }
                Event::Answer(Err(error), _) => {
                    if self.last_contact.elapsed() >= OUT_OF_CONTACT {
                        self.abandon_all().await;
                        return Err(AgentError::OutOfContact(error));
                    }
                    // Not longer than the beat: after an outage silence is soon taken for death.
                    delay = self.backoff.next_wait().min(self.agent.config.heartbeat);
                    tracing::warn!(error = %Causes(&error), "a claim failed");
                }
            }
        }
        self.abandon_all().await;
        // Best effort: what is not said now, the missing heartbeat says later.
        let farewell = claim_request(&self.agent, ContainerPhase::Leaving, 0, false);
        let _ = timeout(FAREWELL, self.agent.api.claim(&farewell)).await;
        Ok(())
    }

    /// Claims, after `delay`, and waits for the answer or for a reason not to wait for it any longer.
    async fn wait(&mut self, delay: Duration) -> Event {
        let agent = Arc::clone(&self.agent);
        let phase = if self.draining { ContainerPhase::Draining } else { ContainerPhase::Serving };
        let was_full = agent.held.free_slots() == 0;
        let first = self.first;
        let mut changes = agent.held.changes();
        let claim = async {
            sleep(delay).await;
            let asked_at = Instant::now();
            let wait_seconds = agent.config.heartbeat.as_secs().clamp(1, MAX_CLAIM_WAIT_SECONDS);
            let request = claim_request(&agent, phase, wait_seconds, first);
            let answer = agent.api.claim(&request).await;
            if answer.is_ok() {
                agent.held.told(&request.proxy_bytes);
            }
            (answer, asked_at)
        };
        tokio::pin!(claim);
        loop {
            let (asked, due) = match self.shutdown {
                Shutdown::NotAsked => (false, None),
                Shutdown::Until(due) | Shutdown::GivenUp(due) => (true, Some(due)),
            };
            tokio::select! {
                (answer, asked_at) = &mut claim => return Event::Answer(answer, asked_at),
                () = &mut self.shutdown_asked, if !asked => {
                    self.shutdown = Shutdown::Until(Instant::now() + agent.config.drain_timeout);
                    self.drain("the container is being stopped");
                    return Event::News;
                }
                () = at(self.retires_at), if !self.draining => {
                    self.drain("it has run for nearly as long as its token is good");
                    return Event::News;
                }
                () = at(due) => {
                    if matches!(self.shutdown, Shutdown::GivenUp(_)) {
                        return Event::GiveUp;
                    }
                    tracing::warn!(sessions = agent.held.len(), "the time to drain is over");
                    agent.held.stop_all(Stop::Reporting(EndReason::ContainerLost));
                    self.shutdown = Shutdown::GivenUp(Instant::now() + LAST_FILES);
                }
                Ok(()) = changes.changed() => {
                    let room_again = was_full && agent.held.free_slots() > 0 && !self.draining;
                    if room_again || (self.draining && agent.held.is_empty()) {
                        return Event::News;
                    }
                }
                Some(ended) = self.lives.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        tracing::error!("a session's task panicked");
                    }
                }
            }
        }
    }

    /// Ends come first: the same session may be in both lists, with a newer lease.
    fn follow(&mut self, answer: ClaimResponse) {
        for session in &answer.end {
            if self.agent.held.stop(session, Stop::Silently) {
                tracing::info!(session.id = %session, "the control plane ends a session");
            }
        }
        let claimed_at = Instant::now();
        for claimed in answer.sessions {
            // Also while draining: what was handed out is this container's to serve.
            let Some(seat) = self.agent.held.seat(&claimed.session_id, claimed.lease) else { continue };
            tracing::info!(session.id = %claimed.session_id, lease = claimed.lease, "a session was claimed");
            self.lives.spawn(live(Arc::clone(&self.agent), claimed, seat, claimed_at));
        }
        if answer.drain {
            self.drain("the control plane asks for it");
        }
    }

    fn drain(&mut self, why: &str) {
        if !self.draining {
            self.draining = true;
            self.agent.start_draining();
            tracing::info!(container.id = %self.agent.id, why, "draining");
        }
    }

    /// Kills every browser without a word, and waits until they are gone.
    async fn abandon_all(&mut self) {
        self.agent.start_draining();
        self.agent.held.stop_all(Stop::Silently);
        let all_gone = async { while self.lives.join_next().await.is_some() {} };
        if timeout(LAST_ENDS, all_gone).await.is_err() {
            self.lives.abort_all();
        }
    }
}

/// Never, if there is no such moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn claim_request(agent: &Agent, phase: ContainerPhase, wait_seconds: u64, first: bool) -> ClaimRequest {
    ClaimRequest {
        container_id: agent.id.clone(),
        current_sessions: u32::try_from(agent.held.len()).unwrap_or(u32::MAX),
        max_sessions: agent.config.max_sessions,
        address: Some(agent.address.clone()),
        wait_seconds,
        session_ids: Some(agent.held.session_ids()),
        proxy_bytes: agent.held.proxy_bytes(),
        phase,
        launched: agent.config.launched,
        task_arn: agent.task_arn.clone(),
        process: Some(agent.process.clone()),
        first,
    }
}
