//! However much is logged, no secret is: no key, token, connect URL or body, of a server or of a container.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::cdp::Cdp;
use crate::scene::{PATIENCE, Scene};
use crate::world::{SECRET, eventually};

const KEY: &str = "key-that-is-nowhere-in-the-log";

/// A proxy that refuses everybody.
async fn refusing_proxy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {}
                let refusal = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(refusal.as_bytes()).await
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_everything_in_it_has_no_secret_in_it() {
    for level in ["debug", "trace"] {
        let keys = format!("{KEY},key-one");
        let vars = [("API_KEYS", keys.as_str()), ("MAX_CONTAINERS", "0"), ("RUST_LOG", level)];
        let mut scene = Scene::new(&vars).await;
        scene.start_by_hand("ctr-mine", &[]);

        // The whole life of a session, with a word of its own in everything that is somebody's.
        let proxy = format!("http://127.0.0.1:{}", refusing_proxy().await);
        let body = json!({
            "userMetadata": {"note": "word-of-the-metadata"},
            "browserSettings": {
                "viewport": {"width": 640, "height": 480}, "word-of-a-setting\n": "word-of-the-settings",
                "proxy": {"server": proxy, "username": "name-for-a-proxy", "password": "word-for-a-proxy"},
            },
        });
        let send = async |method: &str, path: &str, body: &Value, key: &str| {
            scene.send(method, path, body, ("x-api-key", key)).await.expect("the server listens")
        };
        let created = send("POST", "/sessions", &body, KEY).await;
        assert_eq!(created.status, 201, "{created:?}");
        let text = |name: &str| created.body[name].as_str().expect("a text").to_owned();
        let (id, url, token) = (text("id"), text("connectUrl"), text("token"));
        let mut cdp = Cdp::connect(&url).await;
        assert_eq!(cdp.evaluate("'word-of-' + 'the-page'").await, "word-of-the-page");
        for _ in 0..2 {
            cdp.try_call("Page.navigate", json!({"url": "http://shop.example/"})).await.expect("the proxy's refusal");
        }
        let found = send("GET", &format!("/sessions/{id}/json/version?token={token}"), &Value::Null, KEY).await;
        let discovered = found.body["webSocketDebuggerUrl"].as_str().expect("a URL").to_owned();
        // The page's title and address are its user's, too; and whoever watches has a token in each address.
        let titled = json!({"url": "data:text/html,<title>word-of-a-title</title>word-of-an-address"});
        cdp.try_call("Page.navigate", titled).await.expect("it is opened");
        let mut view_tokens = Vec::new();
        for interactive in [false, true] {
            let debug = eventually(PATIENCE, async || {
                let path = format!("/v1/sessions/{id}/debug?interactive={interactive}");
                let debug = send("GET", &path, &Value::Null, KEY).await;
                if debug.body["pages"][0]["title"] == "word-of-a-title" {
                    Ok(debug.body)
                } else {
                    Err(format!("{debug:?}"))
                }
            })
            .await;
            let url = |name: &str| debug["pages"][0][name].as_str().expect("a URL").to_owned();
            let picture = url("debuggerFullscreenUrl");
            let view_token = picture.split(['=', '&']).nth(1).expect("a token").to_owned();
            let list = format!("/sessions/{id}/live/pages?token={view_token}");
            assert_eq!(send("GET", &list, &Value::Null, KEY).await.status, 200);
            let socket = picture.replacen("http", "ws", 1).replace("/live?", "/live/ws?");
            drop(Cdp::connect(&socket).await);
            if interactive {
                assert_eq!(reqwest::get(url("debuggerUrl")).await.expect("an answer").status(), 200);
            }
            assert_eq!(reqwest::get(picture).await.expect("an answer").status(), 200);
            view_tokens.push(view_token);
        }
        // What is refused is not logged either.
        assert_eq!(send("GET", "/sessions", &Value::Null, "wrong-key-of-somebody").await.status, 401);
        let forged = format!("/cdp?sessionId={id}&token=forged-token-of-somebody");
        assert_eq!(send("GET", &forged, &Value::Null, KEY).await.status, 401);
        let faulty = json!({"timeout": "word-of-a-faulty-body"});
        assert_eq!(send("POST", "/sessions", &faulty, KEY).await.status, 400);
        assert_eq!(send("DELETE", &format!("/sessions/{id}"), &Value::Null, KEY).await.status, 200);
        assert_eq!(cdp.closed(PATIENCE).await.0, 4002);
        eventually(PATIENCE, async || {
            let ended = scene.logged("session ended").len();
            if ended == 1 { Ok(()) } else { Err(format!("{ended} ended")) }
        })
        .await;
        let refused = scene.logged("the session's proxy refuses its credentials");
        assert_eq!(refused.iter().map(|entry| &entry["session.id"]).collect::<Vec<_>>(), [&json!(id)], "once");

        let container_token = scene.token_of("ctr-mine");
        let log = scene.log();
        assert!(log.contains("\"DEBUG\"") && log.contains(&id), "there is a log");
        let discovered_token = discovered.split("token=").nth(1).expect("a token").to_owned();
        let secrets: BTreeMap<&str, &str> = [
            ("the API key", KEY),
            ("a key that is refused", "wrong-key-of-somebody"),
            ("the secret of the tokens", SECRET),
            ("the client's token", &token),
            ("the token of a discovered URL", &discovered_token),
            ("the token of one who watches", &view_tokens[0]),
            ("the token of one who drives a page", &view_tokens[1]),
            ("the container's token", &container_token),
            ("a forged token", "forged-token-of-somebody"),
            ("the metadata", "word-of-the-metadata"),
            ("the settings", "word-of-the-settings"),
            ("a setting's name", "word-of-a-setting"),
            ("a faulty body", "word-of-a-faulty-body"),
            ("a CDP message", "word-of-"),
            ("the name for a proxy", "name-for-a-proxy"),
            ("the word for a proxy", "word-for-a-proxy"),
            ("what the proxy is told", "bmFtZS1mb3ItYS1wcm94eTp3b3JkLWZvci1hLXByb3h5"),
        ]
        .into();
        let told: Vec<String> = secrets
            .into_iter()
            .filter_map(|(what, secret)| {
                let line = log.lines().find(|line| line.contains(secret))?;
                Some(format!("{level}: {what}: {}", line.chars().take(400).collect::<String>()))
            })
            .collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
    }
}
