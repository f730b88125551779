//! Those who want browsers: each follows its script, through whichever server answers, and notes what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite;

use crate::cdp::Cdp;
use crate::plan::{Act, Random, Script};
use crate::stage::{SERVERS, Stage, profile};

pub const KEYS: [&str; 2] = ["key-one", "key-two"];
/// A client that is refused comes again after this, or when it is told to, if that is sooner.
const RETRY: Duration = Duration::from_millis(500);
/// How long somebody goes on trying to be served. Others may be before it in the queue.
const PERSEVERANCE: Duration = Duration::from_secs(60);
const ENOUGH: usize = 10;
/// Longer than any request is held that is not an upgrade.
const ANSWER: Duration = Duration::from_secs(10);
/// Longer than an upgrade is held.
const UPGRADE: Duration = Duration::from_secs(25);
/// How long a client may be left on a socket whose session has ended.
const GOODBYE: Duration = Duration::from_secs(15);

/// A session that was answered with 201, and all that its client knows of it.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: String,
    pub script: Script,
    /// The client, or somebody with its key, asked for the end.
    pub asked_for_end: bool,
    /// Its client went, or lost its socket, at least once.
    pub left: bool,
    /// The browsers that answered it.
    pub browsers: BTreeSet<String>,
    /// Why its sockets were closed, where the server said so.
    pub told: BTreeSet<String>,
    pub served_after: Option<Duration>,
}

/// What all clients have noted.
#[derive(Default)]
pub struct Ledger {
    pub records: Mutex<BTreeMap<String, Record>>,
    /// How often each request was answered with each status; 0: it was not answered.
    pub answers: Mutex<BTreeMap<(String, u16), usize>>,
    pub slowest_refusal: Mutex<Duration>,
    /// Creates without an answer, by the client that will never know what became of them.
    pub unanswered: Mutex<BTreeMap<String, usize>>,
    /// The `Idempotency-Key`s in use, and the session that each made.
    pub keys: Mutex<BTreeMap<String, String>>,
    /// How each session that was seen to have ended did, and when that was seen first.
    pub ends: Mutex<BTreeMap<String, (String, Instant)>>,
    /// What must not be: the session concerned, and what was seen.
    pub violations: Mutex<Vec<(Option<String>, String)>>,
}

impl Ledger {
    pub fn violation(&self, id: Option<&str>, what: String) {
        eprintln!("chaos: {}{what}", id.map(|id| format!("{id}: ")).unwrap_or_default());
        self.violations.lock().expect("not poisoned").push((id.map(str::to_owned), what));
    }

    /// Of what is wrong so often the first few tell enough.
    pub fn has_seen_enough(&self) -> bool {
        self.violations.lock().expect("not poisoned").len() >= ENOUGH
    }

    fn count(&self, request: &str, status: u16) {
        *self.answers.lock().expect("not poisoned").entry((request.to_owned(), status)).or_default() += 1;
    }

    fn note(&self, id: &str, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.lock().expect("not poisoned").get_mut(id) {
            change(record);
        }
    }

    /// A session as it was answered to whoever asked then. One that has ended stays as it is.
    fn saw(&self, session: &Value, asked: Instant) {
        let id = session["id"].as_str().unwrap_or_default();
        let mut ends = self.ends.lock().expect("not poisoned");
        let now = session["endReason"].as_str().map(str::to_owned);
        if (session["status"] == "ended") != now.is_some() {
            self.violation(Some(id), format!("it is neither ended nor not: {session}"));
        }
        match (ends.get(id), now) {
            (None, Some(reason)) => drop(ends.insert(id.to_owned(), (reason, Instant::now()))),
            (Some((before, seen)), now) if asked > *seen && now.as_ref() != Some(before) => {
                let what = format!("it had ended, {before}; now it is {}, {now:?}", session["status"]);
                self.violation(Some(id), what);
            }
            _ => {}
        }
    }
}

/// Somebody with an API key.
pub struct Client<'a> {
    pub stage: &'a Stage,
    pub ledger: &'a Ledger,
    pub http: reqwest::Client,
    pub name: String,
    pub key: &'static str,
    pub random: Random,
}

/// What became of a request.
enum Answer {
    Answered(u16, Value),
    /// Nobody knows whether it was carried out.
    Nothing,
}

/// What became of an attempt to connect.
enum Connected {
    Yes(Box<Cdp>),
    Ended,
    NotNow,
}

impl<'a> Client<'a> {
    pub fn new(stage: &'a Stage, ledger: &'a Ledger, seed: u64, number: u64, key: &'static str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { stage, ledger, http, name: format!("client-{number}"), key, random: Random::new(seed, number) }
    }

    async fn ask(&mut self, method: Method, path: &str, body: &Value, key: Option<&str>, patience: Duration) -> Answer {
        let name = match path.split(['?', '/']).nth(2) {
            Some(id) if id.starts_with("ses_") => format!("{method} /sessions/{{id}}"),
            _ => format!("{method} /sessions"),
        };
        let server = usize::try_from(self.random.below(SERVERS as u64)).expect("small");
        let url = format!("{}{path}", self.stage.url(server));
        let mut request = self.http.request(method, url).header("x-api-key", self.key).timeout(patience);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let asked = Instant::now();
        let answer = async {
            let answer = request.send().await?;
            let (status, hint) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
            Ok::<_, reqwest::Error>((status, hint, answer.bytes().await?))
        };
        let Ok((status, hint, body)) = answer.await else {
            if patience == ANSWER && asked.elapsed() >= ANSWER {
                self.ledger.violation(None, format!("{name} was not answered within {ANSWER:?}"));
            }
            self.ledger.count(&name, 0);
            return Answer::Nothing;
        };
        self.ledger.count(&name, status);
        if [429, 503].contains(&status) && !hint {
            self.ledger.violation(None, format!("{name} was answered {status} without a Retry-After"));
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status == 503 {
            let mut slowest = self.ledger.slowest_refusal.lock().expect("not poisoned");
            *slowest = slowest.max(asked.elapsed());
        }
        if ![200, 201, 404, 429, 503].contains(&status) {
            self.ledger.violation(None, format!("{name} was answered {status}: {body}"));
        }
        Answer::Answered(status, body)
    }

    /// Asks until there is an answer that is no refusal.
    async fn ask_patiently(&mut self, method: Method, path: &str) -> Option<(u16, Value, Instant)> {
        let began = Instant::now();
        while began.elapsed() < PERSEVERANCE {
            let asked = Instant::now();
            match self.ask(method.clone(), path, &Value::Null, None, ANSWER).await {
                Answer::Answered(status, body) if status != 503 => return Some((status, body, asked)),
                _ => sleep(RETRY).await,
            }
        }
        self.ledger.violation(None, format!("{method} {path}: refused for {PERSEVERANCE:?}"));
        None
    }

    pub async fn get(&mut self, id: &str) -> Option<Value> {
        let (status, session, asked) = self.ask_patiently(Method::GET, &format!("/sessions/{id}")).await?;
        if status != 200 {
            self.ledger.violation(Some(id), format!("it was answered with 201, and is answered {status} now"));
            return None;
        }
        self.ledger.saw(&session, asked);
        Some(session)
    }

    /// Looks at all of the owner's sessions, a page at a time.
    pub async fn list(&mut self) {
        let mut path = "/sessions?limit=100".to_owned();
        while let Some((_, page, asked)) = self.ask_patiently(Method::GET, &path).await {
            for session in page["sessions"].as_array().into_iter().flatten() {
                self.ledger.saw(session, asked);
                if session["userMetadata"]["key"] != self.key {
                    let id = session["id"].as_str();
                    self.ledger.violation(id, format!("it is another's, and in the list of {}", self.key));
                }
            }
            match page["nextCursor"].as_str() {
                Some(cursor) => path = format!("/sessions?limit=100&cursor={cursor}"),
                None => return,
            }
        }
    }

    async fn create(&mut self, act: &Act) -> Option<Value> {
        let key = act.idempotent.then(|| format!("{}-{:x}", self.name, self.random.next()));
        let body = json!({
            "keepAlive": act.script == Script::ComesBack,
            "userMetadata": {"client": self.name, "key": self.key, "made": key},
        });
        let began = Instant::now();
        let mut patience = if act.hasty { Duration::from_millis(3) } else { ANSWER };
        let session = loop {
            if began.elapsed() > PERSEVERANCE {
                self.ledger.violation(None, format!("{}: creates were refused for {PERSEVERANCE:?}", self.name));
                return None;
            }
            match self.ask(Method::POST, "/sessions", &body, key.as_deref(), patience).await {
                Answer::Answered(201, session) => break session,
                Answer::Answered(..) => sleep(RETRY).await,
                Answer::Nothing => sleep(RETRY / 5).await,
            }
            // The store may have done it, and the answer been lost.
            if key.is_none() {
                *self.ledger.unanswered.lock().expect("not poisoned").entry(self.name.clone()).or_default() += 1;
            }
            patience = ANSWER;
        };
        let id = session["id"].as_str().expect("an id").to_owned();
        let record = Record {
            id: id.clone(),
            script: act.script,
            asked_for_end: false,
            left: false,
            browsers: BTreeSet::new(),
            told: BTreeSet::new(),
            served_after: None,
        };
        self.ledger.records.lock().expect("not poisoned").insert(id.clone(), record);
        if let Some(key) = key {
            self.ledger.keys.lock().expect("not poisoned").insert(key.clone(), id.clone());
            if let Answer::Answered(201, again) = self.ask(Method::POST, "/sessions", &body, Some(&key), ANSWER).await
                && again["id"] != session["id"]
            {
                self.ledger.violation(Some(&id), format!("the same Idempotency-Key made {}, too", again["id"]));
            }
        }
        Some(session)
    }

    async fn release(&mut self, id: &str) {
        self.ledger.note(id, |record| record.asked_for_end = true);
        match self.ask_patiently(Method::DELETE, &format!("/sessions/{id}")).await {
            Some((200, session, asked)) if session["status"] == "ended" => self.ledger.saw(&session, asked),
            Some(answer) => self.ledger.violation(Some(id), format!("its release was answered {answer:?}")),
            None => {}
        }
    }

    /// Through any server: the URL names the one that answered the create.
    async fn try_connect(&mut self, session: &Value) -> Connected {
        let id = session["id"].as_str().expect("an id");
        // A create that is repeated may be answered with a session that has ended meanwhile.
        let Some(url) = session["connectUrl"].as_str() else { return Connected::Ended };
        let server = usize::try_from(self.random.below(SERVERS as u64)).expect("small");
        let port = self.stage.port(server).to_string();
        let url =
            (0..SERVERS).fold(url.to_owned(), |url, other| url.replace(&self.stage.port(other).to_string(), &port));
        let status = match timeout(UPGRADE, Cdp::try_connect(&url)).await {
            Ok(Ok(cdp)) => {
                self.ledger.count("GET /cdp", 101);
                return Connected::Yes(Box::new(cdp));
            }
            Ok(Err(tungstenite::Error::Http(answer))) => answer.status().as_u16(),
            Ok(Err(_)) => 0,
            Err(_) => {
                self.ledger.violation(Some(id), format!("an upgrade was held for more than {UPGRADE:?}"));
                return Connected::NotNow;
            }
        };
        self.ledger.count("GET /cdp", status);
        match status {
            410 => return Connected::Ended,
            0 | 503 | 504 => {}
            _ => self.ledger.violation(Some(id), format!("an upgrade was answered {status}")),
        }
        Connected::NotNow
    }

    /// A socket to the session's browser, or none, if it has ended.
    async fn connect(&mut self, session: &Value) -> Option<Cdp> {
        let began = Instant::now();
        while began.elapsed() < PERSEVERANCE {
            match self.try_connect(session).await {
                Connected::Yes(cdp) => return Some(*cdp),
                Connected::Ended => return None,
                Connected::NotNow => sleep(RETRY / 2).await,
            }
        }
        self.ledger.violation(session["id"].as_str(), format!("its client was not served for {PERSEVERANCE:?}"));
        None
    }

    /// Talks to the browser for a while. False: the socket was lost.
    async fn work(&self, id: &str, cdp: &mut Cdp, marker: &mut Marker, works: Duration) -> bool {
        let talk = async {
            let pid = cdp.browser_process().await?;
            // None: it has just died.
            if let Some(browser) = profile(pid) {
                self.ledger.note(id, |record| record.browsers.extend([browser]));
            }
            cdp.try_call("Browser.getVersion", json!({})).await?;
            let found = cdp.try_evaluate("window.marker").await?;
            if !marker.fits(&found, id) {
                self.ledger.violation(Some(id), format!("its page was left {marker:?}, and is found with {found}"));
            }
            *marker = Marker::Perhaps;
            cdp.try_evaluate(&format!("window.marker = {}", json!(id))).await?;
            *marker = Marker::Set;
            let began = Instant::now();
            while began.elapsed() < works {
                sleep(Duration::from_millis(200).min(works)).await;
                if cdp.try_evaluate("window.marker").await? != id {
                    self.ledger.violation(Some(id), "its page is not its own".to_owned());
                }
            }
            Ok::<_, String>(())
        };
        let done = talk.await;
        if done.is_err() {
            self.ledger.note(id, |record| record.left = true);
            self.told(id, cdp.goodbye.take());
        }
        done.is_ok()
    }

    /// Follows the script through one session.
    pub async fn act(&mut self, act: &Act) {
        let Some(session) = self.create(act).await else { return };
        let id = session["id"].as_str().expect("an id").to_owned();
        match act.script {
            Script::NeverConnects => return,
            Script::ThinksBetter => return self.release(&id).await,
            Script::Impatient => {
                self.ledger.note(&id, |record| record.left = true);
                let _ = timeout(act.works / 4, self.try_connect(&session)).await;
                return;
            }
            Script::Releases | Script::ClosesBrowser | Script::HangsUp | Script::ComesBack => {}
        }
        let began = Instant::now();
        let mut marker = Marker::Fresh;
        let mut came_back = false;
        while let Some(mut cdp) = self.connect(&session).await {
            self.ledger.note(&id, |record| record.served_after = record.served_after.or(Some(began.elapsed())));
            if !self.work(&id, &mut cdp, &mut marker, act.works).await {
                continue;
            }
            match act.script {
                Script::HangsUp => {
                    self.ledger.note(&id, |record| record.left = true);
                    return;
                }
                Script::ComesBack if !came_back => {
                    came_back = true;
                    drop(cdp);
                    sleep(act.away).await;
                    continue;
                }
                Script::ClosesBrowser => {
                    self.ledger.note(&id, |record| record.asked_for_end = true);
                    let _ = cdp.try_call("Browser.close", json!({})).await;
                }
                _ => self.release(&id).await,
            }
            match cdp.try_closed(GOODBYE).await {
                None => {
                    let now = self.get(&id).await.unwrap_or_default();
                    let what =
                        format!("its socket is open {GOODBYE:?} after it was ended, and it is {}", now["status"]);
                    self.ledger.violation(Some(&id), what);
                }
                goodbye => self.told(&id, goodbye),
            }
            if act.script == Script::Releases || act.script == Script::ComesBack {
                return;
            }
        }
    }

    fn told(&self, id: &str, goodbye: Option<(u16, String)>) {
        // What the server says of a session is a word and a sentence; 1012 is about itself.
        let reason = goodbye.filter(|(code, _)| *code >= 4_000);
        let word = reason.and_then(|(_, reason)| Some(reason.split_once(':')?.0.to_owned()));
        self.ledger.note(id, |record| record.told.extend(word));
    }
}

/// What must be found in a session's page: nothing, when its first client comes.
#[derive(Debug)]
enum Marker {
    Fresh,
    /// The answer was lost.
    Perhaps,
    Set,
}

impl Marker {
    fn fits(&self, found: &Value, id: &str) -> bool {
        match self {
            Marker::Fresh => found.is_null(),
            Marker::Perhaps => found.is_null() || found == id,
            Marker::Set => found == id,
        }
    }
}
