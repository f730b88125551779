//! Every route, asked in ways that nobody thought of: no answer is a 500, none is late, every refusal has the documented
//! body, and none repeats a secret. What is asked is drawn from a seed that a failure names; SEED asks the same again.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt as _;
use wallcrawler::clock::now_ms;
use wallcrawler::hex;
use wallcrawler::ids::SessionId;
use wallcrawler::tokens::{Subject, Tokens};

use crate::world::{SECRET, World, container_token, described};

const REQUESTS: usize = 4_000;
/// Longer than a claim may wait here, and than a machine this busy takes for anything else.
const ANSWER: Duration = Duration::from_secs(10);

/// A generator small enough to be read (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// The routing table, with `{id}` where an id goes.
const ROUTES: [(&str, &str); 29] = [
    ("POST", "/sessions"),
    ("GET", "/sessions"),
    ("GET", "/sessions/{id}"),
    ("DELETE", "/sessions/{id}"),
    ("POST", "/sessions/claim"),
    ("POST", "/sessions/{id}/ready"),
    ("POST", "/sessions/{id}/ended"),
    ("POST", "/sessions/{id}/files"),
    ("POST", "/connections/{id}/messages"),
    ("GET", "/fleet"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/cdp"),
    ("GET", "/sessions/{id}/ws"),
    ("GET", "/sessions/{id}/live"),
    ("GET", "/sessions/{id}/live/pages"),
    ("GET", "/sessions/{id}/live/ws"),
    ("GET", "/sessions/{id}/devtools/{id}/{id}"),
    ("GET", "/v1/sessions/{id}/debug"),
    ("GET", "/v1/sessions/{id}/downloads"),
    ("DELETE", "/v1/sessions/{id}/downloads"),
    ("GET", "/v1/sessions/{id}/logs"),
    ("POST", "/v1/sessions/{id}/uploads"),
    ("POST", "/v1/extensions"),
    ("GET", "/v1/extensions/{id}"),
    ("GET", "/sessions/{id}/json/version"),
    ("GET", "/sessions/{id}/json/version/"),
    ("POST", "/events"),
];

const METHODS: [&str; 9] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"];

const IDS: [&str; 12] = [
    "claim",
    "ses_00000000000000000000000000",
    "ses_",
    "x",
    "%00",
    "%ff%fe",
    "..",
    "%2e%2e%2f",
    "a*%7Bx%7D",
    "%0d%0aset-cookie:a",
    "L0SM9cOFvHcCIhw=",
    "%F0%9F%90%9B",
];

const QUERIES: [&str; 14] = [
    "",
    "status=active",
    "status=",
    "limit=0",
    "limit=18446744073709551616",
    "limit=-1&limit=1",
    "limit=1e3",
    "cursor=MTc2NzIyNTYwMDAwMCBzZXNfMQ",
    "cursor=%00%ff",
    "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5IHNlc18x",
    "sessionId=%ff&token=....",
    "token=a.b.c.d.e",
    "&&==&%",
    "status=ended&limit=100&cursor=MTg0NDY3NDQwNzM3MDk1NTE2MTUgc2VzXzE",
];

const HEADERS: [(&str, &[u8]); 19] = [
    ("content-type", b"multipart/form-data; boundary=x"),
    ("content-type", b"text/plain"),
    ("content-type", b"application/json; charset=utf-16"),
    ("content-length", b"99999999999999999999"),
    ("content-length", b"-1"),
    ("content-encoding", b"gzip"),
    ("transfer-encoding", b"chunked, identity"),
    ("idempotency-key", b"same"),
    ("idempotency-key", b""),
    ("idempotency-key", b"\xff\xfe"),
    ("x-request-id", b"\xff"),
    ("x-forwarded-for", b"::1, unknown, 999.1.1.1"),
    ("x-forwarded-proto", b"javascript"),
    ("x-forwarded-host", b"a b/c"),
    ("upgrade", b"websocket"),
    ("connection", b"upgrade, close"),
    ("sec-websocket-key", b"no key"),
    ("sec-websocket-version", b"13"),
    ("expect", b"100-continue"),
];

fn good_body(route: &str, lease: usize) -> Value {
    match route {
        "/sessions/claim" => json!({
            "containerId": "ctr-a", "currentSessions": 0, "maxSessions": 3, "waitSeconds": 0,
            "address": "127.0.0.1:9", "sessionIds": [], "phase": "serving", "launched": false,
        }),
        "/sessions/{id}/ready" => json!({
            "lease": lease, "cdpSecret": "0123456789abcdef", "version": {"Browser": "Chrome/1"},
        }),
        "/sessions/{id}/ended" => json!({"lease": lease, "reason": "released"}),
        "/connections/{id}/messages" => json!({"first": 0, "again": false, "messages": [{"id": 1}, "a", null]}),
        "/events" => json!({"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": {}}),
        _ => json!({
            "timeout": 5, "keepAlive": true, "userMetadata": {"a": [1, {"b": null}]},
            "browserSettings": {"viewport": {"width": 800, "height": 600}, "args": ["--lang=de"], "browser": "chromium"},
        }),
    }
}

fn odd_value(random: &mut Random) -> Value {
    match random.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(i64::MIN),
        5 => json!(1e308),
        6 => json!(0.1),
        7 => json!(""),
        8 => json!("\u{0}"),
        9 => json!("\u{10ffff}\u{202e}\r\n"),
        10 => json!("x".repeat(70_000)),
        11 => json!([[], {}, [null]]),
        12 => json!({"": {"__proto__": []}}),
        13 => json!(vec![0; 1_500]),
        14 => json!("ses_1 {a}:*"),
        _ => json!(4_294_967_296u64),
    }
}

/// Puts something odd somewhere into it.
fn mutate(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(fields) if !fields.is_empty() && !random.one_in(6) => {
            let at = random.below(fields.len());
            let name = fields.keys().nth(at).expect("it is there").clone();
            match random.below(5) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(format!("{name}\u{0}"), odd_value(random))),
                _ => mutate(&mut fields[&name], random),
            }
        }
        Value::Array(values) if !values.is_empty() && !random.one_in(3) => {
            let at = random.below(values.len());
            mutate(&mut values[at], random);
        }
        value => *value = odd_value(random),
    }
}

fn body(route: &str, random: &mut Random) -> Vec<u8> {
    let mut value = good_body(route, random.below(3));
    for _ in 0..random.below(4) {
        mutate(&mut value, random);
    }
    let mut text = value.to_string().into_bytes();
    match random.below(12) {
        0 => text.truncate(random.below(text.len() + 1)),
        1 => {
            let at = random.below(text.len());
            text[at] = u8::try_from(random.below(256)).expect("a byte");
        }
        // The same names twice.
        2 if text.len() > 2 && text[0] == b'{' => {
            let again = text[1..].to_vec();
            text.pop();
            text.push(b',');
            text.extend(again);
        }
        3 => {
            let deep = random.below(300_000);
            text = ["[", "{\"a\":", "{\"browserSettings\":"][random.below(3)].repeat(deep / 10).into_bytes();
        }
        4 => text = format!("{{\"timeout\":{}}}", "9".repeat(random.below(5_000))).into_bytes(),
        5 => text = format!("{{\"timeout\":1e{}}}", "9".repeat(random.below(400))).into_bytes(),
        6 => text.extend(std::iter::repeat_n(b' ', random.below(1_200_000))),
        7 => text = br#"{"userMetadata":{"a":"\ud800"},"containerId":"\udfff"}"#.to_vec(),
        8 => text.insert(0, 0xef),
        _ => {}
    }
    text
}

struct Credentials {
    headers: Vec<(&'static str, String)>,
    in_query: Vec<String>,
    sessions: Vec<String>,
}

impl Credentials {
    fn request(&self, random: &mut Random) -> (String, Request<Body>) {
        let (method, route) = ROUTES[random.below(ROUTES.len())];
        let method = if random.one_in(8) { random.pick(&METHODS) } else { method };
        let ids: Vec<&str> = self.sessions.iter().map(String::as_str).collect();
        let id = if random.one_in(2) { random.pick(&ids) } else { random.pick(&IDS) };
        let mut path = route.replace("{id}", id);
        if random.one_in(20) {
            path.insert_str(random.below(path.len() + 1), ["/", "//", "%2f", "%", ";a=b"][random.below(5)]);
        }
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let token = &self.in_query[random.below(self.in_query.len())];
        let query = match random.below(3) {
            0 => format!("sessionId={id}&token={token}"),
            1 => random.pick(&QUERIES).to_owned(),
            _ => String::new(),
        };
        let body = if random.one_in(5) { Vec::new() } else { body(route, random) };
        let mut what = format!("{method} {path}?{query}");
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("{path}?{query}"))
            .header("host", ["localhost", "127.0.0.1:80", "[::1]"][random.below(3)]);
        if !random.one_in(6) {
            let (name, value) = &self.headers[random.below(self.headers.len())];
            request = request.header(*name, value);
        }
        for _ in 0..random.below(4) {
            let (name, value) = HEADERS[random.below(HEADERS.len())];
            let _ = write!(what, " {name}: {}", String::from_utf8_lossy(value));
            let (name, value) = (HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("a value"));
            request = request.header(name, value);
        }
        let shown: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        let _ = write!(what, " {shown}");
        (what, request.body(Body::from(body)).expect("a request"))
    }
}

#[allow(clippy::disallowed_methods)]
fn seed() -> u64 {
    if let Ok(seed) = std::env::var("SEED") {
        return seed.parse().expect("a number");
    }
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("randomness");
    u64::from_le_bytes(bytes) | 1
}

#[tokio::test]
async fn whatever_is_asked_no_answer_is_a_500_or_late_and_every_refusal_has_its_body() {
    let operator = hex::encode(digest::digest(&digest::SHA256, b"of-an-operator").as_ref());
    let keys =
        json!({"API_KEYS": ["key-one", "key-two", {"sha256": operator, "userId": "olga", "roles": ["operator"]}]});
    let world = World::new(&[("API_KEYS", &keys.to_string()), ("CONNECT_WAIT_SECONDS", "1")]).await;
    let mut sessions = Vec::new();
    for key in ["key-one", "key-one", "key-two"] {
        sessions.push(world.client(key).create().await);
    }
    world.container("ctr-a").claim("ctr-a", 2, &[]).await;
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let connect = |id: &String| {
        let session: SessionId = id.parse().expect("an id");
        let subject = Subject::Connect { session, user: "user_1".parse().expect("an id") };
        tokens.mint(&subject, now_ms(), now_ms() + 3_600_000)
    };
    let view = |id: &String| {
        let session: SessionId = id.parse().expect("an id");
        let subject = Subject::View { session, user: "user_1".parse().expect("an id") };
        tokens.mint(&subject, now_ms(), now_ms() + 3_600_000)
    };
    let tokens = sessions.iter().map(connect).chain(sessions.iter().map(view));
    let in_query: Vec<String> = tokens.chain(["hunter2".to_owned()]).collect();
    let headers = vec![
        ("x-api-key", "key-one".to_owned()),
        ("x-api-key", "key-one".to_owned()),
        ("x-bb-api-key", "key-two".to_owned()),
        ("x-api-key", "of-an-operator".to_owned()),
        ("authorization", "Bearer key-one".to_owned()),
        ("authorization", format!("Bearer {}", container_token("ctr-a"))),
        ("authorization", format!("Bearer {}", container_token("ctr-a"))),
        ("authorization", format!("Bearer {}", container_token("ctr-b"))),
        ("authorization", format!("bearer {}", in_query[0])),
        ("authorization", "Basic aHVudGVyMg==".to_owned()),
    ];
    let secrets: Vec<String> =
        headers.iter().map(|(_, value)| value.rsplit(' ').next().expect("one").to_owned()).collect();
    let credentials = Credentials { headers, in_query, sessions };
    let seed = seed();
    let mut random = Random(seed);
    let (mut taken, mut refused) = (0, 0);
    for count in 0..REQUESTS {
        let (what, request) = credentials.request(&mut random);
        let told = format!("SEED={seed}, request {count}: {what}");
        let answer = async {
            let response = world.router.clone().oneshot(request).await.expect("infallible");
            let (parts, body) = response.into_parts();
            (parts, axum::body::to_bytes(body, usize::MAX).await.expect("a whole body"))
        };
        let (parts, bytes) = timeout(ANSWER, answer).await.unwrap_or_else(|_| panic!("no answer to {told}"));
        let status = parts.status;
        assert_ne!(status, 500, "{told}");
        let (asked, path) = what.split_once(' ').expect("a method and a path");
        let path = path.split(['?', ' ']).next().expect("a path");
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if let Err(difference) = described::check(asked, path, status, &parts.headers, &body) {
            panic!("not as it is described: {difference}; {told}");
        }
        if status.is_success() || status.is_informational() {
            taken += 1;
            continue;
        }
        refused += 1;
        let text = String::from_utf8(bytes.into()).expect("a text");
        let is_head = what.starts_with("HEAD ");
        if !(is_head && text.is_empty()) {
            let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text:?} for {told}"));
            assert_eq!(error["statusCode"], status.as_u16(), "{told}");
            assert_eq!(error["error"], status.canonical_reason().expect("a reason"), "{told}");
            for field in ["code", "message", "requestId"] {
                assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {error} for {told}");
            }
            let fields = error.as_object().expect("an object").len();
            assert_eq!(fields, 5, "{error} for {told}");
        }
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "it repeats a secret: {told}");
        }
        if matches!(status.as_u16(), 429 | 503) {
            assert!(
                parts.headers.contains_key("retry-after") && parts.headers.contains_key("retry-after-ms"),
                "{told}"
            );
        }
    }
    assert!(taken > REQUESTS / 20 && refused > REQUESTS / 4, "too few of a kind: {taken} taken, {refused} refused");
}
