//! Environments, and what is read from them.

use super::*;
use crate::addresses::WebsocketApi;

fn read(vars: &[(&str, &str)]) -> Result<Config, Faults> {
    Config::read(&|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn nothing_configured_is_a_local_server_on_loopback() {
    let config = read(&[]).expect("valid");
    assert_eq!(config.bind.to_string(), "127.0.0.1:8080");
    assert!(config.redis_endpoint.is_none());
    assert!(config.default_api_key && config.api_keys.find(DEV_API_KEY).is_some());
    assert_eq!((config.policy.sessions_per_container, config.policy.max_containers), (20, 10));
}

#[test]
fn production_refuses_every_default_that_is_a_secret_or_local() {
    for environment in ["prod", "staging"] {
        let faults = read(&[("ENVIRONMENT", environment)]).expect_err("not enough").0;
        for name in
            ["REDIS_ENDPOINT", "API_KEYS_SECRET_ARN or API_KEYS", "JWE_SECRET_ARN or JWE_SECRET", "CDP_ENDPOINT"]
        {
            assert!(faults.iter().any(|fault| fault.starts_with(name)), "{name} in {faults:?}");
        }
    }
    let config = read(&[
        ("ENVIRONMENT", "prod"),
        ("REDIS_ENDPOINT", "redis.internal"),
        ("API_KEYS", "one,two"),
        ("JWE_SECRET", "0123456789abcdef0123456789abcdef"),
        ("CDP_ENDPOINT", "cdp.example.com"),
    ])
    .expect("valid");
    assert_eq!(config.redis_endpoint.expect("set").0, "redis://redis.internal:6379");
    assert_eq!(config.bind.to_string(), "0.0.0.0:8080");
}

#[test]
fn secrets_may_be_elsewhere_but_not_in_two_places() {
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:wallcrawler/keys-AbCdEf";
    let base = [("ENVIRONMENT", "prod"), ("REDIS_ENDPOINT", "redis.internal"), ("CDP_ENDPOINT", "cdp.example.com")];
    let with = |vars: &[(&str, &str)]| read(&[&base[..], vars].concat());
    let config = with(&[("API_KEYS_SECRET_ARN", arn), ("JWE_SECRET_ARN", "tokens"), ("AWS_REGION", "eu-north-1")]);
    let config = config.expect("valid");
    assert!(!config.default_api_key && config.api_keys.find(DEV_API_KEY).is_none());
    assert_eq!(config.api_keys_secret, Some(SecretRef { id: arn.to_owned(), region: "eu-west-1".to_owned() }));
    let named = SecretRef { id: "tokens".to_owned(), region: "eu-north-1".to_owned() };
    assert_eq!((config.jwe_secret_at, config.jwe_secret.is_none()), (Some(named), true));
    assert_eq!(config.secrets.max_age, Duration::from_secs(300));

    let long = "0123456789abcdef0123456789abcdef";
    let both = [("API_KEYS_SECRET_ARN", arn), ("JWE_SECRET_ARN", arn), ("API_KEYS", "hunter2"), ("JWE_SECRET", long)];
    assert_eq!(
        with(&both).expect_err("two places").0,
        ["API_KEYS and API_KEYS_SECRET_ARN must not both be set", "JWE_SECRET and JWE_SECRET_ARN must not both be set"]
    );
    for (value, fault) in [
        ("arn:aws:s3:::bucket", "JWE_SECRET_ARN must be the ARN or the name of a secret in Secrets Manager"),
        ("arn:aws:secretsmanager::1:secret:a", "JWE_SECRET_ARN must be the ARN or the name of a secret"),
        ("hunter2 hunter2", "JWE_SECRET_ARN must be the ARN or the name of a secret"),
        ("tokens", "AWS_REGION must be set with JWE_SECRET_ARN, unless that is a whole ARN"),
    ] {
        let faults = with(&[("API_KEYS", "a"), ("JWE_SECRET_ARN", value)]).expect_err("a fault").0;
        assert!(faults.len() == 1 && faults[0].starts_with(fault) && !faults[0].contains("hunter2"), "{faults:?}");
    }
    assert!(read(&[("BIND", "0.0.0.0"), ("API_KEYS_SECRET_ARN", arn)]).is_ok());
}

#[test]
fn the_default_key_is_good_on_loopback_only() {
    let faults = read(&[("BIND", "0.0.0.0")]).expect_err("refused").0;
    assert_eq!(faults, ["API_KEYS must be set when BIND is not a loopback address"]);
}

#[test]
fn every_fault_is_reported_at_once_by_name_and_without_the_value() {
    let faults = read(&[
        ("PORT", "eighty"),
        ("ENVIRONMENT", "qa"),
        ("MAX_CONTAINERS", "-1"),
        ("DISCONNECT_GRACE_SECONDS", "soon"),
        ("JWE_SECRET", "too short to be one"),
        ("PUBLIC_URL", "example.com"),
        ("REDIS_ENDPOINT", "http://redis"),
        ("ACCEPT_SIGNED_TOKENS", "maybe"),
    ])
    .expect_err("faults");
    let text = faults.to_string();
    for name in [
        "PORT",
        "ENVIRONMENT",
        "MAX_CONTAINERS",
        "DISCONNECT_GRACE_SECONDS",
        "JWE_SECRET",
        "PUBLIC_URL",
        "REDIS_ENDPOINT",
        "ACCEPT_SIGNED_TOKENS",
    ] {
        assert_eq!(text.matches(&format!("\n  {name} ")).count(), 1, "{name} in {text}");
    }
    assert!(!text.contains("too short to be one") && !text.contains("eighty"));
}

#[test]
fn a_websocket_api_is_found_in_its_region_or_where_a_fake_is() {
    let id = ("WEBSOCKET_API_ID", "abc123");
    let region = ("AWS_REGION", "eu-west-1");
    let endpoint = |vars: &[(&str, &str)]| match read(vars).expect("valid").addresses.websocket_api {
        Some(WebsocketApi::Aws { endpoint, .. }) => endpoint,
        other => panic!("{other:?}"),
    };
    assert_eq!(endpoint(&[id, region]), "https://abc123.execute-api.eu-west-1.amazonaws.com/prod");
    let china = [id, ("AWS_DEFAULT_REGION", "cn-north-1"), ("WEBSOCKET_STAGE", "v1")];
    assert_eq!(endpoint(&china), "https://abc123.execute-api.cn-north-1.amazonaws.com.cn/v1");
    let any = ("AWS_ENDPOINT_URL", "http://127.0.0.1:5000");
    assert_eq!(endpoint(&[id, region, any]), "http://127.0.0.1:5000/prod");
    let own = ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", "http://127.0.0.1:8080/gateway/");
    assert_eq!(endpoint(&[id, region, any, own]), "http://127.0.0.1:8080/gateway/prod");
    let local = read(&[("WEBSOCKET_API_ID", "local")]).expect("valid").addresses.websocket_api;
    assert_eq!(local, Some(WebsocketApi::Local { stage: "prod".to_owned() }));
    assert_eq!(read(&[region, any]).expect("valid").addresses.websocket_api, None);
}

#[test]
fn a_websocket_api_that_cannot_be_is_a_fault() {
    for (vars, fault) in [
        (&[("WEBSOCKET_API_ID", "abc123")][..], "AWS_REGION must be set with WEBSOCKET_API_ID"),
        (
            &[("WEBSOCKET_API_ID", "abc.example"), ("AWS_REGION", "eu-west-1")],
            "WEBSOCKET_API_ID must be the id of a WebSocket API, letters and digits, or local",
        ),
        (
            &[("WEBSOCKET_API_ID", "local"), ("WEBSOCKET_STAGE", "a/b")],
            "WEBSOCKET_STAGE must be at most 128 letters, digits, - and _",
        ),
        (
            &[("WEBSOCKET_API_ID", "a1"), ("AWS_REGION", "evil.example/")],
            "AWS_REGION must be the name of a region, as in eu-west-1",
        ),
        (
            &[("WEBSOCKET_API_ID", "a1"), ("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL", "fake")],
            "AWS_ENDPOINT_URL must be a URL that begins with http:// or https://",
        ),
    ] {
        assert_eq!(read(vars).expect_err("a fault").0, [fault], "{vars:?}");
    }
}

#[test]
fn a_websocket_api_is_enough_of_an_address_and_a_local_one_is_not_for_production() {
    let with = |id: &str| {
        read(&[
            ("ENVIRONMENT", "prod"),
            ("REDIS_ENDPOINT", "redis.internal"),
            ("API_KEYS", "one,two"),
            ("JWE_SECRET", "0123456789abcdef0123456789abcdef"),
            ("AWS_REGION", "eu-west-1"),
            ("WEBSOCKET_API_ID", id),
        ])
    };
    assert!(with("abc123").is_ok());
    let faults = with("local").expect_err("refused").0;
    assert_eq!(faults, ["WEBSOCKET_API_ID must not be local unless ENVIRONMENT is dev"]);
}

const ECS: [(&str, &str); 5] = [
    ("ECS_CLUSTER_ARN", "arn:aws:ecs:eu-west-1:111122223333:cluster/browsers"),
    ("ECS_TASK_DEFINITION_ARN", "arn:aws:ecs:eu-west-1:111122223333:task-definition/browser:7"),
    ("SUBNET_IDS", "subnet-a, subnet-b"),
    ("SECURITY_GROUP_ID", "sg-a"),
    ("API_ENDPOINT", "https://api.example.com"),
];

fn with_ecs(vars: &[(&str, &str)]) -> Result<Config, Faults> {
    read(&[vars, &ECS[..]].concat())
}

#[test]
fn a_cluster_is_a_fleet_of_tasks() {
    let config = with_ecs(&[("ECS_CAPACITY_PROVIDERS", "FARGATE_SPOT:4,FARGATE")]).expect("valid");
    assert_eq!(config.policy.start_wait_ms, 120_000);
    let ecs = config.ecs.expect("configured");
    assert_eq!((ecs.region.as_str(), ecs.container_name.as_str()), ("eu-west-1", "browser"));
    assert_eq!((ecs.subnets, ecs.security_groups), (vec!["subnet-a".into(), "subnet-b".into()], vec!["sg-a".into()]));
    assert_eq!(ecs.capacity_providers, [("FARGATE_SPOT".to_owned(), 4), ("FARGATE".to_owned(), 1)]);
    assert!(!ecs.assign_public_ip);
    let other =
        with_ecs(&[("START_TIMEOUT_SECONDS", "90"), ("ECS_CLUSTER_ARN", "browsers"), ("AWS_REGION", "eu-north-1")]);
    let other = other.expect("valid");
    assert_eq!((other.policy.start_wait_ms, other.ecs.expect("configured").region.as_str()), (90_000, "eu-north-1"));
    assert!(read(&ECS[1..4]).expect("valid").ecs.is_none(), "without a cluster the rest means nothing");
}

#[test]
fn a_cluster_without_all_that_belongs_to_it_is_as_many_faults() {
    let faults = read(&[("ECS_CLUSTER_ARN", "browsers")]).expect_err("not enough").0;
    for name in ["AWS_REGION", "ECS_TASK_DEFINITION_ARN", "SUBNET_IDS", "SECURITY_GROUP_ID", "API_ENDPOINT"] {
        assert_eq!(faults.iter().filter(|fault| fault.starts_with(name)).count(), 1, "{name} in {faults:?}");
    }
    for (var, value) in [
        ("API_ENDPOINT", "http://127.0.0.1:8080"),
        ("API_ENDPOINT", "http://localhost"),
        ("API_ENDPOINT", "http://[::1]:1"),
        ("SUBNET_IDS", "subnet a"),
        ("ASSIGN_PUBLIC_IP", "perhaps"),
        ("ECS_CAPACITY_PROVIDERS", "FARGATE:heavy"),
        ("ECS_CAPACITY_PROVIDERS", "FARGATE:0"),
    ] {
        let faults = with_ecs(&[(var, value)]).expect_err("a fault").0;
        assert!(faults.len() == 1 && faults[0].starts_with(var), "{var}: {faults:?}");
    }
}

#[test]
fn redis_is_named_as_people_name_it() {
    for (endpoint, url) in [
        ("cache", Some("redis://cache:6379")),
        ("cache:6380", Some("redis://cache:6380")),
        ("rediss://user:pass@cache:6380", Some("rediss://user:pass@cache:6380")),
        ("redis-cluster://a:1", Some("redis-cluster://a:1")),
        ("memcached://a", None),
        ("a b", None),
    ] {
        assert_eq!(redis_url(endpoint).as_deref(), url, "{endpoint}");
    }
}

#[test]
fn on_a_cluster_the_prefix_keeps_all_keys_in_one_slot() {
    for endpoint in ["redis-cluster://a:1", "rediss-cluster://a:1"] {
        let read = |prefix| read(&[("REDIS_ENDPOINT", endpoint), ("KEY_PREFIX", prefix)]);
        for prefix in ["{wallcrawler}:", "staging:{w}", "{{}:"] {
            assert!(read(prefix).is_ok(), "{prefix}");
        }
        for prefix in ["", "wallcrawler:", "{}:", "{wallcrawler:", "}wallcrawler{:", "{}{w}:"] {
            let faults = read(prefix).expect_err("refused").0;
            assert_eq!(faults, ["KEY_PREFIX must hold a hash tag on a cluster, as in {wallcrawler}:"], "{prefix}");
        }
    }
    assert!(read(&[("REDIS_ENDPOINT", "redis://a:1"), ("KEY_PREFIX", "wallcrawler:")]).is_ok());
}

#[test]
fn an_endpoint_on_this_machine_is_recognised() {
    for endpoint in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80", "https://localhost:1/x"] {
        assert!(is_loopback_url(endpoint), "{endpoint}");
    }
    for endpoint in ["https://localhost.example", "http://10.0.0.1:80", "http://127.0.0.1.example:1"] {
        assert!(!is_loopback_url(endpoint), "{endpoint}");
    }
}

#[test]
fn proxies_and_origins_are_named_exactly() {
    let config = read(&[("TRUSTED_PROXIES", "10.0.0.0/8"), ("CORS_ORIGINS", "https://a.example, http://[::1]:3000")]);
    let config = config.expect("valid");
    assert!(config.trusted_proxies.believes("10.1.1.1".parse().expect("an address")));
    assert_eq!(config.cors_origins, ["https://a.example", "http://[::1]:3000"]);
    let config = read(&[]).expect("valid");
    assert!(config.cors_origins.is_empty() && config.trusted_proxies == TrustedProxies::default());
    let exact = "must be exact origins separated by commas, as in https://app.example.com";
    for origins in [
        "*",
        "https://*",
        "https://*.example.com",
        "null",
        "app.example.com",
        "https://app.example.com/",
        "https://",
        "https://App.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://a b",
        "https://user@app.example.com",
        "ftp://app.example.com",
        "https://a.example,",
        "https://a.example:",
        "https://a.example,*",
        "https://a.example:99999",
    ] {
        let faults = read(&[("CORS_ORIGINS", origins)]).err().map(|faults| faults.0);
        assert_eq!(faults, Some(vec![format!("CORS_ORIGINS {exact}")]), "{origins}");
    }
    for networks in ["*", "10.0.0.0/8,", "10.1.2.3/8", "proxy.internal"] {
        let faults = read(&[("TRUSTED_PROXIES", networks)]).expect_err("no networks").0;
        assert!(faults.len() == 1 && faults[0].starts_with("TRUSTED_PROXIES must be addresses"), "{faults:?}");
    }
}
