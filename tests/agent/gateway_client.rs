//! A gateway client, and the Lambdas that carry its messages to the container.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use wallcrawler::ids::{ConnectionId, SessionId};
use wallcrawler::protocol::{CDP_SECRET_HEADER, MESSAGE_ID_HEADER};

use crate::control_plane::ControlPlane;

pub struct GatewayClient {
    plane: ControlPlane,
    http: Client,
    url: String,
    secret: String,
    pub connection: ConnectionId,
    last_id: AtomicU64,
}

impl GatewayClient {
    /// As soon as the session is ready. Nothing has been sent for it.
    pub async fn of(plane: &ControlPlane, session: &SessionId, lease: u64) -> Self {
        Self::named(plane, session, lease, "L0SM9+Fv/cCIhw=".parse().expect("an id")).await
    }

    pub async fn named(plane: &ControlPlane, session: &SessionId, lease: u64, connection: ConnectionId) -> Self {
        let secret = plane.ready(session, lease).await.cdp_secret;
        let address = crate::address(plane);
        Self {
            plane: plane.clone(),
            http: Client::builder().no_proxy().build().expect("a client"),
            url: format!("http://{address}/sessions/{session}/connections/{}", connection.in_path()),
            secret,
            connection,
            last_id: AtomicU64::new(0),
        }
    }

    pub fn request(&self, method: Method, path: &str, secret: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).header(CDP_SECRET_HEADER, secret)
    }

    pub async fn open(&self) -> StatusCode {
        self.request(Method::PUT, "", &self.secret).send().await.expect("an answer").status()
    }

    pub async fn close(&self) -> StatusCode {
        self.request(Method::DELETE, "", &self.secret).send().await.expect("an answer").status()
    }

    pub fn message(&self, message_id: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(Method::POST, "/messages", &self.secret).header(MESSAGE_ID_HEADER, message_id).body(body)
    }

    /// A message without a name.
    pub fn nameless(&self, body: &str) -> RequestBuilder {
        self.request(Method::POST, "/messages", &self.secret).body(body.to_owned())
    }

    pub async fn bring(&self, message_id: &str, text: &str) -> StatusCode {
        self.message(message_id, text.to_owned()).send().await.expect("an answer").status()
    }

    /// The next command, with its number.
    pub fn command(&self, session: Option<&str>, method: &str, params: Value) -> (u64, String) {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        (id, command.to_string())
    }

    pub async fn bring_command(&self, (id, text): (u64, String)) {
        assert_eq!(self.bring(&format!("m{id}="), &text).await, StatusCode::ACCEPTED);
    }

    /// The whole answer to a command.
    pub async fn ask(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let command = self.command(session, method, params);
        let id = command.0;
        self.bring_command(command).await;
        self.got(&format!("no answer to {method}"), |message| message["id"] == id).await
    }

    pub async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut answer = self.ask(session, method, params).await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// A session with the only page.
    pub async fn attach(&self) -> String {
        let targets = self.call(None, "Target.getTargets", json!({})).await;
        let targets = targets["targetInfos"].as_array().expect("a list").clone();
        let page = targets.iter().find(|target| target["type"] == "page").expect("a page");
        let params = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", params).await;
        attached["sessionId"].as_str().expect("a session").to_owned()
    }

    pub async fn evaluate(&self, session: &str, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.call(Some(session), "Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{result}");
        result["result"]["value"].take()
    }

    /// The first message it got that is wanted.
    pub async fn got(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let find = |script: &crate::control_plane::Script| {
            script.deliveries.to(&self.connection).iter().find(|message| wanted(message)).cloned()
        };
        let show = |script: &crate::control_plane::Script| {
            let got = script.deliveries.to(&self.connection);
            let methods: Vec<String> = got
                .iter()
                .map(|message| message["method"].as_str().map_or_else(|| message["id"].to_string(), str::to_owned))
                .collect();
            (methods, script.deliveries.faults.clone(), script.ended.clone())
        };
        self.plane.until(what, find, show).await
    }

    /// How many messages it got that are wanted.
    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.plane.now(|script| script.deliveries.to(&self.connection).iter().filter(|m| wanted(m)).count())
    }

    /// That nothing was wrong with any delivery.
    pub fn assert_faultless(&self) {
        assert_eq!(self.plane.now(|script| script.deliveries.faults.clone()), [""; 0]);
    }
}

/// Long enough for what must not happen to happen.
pub const A_WHILE: Duration = Duration::from_millis(300);
