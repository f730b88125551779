//! Tokens, against another implementation of JOSE ([vectors.py](tokens/vectors.py)): what it makes is taken here, what is
//! made here it can read, and what somebody with the keys could make to deceive us is refused.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;
use wallcrawler::fleet::none::NoFleet;
use wallcrawler::secrets::SecretsManager;
use wallcrawler::tokens::{Subject, TokenError, Tokens};

use crate::moto::Moto;
use crate::world::{Redis, World, config, redis_command};

const SECRET: &str = "a secret of the tests, 32 bytes!";
const PREVIOUS: &str = "another secret of the tests, 32 b";
const NOW: u64 = 1_767_225_600;
const NOW_MS: u64 = NOW * 1_000;

#[derive(Deserialize)]
struct Vectors {
    opened: Vec<Opened>,
    good: Vec<Good>,
    signed: Vec<Good>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Opened {
    envelope: Value,
    header: Value,
    claims: Value,
}

#[derive(Deserialize)]
struct Good {
    name: String,
    token: String,
    claims: Value,
}

#[derive(Deserialize)]
struct Refused {
    name: String,
    token: String,
    why: String,
}

fn vectors(minted: &[String]) -> Vectors {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/moto/bin/python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tokens/vectors.py");
    let mut child = Command::new(python)
        // It warns of what it is made to do here.
        .args(["-W", "ignore", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("joserfc is installed by: scripts/prerequisites test");
    let asked = json!({"secret": SECRET, "previous": PREVIOUS, "now": NOW, "minted": minted});
    child.stdin.take().expect("piped").write_all(asked.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it runs");
    assert!(output.status.success(), "vectors.py: see above");
    serde_json::from_slice(&output.stdout).expect("vectors")
}

fn subject(claims: &Value) -> Subject {
    let text = |name: &str| claims[name].as_str().expect("a text");
    let session = || text("sub").parse().expect("a session");
    let user = || text("uid").parse().expect("a user");
    match text("role") {
        "connect" => Subject::Connect { session: session(), user: user() },
        "view" => Subject::View { session: session(), user: user() },
        _ => Subject::Container(text("sub").parse().expect("a container")),
    }
}

fn tokens(accept_signed: bool) -> Tokens {
    Tokens::new(&[SECRET, PREVIOUS], accept_signed).expect("long enough")
}

#[test]
fn another_implementation_reads_our_tokens() {
    let aud = "wallcrawler";
    let claims = [
        json!({"aud": aud, "role": "connect", "sub": "ses_1", "uid": "user_1", "iat": NOW, "exp": NOW + 60}),
        json!({"aud": aud, "role": "view", "sub": "ses_1", "uid": "user_1", "iat": NOW, "exp": NOW + 60}),
        json!({"aud": aud, "role": "container", "sub": "ctr_1", "iat": NOW, "exp": NOW + 60}),
    ];
    let minted = claims.each_ref().map(|claims| tokens(false).mint(&subject(claims), NOW_MS, NOW_MS + 60_000));
    let opened = vectors(&minted).opened;
    assert_eq!(opened.len(), claims.len());
    for (opened, claims) in opened.iter().zip(&claims) {
        assert_eq!(&opened.claims, claims);
        assert_eq!(opened.header["alg"], "HS256");
        let mut envelope = opened.envelope.clone();
        let kid = envelope.as_object_mut().expect("an object").remove("kid").expect("a key id");
        assert_eq!(kid.as_str().expect("a text").len(), 16);
        assert_eq!(envelope, json!({"alg": "dir", "enc": "A256GCM", "cty": "JWT"}));
    }
}

#[test]
fn we_read_the_tokens_of_another_implementation() {
    let vectors = vectors(&[]);
    assert!(vectors.good.len() > 10 && vectors.signed.len() == 3);
    for Good { name, token, claims } in &vectors.good {
        assert_eq!(tokens(false).verify(token, NOW_MS), Ok(subject(claims)), "{name}");
        assert_eq!(tokens(true).verify(token, NOW_MS), Ok(subject(claims)), "{name}");
    }
    for Good { name, token, claims } in &vectors.signed {
        assert_eq!(tokens(true).verify(token, NOW_MS), Ok(subject(claims)), "{name}");
        assert_eq!(tokens(false).verify(token, NOW_MS), Err(TokenError::Invalid), "{name}");
    }
}

#[test]
fn where_an_audience_is_set_a_token_must_be_for_it() {
    let strict = |audience: &str| tokens(true).with_audience(Some(audience.parse().expect("an audience")));
    let vectors = vectors(&[]);
    for Good { name, token, claims } in vectors.good.iter().chain(&vectors.signed) {
        let ours = claims["aud"] == "wallcrawler";
        let expected = if ours { Ok(subject(claims)) } else { Err(TokenError::Invalid) };
        assert_eq!(strict("wallcrawler").verify(token, NOW_MS), expected, "{name}");
        assert_eq!(strict("elsewhere").verify(token, NOW_MS), Err(TokenError::Invalid), "{name}");
    }
}

/// Taken out: `with_audience` in `App::boot_with`.
#[tokio::test]
async fn a_deployment_takes_no_token_of_another_with_the_same_secret() {
    let (blue, plain) = (World::new(&[("TOKEN_AUDIENCE", "blue")]).await, World::new(&[]).await);
    let opens = async |world: &World, token: &str| {
        let answer = world.client("").get(&format!("/cdp?token={token}")).await;
        answer.body["code"].as_str().expect("a code").to_owned()
    };
    let token = async |world: &World| {
        let created = world.client("key-one").post("/sessions", &json!({})).await;
        created.body["token"].as_str().expect("a token").to_owned()
    };
    let (of_blue, of_plain) = (token(&blue).await, token(&plain).await);
    assert_eq!(opens(&blue, &of_blue).await, "not_a_websocket");
    assert_eq!(opens(&blue, &of_plain).await, "invalid_token");
    assert_eq!(opens(&plain, &of_plain).await, "not_a_websocket");
    assert_eq!(opens(&plain, &of_blue).await, "invalid_token");
    // A container of the other asks for work here.
    let claim = json!({"containerId": "ctr-a", "currentSessions": 0, "maxSessions": 1});
    assert_eq!(blue.container("ctr-a").post("/sessions/claim", &claim).await.body["code"], "invalid_token");
}

/// Taken out: `with_audience` of the secret that is made for development, of the one in Secrets Manager (`secrets`), and
/// of the token that is minted by hand (`main`).
#[tokio::test]
async fn wherever_the_secret_comes_from_the_tokens_are_for_the_deployment() {
    let blue = |secret: &str| {
        let tokens = Tokens::new(&[secret], false).expect("long enough");
        tokens.with_audience(Some("blue".parse().expect("an audience")))
    };
    let made = async |world: &World| {
        let created = world.client("key-one").post("/sessions", &json!({})).await;
        created.body["token"].as_str().expect("a token").to_owned()
    };
    let world = World::new(&[("TOKEN_AUDIENCE", "blue"), ("JWE_SECRET", "")]).await;
    let secret = redis_command(&world.redis.client().await, &["GET", "dev-jwe-secret"]).await;
    let secret = secret.as_string().expect("it was made");
    assert!(blue(&secret).verify(&made(&world).await, now_ms()).is_ok());

    let moto = Moto::start().await;
    moto.put_secret("tokens", SECRET).await;
    let vars =
        [("JWE_SECRET", ""), ("JWE_SECRET_ARN", "tokens"), ("AWS_REGION", "eu-west-1"), ("TOKEN_AUDIENCE", "blue")];
    let redis = Redis::start();
    let config = config(&redis, &vars);
    let world = World::with(redis, config, Box::new(NoFleet), SecretsManager::with_access(&moto.access)).await;
    assert!(blue(SECRET).verify(&made(&world).await, now_ms()).is_ok());

    let mut by_hand = Command::new(env!("CARGO_BIN_EXE_wallcrawler"));
    by_hand.args(["token", "container", "ctr-a"]).env("JWE_SECRET", SECRET).env("TOKEN_AUDIENCE", "blue");
    let minted = by_hand.output().expect("the program is built");
    let token = String::from_utf8(minted.stdout).expect("a text");
    let expected = Subject::Container("ctr-a".parse().expect("an id"));
    assert_eq!(blue(SECRET).verify(token.trim(), now_ms()), Ok(expected));
}

#[test]
fn what_is_malformed_or_made_to_deceive_is_refused() {
    let refused = vectors(&[]).refused;
    assert!(refused.len() > 80, "{}", refused.len());
    let mut wrong = Vec::new();
    for Refused { name, token, why } in &refused {
        let expected = match why.as_str() {
            "Invalid" => TokenError::Invalid,
            "Expired" => TokenError::Expired,
            "UnknownSecret" => TokenError::UnknownSecret,
            _ => panic!("{why}"),
        };
        for accept_signed in [false, true] {
            // It is a token there.
            if accept_signed && name == "written: the inner token alone" {
                continue;
            }
            let verified = tokens(accept_signed).verify(token, NOW_MS);
            if verified != Err(expected) {
                wrong.push(format!("{name} (accept_signed: {accept_signed}): {verified:?}, and not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
