//! Gateway clients: their messages come to the container as requests, and Chrome's go back as requests.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wallcrawler::agent::AgentConfig;
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::{BATCH_MESSAGES, GATEWAY_MESSAGE_BYTES, HeldMessage, WaitingConnection};
use wallcrawler::session::EndReason;

use crate::container::{Cdp, Container, config, eventually, processes_of};
use crate::control_plane::{ControlPlane, Script};
use crate::deliveries::Fate;
use crate::gateway_client::{A_WHILE, GatewayClient};
use crate::{HOUR, address};

pub async fn scene() -> (ControlPlane, Container, SessionId, GatewayClient) {
    scene_with(|config| config).await
}

async fn scene_with(
    change: impl Fn(AgentConfig) -> AgentConfig,
) -> (ControlPlane, Container, SessionId, GatewayClient) {
    let plane = ControlPlane::start().await;
    let container = Container::start(change(config(&plane)));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let client = GatewayClient::of(&plane, &session, 1).await;
    (plane, container, session, client)
}

/// Whether somebody is attached to the only page, as Chrome tells somebody else.
async fn attached(cdp: &mut Cdp) -> bool {
    let targets = cdp.call("Target.getTargets", json!({})).await;
    let targets = targets["targetInfos"].as_array().expect("a list").clone();
    targets.iter().any(|target| target["type"] == "page" && target["attached"] == true)
}

async fn detached(cdp: &mut Cdp) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while attached(cdp).await {
        assert!(tokio::time::Instant::now() < deadline, "its socket to Chrome stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn onlooker(plane: &ControlPlane, session: &SessionId) -> Cdp {
    let ready = plane.ready(session, 1).await;
    Cdp::connect(&address(plane), session, &ready.cdp_secret).await.expect("a connection")
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_overtake_each_other_are_run_in_the_order_in_which_they_were_sent() {
    let (_plane, container, _, client) = scene().await;
    assert_eq!(client.open().await, StatusCode::NO_CONTENT);
    assert_eq!(client.open().await, StatusCode::NO_CONTENT, "it is open already");
    let page = client.attach().await;
    client.evaluate(&page, "order = []").await;
    for round in 0..3 {
        let mut commands: Vec<(u64, String)> = (0..100)
            .map(|n| {
                let params = json!({ "expression": format!("order.push({})", 100 * round + n) });
                client.command(Some(&page), "Runtime.evaluate", params)
            })
            .collect();
        // As good as any other disorder, and the same each time.
        commands.sort_by_key(|(id, _)| id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        join_all(commands.into_iter().map(|command| client.bring_command(command))).await;
    }
    let order = client.evaluate(&page, "order").await;
    assert_eq!(order, json!((0..300).collect::<Vec<_>>()));
    client.assert_faultless();
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_before_the_browser_was_there_is_done_when_it_is_and_only_once() {
    let plane = ControlPlane::start().await;
    let held = |id: u64, method: &str| HeldMessage {
        message_id: format!("m{id}="),
        text: json!({ "id": id, "method": method }).to_string(),
    };
    let create = held(2, "Target.createBrowserContext");
    let connection_id: wallcrawler::ids::ConnectionId = "Waiting+1/=".parse().expect("an id");
    let messages = vec![held(3, "Browser.getVersion"), create.clone(), held(1, "Browser.getVersion")];
    plane.now(|script| script.waiting = vec![WaitingConnection { connection_id: connection_id.clone(), messages }]);
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let client = GatewayClient::named(&plane, &session, 1, connection_id).await;
    client.got("not done", |message| message["id"] == 3).await;
    let ids: Vec<Value> =
        plane.now(|script| script.deliveries.to(&client.connection).iter().map(|m| m["id"].clone()).collect());
    assert_eq!(ids, [1, 2, 3]);
    for _ in 0..2 {
        assert_eq!(client.bring(&create.message_id, &create.text).await, StatusCode::ACCEPTED, "it is taken as new");
    }
    for _ in 0..3 {
        client.command(None, "", json!({}));
    }
    let contexts = client.call(None, "Target.getBrowserContexts", json!({})).await;
    assert_eq!(contexts["browserContextIds"].as_array().map(Vec::len), Some(1), "{contexts}");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_answer_was_lost_is_repeated_as_it_was_and_said_to_be_a_repetition() {
    for fates in [vec![Fate::TakenAnd(500)], vec![Fate::TakenAndCut, Fate::Refused(503), Fate::Refused(429)]] {
        let (plane, container, _, client) = scene().await;
        client.call(None, "Browser.getVersion", json!({})).await;
        let count = fates.len();
        plane.now(|script| script.deliveries.fates.extend(fates));
        client.call(None, "Browser.getVersion", json!({})).await;
        client.call(None, "Browser.getVersion", json!({})).await;
        let requests = plane.now(|script| script.deliveries.requests.clone());
        let seen: Vec<Value> =
            requests.iter().map(|request| json!([request.first, request.again, request.messages[0]["id"]])).collect();
        let mut expected = vec![json!([0, false, 1]), json!([1, false, 2])];
        expected.extend((0..count).map(|_| json!([1, true, 2])));
        expected.push(json!([2, false, 3]));
        assert_eq!(seen, expected);
        assert_eq!(client.count(|message| message["id"] == 2), 1);
        client.assert_faultless();
        container.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_delivery_is_under_way_goes_with_the_next_and_the_rest_of_it_again() {
    let (plane, container, _, client) = scene().await;
    let page = client.attach().await;
    client.call(Some(&page), "Runtime.enable", json!({})).await;
    plane.now(|script| {
        script.deliveries.held = true;
        script.deliveries.requests.clear();
        script.deliveries.fates.extend([Fate::Partly(1), Fate::Partly(7), Fate::Partly(0)]);
    });
    // Alone, it does not wait for others to go with it.
    client.bring_command(client.command(None, "Browser.getVersion", json!({}))).await;
    let under_way = |script: &Script| script.deliveries.under_way.get(&client.connection).copied();
    plane.until("it is not delivered", |script| under_way(script).filter(|count| *count > 0), under_way).await;
    // 250 events, more than two requests may carry.
    let shout = client.command(
        Some(&page),
        "Runtime.evaluate",
        json!({ "expression": "for (let n = 0; n < 250; n++) console.log(n)" }),
    );
    client.bring_command(shout).await;
    tokio::time::sleep(A_WHILE).await;
    plane.now(|script| script.deliveries.held = false);
    let said = |message: &Value| message["params"]["args"][0]["value"].as_u64();
    client.got("the last is not there", |message| said(message) == Some(249)).await;
    let got: Vec<u64> = plane.now(|script| script.deliveries.to(&client.connection).iter().filter_map(said).collect());
    assert_eq!(got, (0..250).collect::<Vec<_>>());
    let requests = plane.now(|script| script.deliveries.requests.clone());
    assert!(requests.iter().all(|request| !request.again), "the count is known");
    let start = requests[0].first;
    assert_eq!(requests[0].messages.len(), 1);
    let firsts: Vec<u64> = requests.iter().map(|request| request.first - start).collect();
    assert_eq!(firsts[..4], [0, 1, 8, 8], "{firsts:?}");
    assert!(requests.iter().any(|request| request.messages.len() == BATCH_MESSAGES), "{requests:?}");
    assert!(requests.len() < 10, "{firsts:?}");
    client.assert_faultless();
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cannot_be_delivered_to_loses_its_socket_to_chrome() {
    for status in [404, 409, 410, 401, 403, 400] {
        let (plane, container, session, client) = scene().await;
        client.attach().await;
        let mut onlooker = onlooker(&plane, &session).await;
        assert!(attached(&mut onlooker).await);
        plane.now(|script| script.deliveries.fates.push_back(Fate::Refused(status)));
        client.bring_command(client.command(None, "Browser.getVersion", json!({}))).await;
        detached(&mut onlooker).await;
        let late = client.command(None, "Browser.getVersion", json!({}));
        assert_eq!(client.bring("late", &late.1).await, StatusCode::GONE);
        assert_eq!(client.open().await, StatusCode::GONE);
        drop(onlooker);
        container.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_left_is_let_go_and_a_message_that_comes_late_does_not_bring_it_back() {
    let (plane, container, session, client) = scene().await;
    let page = client.attach().await;
    let mut onlooker = onlooker(&plane, &session).await;
    // What it said and what was taken is done, even though something before it is missing.
    client.command(None, "", json!({}));
    let last = client.command(Some(&page), "Runtime.evaluate", json!({ "expression": "left = 'behind'" }));
    client.bring_command(last).await;
    assert_eq!(client.close().await, StatusCode::NO_CONTENT);
    assert_eq!(client.close().await, StatusCode::NO_CONTENT);
    let late = client.command(None, "Browser.getVersion", json!({}));
    assert_eq!(client.bring("late", &late.1).await, StatusCode::GONE);
    assert_eq!(client.open().await, StatusCode::GONE);
    detached(&mut onlooker).await;
    assert_eq!(onlooker.evaluate("left").await, "behind");
    let unknown = GatewayClient::named(&plane, &session, 1, "another".parse().expect("an id")).await;
    assert_eq!(unknown.close().await, StatusCode::NO_CONTENT);
    assert_eq!(unknown.open().await, StatusCode::GONE, "it was overtaken by its own end");
    drop(onlooker);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_know_the_secret_learns_nothing() {
    let (plane, container, session, client) = scene().await;
    let secret = plane.ready(&session, 1).await.cdp_secret;
    let other = plane.hand_out(json!({}), 1, HOUR);
    let other_secret = plane.ready(&other, 1).await.cdp_secret;
    let nowhere = format!("{}/sessions/{}/connections/c", address(&plane), SessionId::random());
    let mut bodies = Vec::new();
    for (method, path) in [(Method::PUT, ""), (Method::DELETE, ""), (Method::POST, "/messages")] {
        for wrong in ["", "wrong", &other_secret] {
            let answer = client.request(method.clone(), path, wrong).send().await.expect("an answer");
            bodies.push((answer.status(), answer.json::<Value>().await.expect("JSON")));
        }
        let url = format!("http://{nowhere}{path}");
        let unknown = reqwest::Client::builder().no_proxy().build().expect("a client").request(method, url);
        let answer = unknown.header("x-wallcrawler-cdp-secret", &secret).send().await.expect("an answer");
        bodies.push((answer.status(), answer.json().await.expect("JSON")));
    }
    for (status, body) in &mut bodies {
        body.as_object_mut().expect("an object").remove("requestId").expect("a request id");
        assert_eq!((*status, &body["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_message_is_said() {
    let (plane, container, session, client) = scene().await;
    let refusals = [
        (client.nameless("{}"), 400, "x-wallcrawler-message-id"),
        (client.message("", "{}"), 400, "x-wallcrawler-message-id"),
        (client.message(&"m".repeat(129), "{}"), 400, "x-wallcrawler-message-id"),
        (client.message("m", b"\xff".to_vec()), 400, "UTF-8"),
        (client.message("m", "x".repeat(GATEWAY_MESSAGE_BYTES + 1)), 413, "131072"),
    ];
    for (request, status, said) in refusals {
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{said}");
        let body: Value = answer.json().await.expect("JSON");
        assert!(body["message"].as_str().is_some_and(|message| message.contains(said)), "{body}");
    }
    let secret = plane.ready(&session, 1).await.cdp_secret;
    let odd = format!("http://{}/sessions/{session}/connections/a%20b", address(&plane));
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = http.put(odd).header("x-wallcrawler-cdp-secret", secret).send().await.expect("an answer");
    assert_eq!(answer.status(), 400);
    // The largest that may come, and what is no CDP at all.
    let largest = format!("{{\"id\":1,\"method\":\"{}\"}}", "x".repeat(GATEWAY_MESSAGE_BYTES - 20));
    assert_eq!(client.bring("largest", &largest).await, StatusCode::ACCEPTED);
    client.got("no answer", |message| message["id"] == 1 && message["error"].is_object()).await;
    assert_eq!(client.bring("nonsense", "nonsense").await, StatusCode::ACCEPTED);
    client.got("no complaint", |message| message["error"]["code"] == -32_700).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hears_nothing_is_sent_a_sign_of_life() {
    let beat = Duration::from_millis(250);
    let (_plane, container, _, client) = scene_with(|config| AgentConfig { gateway_idle_beat: beat, ..config }).await;
    let opened = tokio::time::Instant::now();
    client.open().await;
    let alive = client.got("no sign", |message| message["method"] == "WallCrawler.keepAlive").await;
    assert_eq!(alive, json!({ "method": "WallCrawler.keepAlive", "params": {} }));
    assert!(opened.elapsed() >= beat);
    client.call(None, "Browser.getVersion", json!({})).await;
    // It counts as a message, or this would be out of step.
    client.assert_faultless();
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_ends_its_connections() {
    let (plane, container, session, client) = scene().await;
    client.attach().await;
    plane.now(|script| script.end.push(session.clone()));
    eventually("the browser lives", || processes_of(&container.workdir).is_empty()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    // Its processes are gone a moment earlier than its route.
    while client.open().await != StatusCode::NOT_FOUND {
        assert!(tokio::time::Instant::now() < deadline, "the session is still there");
    }
    let late = client.command(None, "Browser.getVersion", json!({}));
    assert_eq!(client.bring("late", &late.1).await, StatusCode::NOT_FOUND);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chrome_says_last_is_delivered_before_its_end_is_reported() {
    let (plane, container, session, client) = scene().await;
    client.open().await;
    plane.now(|script| script.deliveries.held = true);
    let close = client.command(None, "Browser.close", json!({}));
    client.bring_command(close).await;
    eventually("the browser lives", || processes_of(&container.workdir).is_empty()).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(plane.now(|script| script.ended.is_empty()), "the client has not got its answer");
    plane.now(|script| script.deliveries.held = false);
    assert_eq!(plane.ended(&session).await.reason, EndReason::Released);
    assert_eq!(client.count(|message| message["id"] == 1), 1);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_hangs_is_not_sent_more_than_it_can_take() {
    let (plane, container, session, client) = scene().await;
    client.call(None, "Browser.getVersion", json!({})).await;
    let newcomer = GatewayClient::named(&plane, &session, 1, "newcomer".parse().expect("an id")).await;
    let browser = container.browser();
    signal(browser, rustix::process::Signal::STOP);
    // More than sockets and queues hold.
    let large = json!({ "expression": "x".repeat(100_000) });
    let commands: Vec<_> = (0..150).map(|_| client.command(None, "Runtime.evaluate", large.clone())).collect();
    let answers = join_all(commands.iter().map(async |(id, text)| {
        let answer = client.message(&format!("m{id}="), text.clone()).send().await.expect("an answer");
        (answer.status(), answer.headers().get("retry-after").is_some())
    }));
    let (answers, opened) = tokio::join!(answers, newcomer.open());
    assert_eq!(opened, StatusCode::BAD_GATEWAY);
    let busy = answers.iter().filter(|answer| **answer == (StatusCode::SERVICE_UNAVAILABLE, true)).count();
    let taken = answers.iter().filter(|answer| **answer == (StatusCode::ACCEPTED, false)).count();
    assert!(busy > 0 && taken > 32 && busy + taken == 150, "{busy} and {taken}");
    signal(browser, rustix::process::Signal::CONT);
    // What was refused was not taken: brought again, it is done.
    let again = commands.iter().zip(&answers).filter(|(_, (status, _))| *status != StatusCode::ACCEPTED);
    join_all(again.map(|(command, _)| client.bring_command(command.clone()))).await;
    let ids = |plane: &ControlPlane| -> Vec<u64> {
        plane.now(|script| script.deliveries.to(&client.connection).iter().filter_map(|m| m["id"].as_u64()).collect())
    };
    eventually("not all are answered", || ids(&plane).len() >= 151).await;
    let mut ids = ids(&plane);
    ids.sort_unstable();
    assert_eq!(ids, (1..=151).collect::<Vec<_>>(), "each once");
    assert_eq!(newcomer.open().await, StatusCode::NO_CONTENT, "it may be tried again");
    client.assert_faultless();
    container.stop().await;
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it lives");
}
