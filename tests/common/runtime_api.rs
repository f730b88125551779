//! What AWS runs beside a function: a Runtime API that hands it one event after the other, and takes its answers.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the function said: an answer, or that it failed.
type Said = Result<Value, Value>;

#[derive(Clone)]
pub struct RuntimeApi(Arc<Desk>);

struct Desk {
    events: mpsc::UnboundedSender<(u64, String)>,
    waiting: tokio::sync::Mutex<mpsc::UnboundedReceiver<(u64, String)>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Said>>>,
    count: AtomicU64,
    /// When the function first asked for an event: until then it was starting.
    first_next: watch::Sender<Option<Instant>>,
}

impl RuntimeApi {
    /// Begins to listen, and says where.
    pub async fn start() -> (Self, String) {
        let (events, waiting) = mpsc::unbounded_channel();
        let desk = Desk {
            events,
            waiting: waiting.into(),
            asked: Mutex::default(),
            count: AtomicU64::new(0),
            first_next: watch::Sender::default(),
        };
        let api = Self(Arc::new(desk));
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(api.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
        tokio::spawn(async move { serve.await.expect("serves") });
        (api, address)
    }

    /// Resolves when the function has asked for its first event.
    pub async fn first_next(&self) -> Instant {
        let mut first = self.0.first_next.subscribe();
        let first = tokio::time::timeout(PATIENCE, first.wait_for(Option::is_some)).await.expect("it starts in time");
        first.expect("the desk is open").expect("waited for")
    }

    pub async fn invoke(&self, event: &Value) -> Said {
        let id = self.0.count.fetch_add(1, Ordering::Relaxed);
        let (said, answer) = oneshot::channel();
        self.0.asked.lock().expect("not poisoned").insert(id, said);
        self.0.events.send((id, event.to_string())).expect("listening");
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").expect("an answer")
    }

    fn said(&self, id: u64, said: Said) -> StatusCode {
        let asked = self.0.asked.lock().expect("not poisoned").remove(&id).expect("it was asked");
        let _ = asked.send(said);
        StatusCode::ACCEPTED
    }
}

async fn next(State(api): State<RuntimeApi>) -> ([(HeaderName, String); 3], String) {
    api.0.first_next.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert_with(Instant::now);
        is_first
    });
    let (id, event) = api.0.waiting.lock().await.recv().await.expect("the desk is open");
    let deadline_ms = wallcrawler::clock::now_ms() + 30_000;
    let headers = [
        (HeaderName::from_static("lambda-runtime-aws-request-id"), id.to_string()),
        (HeaderName::from_static("lambda-runtime-deadline-ms"), deadline_ms.to_string()),
        (
            HeaderName::from_static("lambda-runtime-invoked-function-arn"),
            "arn:aws:lambda:eu-central-1:111122223333:function:wallcrawler".to_owned(),
        ),
    ];
    (headers, event)
}

async fn response(State(api): State<RuntimeApi>, Path(id): Path<u64>, body: String) -> StatusCode {
    api.said(id, Ok(serde_json::from_str(&body).expect("JSON")))
}

async fn error(State(api): State<RuntimeApi>, Path(id): Path<u64>, body: String) -> StatusCode {
    api.said(id, Err(serde_json::from_str(&body).expect("JSON")))
}

/// A program, as Lambda starts it.
pub fn bootstrap(program: impl AsRef<OsStr>, runtime_api: &str, vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
        .env("AWS_LAMBDA_FUNCTION_NAME", "wallcrawler")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("RUST_LOG", "warn")
        .envs(vars.iter().copied())
        .stdin(Stdio::null());
    command
}
