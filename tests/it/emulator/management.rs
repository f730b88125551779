//! The `@connections` API, as the SDK of AWS sees it.

use std::time::Duration;

use aws_sdk_apigatewaymanagement::config::retry::RetryConfig;
use aws_sdk_apigatewaymanagement::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_apigatewaymanagement::error::ProvideErrorMetadata;
use aws_sdk_apigatewaymanagement::operation::get_connection::GetConnectionError;
use aws_sdk_apigatewaymanagement::operation::post_to_connection::PostToConnectionError;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use aws_sdk_apigatewaymanagement::{Client as Sdk, Config};
use wallcrawler::clock::now_ms;
use wallcrawler::ids::ConnectionId;
use wallcrawler::protocol::GATEWAY_MESSAGE_BYTES;
use wallcrawler::push::Push as _;
use wallcrawler::ws::emulator::EmulatorOptions;

use super::{Gateway, PATIENCE, close_code, say, text};

fn sdk(gateway: &Gateway, stage: &str) -> Sdk {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("AKID", "a secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(format!("http://{}/gateway/{stage}", gateway.address));
    Sdk::from_conf(config.build())
}

async fn post(sdk: &Sdk, id: &ConnectionId, text: &str) -> Result<(), PostToConnectionError> {
    let posted = sdk.post_to_connection().connection_id(id.as_str()).data(Blob::new(text)).send().await;
    posted.map(drop).map_err(|error| error.into_service_error())
}

#[tokio::test]
async fn what_is_posted_arrives_in_order_up_to_128_kb() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let sdk = sdk(&gateway, "prod");
    let (mut client, id) = gateway.connect().await;
    for number in 0..20 {
        post(&sdk, &id, &format!("message {number}")).await.expect("is taken");
    }
    for number in 0..20 {
        assert_eq!(text(&mut client).await, format!("message {number}"));
    }
    post(&sdk, &id, &"x".repeat(GATEWAY_MESSAGE_BYTES)).await.expect("is taken");
    assert_eq!(text(&mut client).await.len(), GATEWAY_MESSAGE_BYTES);
    let error = post(&sdk, &id, &"x".repeat(GATEWAY_MESSAGE_BYTES + 1)).await.expect_err("too large");
    assert!(matches!(error, PostToConnectionError::PayloadTooLargeException(_)), "{error:?}");
    let error = gateway.emulator.send(&id, &"x".repeat(GATEWAY_MESSAGE_BYTES + 1)).await.expect_err("too large");
    assert!(std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("PayloadTooLarge")));
    post(&sdk, &id, "the last").await.expect("is taken");
    assert_eq!(text(&mut client).await, "the last");
}

#[tokio::test]
async fn a_connection_can_be_asked_about() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let sdk = sdk(&gateway, "prod");
    let before_ms = now_ms();
    let (mut client, id) = gateway.connect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    say(&mut client, "say yes").await;
    assert_eq!(text(&mut client).await, "yes");
    let about = sdk.get_connection().connection_id(id.as_str()).send().await.expect("is there");
    let ms = |time: Option<&aws_sdk_apigatewaymanagement::primitives::DateTime>| {
        u64::try_from(time.expect("a time").to_millis().expect("in range")).expect("after 1970")
    };
    let (connected_at, last_active_at) = (ms(about.connected_at()), ms(about.last_active_at()));
    assert!((before_ms..=last_active_at - 50).contains(&connected_at), "{connected_at} {last_active_at}");
    assert!(last_active_at <= now_ms());
    assert_eq!(about.identity().expect("an identity").source_ip(), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_connection_that_was_deleted_is_gone_for_everybody() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let sdk = sdk(&gateway, "prod");
    let (mut client, id) = gateway.connect().await;
    sdk.delete_connection().connection_id(id.as_str()).send().await.expect("is there");
    assert_eq!(close_code(&mut client).await, 1000);
    let error = post(&sdk, &id, "anyone?").await.expect_err("gone");
    assert!(matches!(error, PostToConnectionError::GoneException(_)), "{error:?}");
    let error = sdk.get_connection().connection_id(id.as_str()).send().await.expect_err("gone").into_service_error();
    assert!(matches!(error, GetConnectionError::GoneException(_)), "{error:?}");
    let error = sdk.delete_connection().connection_id(id.as_str()).send().await.expect_err("gone");
    assert!(error.into_service_error().is_gone_exception());
    gateway.disconnected_once().await;
}

#[tokio::test]
async fn only_signed_requests_to_the_right_stage_are_answered() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, id) = gateway.connect().await;
    let http = reqwest::Client::new();
    for (method, url) in [
        (reqwest::Method::POST, format!("@connections/{}", id.in_path())),
        (reqwest::Method::POST, format!("%40connections/{id}")),
        (reqwest::Method::GET, format!("@connections/{}", id.in_path())),
        (reqwest::Method::DELETE, format!("@connections/{}", id.in_path())),
    ] {
        let url = format!("http://{}/gateway/prod/{url}", gateway.address);
        let answer = http.request(method, url).body("hi").send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 403);
        assert_eq!(answer.headers()["x-amzn-errortype"], "MissingAuthenticationTokenException");
        assert_eq!(answer.text().await.expect("a body"), r#"{"message":"Missing Authentication Token"}"#);
    }
    let error = post(&sdk(&gateway, "test"), &id, "hi").await.expect_err("no such stage");
    assert_eq!(error.code(), Some("ForbiddenException"), "{error:?}");
    let id: ConnectionId = "no+id".parse().expect("an id");
    let error = post(&sdk(&gateway, "prod"), &id, "hi").await.expect_err("nobody");
    assert!(matches!(error, PostToConnectionError::GoneException(_)), "{error:?}");
    // None of it arrived.
    gateway.emulator.close(&"nobody=".parse().expect("an id")).await.expect("is closed");
    say(&mut client, "say hello again").await;
    assert_eq!(tokio::time::timeout(PATIENCE, text(&mut client)).await.expect("in time"), "hello again");
}
