use proptest::prelude::*;

use super::*;

/// A session's directory, gone with the test.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("wc-filter-{}", crate::hex::random(8)));
        std::fs::create_dir(&dir).expect("a fresh directory");
        Self(dir.canonicalize().expect("it is there"))
    }

    fn filter(&self) -> Filter {
        Filter::new(self.0.clone(), Egress::closed())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(method: &str, params: Value) -> String {
    json!({ "id": 7, "method": method, "sessionId": "S", "params": params }).to_string()
}

fn judge(method: &str, params: Value) -> Verdict {
    Filter::new("/nowhere".into(), Egress::closed()).judge(&command(method, params))
}

/// What the browser gets in its place.
fn rewritten(verdict: Verdict) -> Value {
    match verdict {
        Verdict::Rewrite(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

/// Why it was refused; the answer finds the call it belongs to.
fn refusal(verdict: Verdict) -> String {
    let Verdict::Refuse(answer) = verdict else { panic!("{verdict:?}") };
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(
        (&answer["id"], &answer["sessionId"], &answer["error"]["code"]),
        (&json!(7), &json!("S"), &json!(-32_000))
    );
    answer["error"]["message"].as_str().expect("a message").to_owned()
}

const NAVIGATIONS: [(&str, &str); 6] = [
    ("Page.navigate", "url"),
    ("Target.createTarget", "url"),
    ("Network.loadNetworkResource", "url"),
    ("Fetch.continueRequest", "url"),
    ("PWA.launch", "url"),
    ("PWA.install", "installUrlOrBundleUrl"),
];

#[test]
fn closed_urls_are_refused_however_they_are_written() {
    let closed = [
        "file:///etc/passwd",
        "file:/etc/passwd",
        "FiLe:///etc/passwd",
        "\tFI\nLE:///etc/passwd",
        " \u{1}\u{0}f\ri\tle\t:\n///etc/passwd",
        "view-source:file:///etc/passwd",
        "View-Source: view-source:\nFILE:///etc",
        "view-source:chrome://version",
        "chrome://version",
        "chrome:version",
        "CHROME://settings",
        "about:version",
        "about:",
        "about:BLANK",
        "chrome-untrusted://print",
        "chrome-search://local-ntp",
        "devtools://devtools/bundled/inspector.html",
        "chrome-devtools://devtools/x",
        "filesystem:file:///temporary/x",
        "filesystem:http://a.example/temporary/x",
    ];
    for (method, name) in NAVIGATIONS {
        for url in closed {
            let why = refusal(judge(method, json!({ name: url })));
            assert!(why.contains(method) && why.contains("cannot be opened"), "{why}");
        }
    }
}

#[test]
fn other_urls_go_to_the_browser_as_they_are() {
    let open = [
        "https://a.example/file:///etc",
        "http://file/",
        "about:blank",
        " about:blank ",
        "about:blank#stagehand-client-connection",
        "about:srcdoc",
        "data:text/html,file:///",
        "view-source:https://a.example",
        "chrome-extension://abc/wake-service-worker.html",
        "chrome-error://chromewebdata/",
        "javascript:void 0",
        "blob:null/x",
        "file",
        "/etc/passwd",
        "",
    ];
    for (method, name) in NAVIGATIONS {
        for url in open {
            let params = json!({ name: url, "more": [1, 2.5, null] });
            let passed = rewritten(judge(method, params.clone()));
            assert_eq!(passed, json!({ "id": 7, "method": method, "sessionId": "S", "params": params }));
        }
        // The browser complains.
        rewritten(judge(method, json!({ name: ["file:///"] })));
        rewritten(judge(method, json!({})));
    }
}

#[test]
fn what_no_client_may_say_is_refused_and_what_stagehand_says_passes() {
    for method in [
        "Tethering.bind",
        "Tethering.unbind",
        "Target.setRemoteLocations",
        "Target.exposeDevToolsProtocol",
        "Target.openDevTools",
        "Extensions.loadUnpacked",
        "Extensions.uninstall",
        "Extensions.setStorageItems",
        "Extensions.whateverComes",
    ] {
        assert!(refusal(judge(method, json!({}))).starts_with(&format!("{method} is refused here: ")));
    }
    for method in [
        "Extensions.getExtensions",
        "Target.attachToBrowserTarget",
        "Browser.close",
        "IO.read",
        "Tracing.start",
        "Page.captureSnapshot",
        "Page.navigateToHistoryEntry",
        "Runtime.evaluate",
    ] {
        assert_eq!(judge(method, json!({ "url": "file:///", "files": ["/etc/passwd"] })), Verdict::Pass);
    }
}

#[test]
fn downloads_go_to_the_sessions_directory_whatever_the_client_says() {
    let home = Home::new();
    let dir = home.0.join("downloads");
    for method in ["Browser.setDownloadBehavior", "Page.setDownloadBehavior"] {
        for said in [
            json!({ "behavior": "allow", "downloadPath": "downloads", "eventsEnabled": true }),
            json!({ "behavior": "allowAndName", "downloadPath": "/tmp/playwright-artifacts-x" }),
            json!({ "behavior": "allow" }),
            json!({ "behavior": "default", "downloadPath": "/etc" }),
        ] {
            let passed = rewritten(home.filter().judge(&command(method, said.clone())));
            assert_eq!(passed["params"]["downloadPath"], dir.to_str().expect("UTF-8"));
            // Files that pages call alike would be one; a page's own command knows no other names.
            let named = method == "Browser.setDownloadBehavior" && said["behavior"] == "allow";
            let behavior = if named { &json!("allowAndName") } else { &said["behavior"] };
            assert_eq!(
                (&passed["params"]["behavior"], &passed["params"]["eventsEnabled"]),
                (behavior, &said["eventsEnabled"])
            );
            assert!(dir.is_dir());
        }
        let deny = rewritten(home.filter().judge(&command(method, json!({ "behavior": "deny" }))));
        assert_eq!(deny["params"], json!({ "behavior": "deny" }));
    }
}

#[test]
fn only_files_of_the_session_itself_can_be_named() {
    let home = Home::new();
    for name in ["downloads", "uploads", "profile", "uploads-of-another"] {
        std::fs::create_dir(home.0.join(name)).expect("made");
        std::fs::write(home.0.join(name).join("a.txt"), "a").expect("written");
    }
    std::os::unix::fs::symlink("/etc/passwd", home.0.join("uploads/link")).expect("a link");
    std::os::unix::fs::symlink("/etc", home.0.join("uploads/dir")).expect("a link");
    std::os::unix::fs::symlink("a.txt", home.0.join("uploads/alias")).expect("a link");
    let inside = |name: &str| home.0.join(name).to_str().expect("UTF-8").to_owned();
    let of = |method: &str, files: Value| match method {
        "Input.dispatchDragEvent" => {
            json!({ "type": "drop", "x": 1.5, "y": 2, "data": { "items": [], "files": files } })
        }
        _ => json!({ "files": files }),
    };
    for method in ["DOM.setFileInputFiles", "Page.handleFileChooser", "PWA.launchFilesInApp", "Input.dispatchDragEvent"]
    {
        for (named, meant) in [
            (inside("uploads/a.txt"), "uploads/a.txt"),
            ("uploads/a.txt".to_owned(), "uploads/a.txt"),
            ("downloads/../uploads/./alias".to_owned(), "uploads/a.txt"),
            (inside("downloads/a.txt"), "downloads/a.txt"),
        ] {
            let passed = rewritten(home.filter().judge(&command(method, of(method, json!([named])))));
            assert_eq!(passed["params"], of(method, json!([inside(meant)])));
        }
        for outside in [
            "/etc/passwd".to_owned(),
            "/proc/self/environ".to_owned(),
            inside("uploads/../profile/a.txt"),
            inside("uploads-of-another/a.txt"),
            inside("uploads/link"),
            inside("uploads/dir/passwd"),
            inside("uploads/../../../etc/passwd"),
            inside("uploads/nothing"),
            inside("uploads"),
            "file:///etc/passwd".to_owned(),
            "/etc/\u{0}passwd".to_owned(),
            String::new(),
        ] {
            for files in [json!([outside]), json!(["uploads/a.txt", outside]), json!([[outside]])] {
                let why = refusal(home.filter().judge(&command(method, of(method, files))));
                assert!(why.contains("uploads or downloads"), "{why}");
            }
        }
        refusal(home.filter().judge(&command(method, of(method, json!("/etc/passwd")))));
        rewritten(home.filter().judge(&command(method, of(method, json!([])))));
    }
}

#[test]
fn a_directory_that_leads_out_of_the_session_is_not_the_sessions() {
    let home = Home::new();
    std::os::unix::fs::symlink("/etc", home.0.join("uploads")).expect("a link");
    refusal(home.filter().judge(&command("DOM.setFileInputFiles", json!({ "files": ["uploads/passwd"] }))));
}

#[tokio::test]
async fn a_contexts_proxy_is_looked_at_and_taken_over() {
    let context = |server: &str| judge("Target.createBrowserContext", json!({ "proxyServer": server }));
    assert!(refusal(context("http://127.0.0.1:1")).contains("loopback"));
    let told = rewritten(context("http://proxy.example:1"))["params"]["proxyServer"].to_string();
    assert!(told.contains(".wallcrawler:"), "{told}");
}

#[test]
fn a_command_within_a_command_is_looked_at_too() {
    let within = |inner: String| judge("Target.sendMessageToTarget", json!({ "sessionId": "T", "message": inner }));
    let file = json!({ "id": 1, "method": "Page.navigate", "params": { "url": "file:///" } }).to_string();
    assert!(refusal(within(file.clone())).contains("Page.navigate"));
    let twice = json!({ "id": 1, "method": "Target.sendMessageToTarget", "params": { "message": file } }).to_string();
    assert!(refusal(within(twice)).contains("Page.navigate"));
    assert!(refusal(within("/**/{}".to_owned())).contains("JSON"));
    assert!(refusal(judge("Target.sendMessageToTarget", json!({ "message": { "method": "x" } }))).contains("text"));
    let harmless = json!({ "id": 1, "method": "Runtime.evaluate", "params": {} }).to_string();
    let passed = rewritten(within(harmless.clone()));
    assert_eq!(passed["params"], json!({ "sessionId": "T", "message": harmless }));
}

#[test]
fn names_in_other_spellings_are_the_same_names() {
    let filter = Filter::new("/nowhere".into(), Egress::closed());
    let why = |text: &str| refusal(filter.judge(text));
    why(r#"{"id":7,"sessionId":"S","m\u0065thod":"Page.n\u0061vigate","p\u0061rams":{"\u0075rl":"fil\u0065:///"}}"#);
    why(r#"{"sessionId":"S","params":{"url":"file:///"},"id":7,"method":"Page.navigate"}"#);
    why(r#"{"id":7,"sessionId":"S","method":"Runtime.enable","method":"Page.navigate","params":{"url":"file:///"}}"#);
    why(r#"{"id":7,"sessionId":"S","method":"Page.navigate","params":{},"params":{"url":"file:///"}}"#);
    why(r#"{"id":7,"sessionId":"S","method":"Page.navigate","params":{"url":"about:blank","url":"file:///"}}"#);
}

#[test]
fn of_what_is_said_twice_only_what_was_looked_at_goes_on() {
    let filter = Filter::new("/nowhere".into(), Egress::closed());
    let rewritten = |text: &str| match filter.judge(text) {
        Verdict::Rewrite(anew) => anew,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        rewritten(r#"{"id":1,"method":"Page.navigate","params":{"url":"file:///"},"method":"Runtime.enable"}"#),
        r#"{"id":1,"method":"Runtime.enable","params":{"url":"file:///"}}"#
    );
    assert_eq!(
        rewritten(r#"{"id":1,"method":"Page.navigate","params":{"url":"file:///","url":"about:blank"}}"#),
        r#"{"id":1,"method":"Page.navigate","params":{"url":"about:blank"}}"#
    );
    assert_eq!(
        rewritten(r#"{"id":1,"method":"Page.navigate","params":{"url":"file:///"},"params":{"url":"about:blank"}}"#),
        r#"{"id":1,"method":"Page.navigate","params":{"url":"about:blank"}}"#
    );
}

#[test]
fn what_is_no_json_is_refused_though_chrome_reads_some_of_it() {
    let filter = Filter::new("/nowhere".into(), Egress::closed());
    for (text, code) in [
        (r#"/**/{"id":1,"method":"Page.navigate","params":{"url":"file:///"}}"#, NOT_JSON),
        (r#"{"id":1,/*x*/"method":"Runtime.enable"}"#, NOT_JSON),
        ("\u{b}{\"id\":1,\"method\":\"Runtime.enable\"}", NOT_JSON),
        ("{\"id\":1,\"method\":\"Page.navigate\",\"params\":{\"url\":\"fi\nle:///\"}}", NOT_JSON),
        (r#"{"id":1,"method":"Page.navig\x61te","params":{"url":"file:///"}}"#, NOT_JSON),
        (r#"[{"id":1,"method":"Runtime.enable"}]"#, NOT_JSON),
        (r#"{"id":1,"method":"Runtime.enable"}{"id":2}"#, NOT_JSON),
        ("nonsense", NOT_JSON),
        ("", NOT_JSON),
        (r#"{"id":1}"#, NOT_A_COMMAND),
        (r#"{"id":1,"method":7}"#, NOT_A_COMMAND),
        (r#"{"id":1,"method":"\ud800"}"#, NOT_A_COMMAND),
        ("{\"id\":1,\"method\":\"Page.navigate\",\"params\":{\"url\":\"fi\nle:///\"}}", NOT_JSON),
        (r#"{"id":1,"method":"Page.navigate","params":[]}"#, REFUSED),
        ("{\"id\":1,\"method\":\"Page.navigate\",\"params\":{\"url\":\"fi\nle:///\"}}", NOT_JSON),
        (r#"{"id":1,"method":"Page.navigate","params":{"url":"\ud800"}}"#, REFUSED),
    ] {
        let Verdict::Refuse(answer) = filter.judge(text) else { panic!("{text}") };
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["error"]["code"], code, "{text}");
        assert_eq!(answer["id"], if code == NOT_JSON { json!(null) } else { json!(1) }, "{text}");
    }
    assert!(matches!(filter.judge_bytes(b"{\"id\":1,\"method\":\"\xff\"}"), Verdict::Refuse(_)));
}

#[test]
fn a_large_command_gets_a_small_answer() {
    let large = "é".repeat(1_000_000);
    let filter = Filter::new("/nowhere".into(), Egress::closed());
    for command in [
        json!({ "id": 1, "method": format!("Tethering.{large}") }),
        json!({ "id": 1, "method": "Tethering.bind", "sessionId": large }),
        json!({ "id": 1, "method": "Target.createBrowserContext", "params": { "proxyServer": format!("{large}.localhost") } }),
    ] {
        let Verdict::Refuse(answer) = filter.judge(&command.to_string()) else { panic!("it passes") };
        assert!(answer.len() < 1_000 && answer.starts_with(r#"{"id":1,"error""#), "{answer:.200}");
    }
}

#[test]
fn what_a_page_may_be_told_is_not_read_too_closely() {
    let filter = Filter::new("/nowhere".into(), Egress::closed());
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for params in [r#"{"expression":"'\ud800'"}"#, r#"{"a":1e999}"#, &deep, "null", r#"{"url":"file:///","url":1}"#] {
        let text = format!(r#" {{"id":1,"method":"Runtime.evaluate","sessionId":"S","params":{params},"odd":[1]}} "#);
        assert_eq!(filter.judge(&text), Verdict::Pass, "{params:.80}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_nothing_with_a_file_in_it_reaches_a_navigation(
        noise in "[ \\t\\n\\r\\x00-\\x1f]{0,6}",
        breaks in prop::collection::vec("[\\t\\n\\r]{0,2}", 4),
        upper in prop::collection::vec(any::<bool>(), 4),
        sources in 0..3usize,
    ) {
        let mut url = "view-source:".repeat(sources) + &noise;
        for ((letter, gap), upper) in "file".chars().zip(&breaks).zip(&upper) {
            url.push(if *upper { letter.to_ascii_uppercase() } else { letter });
            url.push_str(gap);
        }
        url.push_str(":///etc/passwd");
        let refused = matches!(judge("Page.navigate", json!({ "url": url })), Verdict::Refuse(_));
        prop_assert!(refused);
    }
}
