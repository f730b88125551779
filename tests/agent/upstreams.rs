//! The proxies of sessions and of their contexts, which the container speaks to in the browser's place.

use std::time::Duration;

use serde_json::{Value, json};
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::ProxyCredentials;

use crate::control_plane::{ControlPlane, Script};
use crate::egress::{NOWHERE, developers, evaluate, page_in_context, visit};
use crate::proxies::{http_proxy, site, socks_proxy};
use crate::{HOUR, connect};

#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_proxy_is_its_own_and_gets_what_its_bypass_list_leaves_it() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    let (site, _) = site().await;
    let ((http, by_http), (socks, by_socks)) = (http_proxy(None).await, socks_proxy(None).await);
    for (server, asked, shown, plain) in [
        (format!("http://127.0.0.1:{http}"), &by_http, "by proxy", "GET http://shop.example/cart"),
        (format!("http://four.example:{http}"), &by_http, "by proxy", "GET http://shop.example/cart"),
        (format!("socks5://four.example:{socks}"), &by_socks, "by SOCKS", "shop.example:80"),
    ] {
        let proxy = json!({ "server": server, "bypass": "six.example" });
        let session = plane.hand_out(json!({ "proxy": proxy }), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        let page = cdp.attach().await;
        assert_eq!(visit(&mut cdp, &page, "http://shop.example/cart").await, shown, "{server}");
        assert_eq!(asked.take(), [plain]);
        // One that is bypassed by its name, one that is by itself, several requests each.
        for url in [format!("http://six.example:{site}/"), format!("http://localhost:{site}/")] {
            for _ in 0..2 {
                assert_eq!(visit(&mut cdp, &page, &url).await, "the site", "{server} {url}");
            }
            let script = "Promise.all([1, 2, 3].map(n => fetch('/' + n).then(answer => answer.status)))";
            assert_eq!(evaluate(&mut cdp, &page, script).await, json!([200, 200, 200]));
        }
        assert_eq!(asked.take(), [] as [String; 0], "{server}");
        // Nobody need resolve these to know them.
        for closed in
            ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://[64:ff9b::a9fe:a9fe]/"]
        {
            let refused = visit(&mut cdp, &page, closed).await;
            assert!(refused == NOWHERE || refused.contains("wallcrawler: the cloud's"), "{refused}");
        }
        assert_eq!(asked.take(), [] as [String; 0], "{server}");
        // WebSockets and https: are tunnelled.
        evaluate(
            &mut cdp,
            &page,
            "new Promise(done => { new WebSocket('ws://feed.example/').onerror = () => done(1) })",
        )
        .await;
        visit(&mut cdp, &page, "https://safe.example/").await;
        let tunnels = asked.take().join(" ");
        assert!(tunnels.contains("feed.example:80") && tunnels.contains("safe.example:443"), "{tunnels}");

        let without = plane.hand_out(json!({}), 1, HOUR);
        let mut other = connect(&plane, &without, 1).await;
        let page = other.attach().await;
        assert_eq!(visit(&mut other, &page, &format!("http://four.example:{site}/")).await, "the site");
        assert_eq!(visit(&mut other, &page, "http://nobody.example/").await, NOWHERE);
        assert_eq!(asked.take(), [] as [String; 0]);
        for (cdp, session) in [(&mut cdp, session), (&mut other, without)] {
            cdp.send("Browser.close").await;
            plane.ended(&session).await;
        }
    }
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_has_a_proxy_of_its_own_and_the_others_do_not() {
    for browser in ["headless-shell", "chromium"] {
        let plane = ControlPlane::start().await;
        let container = developers(&plane).await;
        let (site, _) = site().await;
        let ((http, by_http), (socks, by_socks)) = (http_proxy(None).await, socks_proxy(None).await);
        let session = plane.hand_out(json!({ "browser": browser }), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        let first = cdp.attach().await;
        for (server, asked, shown, noted) in [
            (format!("http://127.0.0.1:{http}"), &by_http, "by proxy", "GET http://shop.example/"),
            (format!("four.example:{http}"), &by_http, "by proxy", "GET http://shop.example/"),
            (format!("socks5://127.0.0.1:{socks}"), &by_socks, "by SOCKS", "shop.example:80"),
            // Which resolves nothing: the address is what the name means here.
            (format!("socks4://127.0.0.1:{socks}"), &by_socks, "by SOCKS", "127.0.0.1:80"),
        ] {
            let params = json!({ "proxyServer": server, "proxyBypassList": "six.example" });
            let page = page_in_context(&mut cdp, params).await.expect("it is allowed");
            let name = if server.starts_with("socks4") { "four.example" } else { "shop.example" };
            asked.take();
            // The whole browser asks twice when it navigates ahead of itself.
            assert_eq!(visit(&mut cdp, &page, &format!("http://{name}/")).await, shown, "{server}");
            let took = asked.take();
            assert!(!took.is_empty() && took.iter().all(|took| took == noted), "{server} {took:?}");
            assert_eq!(visit(&mut cdp, &page, &format!("http://six.example:{site}/")).await, "the site");
            assert_eq!(visit(&mut cdp, &first, &format!("http://four.example:{site}/")).await, "the site");
            assert_eq!(asked.take(), [] as [String; 0], "{server}");
        }
        for (server, why) in [
            ("http://169.254.169.254", "the cloud's"),
            ("http=a.example:1;https=b.example:1", "name one"),
            ("http://user:secret@a.example:1", "Fetch.authRequired"),
        ] {
            let refusal = page_in_context(&mut cdp, json!({ "proxyServer": server })).await.expect_err(server);
            assert!(
                refusal.contains("Target.createBrowserContext is refused here") && refusal.contains(why),
                "{refusal}"
            );
        }
        container.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_question_for_credentials_gets_to_the_client_and_the_answer_to_the_proxy() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    // "user:secret"
    let (port, asked) = http_proxy(Some("dXNlcjpzZWNyZXQ=")).await;
    let session = plane.hand_out(json!({ "proxy": { "server": format!("http://127.0.0.1:{port}") } }), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    let page = cdp.attach().await;
    cdp.ask(Some(&page), "Fetch.enable", json!({ "handleAuthRequests": true })).await;
    for (url, noted) in
        [("http://shop.example/", "GET http://shop.example/"), ("https://safe.example/", "CONNECT safe.example:443")]
    {
        let go = json!({ "expression": format!("location.href = '{url}'; 1") });
        cdp.ask(Some(&page), "Runtime.evaluate", go).await;
        let paused = cdp.event("Fetch.requestPaused").await;
        let params = json!({ "requestId": paused["params"]["requestId"] });
        cdp.ask(Some(&page), "Fetch.continueRequest", params).await;
        if asked.take().is_empty() && url.starts_with("http:") {
            let question = cdp.event("Fetch.authRequired").await;
            assert_eq!(question["params"]["authChallenge"]["source"], "Proxy");
            let answer = json!({
                "requestId": question["params"]["requestId"],
                "authChallengeResponse": { "response": "ProvideCredentials", "username": "user", "password": "secret" },
            });
            cdp.ask(Some(&page), "Fetch.continueWithAuth", answer).await;
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let mut taken = asked.take();
        while taken.is_empty() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            taken = asked.take();
        }
        assert!(!taken.is_empty() && taken.iter().all(|taken| taken == noted), "{url} {taken:?}");
    }
    container.stop().await;
}

/// "user:secret"
const BASIC: &str = "dXNlcjpzZWNyZXQ=";

fn with_credentials(plane: &ControlPlane, settings: Value, password: &str) -> SessionId {
    let credentials = ProxyCredentials { username: "user".to_owned(), password: password.to_owned() };
    plane.hand_out_with(settings, 1, HOUR, |claimed| claimed.proxy_credentials = Some(credentials))
}

/// Fails without what `http::Request::for_proxy` adds, what it says of the connection's end, or `upstream::authenticate`.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_the_sessions_credentials_and_nobody_in_the_browser_is_asked() {
    for browser in ["headless-shell", "chromium"] {
        let plane = ControlPlane::start().await;
        let container = developers(&plane).await;
        let (site, _) = site().await;
        let ((http, by_http), (socks, by_socks)) =
            (http_proxy(Some(BASIC)).await, socks_proxy(Some(("user", "secret"))).await);
        for (server, asked, shown) in [
            (format!("http://127.0.0.1:{http}"), &by_http, "by proxy"),
            (format!("socks5://four.example:{socks}"), &by_socks, "by SOCKS"),
        ] {
            let proxy = json!({ "server": server, "bypass": "six.example" });
            let session = with_credentials(&plane, json!({ "browser": browser, "proxy": proxy }), "secret");
            let mut cdp = connect(&plane, &session, 1).await;
            let page = cdp.attach().await;
            // Several requests that would come on one connection, and one that goes on while it is answered.
            for _ in 0..3 {
                assert_eq!(visit(&mut cdp, &page, "http://shop.example/").await, shown, "{server}");
            }
            let script = "Promise.all([1, 2, 3].map(n => fetch('/' + n, { method: 'POST', body: 'x'.repeat(1e6) })\
                .then(answer => answer.text())))";
            assert_eq!(evaluate(&mut cdp, &page, script).await, json!([shown, shown, shown]));
            evaluate(&mut cdp, &page, "new Promise(done => { new WebSocket('ws://feed.example/').onerror = done })")
                .await;
            visit(&mut cdp, &page, "https://safe.example/").await;
            let took = asked.take().join(" ");
            for host in ["shop.example", "feed.example:80", "safe.example:443"] {
                assert!(took.contains(host), "{host}: {took}");
            }
            assert_eq!(visit(&mut cdp, &page, &format!("http://six.example:{site}/")).await, "the site");
            // The same proxy of a context is the same proxy.
            let params = json!({ "proxyServer": format!("{server}/"), "proxyBypassList": "a.example" });
            let again = page_in_context(&mut cdp, params).await.expect("it is allowed");
            assert_eq!(visit(&mut cdp, &again, "http://shop.example/").await, shown, "{server}");
            cdp.send("Browser.close").await;
            plane.ended(&session).await;
        }
        container.stop().await;
    }
}

/// Taken out: whose proxy it is, in `Egress::server`.
#[tokio::test(flavor = "multi_thread")]
async fn another_proxy_of_a_context_is_told_nothing() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    let (own, _) = http_proxy(Some(BASIC)).await;
    let proxy = json!({ "server": format!("http://127.0.0.1:{own}") });
    let session = with_credentials(&plane, json!({ "proxy": proxy }), "secret");
    let mut cdp = connect(&plane, &session, 1).await;
    let ((http, by_http), (socks, by_socks)) =
        (http_proxy(Some(BASIC)).await, socks_proxy(Some(("user", "secret"))).await);
    for (server, shown) in
        [(format!("http://127.0.0.1:{http}"), "who are you?"), (format!("socks5://127.0.0.1:{socks}"), NOWHERE)]
    {
        let page = page_in_context(&mut cdp, json!({ "proxyServer": server })).await.expect("it is allowed");
        assert_eq!(visit(&mut cdp, &page, "http://shop.example/").await, shown, "{server}");
    }
    assert_eq!((by_http.take(), by_socks.take()), (vec![], vec![]));
    container.stop().await;
}

/// Fails without `http::for_browser`: the client would be asked, and its answer never sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_the_credentials_is_a_page_that_does_not_load_and_no_question() {
    for browser in ["headless-shell", "chromium"] {
        let plane = ControlPlane::start().await;
        let container = developers(&plane).await;
        let ((http, by_http), (socks, by_socks)) =
            (http_proxy(Some(BASIC)).await, socks_proxy(Some(("user", "secret"))).await);
        for (server, asked, plain, safe) in [
            (format!("http://127.0.0.1:{http}"), &by_http, "who are you?", "net::ERR_PROXY_AUTH_UNSUPPORTED"),
            (format!("socks5://127.0.0.1:{socks}"), &by_socks, NOWHERE, NOWHERE),
        ] {
            let settings = json!({ "browser": browser, "proxy": { "server": server } });
            let session = with_credentials(&plane, settings, "a wrong one");
            let mut cdp = connect(&plane, &session, 1).await;
            let page = cdp.attach().await;
            for _ in 0..2 {
                for (url, shown) in [("http://shop.example/", plain), ("https://safe.example/", safe)] {
                    let went = tokio::time::timeout(Duration::from_secs(10), visit(&mut cdp, &page, url)).await;
                    assert_eq!(went.expect("nobody is asked"), shown, "{browser} {server}");
                }
            }
            // For one who would answer, too.
            cdp.ask(Some(&page), "Fetch.enable", json!({ "handleAuthRequests": true })).await;
            let go = json!({ "expression": "location.href = 'http://shop.example/'; 1" });
            cdp.ask(Some(&page), "Page.enable", json!({})).await;
            cdp.ask(Some(&page), "Runtime.evaluate", go).await;
            let paused = cdp.event("Fetch.requestPaused").await;
            let params = json!({ "requestId": paused["params"]["requestId"] });
            cdp.ask(Some(&page), "Fetch.continueRequest", params).await;
            let loaded = cdp.event("Page.frameStoppedLoading");
            tokio::time::timeout(Duration::from_secs(10), loaded).await.expect("nobody is asked");
            assert_eq!(asked.take(), [] as [String; 0], "{server}");
            cdp.send("Browser.close").await;
            plane.ended(&session).await;
        }
        container.stop().await;
    }
}

/// Taken out: what of a session that is gone is not told yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_through_proxies_is_told_while_a_session_lives_and_once_it_has_ended() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    let (site, _) = site().await;
    let ((http, _), (socks, _)) = (http_proxy(None).await, socks_proxy(None).await);
    let server = format!("http://127.0.0.1:{http}");
    let session = plane.hand_out(json!({ "proxy": { "server": server, "bypass": "six.example" } }), 1, HOUR);
    let told = |script: &Script| script.claims.iter().rev().find_map(|claim| claim.proxy_bytes.get(&session).copied());
    let mut cdp = connect(&plane, &session, 1).await;
    let page = cdp.attach().await;
    let post =
        |host: &str| format!("fetch('http://{host}/', {{ method: 'POST', body: 'x'.repeat(1e6) }}).then(() => 1)");
    assert_eq!(visit(&mut cdp, &page, "http://shop.example/").await, "by proxy");
    let visited = plane.until("nothing was told", told, told).await;
    assert!((100..100_000).contains(&visited), "{visited}");
    evaluate(&mut cdp, &page, &post("shop.example")).await;
    // What goes around the proxy is none of it.
    evaluate(&mut cdp, &page, &post(&format!("six.example:{site}"))).await;
    let posted = plane.until("what was posted", |script| told(script).filter(|bytes| *bytes > 1_000_000), told).await;
    assert!(posted < 1_100_000, "{posted}");
    let params = json!({ "proxyServer": format!("socks5://127.0.0.1:{socks}") });
    let other = page_in_context(&mut cdp, params).await.expect("it is allowed");
    assert_eq!(visit(&mut cdp, &other, "http://shop.example/").await, "by SOCKS");
    cdp.send("Browser.close").await;
    plane.ended(&session).await;
    plane.until("the last of it", |script| told(script).filter(|bytes| *bytes > posted), told).await;
    let known = |script: &Script| script.claims.last().filter(|claim| claim.proxy_bytes.is_empty()).map(|_| ());
    plane.until("it is told again and again", known, told).await;
    container.stop().await;
}
