//! One gateway client: a socket of its own to the session's Chrome, and what goes over it in both directions.

use std::collections::HashSet;

use futures_util::future::FusedFuture as _;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::delivery::{Outbox, Undeliverable, outbox};
use super::fit::{Fit, asked_for_in_pieces, number};
use super::resequencer::Resequencer;
use super::{Clients, Dialled};
use crate::agent::devtools::{self, Socket};
use crate::agent::filter::{Filter, Verdict};
use crate::agent::logs::{Ear, Speaker};
use crate::agent::relay::LAST_WORDS;
use crate::clock;
use crate::ids::ConnectionId;
use crate::protocol::HeldMessage;

/// The first number of commands of our own. Chrome takes every 32-bit number, and no client counts from here.
const OWN_COMMANDS: i64 = -2_000_000_000;
/// Answers to refused commands that may wait. With more of them nothing is sent to Chrome.
const REFUSALS: usize = 16;

pub struct Carrier {
    pub clients: Clients,
    pub connection: ConnectionId,
    /// The client is.
    pub gone: CancellationToken,
}

impl Carrier {
    /// Until the client, Chrome or the session is gone.
    pub async fn run(self, dialling: watch::Sender<Dialled>, inbound: mpsc::Receiver<HeldMessage>) {
        let Self { clients, connection, gone } = self;
        let session = clients.0.session.clone();
        let socket = match devtools::dial(&clients.0.door.endpoint).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::info!(session.id = %session, connection.id = %connection, error = %error,
                    "the browser did not take a connection");
                clients.forget(&connection);
                dialling.send_replace(Dialled::Failed);
                return;
            }
        };
        dialling.send_replace(Dialled::Answered);
        tracing::debug!(session.id = %session, connection.id = %connection, "a gateway client is connected");

        let (sink, stream) = socket.split();
        let (own_commands, commands) = mpsc::unbounded_channel();
        let (outbox, delivery) = outbox();
        let (refusals, refused) = mpsc::channel(REFUSALS);
        let ear = clients.0.door.logs.listen();
        let filtered = ToBrowser { sink, filter: &clients.0.door.filter, ear: ear.clone(), refusals };
        let to_browser = to_browser(filtered, inbound, commands, gone.clone());
        let from_browser = FromBrowser {
            outbox,
            ear,
            refused,
            own_commands,
            next_own: OWN_COMMANDS,
            unanswered: HashSet::new(),
            fit: Fit::default(),
            gone: gone.clone(),
        };
        let session_over = async {
            clients.0.over.cancelled().await;
            sleep(LAST_WORDS).await;
        };
        let (to_browser, from_browser) = (to_browser.fuse(), from_browser.run(stream).fuse());
        tokio::pin!(to_browser, from_browser);
        let delivered = delivery.run(&clients.0.api, &connection, clients.0.idle_beat);
        let why = tokio::select! {
            () = gone.cancelled() => "the client is gone",
            // What Chrome said before it closed its socket is delivered first.
            ended = async { tokio::try_join!((&mut from_browser).map(Ok), delivered) } => match ended {
                Ok(((), ())) => "the browser has closed it",
                Err(Undeliverable::Gone) => "the control plane says that the client is gone",
                Err(Undeliverable::Refused) => "the control plane takes nothing for it",
            },
            () = session_over => "the session is over",
            () = &mut to_browser => "the client is gone",
        };
        clients.close(&connection);
        tracing::debug!(session.id = %session, connection.id = %connection, why, "a gateway client's connection ends");
        // What the client said before it went still counts. Chrome must be listened to meanwhile: a socket that is
        // closed with something unread in it is reset, and what Chrome has not read yet is lost.
        let said = async {
            if !to_browser.is_terminated() {
                to_browser.await;
            }
        };
        let heard = async {
            if !from_browser.is_terminated() {
                from_browser.await;
            }
        };
        let _ = timeout(LAST_WORDS, async { tokio::join!(said, heard) }).await;
    }
}

/// Sends Chrome what the client says, in order; when the client is gone, what is left, and then closes.
async fn to_browser(
    mut browser: ToBrowser<'_>,
    mut inbound: mpsc::Receiver<HeldMessage>,
    mut own: mpsc::UnboundedReceiver<String>,
    gone: CancellationToken,
) {
    let mut order = Resequencer::new();
    let take = |order: &mut Resequencer, HeldMessage { message_id, text }: HeldMessage| {
        order.take(&message_id, number(&text), text, Instant::now())
    };
    loop {
        let due = order.due();
        let sent = tokio::select! {
            () = gone.cancelled() => break,
            Some(command) = own.recv() => browser.sink.send(Message::text(command)).await,
            Some(message) = inbound.recv() => browser.say(take(&mut order, message)).await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                browser.say(order.overdue(Instant::now())).await
            }
        };
        if sent.is_err() {
            // Whoever reads from the socket finds out, and why.
            gone.cancelled().await;
            return;
        }
    }
    inbound.close();
    let mut rest = Vec::new();
    while let Some(message) = inbound.recv().await {
        rest.append(&mut take(&mut order, message));
    }
    rest.append(&mut order.give_up());
    let _ = browser.say(rest).await;
    let _ = browser.sink.close().await;
}

/// Where a client's messages go, and the answers to those that may not go there.
struct ToBrowser<'a> {
    sink: SplitSink<Socket, Message>,
    filter: &'a Filter,
    ear: Ear,
    refusals: mpsc::Sender<String>,
}

impl ToBrowser<'_> {
    async fn say(&mut self, messages: Vec<String>) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        for message in messages {
            self.ear.hear(Speaker::Client, message.as_bytes(), clock::now_ms());
            let message = match self.filter.judge(&message) {
                Verdict::Pass => message,
                Verdict::Rewrite(anew) => anew,
                Verdict::Refuse(answer) => {
                    self.ear.hear(Speaker::Browser, answer.as_bytes(), clock::now_ms());
                    // With Chrome's end of the socket its reader has ended too; nobody waits for an answer then.
                    let _ = self.refusals.send(answer).await;
                    continue;
                }
            };
            self.sink.feed(Message::text(asked_for_in_pieces(message))).await?;
        }
        self.sink.flush().await
    }
}

struct FromBrowser {
    outbox: Outbox,
    ear: Ear,
    /// Answers to commands that Chrome has not got.
    refused: mpsc::Receiver<String>,
    own_commands: mpsc::UnboundedSender<String>,
    next_own: i64,
    /// Own commands that Chrome has not answered.
    unanswered: HashSet<i64>,
    fit: Fit,
    gone: CancellationToken,
}

impl FromBrowser {
    /// Queues what Chrome says until it closes the socket. While the queue is full the socket is not read.
    async fn run(mut self, mut stream: SplitStream<Socket>) {
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                Some(answer) = self.refused.recv() => {
                    self.queue(answer).await;
                    continue;
                }
            };
            let Some(message) = message else { break };
            let text = match message {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(_)) => break,
                Ok(_) => continue,
                Err(error) => {
                    tracing::info!(error = %error, "a socket to a browser broke");
                    break;
                }
            };
            if self.gone.is_cancelled() || self.is_own_answer(&text) {
                continue;
            }
            self.ear.hear(Speaker::Browser, text.as_bytes(), clock::now_ms());
            if let Some(text) = self.fitted(&text) {
                self.queue(text).await;
            }
        }
    }

    async fn queue(&self, text: String) {
        match RawValue::from_string(text) {
            Ok(message) => tokio::select! {
                () = self.gone.cancelled() => {}
                () = self.outbox.push(message) => {}
            },
            Err(error) => tracing::error!(category = ?error.classify(), "the browser said something that is no JSON"),
        }
    }

    fn fitted(&mut self, text: &str) -> Option<String> {
        if Fit::fits(text) {
            return Some(text.to_owned());
        }
        let Some(instead) = self.fit.instead(text, Instant::now(), clock::now_ms()) else {
            tracing::error!(bytes = text.len(), "the browser said something large that is not CDP");
            return None;
        };
        if let Some(command) = instead.to_browser {
            self.say(command);
        }
        instead.to_client
    }

    fn say(&mut self, mut command: Value) {
        command["id"] = self.next_own.into();
        self.unanswered.insert(self.next_own);
        self.next_own += 1;
        // There is no bound, but Chrome paints only a few frames before it wants one acknowledged.
        let _ = self.own_commands.send(command.to_string());
    }

    /// The client knows nothing of the command, so it must not see the answer.
    fn is_own_answer(&mut self, text: &str) -> bool {
        // Chrome puts the number first, and it is negative for hardly anybody else.
        let Some(rest) = text.strip_prefix(r#"{"id":-"#) else { return false };
        let digits = rest.find(|character: char| !character.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
        digits.parse::<i64>().is_ok_and(|number| self.unanswered.remove(&-number))
    }
}
