//! What stands in for Chromium in most containers: a process that starts in milliseconds and speaks as much of
//! DevTools as the container and the clients here ask of it. All the rest of it is real: it is launched, dialled,
//! watched and killed by the agent like any browser, and dies like one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, accept};

/// Whether these are the arguments of a browser.
pub fn is_meant(mut args: impl Iterator<Item = String>) -> bool {
    args.any(|arg| arg.starts_with("--remote-debugging-port="))
}

pub fn run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    eprintln!("DevTools listening on ws://127.0.0.1:{port}/devtools/browser/stand-in");
    let page = Arc::new(Mutex::new(Value::Null));
    for stream in listener.incoming().flatten() {
        let page = Arc::clone(&page);
        std::thread::spawn(move || serve(stream, &page));
    }
}

/// One connection: a question over HTTP, or a socket.
fn serve(stream: TcpStream, page: &Mutex<Value>) -> Option<()> {
    let mut head = [0; 4_096];
    // Only looked at: the handshake reads it again.
    let path = loop {
        let seen = stream.peek(&mut head).ok().filter(|seen| *seen > 0)?;
        let text = String::from_utf8_lossy(&head[..seen]);
        if text.contains("\r\n\r\n") {
            break text.split(' ').nth(1)?.to_owned();
        }
    };
    let answer = match path.as_str() {
        "/json/version" => json!({"Browser": "StandIn/1.0", "Protocol-Version": "1.3"}),
        "/json/list" => json!([{"id": "page", "type": "page"}]),
        _ => return talk(stream, page),
    };
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let body = answer.to_string();
    let length = body.len();
    write!(&stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .ok()?;
    // Until the other side has read it.
    let _ = (&stream).read(&mut head);
    Some(())
}

fn talk(stream: TcpStream, page: &Mutex<Value>) -> Option<()> {
    let mut socket = accept(stream).ok()?;
    loop {
        let Message::Text(text) = socket.read().ok()? else { continue };
        let command: Value = serde_json::from_str(&text).ok()?;
        let closes = command["method"] == "Browser.close";
        let result = match command["method"].as_str()? {
            "Browser.close" | "Browser.setDownloadBehavior" => json!({}),
            "Browser.getVersion" => json!({"product": "StandIn/1.0", "protocolVersion": "1.3"}),
            "SystemInfo.getProcessInfo" => json!({"processInfo": [{"type": "browser", "id": std::process::id()}]}),
            "Target.getTargets" => json!({"targetInfos": [{"targetId": "page", "type": "page"}]}),
            "Target.attachToTarget" => json!({"sessionId": "attached"}),
            "Runtime.evaluate" => {
                let expression = command["params"]["expression"].as_str()?;
                let mut marker = page.lock().expect("not poisoned");
                if let Some(value) = expression.strip_prefix("window.marker = ") {
                    *marker = serde_json::from_str(value).ok()?;
                }
                json!({"result": {"value": *marker}})
            }
            other => panic!("nobody here asks for {other}"),
        };
        let mut answer = json!({"id": command["id"], "result": result});
        if let Some(session) = command.get("sessionId") {
            answer["sessionId"] = session.clone();
        }
        socket.send(Message::text(answer.to_string())).ok()?;
        if closes {
            std::process::exit(0);
        }
    }
}
