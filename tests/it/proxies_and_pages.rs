//! What is in front of a server and what uses it from within a browser: which proxies are believed, and which pages may ask.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use wallcrawler::routes::router_with;

use crate::world::{Answer, World};

/// What a session's URL begins with that is created from there, with these headers.
async fn base(world: &World, peer: Option<&str>, headers: &[(&str, &str)]) -> String {
    let mut request = Request::post("/sessions").header("x-api-key", "key-one").header("host", "inside:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).expect("a request");
    if let Some(peer) = peer {
        let peer: SocketAddr = peer.parse().expect("an address");
        request.extensions_mut().insert(ConnectInfo(peer));
    }
    let answer = world.send(request).await;
    let url = answer.body["connectUrl"].as_str().unwrap_or_else(|| panic!("{answer:?}"));
    url.split("/cdp").next().expect("a base").to_owned()
}

#[tokio::test]
async fn a_proxy_is_believed_only_if_it_was_named() {
    let said = [("x-forwarded-proto", "https"), ("x-forwarded-host", "public.example.com")];
    let world = World::new(&[("TRUSTED_PROXIES", "10.0.0.0/8, ::1")]).await;
    for peer in ["10.1.2.3:5000", "[::1]:5000", "[::ffff:10.1.2.3]:5000"] {
        assert_eq!(base(&world, Some(peer), &said).await, "wss://public.example.com", "{peer}");
    }
    // Taken out: what is removed from requests of others in `believe_proxies`.
    for peer in ["203.0.113.1:5000", "127.0.0.1:5000", "[::2]:5000"] {
        assert_eq!(base(&world, Some(peer), &said).await, "ws://inside:8080", "{peer}");
    }
    let nobody = World::new(&[]).await;
    for peer in ["127.0.0.1:5000", "10.1.2.3:5000"] {
        assert_eq!(base(&nobody, Some(peer), &said).await, "ws://inside:8080", "{peer}");
    }
    // Of a gateway the scheme is its own word, and the rest is whatever its client says.
    assert_eq!(base(&nobody, None, &said).await, "wss://inside:8080");
    // What is no host is none.
    let strange = [("x-forwarded-proto", "javascript"), ("x-forwarded-host", "a b/c")];
    assert_eq!(base(&world, Some("10.1.2.3:5000"), &strange).await, "ws://127.0.0.1");
}

/// Taken out: that what others have written is removed.
#[tokio::test]
async fn behind_a_proxy_the_peer_is_who_asked_it() {
    let world = World::new(&[("TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    let peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>, headers: HeaderMap| {
        let said = headers.get_all("x-forwarded-for").iter().count();
        Json(json!([peer.ip(), said]))
    };
    let router = router_with(world.app.clone(), Router::new().route("/peer", get(peer)));
    for (peer, lists, client) in [
        ("10.0.0.1:1", vec!["203.0.113.7"], "203.0.113.7"),
        // What the client has written itself stands first.
        ("10.0.0.1:1", vec!["198.51.100.1, 203.0.113.7", "10.0.0.9"], "203.0.113.7"),
        ("10.0.0.1:1", vec![], "10.0.0.1"),
        ("10.0.0.1:1", vec!["hunter2"], "10.0.0.1"),
        ("203.0.113.9:1", vec!["198.51.100.1"], "203.0.113.9"),
    ] {
        let mut request = Request::get("/peer");
        for list in &lists {
            request = request.header("x-forwarded-for", *list);
        }
        let mut request = request.body(Body::empty()).expect("a request");
        request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().expect("an address")));
        let response = tower::ServiceExt::oneshot(router.clone(), request).await.expect("it answers");
        let said = if peer.starts_with("10.") { lists.len() } else { 0 };
        assert_eq!(crate::world::answer(response).await.body, json!([client, said]), "{peer}, {lists:?}");
    }
}

const PAGE: &str = "https://app.example.com";

async fn ask(world: &World, method: Method, path: &str, origin: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("origin", origin).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Body::empty()).expect("a request")).await
}

fn is_shared(answer: &Answer) -> bool {
    answer.headers.keys().any(|name| name.as_str().starts_with("access-control-"))
}

const PREFLIGHT: [(&str, &str); 2] = [
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "content-type,x-bb-api-key,x-stainless-retry-count"),
];

#[tokio::test]
async fn pages_of_named_origins_may_use_the_api_and_no_others() {
    let world = World::new(&[("CORS_ORIGINS", "https://app.example.com, http://localhost:3000")]).await;
    for origin in [PAGE, "http://localhost:3000"] {
        let may = ask(&world, Method::OPTIONS, "/v1/sessions", origin, &PREFLIGHT).await;
        assert_eq!(may.status, StatusCode::NO_CONTENT);
        assert_eq!(may.headers["access-control-allow-headers"], PREFLIGHT[1].1);
        let methods = may.headers["access-control-allow-methods"].to_str().expect("a text");
        assert!(["GET", "POST", "DELETE"].iter().all(|method| methods.contains(method)), "{methods}");
        let key = [("x-api-key", "key-one")];
        for (answer, status) in [
            (ask(&world, Method::POST, "/sessions", origin, &key).await, StatusCode::CREATED),
            (ask(&world, Method::GET, "/sessions", origin, &[]).await, StatusCode::UNAUTHORIZED),
            (ask(&world, Method::GET, "/nowhere", origin, &[]).await, StatusCode::NOT_FOUND),
            (may, StatusCode::NO_CONTENT),
        ] {
            assert_eq!(
                (answer.status, &answer.headers["access-control-allow-origin"]),
                (status, &origin.parse().expect("a header"))
            );
            assert_eq!(answer.headers["vary"], "origin");
            let exposed = answer.headers["access-control-expose-headers"].to_str().expect("a text");
            assert!(["x-request-id", "retry-after-ms"].iter().all(|name| exposed.contains(name)), "{exposed}");
            assert!(!answer.headers.contains_key("access-control-allow-credentials"), "no cookies are ours");
        }
    }
    // Taken out: the comparison with `cors_origins`.
    for origin in [
        "https://evil.example",
        "null",
        "",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://xapp.example.com",
        "HTTPS://APP.EXAMPLE.COM",
        "https://app.example.com, http://localhost:3000",
    ] {
        let may = ask(&world, Method::OPTIONS, "/sessions", origin, &PREFLIGHT).await;
        assert_eq!((may.status, is_shared(&may)), (StatusCode::METHOD_NOT_ALLOWED, false), "{origin}");
        let answer = ask(&world, Method::GET, "/sessions", origin, &[("x-api-key", "key-one")]).await;
        assert_eq!((answer.status, is_shared(&answer)), (StatusCode::OK, false), "{origin}");
        assert_eq!(answer.headers["vary"], "origin", "what a cache keeps for it is not for the others");
    }
}

#[tokio::test]
async fn unless_it_is_configured_no_page_may() {
    let world = World::new(&[]).await;
    for origin in [PAGE, "http://localhost:3000", "null"] {
        let may = ask(&world, Method::OPTIONS, "/sessions", origin, &PREFLIGHT).await;
        let answer = ask(&world, Method::GET, "/sessions", origin, &[("x-api-key", "key-one")]).await;
        assert_eq!((may.status, answer.status), (StatusCode::METHOD_NOT_ALLOWED, StatusCode::OK));
        assert!(!is_shared(&may) && !is_shared(&answer) && !answer.headers.contains_key("vary"));
    }
}

/// Everybody knows its key. Taken out: `only_this_machine`, and that it stands before the sharing.
#[tokio::test]
async fn a_development_server_serves_no_page_of_another_machine_whatever_is_configured() {
    let world = World::new(&[("API_KEYS", ""), ("CORS_ORIGINS", PAGE)]).await;
    for (method, headers) in [(Method::OPTIONS, &PREFLIGHT[..]), (Method::GET, &[("x-api-key", "wc_dev")])] {
        let answer = ask(&world, method, "/sessions", PAGE, headers).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::FORBIDDEN, &json!("origin_not_served")));
        assert!(!is_shared(&answer));
    }
    // A page that had its own name resolve to this machine can set any header but these.
    let world = World::new(&[("API_KEYS", ""), ("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let request = Request::get("/sessions").header("x-api-key", "wc_dev").header("host", "evil.example");
    let mut request = request.header("x-forwarded-host", "localhost").body(Body::empty()).expect("a request");
    request.extensions_mut().insert(ConnectInfo("127.0.0.1:5000".parse::<SocketAddr>().expect("an address")));
    assert_eq!(world.send(request).await.body["code"], "host_not_served");
}
