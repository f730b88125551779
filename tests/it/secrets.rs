//! API keys and the tokens' secret in Secrets Manager, on a stand-in that speaks its protocol.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;
use wallcrawler::fleet::none::NoFleet;
use wallcrawler::secrets::{SecretsManager, Timing};
use wallcrawler::tokens::{Subject, Tokens};

use crate::moto::{Fault, Moto};
use crate::world::{Answer, Redis, World, config, eventually};

const FIRST: &str = "the first secret of tokens, 32 bytes";
const SECOND: &str = "the second secret of tokens, 32 bytes";
const THIRD: &str = "the third secret of tokens, 32 bytes";

const ARNS: [(&str, &str); 5] = [
    ("API_KEYS", ""),
    ("JWE_SECRET", ""),
    ("API_KEYS_SECRET_ARN", "keys"),
    ("JWE_SECRET_ARN", "tokens"),
    ("AWS_REGION", "eu-west-1"),
];

const PATIENCE: Duration = Duration::from_secs(40);

/// What is read is good for long, and may be read again at any time.
const EAGER: Timing =
    Timing { max_age: Duration::from_secs(3_600), pause: Duration::ZERO, first_pause: Duration::ZERO };

/// A stand-in with the secrets of a control plane.
async fn moto() -> Moto {
    let moto = Moto::start().await;
    moto.put_secret("keys", r#"{"API_KEYS": ["key-one"]}"#).await;
    moto.put_secret("tokens", FIRST).await;
    moto
}

async fn world(moto: &Moto, timing: Timing) -> World {
    let redis = Redis::start();
    let mut config = config(&redis, &ARNS);
    config.secrets = timing;
    World::with(redis, config, Box::new(NoFleet), SecretsManager::with_access(&moto.access)).await
}

/// Whether a session's token opens it. A request that is no upgrade gets no further, but so far.
async fn opens(world: &World, token: &str) -> bool {
    let answer = world.client("").get(&format!("/cdp?token={token}")).await;
    match answer.body["code"].as_str() {
        Some("not_a_websocket") => true,
        Some("invalid_token") => false,
        _ => panic!("{answer:?}"),
    }
}

async fn claims(world: &World, token: &str) -> bool {
    let request = json!({"containerId": "ctr-a", "currentSessions": 0, "maxSessions": 1});
    let caller = world.client("").with("authorization", format!("Bearer {token}"));
    caller.post("/sessions/claim", &request).await.status == StatusCode::OK
}

async fn session_token(world: &World) -> String {
    let answer = world.client("key-one").post("/sessions", &json!({})).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.body["token"].as_str().expect("a token").to_owned()
}

fn container_token(secret: &str) -> String {
    let tokens = Tokens::new(&[secret], false).expect("long enough");
    tokens.mint(&Subject::Container("ctr-a".parse().expect("an id")), now_ms(), now_ms() + 60_000)
}

fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a header")).expect("base64");
    serde_json::from_slice::<Value>(&header).expect("JSON")["kid"].as_str().expect("a kid").to_owned()
}

fn is_unavailable(answer: &Answer) -> bool {
    let unavailable = answer.status == StatusCode::SERVICE_UNAVAILABLE;
    if unavailable {
        assert_eq!(answer.body["code"], "secrets_unavailable");
        assert_eq!(
            (&answer.headers["retry-after"], &answer.headers["retry-after-ms"]),
            (&HeaderValue::from_static("1"), &HeaderValue::from_static("1000"))
        );
    }
    unavailable
}

#[tokio::test]
async fn rotating_the_secret_of_tokens_ends_no_session() {
    let moto = moto().await;
    let world = world(&moto, EAGER).await;
    let old = session_token(&world).await;
    assert!(opens(&world, &old).await);
    moto.put_secret("tokens", &json!({"JWE_SECRET": SECOND}).to_string()).await;
    assert_eq!(kid(&session_token(&world).await), kid(&old), "nobody has told it yet");
    // Another process has: its tokens are of a secret that is not known here.
    let new = container_token(SECOND);
    assert!(claims(&world, &new).await);
    assert!(opens(&world, &old).await && claims(&world, &container_token(FIRST)).await);
    let newer = session_token(&world).await;
    assert_eq!(kid(&newer), kid(&new));
    assert!(opens(&world, &newer).await);
    moto.put_secret("tokens", THIRD).await;
    assert!(claims(&world, &container_token(THIRD)).await);
    assert!(opens(&world, &newer).await);
    assert!(!opens(&world, &old).await, "two rotations are too many for it");
    assert!(!claims(&world, &container_token("a secret that was never in use here")).await);
}

#[tokio::test]
async fn a_new_key_works_at_once_and_a_removed_one_does_not_for_long() {
    let moto = moto().await;
    let age = Duration::from_millis(700);
    let world = world(&moto, Timing { max_age: age, ..EAGER }).await;
    let status = async |key: &'static str| world.client(key).get("/sessions").await.status;
    assert_eq!(status("key-one").await, StatusCode::OK);
    assert_eq!(status("key-two").await, StatusCode::UNAUTHORIZED);
    moto.put_secret("keys", "key-one, key-two").await;
    assert_eq!(status("key-two").await, StatusCode::OK);
    let removed = Instant::now();
    moto.put_secret("keys", r#"["key-two"]"#).await;
    eventually(age + Duration::from_secs(10), async || match status("key-one").await {
        StatusCode::UNAUTHORIZED => Ok(()),
        seen => Err(format!("{seen} after {:?}", removed.elapsed())),
    })
    .await;
    assert_eq!(status("key-two").await, StatusCode::OK);
    assert!(moto.secret_reads().iter().all(|read| read != "keys AWSPREVIOUS"), "which would bring it back");
}

#[tokio::test]
async fn what_nobody_knows_does_not_have_secrets_read_again_and_again() {
    let moto = moto().await;
    let pause = Duration::from_millis(400);
    let world = world(&moto, Timing { pause, ..EAGER }).await;
    let (started, mut asked) = (Instant::now(), 0);
    let unknown = container_token(SECOND);
    while started.elapsed() < pause * 3 || asked < 120 {
        let bad = world.client("key-three");
        let keys = futures_util::future::join_all((0..20).map(|_| bad.get("/sessions")));
        let tokens = futures_util::future::join_all((0..20).map(|_| claims(&world, &unknown)));
        let (keys, tokens) = futures_util::join!(keys, tokens);
        assert!(keys.iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED));
        assert!(tokens.iter().all(|opens| !opens));
        asked += 40;
    }
    let times = 1 + started.elapsed().as_millis() / pause.as_millis();
    for version in ["keys AWSCURRENT", "tokens AWSCURRENT", "tokens AWSPREVIOUS"] {
        let reads = moto.secret_reads().iter().filter(|read| *read == version).count() as u128;
        assert!((2..=times).contains(&reads), "{version}: {reads} reads, {asked} requests, {:?}", started.elapsed());
    }
    // It need not be configured: as they are, they are read once in ten seconds.
    let usual = Timing::of(Duration::from_secs(300));
    assert_eq!((usual.pause, usual.max_age), (Duration::from_secs(10), Duration::from_secs(300)));
}

#[tokio::test]
async fn secrets_that_cannot_be_read_any_more_stay_as_they_are_known() {
    let moto = moto().await;
    let world = world(&moto, Timing { max_age: Duration::ZERO, ..EAGER }).await;
    let old = session_token(&world).await;
    moto.put_secret("keys", "key-two").await;
    moto.put_secret("tokens", SECOND).await;
    for fault in [Fault::Throttled, Fault::ServerError, Fault::Denied, Fault::Cut] {
        moto.fail_secrets(Some(fault));
        let token = session_token(&world).await;
        assert_eq!(kid(&token), kid(&old), "{fault:?}");
        assert!(opens(&world, &old).await && !claims(&world, &container_token(SECOND)).await, "{fault:?}");
        assert_eq!(world.client("key-two").get("/sessions").await.status, StatusCode::UNAUTHORIZED, "{fault:?}");
    }
    moto.fail_secrets(None);
    // As is what became unusable.
    moto.put_secret("keys", r#"["key-one", {"sha256": "hunter2"}]"#).await;
    moto.put_secret("tokens", "too short").await;
    assert_eq!(kid(&session_token(&world).await), kid(&old));
    moto.put_secret("keys", "key-two").await;
    assert_eq!(world.client("key-two").get("/sessions").await.status, StatusCode::OK);
    assert_eq!(world.client("key-one").get("/sessions").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn until_the_secrets_can_be_read_everything_that_needs_them_is_503() {
    let moto = moto().await;
    for fault in [Fault::Throttled, Fault::ServerError, Fault::Denied, Fault::Cut, Fault::Silence] {
        let world = world(&moto, EAGER).await;
        moto.fail_secrets(Some(fault));
        let started = Instant::now();
        assert!(is_unavailable(&world.client("key-one").post("/sessions", &json!({})).await), "{fault:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", started.elapsed());
        if fault != Fault::Silence {
            let token = container_token(FIRST);
            let caller = world.client("").with("authorization", format!("Bearer {token}"));
            assert!(is_unavailable(&caller.post("/sessions/claim", &json!({})).await), "{fault:?}");
            assert!(is_unavailable(&world.client("").get("/cdp?token=a.b.c.d.e").await), "{fault:?}");
        }
        assert_eq!(world.client("").get("/health").await.status, StatusCode::OK, "{fault:?}");
        moto.fail_secrets(None);
        session_token(&world).await;
    }
    // One of them is not enough to create a session, and none is created.
    moto.put_secret("tokens", "too short").await;
    let world = world(&moto, EAGER).await;
    assert!(is_unavailable(&world.client("key-one").post("/sessions", &json!({})).await));
    moto.put_secret("tokens", FIRST).await;
    assert_eq!(world.client("key-one").get("/sessions").await.body["sessions"], json!([]));
}

#[tokio::test]
async fn what_a_first_request_needs_is_read_at_the_same_time() {
    let moto = moto().await;
    let world = world(&moto, EAGER).await;
    assert_eq!(moto.secret_reads(), [""; 0], "nothing before it is needed");
    moto.fail_secrets(Some(Fault::Silence));
    let first = async { world.client("key-one").get("/sessions").await };
    let all_three = eventually(Duration::from_secs(5), async || {
        let mut reads = moto.secret_reads();
        reads.sort();
        let all = ["keys AWSCURRENT", "tokens AWSCURRENT", "tokens AWSPREVIOUS"];
        if reads.len() >= 3 && reads[..3] == all { Ok(()) } else { Err(format!("{reads:?}")) }
    });
    tokio::select! {
        answer = first => panic!("while nothing was answered: {answer:?}"),
        () = all_three => {}
    }
}

/// The built program with its secrets in Secrets Manager, and what it has logged.
struct Program {
    child: Child,
    log: PathBuf,
    _redis: Redis,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(moto: &Moto, command: Command) -> Self {
        let (mut command, redis) = (command, Redis::start());
        let log = redis.dir.join("log");
        let stderr = File::create(&log).expect("a file");
        let vars = [
            ("ENVIRONMENT", "prod"),
            ("REDIS_ENDPOINT", &redis.url()),
            ("CDP_ENDPOINT", "cdp.example.com"),
            ("BIND", "127.0.0.1"),
            ("PORT", "0"),
            ("MAX_CONTAINERS", "0"),
            ("RUST_LOG", "trace"),
            ("LOG_FORMAT", "json"),
        ];
        let secrets = ARNS.into_iter().filter(|(_, value)| !value.is_empty());
        command.envs(vars).envs(secrets).envs(moto.access_vars()).stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.stderr(stderr).spawn().expect("the program is built"), log, _redis: redis }
    }

    fn server(moto: &Moto) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wallcrawler"));
        command.env_clear();
        Self::start(moto, command)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    async fn url(&self) -> String {
        eventually(PATIENCE, async || {
            let log = self.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let listening = lines.find(|line| line["message"] == "listening");
            listening.map(|line| line["url"].as_str().expect("a url").to_owned()).ok_or(log)
        })
        .await
    }

    /// Its exit code, once it has ended.
    async fn end(&mut self) -> Option<i32> {
        eventually(PATIENCE, async || match self.child.try_wait().expect("a child") {
            Some(status) => Ok(status.code()),
            None => Err("it runs".to_owned()),
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_secrets_at_its_start_if_that_may_help_and_never_says_them() {
    let moto = moto().await;
    moto.fail_secrets(Some(Fault::Throttled));
    let server = Program::server(&moto);
    eventually(PATIENCE, async || {
        let log = server.log();
        let failed = ["API_KEYS_SECRET_ARN", "JWE_SECRET_ARN"].iter().all(|name| log.contains(name));
        if failed && log.contains("ThrottlingException") { Ok(()) } else { Err(log) }
    })
    .await;
    moto.fail_secrets(None);
    let url = server.url().await;
    let create = async |key: &str| {
        let request = reqwest::Client::new().post(format!("{url}/sessions")).header("x-api-key", key);
        request.send().await.expect("an answer")
    };
    let created: Value = serde_json::from_str(&create("key-one").await.text().await.expect("a text")).expect("JSON");
    let token = created["token"].as_str().expect("a token");
    assert_eq!(create("key-three").await.status(), 401);
    let log = server.log();
    for secret in ["key-one", "key-three", FIRST, token] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_waits_for_its_secrets_can_be_stopped() {
    let moto = moto().await;
    moto.fail_secrets(Some(Fault::Throttled));
    let mut server = Program::server(&moto);
    eventually(PATIENCE, async || {
        let log = server.log();
        if log.contains("ThrottlingException") { Ok(()) } else { Err(log) }
    })
    .await;
    let (pid, stopped) = (Pid::from_raw(server.child.id().cast_signed()).expect("a pid"), Instant::now());
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(server.end().await, Some(0));
    assert!(stopped.elapsed() < Duration::from_secs(10), "after {:?}", stopped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_secrets_cannot_be_used_says_so_and_ends() {
    let moto = moto().await;
    moto.put_secret("tokens", "hunter2").await;
    let mut server = Program::server(&moto);
    assert_eq!(server.end().await, Some(1));
    let said =
        "wallcrawler: JWE_SECRET_ARN could not be read: the secret cannot be used: JWE_SECRET must be at least 32";
    assert!(server.log().contains(said) && !server.log().contains("hunter2"), "{}", server.log());
    moto.fail_secrets(Some(Fault::Denied));
    let mut server = Program::server(&moto);
    assert_eq!(server.end().await, Some(1));
    let said = "wallcrawler: API_KEYS_SECRET_ARN could not be read: Secrets Manager refused: AccessDeniedException";
    assert!(server.log().contains(said), "{}", server.log());
}

#[cfg(feature = "lambda")]
#[tokio::test(flavor = "multi_thread")]
async fn a_function_without_its_secrets_answers_503_until_it_has_them() {
    use crate::lambda::{HTTP_API, bootstrap, event};
    use crate::runtime_api::RuntimeApi;

    let moto = moto().await;
    moto.fail_secrets(Some(Fault::Denied));
    let (api, address) = RuntimeApi::start().await;
    let mut function = Program::start(&moto, bootstrap::bootstrap(&address, &[]));
    let create = event(HTTP_API);
    for _ in 0..3 {
        let answer = api.invoke(&create).await.expect("an answer");
        assert_eq!((&answer["statusCode"], &answer["headers"]["retry-after"]), (&json!(503), &json!("1")), "{answer}");
        assert!(answer["body"].as_str().is_some_and(|body| body.contains("secrets_unavailable")), "{answer}");
    }
    moto.fail_secrets(None);
    eventually(PATIENCE, async || match api.invoke(&create).await.expect("an answer") {
        answer if answer["statusCode"] == 201 => Ok(()),
        answer => Err(answer.to_string()),
    })
    .await;
    assert!(function.child.try_wait().expect("a child").is_none(), "the same process as before");
    let reads = moto.secret_reads().len();
    for _ in 0..3 {
        assert_eq!(api.invoke(&create).await.expect("an answer")["statusCode"], 201);
    }
    assert_eq!(moto.secret_reads().len(), reads, "it is known");
    let log = function.log();
    let said = log.lines().find(|line| line.contains("key-one") || line.contains(FIRST));
    assert_eq!(said, None);
}
