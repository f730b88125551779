use super::*;

fn refusal(text: &str) -> Value {
    let mut owed = Owed { run: 1, count: 9 };
    serde_json::from_str(&judge(text, &mut owed).expect_err(text)).expect("JSON")
}

#[test]
fn a_viewer_can_ask_for_pictures_and_for_nothing_else() {
    for method in [
        "Page.enable",
        "Page.navigate",
        "Page.bringToFront",
        "Page.captureScreenshot",
        "Page.handleJavaScriptDialog",
        "Input.dispatchMouseEvent",
        "Input.insertText",
        "Runtime.evaluate",
        "Runtime.enable",
        "Network.getCookies",
        "Target.attachToTarget",
        "Target.sendMessageToTarget",
        "Browser.close",
        "page.startScreencast",
        "Page.startScreencast ",
        "",
    ] {
        let answer = refusal(&json!({ "id": 3, "method": method, "params": {} }).to_string());
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(3), &json!(REFUSED)), "{method}");
    }
    for none in ["", "[]", "{}", r#"{"id":1}"#, r#"{"method":"Page.stopScreencast"}"#, "\u{b}{}"] {
        assert_eq!(refusal(none)["error"]["code"], NOT_A_COMMAND, "{none}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_not_passed_on_and_the_rest_is_written_anew() {
    let twice = r#"{"id":1,"method":"Page.stopScreencast","method":"Browser.close"}"#;
    assert_eq!(refusal(twice)["error"]["code"], NOT_A_COMMAND);
    let elsewhere = r#"{"id":1,"method":"Page.stopScreencast","sessionId":"ABC"}"#;
    assert_eq!(refusal(elsewhere)["error"]["code"], REFUSED);
    let start =
        r#"{"id":7,"method":"Page.start\u0053creencast","x":1,"params":{"format":"png","maxWidth":100000,"more":{}}}"#;
    let anew = r#"{"id":7,"method":"Page.startScreencast","params":{"format":"png","maxWidth":2560,"maxHeight":2560}}"#;
    assert_eq!(judge(start, &mut Owed::default()), Ok(anew.to_owned()));
    for odd in [r#"{"format":"exe"}"#, r#"{"quality":900}"#, r#"{"maxWidth":-1}"#, "7", "[]"] {
        let start = format!(r#"{{"id":7,"method":"Page.startScreencast","params":{odd}}}"#);
        assert_eq!(refusal(&start)["error"]["code"], REFUSED, "{odd}");
    }
}

#[test]
fn only_pictures_that_were_taken_can_be_acknowledged_and_each_once() {
    let ack = |run: i64| format!(r#"{{"id":8,"method":"Page.screencastFrameAck","params":{{"sessionId":{run}}}}}"#);
    let mut owed = Owed::default();
    assert!(judge(&ack(0), &mut owed).is_err(), "before the first");
    for run in [1, 1, 2] {
        owed.taken(run);
    }
    // What was not acknowledged before a new run is not owed in it.
    assert!(judge(&ack(1), &mut owed).is_err());
    assert_eq!(judge(&ack(2), &mut owed), Ok(ack(2)));
    assert!(judge(&ack(2), &mut owed).is_err());
}

#[test]
fn of_what_the_browser_says_a_viewer_gets_what_concerns_the_picture() {
    for (text, what) in [
        (r#"{"method":"Page.screencastFrame","params":{"data":"AAAA","sessionId":3}}"#, Kind::Picture(3)),
        (r#"{"method":"Page.screencastFrame","params":{"data":"AAAA"}}"#, Kind::NotForViewers),
        (r#"{"id":1,"result":{}}"#, Kind::Other),
        (r#"{"method":"Inspector.detached","params":{"reason":"target_closed"}}"#, Kind::Detached),
        (r#"{"method":"Page.screencastVisibilityChanged","params":{"visible":true}}"#, Kind::Other),
        (r#"{"method":"Network.requestWillBeSent","params":{}}"#, Kind::NotForViewers),
        ("{", Kind::NotForViewers),
    ] {
        assert_eq!(kind(text), what, "{text}");
    }
}
