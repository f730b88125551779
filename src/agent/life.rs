//! One session's life in this container: its browser is found, announced, watched, killed and reported.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Agent;
use super::api::{ApiError, Backoff};
use super::browser::{Browser, LaunchError, Program};
use super::context;
use super::extensions::FetchError;
use super::filter::{Door, Filter};
use super::flags::needs_full_browser;
use super::gateway::Clients;
use super::held::{Seat, Stop, silenced, stopped};
use super::left::Left;
use super::logs::Logs;
use crate::browser_settings::BrowserSettings;
use crate::causes::Causes;
use crate::hex;
use crate::protocol::{ClaimedSession, EndedRequest, ReadyRequest};
use crate::session::EndReason;

/// The control plane ends a session on time; the agent only if nobody else did.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);
const LAUNCH_ATTEMPTS: u32 = 2;

/// Runs a claimed session until nothing is left of it and the control plane knows.
pub async fn live(agent: Arc<Agent>, claimed: ClaimedSession, mut seat: Seat, claimed_at: Instant) {
    let deadline = claimed_at + Duration::from_millis(claimed.remaining_ms) + DEADLINE_SLACK;
    let mut stop = seat.stop.clone();
    let over = async {
        tokio::select! {
            stop = stopped(&mut stop) => stop,
            () = sleep_until(deadline) => Stop::Reporting(EndReason::Timeout),
        }
    };
    tokio::pin!(over);

    let started = tokio::select! {
        browser = obtain(&agent, &claimed) => browser.ok_or(Stop::Reporting(EndReason::FailedToStart)),
        stop = &mut over => Err(stop),
    };
    let (how, gone) = match started {
        Ok(browser) => {
            seat.carries(browser.egress().carried());
            let secret = hex::random(32);
            let (session, endpoint, home) =
                (seat.session().clone(), browser.endpoint().clone(), browser.home().to_owned());
            let filter = Arc::new(Filter::new(home.clone(), browser.egress().clone()));
            let logs = Logs::of(&claimed.browser_settings);
            let door = Door { endpoint, filter, logs: logs.clone() };
            let downloads = browser.downloads().clone();
            let left = Left::new(claimed.clone(), home, downloads, logs, agent.api.clone(), agent.files.clone());
            let left = Arc::new(left);
            let clients =
                Clients::new(session.clone(), door.clone(), agent.api.clone(), agent.config.gateway_idle_beat);
            let open = agent.routes.open(session, secret.clone(), door, clients.clone(), Arc::clone(&left));
            let how = tokio::select! {
                stop = announce_and_watch(&agent, &seat, &browser, secret, &clients, claimed_at) => stop,
                stop = tell_of_refusal(&seat, &browser) => stop,
                stop = &mut over => stop,
            };
            context::leave(&agent, &claimed, &browser).await;
            // Killing Chrome closes its sockets; what it said before is still delivered.
            browser.stop().await;
            drop(open);
            // Once the end is reported nothing is delivered any more.
            clients.all_ended().await;
            (how, Some((browser, left)))
        }
        Err(how) => (how, None),
    };
    seat.started();
    agent.warm.look_again();
    if let Stop::Reporting(reason) = how {
        tracing::info!(session.id = %seat.session(), end.reason = %reason, "the session's browser is gone");
        report_end(&agent, &mut seat, reason).await;
        seat.reported();
    } else {
        tracing::info!(session.id = %seat.session(), "the session was ended by the control plane");
    }
    if let Some((browser, left)) = gone {
        // Nobody waits for it but a container that drains: the end is known, and the slot is needed for the room that the
        // files take.
        left.keep().await;
        browser.kill().await;
    }
    drop(seat);
    agent.warm.look_again();
}

/// A browser that answers, warm if one will do. `None` if none can be had; the log says why.
async fn obtain(agent: &Agent, claimed: &ClaimedSession) -> Option<Browser> {
    let session = &claimed.session_id;
    let settings = match BrowserSettings::parse(&claimed.browser_settings) {
        Ok(settings) => BrowserSettings { proxy_credentials: claimed.proxy_credentials.clone(), ..settings },
        Err(error) => {
            tracing::error!(session.id = %session, field = error.field, "a setting cannot be honoured");
            return None;
        }
    };
    if !settings.unknown.is_empty() {
        // Their names are the client's, too, and not for the log.
        tracing::info!(session.id = %session, settings = settings.unknown.len(), "settings nobody here knows");
    }
    if settings.fits_a_warm_browser()
        && let Some(browser) = agent.warm.take()
    {
        if browser.answers().await {
            return Some(browser);
        }
        tracing::warn!(session.id = %session, "a warm browser did not answer; another is launched");
    }
    let Some(program) = program(agent, &settings) else {
        tracing::error!(
            session.id = %session,
            "the session needs the whole browser, and only the headless shell is installed: \
             install chromium, or set CHROME_PATH"
        );
        return None;
    };
    for attempt in 1..=LAUNCH_ATTEMPTS {
        match launch(agent, &program, &settings, claimed).await {
            Ok(browser) => return Some(browser),
            Err(error) => log_launch_failure(session, attempt, &error),
        }
    }
    None
}

async fn launch(
    agent: &Agent,
    program: &Program,
    settings: &BrowserSettings,
    claimed: &ClaimedSession,
) -> Result<Browser, LaunchError> {
    let extension = match &claimed.extension {
        Some(wanted) => Some(agent.extensions.get(wanted).await?),
        None if settings.extension => return Err(FetchError::NoAddress.into()),
        None => None,
    };
    let profile = match &claimed.context {
        Some(left) => Some(context::fetch(agent, left).await?),
        None => None,
    };
    agent.launch(program, settings, extension, profile).await
}

fn program(agent: &Agent, settings: &BrowserSettings) -> Option<Program> {
    if needs_full_browser(settings) { agent.browsers.full_program() } else { Some(agent.browsers.default_program()) }
}

fn log_launch_failure(session: &crate::ids::SessionId, attempt: u32, error: &LaunchError) {
    tracing::error!(session.id = %session, attempt, error = %Causes(error), "the session's browser did not start");
}

/// Tells the control plane that the browser is there, and waits until it is not. How it ended is known from
/// its exit status: Chrome leaves with 0 when it was told to (`Browser.close`), and by a signal or with
/// another number when it crashed, was killed, or ran out of memory.
async fn announce_and_watch(
    agent: &Agent,
    seat: &Seat,
    browser: &Browser,
    cdp_secret: String,
    clients: &Clients,
    claimed_at: Instant,
) -> Stop {
    let exited = browser.exited();
    tokio::pin!(exited);
    let announced = async {
        let report = ReadyRequest { lease: seat.lease(), cdp_secret, version: browser.version().clone() };
        let mut backoff = Backoff::default();
        loop {
            match agent.api.ready(seat.session(), &report).await {
                Ok(answer) => return Some(answer.connections),
                Err(ApiError::Gone(_)) => return None,
                Err(error) => {
                    tracing::warn!(session.id = %seat.session(), error = %error, "ready could not be reported");
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    };
    tokio::select! {
        held = announced => match held {
            Some(waiting) => clients.welcome(waiting),
            None => return Stop::Silently,
        },
        status = &mut exited => return after_exit(status),
    }
    let duration_ms = u64::try_from(claimed_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(session.id = %seat.session(), duration_ms, "the session's browser is ready");
    seat.started();
    agent.warm.look_again();
    after_exit(exited.await)
}

/// Once, and it is no reason to stop.
async fn tell_of_refusal(seat: &Seat, browser: &Browser) -> Stop {
    browser.egress().refused().await;
    tracing::warn!(session.id = %seat.session(), "the session's proxy refuses its credentials");
    std::future::pending().await
}

fn after_exit(status: Option<std::process::ExitStatus>) -> Stop {
    Stop::Reporting(match status {
        Some(status) if status.success() => EndReason::Released,
        _ => EndReason::BrowserCrashed,
    })
}

/// Until it is acknowledged, or the control plane says by itself that the session is over.
async fn report_end(agent: &Agent, seat: &mut Seat, reason: EndReason) {
    let report = EndedRequest { lease: seat.lease(), reason };
    let mut stop = seat.stop.clone();
    let reported = async {
        let mut backoff = Backoff::default();
        loop {
            match agent.api.ended(seat.session(), &report).await {
                Ok(()) | Err(ApiError::Gone(_)) => return,
                Err(error) => {
                    tracing::warn!(session.id = %seat.session(), error = %error, "an end could not be reported");
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    };
    tokio::select! {
        () = reported => {}
        () = silenced(&mut stop) => {}
    }
}
