use super::*;

fn filler(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn instead(fit: &mut Fit, message: &Value, now: Instant) -> (Option<Value>, Option<Value>) {
    let text = message.to_string();
    assert!(!Fit::fits(&text));
    let Instead { to_client, to_browser } = fit.instead(&text, now, 1_700_000_000_000).expect("CDP");
    assert!(to_client.as_deref().is_none_or(Fit::fits));
    (to_client.map(|text| serde_json::from_str(&text).expect("JSON")), to_browser)
}

fn to_client(message: &Value) -> Value {
    let (to_client, to_browser) = instead(&mut Fit::default(), message, Instant::now());
    assert_eq!(to_browser, None);
    to_client.expect("never dropped in silence")
}

#[test]
fn exactly_what_api_gateway_carries_passes() {
    assert!(Fit::fits(&filler(GATEWAY_MESSAGE_BYTES)));
    assert!(!Fit::fits(&filler(GATEWAY_MESSAGE_BYTES + 1)));
    assert_eq!(Fit::default().instead(&filler(GATEWAY_MESSAGE_BYTES + 1), Instant::now(), 0), None);
}

#[test]
fn an_answer_that_does_not_fit_becomes_an_error_that_says_what_to_do() {
    let answer = json!({ "id": 7, "result": { "data": filler(200_000) }, "sessionId": "S" });
    let error = to_client(&answer);
    assert_eq!(
        (&error["id"], &error["sessionId"], &error["error"]["code"]),
        (&7.into(), &"S".into(), &(-32_000).into())
    );
    let message = error["error"]["message"].as_str().expect("a text");
    for said in [&answer.to_string().len().to_string(), "131072", "CDP_ENDPOINT", "ALB_DNS_NAME", "JPEG"] {
        assert!(message.contains(said), "{message}");
    }
    assert_eq!(to_client(&json!({ "id": 8, "result": filler(200_000) })).get("sessionId"), None);
}

#[test]
fn a_request_passes_without_its_body_and_with_short_urls() {
    let request = |body: usize, url: usize| {
        json!({ "method": "Fetch.requestPaused", "sessionId": "S", "params": { "requestId": "r", "request": {
            "url": filler(url), "hasPostData": true, "postData": filler(body),
            "postDataEntries": [{ "bytes": filler(body) }] } } })
    };
    let passed = to_client(&request(200_000, 5_000));
    let expected = json!({ "method": "Fetch.requestPaused", "sessionId": "S", "params": { "requestId": "r",
        "request": { "url": filler(5_000), "hasPostData": true } } });
    assert_eq!(passed, expected, "the URL fits, so it stays whole");
    let passed = to_client(&request(10, 200_000));
    assert_eq!(passed["params"]["request"]["url"].as_str().map(str::len), Some(URL_BYTES));
}

#[test]
fn a_long_url_is_cut_wherever_it_stands() {
    let long = format!("data:text/plain,{}", "é".repeat(100_000));
    let passed = to_client(&json!({ "method": "Target.targetInfoChanged", "params": {
        "targetInfo": { "url": long, "documentURL": long, "title": "t" }, "list": [{ "baseUrl": long }] } }));
    for url in [
        &passed["params"]["targetInfo"]["url"],
        &passed["params"]["targetInfo"]["documentURL"],
        &passed["params"]["list"][0]["baseUrl"],
    ] {
        assert!(matches!(url.as_str().map(str::len), Some(URL_BYTES | 1_023)), "{url}");
    }
    assert_eq!(passed["params"]["targetInfo"]["title"], "t");
}

#[test]
fn an_event_that_cannot_pass_is_replaced_by_a_warning_each_time() {
    let event =
        json!({ "method": "Runtime.consoleAPICalled", "params": { "args": [filler(300_000)] }, "sessionId": "S" });
    let (mut fit, now) = (Fit::default(), Instant::now());
    for _ in 0..2 {
        let warning = instead(&mut fit, &event, now).0.expect("a warning");
        assert_eq!((&warning["method"], &warning["sessionId"]), (&"Log.entryAdded".into(), &"S".into()));
        let entry = &warning["params"]["entry"];
        assert_eq!((&entry["source"], &entry["level"]), (&"other".into(), &"warning".into()));
        assert_eq!(entry["timestamp"], 1_700_000_000_000u64);
        let text = entry["text"].as_str().expect("a text");
        for said in ["Runtime.consoleAPICalled", &event.to_string().len().to_string(), "131072", "CDP_ENDPOINT"] {
            assert!(text.contains(said), "{text}");
        }
    }
}

#[test]
fn frames_are_acknowledged_for_the_client_and_it_is_warned_once_a_minute() {
    let frame = |number: i64| {
        json!({ "method": "Page.screencastFrame", "sessionId": "S",
            "params": { "data": filler(200_000), "metadata": {}, "sessionId": number } })
    };
    let (mut fit, now) = (Fit::default(), Instant::now());
    let (warning, acknowledgement) = instead(&mut fit, &frame(41), now);
    assert_eq!(warning.expect("a warning")["method"], "Log.entryAdded");
    let expected = json!({ "method": "Page.screencastFrameAck", "params": { "sessionId": 41 }, "sessionId": "S" });
    assert_eq!(acknowledgement, Some(expected));
    let (warning, acknowledgement) = instead(&mut fit, &frame(42), now + FRAME_WARNINGS - Duration::from_millis(1));
    assert_eq!((warning, acknowledgement.is_some()), (None, true));
    assert!(instead(&mut fit, &frame(43), now + FRAME_WARNINGS).0.is_some());
}

#[test]
fn text_that_is_no_unicode_is_warned_of_too() {
    // JavaScript strings may hold half a character, and Chrome passes it on.
    let text = format!(r#"{{"method":"Log.x","params":{{"text":"\ud800{}"}}}}"#, filler(200_000));
    let instead = Fit::default().instead(&text, Instant::now(), 0).expect("it is CDP");
    assert!(instead.to_client.expect("a warning").contains("Log.entryAdded"));
}

#[test]
fn the_number_of_a_command_is_its_id_if_that_is_a_whole_number() {
    assert_eq!(number(r#"{"id":12,"method":"A.b","params":{"id":3,"half":"\ud800"}}"#), Some(12));
    assert_eq!(number(r#"{"method":"A.b","params":{"id":3},"id":-1}"#), Some(-1));
    for none in ["", "x", "[]", "{}", r#"{"id":"1"}"#, r#"{"id":1.5}"#, r#"{"id":null}"#, r#"{"id":1"#] {
        assert_eq!(number(none), None, "{none}");
    }
}

#[test]
fn streams_are_read_in_pieces_that_fit_and_nothing_else_is_touched() {
    let pieces = |text: &str| asked_for_in_pieces(text.to_owned());
    let cut = r#"{"id":1,"method":"IO.read","params":{"handle":"h","size":20480},"sessionId":"S"}"#;
    assert_eq!(pieces(r#"{"id":1,"method":"IO.read","params":{"handle":"h","size":1000000},"sessionId":"S"}"#), cut);
    let unsaid = r#"{"id":1, "method":"IO.read", "params":{"handle":"h"}}"#;
    assert_eq!(pieces(unsaid), r#"{"id":1,"method":"IO.read","params":{"handle":"h","size":20480}}"#);
    for as_it_is in [
        r#"{"id":1, "method":"IO.read","params":{"handle":"h","size":100}}"#,
        r#"{"id":1, "method":"IO.read","params":{"handle":"h","size":"much"}}"#,
        r#"{"id":1, "method":"IO.read"}"#,
        r#"{"id":1, "method":"IO.close","params":{"handle":"\"IO.read\""}}"#,
        r#"{"id":1, "method":"Runtime.evaluate","params":{"expression":"1","x":"IO.read"}}"#,
        r#""IO.read""#,
        r#"{"method":"IO.read""#,
    ] {
        assert_eq!(pieces(as_it_is), as_it_is);
    }
}
