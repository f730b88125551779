//! A client that speaks CDP over a plain WebSocket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long a command may take on a crowded machine.
const ANSWER: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(500);

pub struct Cdp {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    page: Option<String>,
    /// The code and reason it was closed with, once it was.
    pub goodbye: Option<(u16, String)>,
}

impl Cdp {
    /// Waits for as long as the server holds the upgrade.
    pub async fn try_connect(url: &str) -> Result<Self, Error> {
        let (socket, _) = connect_async(url).await?;
        Ok(Self { socket, last_id: 0, page: None, goodbye: None })
    }

    /// As clients do that heed `Retry-After`: on a machine this busy Redis may be late once.
    pub async fn connect_patiently(url: &str) -> Result<Self, Error> {
        loop {
            match Self::try_connect(url).await {
                Err(Error::Http(answer)) if answer.status() == 503 => tokio::time::sleep(RETRY).await,
                connected => return connected,
            }
        }
    }

    pub async fn connect(url: &str) -> Self {
        Self::connect_patiently(url).await.expect("a browser")
    }

    /// What the browser answers; an error if the socket ends before it does.
    pub async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(page) = &self.page {
            command["sessionId"] = page.as_str().into();
        }
        let exchange = async {
            self.socket.send(Message::text(command.to_string())).await.map_err(|error| error.to_string())?;
            loop {
                let message = self.socket.next().await.ok_or("the end")?.map_err(|error| error.to_string())?;
                let text = match message {
                    Message::Text(text) => text,
                    Message::Close(frame) => {
                        let told = format!("{frame:?}");
                        self.goodbye = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                        return Err(told);
                    }
                    _ => continue,
                };
                let mut answer: Value = serde_json::from_str(&text).expect("JSON");
                if answer["id"] == self.last_id {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return Ok(answer["result"].take());
                }
            }
        };
        timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(format!("no answer to {method}")))
    }

    /// The value of an expression in the page the browser started with.
    pub async fn try_evaluate(&mut self, expression: &str) -> Result<Value, String> {
        if self.page.is_none() {
            let targets = self.try_call("Target.getTargets", json!({})).await?;
            let page =
                targets["targetInfos"].as_array().expect("a list").iter().find(|target| target["type"] == "page");
            let params = json!({"targetId": page.expect("a page")["targetId"], "flatten": true});
            let attached = self.try_call("Target.attachToTarget", params).await?;
            self.page = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        }
        let params = json!({"expression": expression, "returnByValue": true});
        Ok(self.try_call("Runtime.evaluate", params).await?["result"]["value"].take())
    }

    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).await.expect("an answer")
    }

    /// The browser's main process. To be asked before anything is evaluated.
    pub async fn browser_process(&mut self) -> Result<u32, String> {
        let answer = self.try_call("SystemInfo.getProcessInfo", json!({})).await?;
        let processes = answer["processInfo"].as_array().expect("a list");
        let browser = processes.iter().find(|process| process["type"] == "browser").expect("the browser itself");
        Ok(u32::try_from(browser["id"].as_u64().expect("a pid")).expect("a pid"))
    }

    /// The code and reason it is closed with. 1006: without a word.
    pub async fn closed(&mut self, within: Duration) -> (u16, String) {
        let goodbye = self.try_closed(within).await;
        goodbye.unwrap_or_else(|| panic!("the socket is still open after {within:?}"))
    }

    /// The same, or `None` if it is still open then.
    pub async fn try_closed(&mut self, within: Duration) -> Option<(u16, String)> {
        let goodbye = async {
            while let Some(Ok(message)) = self.socket.next().await {
                if let Message::Close(frame) = message {
                    return frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                }
            }
            (1006, String::new())
        };
        timeout(within, goodbye).await.ok()
    }
}
