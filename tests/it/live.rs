//! Where a session can be watched: what the API answers, and whom the addresses let in. What a viewer may do in a page is
//! the container's to say: `tests/agent/live.rs`.

use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wallcrawler::clock::now_ms;
use wallcrawler::native::{ServeOptions, serve};
use wallcrawler::tokens::{Subject, Tokens};

use crate::audit::Contents;
use crate::keys::record;
use crate::round_trips::cost;
use crate::world::{Answer, SECRET, World};

const CDP_SECRET: &str = "0123456789abcdef";

/// A container that says which pages a session has, to those who show the session's secret.
struct Container {
    address: String,
    serving: JoinHandle<()>,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Container {
    async fn start() -> Self {
        let pages = async |headers: HeaderMap| {
            if headers.get("x-wallcrawler-cdp-secret").is_none_or(|secret| secret != CDP_SECRET) {
                return Err(StatusCode::NOT_FOUND);
            }
            let page = |id: &str| json!({"id": id, "url": "https://example.com/", "title": "Title", "faviconUrl": ""});
            Ok(Json(json!({"pages": [page("AA"), page("BB")]})))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let router = Router::new().route("/sessions/{id}/pages", get(pages));
        let serving = tokio::spawn(async move {
            serve(listener, router, ServeOptions::default(), std::future::pending()).await.expect("serves");
        });
        Self { address, serving }
    }

    /// A session that has its browser there.
    async fn session(&self, world: &World) -> String {
        let id = world.client("key-one").create().await;
        let claim = json!({
            "containerId": "ctr-a", "currentSessions": 0, "maxSessions": 9, "sessionIds": [], "address": self.address,
        });
        let container = world.container("ctr-a");
        assert_eq!(container.post("/sessions/claim", &claim).await.body["claimedCount"], 1);
        let report = json!({"lease": 1, "cdpSecret": CDP_SECRET});
        assert_eq!(container.post(&format!("/sessions/{id}/ready"), &report).await.body["success"], true);
        id
    }
}

async fn debug(world: &World, id: &str, query: &str) -> Answer {
    world.client("key-one").get(&format!("/v1/sessions/{id}/debug{query}")).await
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect("a text")
}

/// What the tokens in an answer allow, each of them.
fn subjects(body: &Value) -> Vec<Subject> {
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let answer = body.to_string();
    let texts = answer.split(['/', '=', '&', '"', '?', '%']).filter(|text| text.starts_with("eyJ"));
    texts.map(|token| tokens.verify(token, now_ms()).expect("one of ours")).collect()
}

#[tokio::test]
async fn each_page_has_addresses_of_its_own_that_only_show_it() {
    let (world, container) = (World::new(&[("CDP_ENDPOINT", "cdp.example.com")]).await, Container::start().await);
    let id = container.session(&world).await;
    let answer = debug(&world, &id, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.body;
    let at = format!("https://cdp.example.com/sessions/{id}/live?token=");
    assert!(text(&body, "debuggerFullscreenUrl").starts_with(&at), "{body}");
    assert!(text(&body, "debuggerUrl").ends_with("&navbar=true"), "{body}");
    assert!(text(&body, "wsUrl").starts_with(&format!("wss://cdp.example.com/sessions/{id}/live/ws?token=")), "{body}");
    let pages = body["pages"].as_array().expect("pages");
    for (page, name) in pages.iter().zip(["AA", "BB"]) {
        assert_eq!((text(page, "id"), text(page, "title"), text(page, "faviconUrl")), (name, "Title", ""));
        let url = text(page, "debuggerFullscreenUrl");
        assert!(url.starts_with(&at) && url.ends_with(&format!("&page={name}")), "{url}");
    }
    // Guards: `debug_session` minting what `interactive` does.
    let subjects = subjects(&body);
    assert_eq!(subjects.len(), 7);
    assert!(subjects.iter().all(|subject| matches!(subject, Subject::View { .. })), "{subjects:?}");
}

#[tokio::test]
async fn an_owner_who_asks_for_it_gets_addresses_that_drive() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let id = container.session(&world).await;
    let body = debug(&world, &id, "?interactive=true").await.body;
    assert!(subjects(&body).iter().all(|subject| matches!(subject, Subject::Connect { .. })));
    let devtools = text(&body["pages"][1], "debuggerUrl");
    assert!(devtools.starts_with(&format!("http://localhost/sessions/{id}/devtools/")), "{devtools}");
    assert!(devtools.contains("/inspector.html?ws=localhost/sessions/") && devtools.ends_with("%26page%3DBB"));
    assert!(text(&body, "wsUrl").starts_with("ws://localhost/cdp?sessionId="), "{body}");
}

#[tokio::test]
async fn all_keys_of_a_project_get_links_to_its_sessions_and_others_do_not() {
    let keys = json!([
        record("key-one", &json!({"userId": "alice", "projectId": "shop"})),
        record("key-two", &json!({"userId": "bob", "projectId": "shop"})),
        record("key-three", &json!({"userId": "alice", "projectId": "lab"})),
        record("key-four", &json!({"userId": "alice"})),
    ]);
    let (world, container) = (World::new(&[("API_KEYS", &keys.to_string())]).await, Container::start().await);
    let id = container.session(&world).await;
    let debug = format!("/v1/sessions/{id}/debug");
    for key in ["key-one", "key-two"] {
        let answer = world.client(key).get(&debug).await;
        assert_eq!(answer.status, StatusCode::OK, "{key}: {answer:?}");
        let token = text(&answer.body, "wsUrl").split("token=").nth(1).expect("a token").to_owned();
        let pages = world.client("").get(&format!("/sessions/{id}/live/pages?token={token}")).await;
        assert_eq!(pages.status, StatusCode::OK, "the link of {key} leads there: {pages:?}");
    }
    for key in ["key-three", "key-four"] {
        let answer = world.client(key).get(&debug).await;
        // Taken out: `view.owner == owner` in `debug_session`.
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (StatusCode::NOT_FOUND, &json!("session_not_found")),
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_link_is_good_no_longer_than_was_asked_for_and_never_longer_than_the_session() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let id = container.session(&world).await;
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    for (query, seconds) in [("?expiresIn=60", 60), ("?expiresIn=21600", 3_600), ("", 3_600)] {
        let body = debug(&world, &id, query).await.body;
        let token = text(&body, "wsUrl").split("token=").nth(1).expect("a token").to_owned();
        let (_, until_ms) = tokens.verify_until(&token, now_ms()).expect("one of ours");
        let left = until_ms.saturating_sub(now_ms()) as f64 / 1_000.0;
        assert!((left - f64::from(seconds)).abs() < 5.0, "{query}: {left}");
    }
    for query in ["?expiresIn=0", "?expiresIn=21601", "?expiresIn=-1", "?expiresIn=a", "?interactive=perhaps"] {
        assert_eq!(debug(&world, &id, query).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_session_without_a_browser_is_refused_for_what_it_is() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let waiting = world.client("key-one").create().await;
    let answer = debug(&world, &waiting, "").await;
    assert_eq!((answer.status, text(&answer.body, "code")), (StatusCode::CONFLICT, "session_not_ready"));
    // The SDKs ask again by themselves, then.
    assert!(answer.headers.contains_key("retry-after-ms") && !answer.headers.contains_key("x-should-retry"));
    world.client("key-one").delete(&format!("/sessions/{waiting}")).await;
    let answer = debug(&world, &waiting, "").await;
    assert_eq!((answer.status, text(&answer.body, "code")), (StatusCode::GONE, "session_ended"));
    let id = container.session(&world).await;
    for unknown in ["nothing", "ses_00000000000000000000000000"] {
        assert_eq!(text(&debug(&world, unknown, "").await.body, "code"), "session_not_found");
    }
    let strangers = world.client("key-two").get(&format!("/v1/sessions/{id}/debug")).await;
    assert_eq!((strangers.status, text(&strangers.body, "code")), (StatusCode::NOT_FOUND, "session_not_found"));
    drop(container);
    let answer = debug(&world, &id, "").await;
    assert_eq!((answer.status, text(&answer.body, "code")), (StatusCode::SERVICE_UNAVAILABLE, "browser_unreachable"));
}

#[tokio::test]
async fn where_only_a_gateway_holds_sockets_the_missing_setting_is_named() {
    let world = World::new(&[("WEBSOCKET_API_ID", "abc123"), ("AWS_REGION", "eu-west-1")]).await;
    let container = Container::start().await;
    let id = container.session(&world).await;
    let answer = debug(&world, &id, "").await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{answer:?}");
    let message = text(&answer.body, "message");
    assert!(message.contains("CDP_ENDPOINT") && message.contains("ALB_DNS_NAME"), "{message}");
    assert_eq!(answer.headers["x-should-retry"], "false");
}

#[tokio::test]
async fn to_look_costs_one_round_trip_and_leaves_no_trace_in_redis() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let id = container.session(&world).await;
    let redis = world.redis.client().await;
    let before = Contents::read(&redis).await;
    // The first one brings the script.
    debug(&world, &id, "").await;
    let (reads, answer) = cost(&redis, debug(&world, &id, "")).await;
    assert_eq!((reads, answer.status), (1, StatusCode::OK));
    let token = text(&answer.body, "wsUrl").split("token=").nth(1).expect("a token").to_owned();
    let list = format!("/sessions/{id}/live/pages?token={token}");
    let (reads, answer) = cost(&redis, world.client("").get(&list)).await;
    assert_eq!((reads, answer.status, answer.body["pages"].as_array().map(Vec::len)), (1, StatusCode::OK, Some(2)));
    // Guards: an entry of the connection, and `lastActivity`, which a client's connection would move.
    let after = Contents::read(&redis).await;
    assert_eq!(before.hashes, after.hashes);
    after.check();
}

#[tokio::test]
async fn who_may_only_watch_is_let_in_nowhere_else_and_no_other_token_is_let_in_to_watch() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, other) = (container.session(&world).await, world.client("key-one").create().await);
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let user = match &subjects(&debug(&world, &id, "").await.body)[0] {
        Subject::View { user, .. } => user.clone(),
        other => panic!("{other:?}"),
    };
    let mint = |subject: &Subject, for_ms: u64| tokens.mint(subject, now_ms(), now_ms() + for_ms);
    let session = id.parse().expect("an id");
    let view = mint(&Subject::View { session, user: user.clone() }, 60_000);
    let get = async |path: String| world.client("").get(&path).await;
    for path in [
        format!("/cdp?sessionId={id}&token={view}"),
        format!("/sessions/{id}/ws?token={view}"),
        format!("/sessions/{id}/json/version?token={view}"),
        format!("/sessions/{id}/devtools/{view}/inspector.html"),
    ] {
        let answer = get(path).await;
        assert_eq!((answer.status, text(&answer.body, "code")), (StatusCode::UNAUTHORIZED, "invalid_token"));
    }
    let container_token = mint(&Subject::Container("ctr-a".parse().expect("an id")), 60_000);
    for path in ["live", "live/pages", "live/ws"] {
        for (session, token, code) in [
            (&other, view.as_str(), "session_not_found"),
            (&id, &container_token, "invalid_token"),
            (&id, "none", "invalid_token"),
        ] {
            let answer = get(format!("/sessions/{session}/{path}?token={token}")).await;
            assert_eq!(text(&answer.body, "code"), code, "{path}");
        }
        assert_eq!(text(&get(format!("/sessions/{id}/{path}")).await.body, "code"), "missing_token");
    }
    // A session of that id that is somebody else's.
    let stranger = Subject::View { session: id.parse().expect("an id"), user: "usr_x".parse().expect("an id") };
    let answer = get(format!("/sessions/{id}/live/pages?token={}", mint(&stranger, 60_000))).await;
    assert_eq!(text(&answer.body, "code"), "session_not_found");
    for page in ["..%2f..%2fcdp", "", "a%3fb"] {
        let answer = get(format!("/sessions/{id}/live/ws?token={view}&page={page}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{page}");
    }
}

#[tokio::test]
async fn the_page_that_shows_it_can_be_embedded_and_nothing_runs_in_it_but_what_is_in_it() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let id = container.session(&world).await;
    let body = debug(&world, &id, "").await.body;
    let url = text(&body, "debuggerFullscreenUrl").strip_prefix("http://localhost").expect("of this server").to_owned();
    let request = axum::http::Request::get(url).header("host", "localhost").body(axum::body::Body::empty());
    let response =
        tower::ServiceExt::oneshot(world.router.clone(), request.expect("a request")).await.expect("answered");
    let headers = response.headers().clone();
    let policy = headers["content-security-policy"].to_str().expect("a text").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && policy.contains("frame-ancestors *"));
    assert!(!policy.contains("unsafe") && !headers.contains_key("x-frame-options"));
    assert_eq!(headers["referrer-policy"], "no-referrer");
    assert_eq!(headers["cache-control"], "no-store");
    let html = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let html = String::from_utf8(html.to_vec()).expect("a text");
    assert!(html.contains(r#"data-mode="watch""#) && !html.contains("{script}") && !html.contains("eyJ"));
    for outside in ["http://", "https://", "//cdn"] {
        assert!(!html.replace("`http", "").contains(outside), "{outside}");
    }
}
