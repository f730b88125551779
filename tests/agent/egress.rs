//! What pages reach, and through whom. Names that mean this machine are made up by the test's own resolver.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use wallcrawler::agent::{AgentConfig, Resolver};

use crate::container::{Cdp, Container, command_line, config};
use crate::control_plane::ControlPlane;
use crate::proxies::{Asked, site};
use crate::{HOUR, address, connect, task_metadata};

/// What anybody's DNS may say.
fn resolver() -> Resolver {
    Resolver::with(|name| {
        let addresses: &[&str] = match name {
            "four.example" => &["127.0.0.1"],
            "six.example" => &["::1"],
            "mapped.example" => &["::ffff:127.0.0.1"],
            "both.example" => &["192.0.2.1", "127.0.0.1"],
            "nobody.example" => &[],
            _ => return None,
        };
        Some(addresses.iter().map(|address| address.parse::<IpAddr>().expect("an address")).collect())
    })
}

pub async fn developers(plane: &ControlPlane) -> Container {
    Container::start(AgentConfig { resolver: resolver(), ..config(plane) })
}

async fn tasks(plane: &ControlPlane) -> Container {
    let task_metadata = Some(task_metadata().await);
    Container::start(AgentConfig { resolver: resolver(), task_metadata, ..config(plane) })
}

/// A page in a context of its own.
pub async fn page_in_context(cdp: &mut Cdp, proxy: Value) -> Result<String, String> {
    let answer = cdp.ask(None, "Target.createBrowserContext", proxy).await;
    if let Some(refusal) = answer["error"]["message"].as_str() {
        return Err(refusal.to_owned());
    }
    let context = &answer["result"]["browserContextId"];
    let target = cdp.call("Target.createTarget", json!({ "url": "about:blank", "browserContextId": context })).await;
    let attach = json!({ "targetId": target["targetId"], "flatten": true });
    let attached = cdp.call("Target.attachToTarget", attach).await;
    Ok(attached["sessionId"].as_str().expect("a session").to_owned())
}

pub async fn evaluate(cdp: &mut Cdp, page: &str, expression: &str) -> Value {
    let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
    let mut answer = cdp.ask(Some(page), "Runtime.evaluate", params).await;
    assert!(answer["result"]["exceptionDetails"].is_null() && answer["error"].is_null(), "{answer}");
    answer["result"]["result"]["value"].take()
}

/// What a page shows after it was sent there, or why it was not.
pub async fn visit(cdp: &mut Cdp, page: &str, url: &str) -> String {
    let went = cdp.ask(Some(page), "Page.navigate", json!({ "url": url })).await;
    if let Some(error) = went["result"]["errorText"].as_str() {
        return error.to_owned();
    }
    let text = "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))\
        .then(() => document.body.innerText)";
    evaluate(cdp, page, text).await.as_str().unwrap_or_default().to_owned()
}

/// Of what may never answer.
async fn try_to_visit(cdp: &mut Cdp, page: &str, url: &str) {
    let _ = tokio::time::timeout(Duration::from_secs(2), visit(cdp, page, url)).await;
}

/// Whatever it was.
pub const NOWHERE: &str = "net::ERR_SOCKS_CONNECTION_FAILED";

/// Each way in which a page, or a client's context, makes its browser connect to something.
async fn ways(cdp: &mut Cdp, port: u16, asked: &Asked) -> Vec<(String, bool)> {
    let page = cdp.attach().await;
    let mut reached = Vec::new();
    asked.take();
    for host in ["four.example", "six.example", "mapped.example", "both.example", "127.0.0.1", "127.1", "localhost"]
        .into_iter()
        .chain(["a.localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"])
    {
        try_to_visit(cdp, &page, &format!("http://{host}:{port}/")).await;
        reached.push((host.to_owned(), !asked.take().is_empty()));
    }
    try_to_visit(cdp, &page, &format!("https://four.example:{port}/")).await;
    reached.push(("https".to_owned(), !asked.take().is_empty()));
    let page_ways = [
        ("fetch", "fetch('http://HERE/', { mode: 'no-cors' }).then(() => 1, () => 0)"),
        ("beacon", "navigator.sendBeacon('http://HERE/'); new Promise(done => setTimeout(done, 300))"),
        ("websocket", "new Promise(done => { new WebSocket('ws://HERE/').onerror = () => done(1) })"),
        (
            "frame",
            "new Promise(done => document.body.append(Object.assign(document.createElement('iframe'), \
             { src: 'http://HERE/', onload: () => done(1) })))",
        ),
        (
            "webrtc over TCP",
            "window.tcp = new RTCPeerConnection({ iceServers: [{ urls: 'turn:127.0.0.1:PORT?transport=tcp', username: \
             'a', credential: 'b' }] }); tcp.createDataChannel('x'); tcp.createOffer().then(offer => \
             tcp.setLocalDescription(offer)).then(() => new Promise(done => setTimeout(done, 1000)))",
        ),
        (
            "webrtc over UDP",
            "window.udp = new RTCPeerConnection({ iceServers: [{ urls: 'stun:127.0.0.1:PORT' }] }); \
             udp.createDataChannel('x'); udp.createOffer().then(offer => udp.setLocalDescription(offer)).then(() => \
             new Promise(done => setTimeout(done, 1000)))",
        ),
    ];
    visit(cdp, &page, "about:blank").await;
    for (way, script) in page_ways {
        let script = script.replace("HERE", &format!("four.example:{port}")).replace("PORT", &port.to_string());
        evaluate(cdp, &page, &script).await;
        reached.push((way.to_owned(), !asked.take().is_empty()));
    }
    // As a proxy it would be connected to; and without a proxy a context might go by itself.
    for proxy in ["http://four.example:PORT", "socks5://six.example:PORT", "http://127.0.0.1:PORT", "direct://", ""] {
        let params = json!({ "proxyServer": proxy.replace("PORT", &port.to_string()) });
        if let Ok(page) = page_in_context(cdp, params).await {
            try_to_visit(cdp, &page, &format!("http://four.example:{port}/")).await;
        }
        reached.push((format!("context with {proxy}"), !asked.take().is_empty()));
    }
    reached
}

/// Fails without `Destinations::check`, or, for the last of the ways, without the switches of `flags::kept_to`.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_name_means_a_page_in_a_task_does_not_get_to_loopback() {
    for browser in ["headless-shell", "chromium"] {
        let plane = ControlPlane::start().await;
        let container = tasks(&plane).await;
        let (port, asked) = site().await;
        let session = plane.hand_out(json!({ "browser": browser }), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        let reached: Vec<_> = ways(&mut cdp, port, &asked).await.into_iter().filter(|(_, reached)| *reached).collect();
        assert_eq!(reached, [], "{browser}");
        container.stop().await;
    }
}

/// Where loopback is open the same ways lead there, so it is not that they lead nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_developers_machine_the_same_ways_lead_to_loopback() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    let (port, asked) = site().await;
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    let closed: Vec<_> = ways(&mut cdp, port, &asked).await.into_iter().filter(|(_, reached)| !reached).collect();
    assert_eq!(closed, [("webrtc over UDP".to_owned(), false)], "no proxy carries that");
    container.stop().await;
}

fn egress_port(container: &Container) -> Vec<u16> {
    let line =
        |pid| command_line(pid).split(' ').find_map(|switch| switch.strip_prefix("--proxy-server=").map(str::to_owned));
    let port = |server: String| server.rsplit_once(':').expect("a port").1.parse().expect("a number");
    container.browsers().into_iter().filter_map(line).map(port).collect()
}

fn devtools_ports(container: &Container) -> Vec<u16> {
    let homes = std::fs::read_dir(&container.workdir).expect("readable").flatten();
    let ports = homes.filter_map(|home| std::fs::read_to_string(home.path().join("profile/DevToolsActivePort")).ok());
    ports.map(|port| port.lines().next().expect("a port").parse().expect("a number")).collect()
}

/// Fails without `Destinations::close_port`.
#[tokio::test(flavor = "multi_thread")]
async fn where_loopback_is_open_ports_of_browsers_and_of_their_container_are_not() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    let (site, _) = site().await;
    let (mine, other) = (plane.hand_out(json!({}), 1, HOUR), plane.hand_out(json!({}), 1, HOUR));
    let (mut cdp, _others) = (connect(&plane, &mine, 1).await, connect(&plane, &other, 1).await);
    let page = cdp.attach().await;
    let agent: u16 = address(&plane).rsplit_once(':').expect("a port").1.parse().expect("a number");
    let (devtools, egress) = (devtools_ports(&container), egress_port(&container));
    assert_eq!((devtools.len(), egress.len()), (2, 2));
    let closed = [("agent", agent), ("devtools", devtools[0]), ("devtools", devtools[1])]
        .into_iter()
        .chain([("egress", egress[0]), ("egress", egress[1])]);
    for (what, port) in closed {
        for host in ["127.0.0.1", "four.example", "mapped.example", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            for path in ["json/version", "health"] {
                let shown = visit(&mut cdp, &page, &format!("http://{host}:{port}/{path}")).await;
                assert_eq!(shown, NOWHERE, "{what} {host}");
            }
        }
        assert_eq!(
            visit(&mut cdp, &page, &format!("http://127.0.0.1:{site}/to?http://127.0.0.1:{port}/")).await,
            NOWHERE
        );
        // From a place that may have a service worker.
        assert_eq!(visit(&mut cdp, &page, &format!("http://localhost:{site}/")).await, "the site");
        for (way, script) in [
            ("fetch", "fetch('http://four.example:PORT/health', { mode: 'no-cors' }).then(() => 'reached', String)"),
            (
                "redirect",
                "fetch('/to?http://four.example:PORT/health', { mode: 'no-cors' }).then(() => 'reached', String)",
            ),
            (
                "service worker",
                "navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready).then(to => new \
                 Promise(done => { navigator.serviceWorker.onmessage = event => done(event.data); \
                 to.active.postMessage('http://four.example:PORT/health') }))",
            ),
        ] {
            let outcome = |port: u16| script.replace("PORT", &port.to_string());
            assert_eq!(evaluate(&mut cdp, &page, &outcome(port)).await, "TypeError: Failed to fetch", "{what} {way}");
            assert_eq!(evaluate(&mut cdp, &page, &outcome(site)).await, "reached", "{way}");
        }
        let proxy = json!({ "proxyServer": format!("http://127.0.0.1:{port}") });
        assert!(page_in_context(&mut cdp, proxy).await.expect_err(what).contains("ports of browsers"));
        let by_name = json!({ "proxyServer": format!("http://four.example:{port}") });
        let page = page_in_context(&mut cdp, by_name).await.expect("it is only a name");
        assert!(
            visit(&mut cdp, &page, "http://a.example/").await.starts_with("wallcrawler: ports of browsers"),
            "{what}"
        );
    }
    container.stop().await;
}

/// Fails without `neighbours`.
#[tokio::test(flavor = "multi_thread")]
async fn the_devtools_of_another_containers_browsers_are_closed_too() {
    let (plane, others) = (ControlPlane::start().await, ControlPlane::start().await);
    let (container, other) = (developers(&plane).await, developers(&others).await);
    let (mine, theirs) = (plane.hand_out(json!({}), 1, HOUR), others.hand_out(json!({}), 1, HOUR));
    let (mut cdp, _theirs) = (connect(&plane, &mine, 1).await, connect(&others, &theirs, 1).await);
    let page = cdp.attach().await;
    let port = devtools_ports(&other)[0];
    for host in ["127.0.0.1", "four.example"] {
        assert_eq!(visit(&mut cdp, &page, &format!("http://{host}:{port}/json/version")).await, NOWHERE);
    }
    container.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_there_is_a_page_that_does_not_load() {
    let plane = ControlPlane::start().await;
    let container = developers(&plane).await;
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    let page = cdp.attach().await;
    for url in ["http://nobody.example/", "https://nobody.example/", "http://127.0.0.1:2/"] {
        assert_eq!(visit(&mut cdp, &page, url).await, NOWHERE, "{url}");
    }
    container.stop().await;
}
