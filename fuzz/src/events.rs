//! What AWS hands to the function, as far as it is ours to read: a request of one of three APIs is given the path, the
//! query, the host and the request id that its client meant, and an event of ECS names a container or none.
//!
//! The first byte says what it is; of a request the lines are path, stage, query, domain, request id, event type. How
//! the adapter reads the JSON of a request is not tested here: it is not ours, and panics on some that AWS never sends.

use axum::http::Uri;
use axum::http::header::HOST;
use lambda_http::aws_lambda_events::apigw::{
    ApiGatewayProxyRequestContext, ApiGatewayV2httpRequestContext, ApiGatewayWebsocketProxyRequestContext,
};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt as _};
use serde_json::Value;
use wallcrawler::lambda::as_sent;
use wallcrawler::routes::events::{container_of, reason};

pub fn check(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if kind % 4 == 0 {
        let detail: Value = serde_json::from_str(text).unwrap_or_default();
        let _ = (container_of(&detail), reason(&detail));
        return;
    }
    let mut lines = text.split('\n');
    let mut line = || lines.next().map(str::to_owned);
    let (path, stage, query) = (line().unwrap_or_default(), line(), line());
    let (domain, request_id, event_type) = (line(), line(), line());
    let context = match kind % 4 {
        1 => {
            let mut context = ApiGatewayV2httpRequestContext::default();
            (context.stage, context.domain_name, context.request_id) = (stage, domain.clone(), request_id);
            RequestContext::ApiGatewayV2(context)
        }
        2 => {
            let mut context = ApiGatewayProxyRequestContext::default();
            context.path = Some(path.clone());
            (context.stage, context.domain_name, context.request_id) = (stage, domain.clone(), request_id);
            RequestContext::ApiGatewayV1(context)
        }
        _ => {
            let mut context = ApiGatewayWebsocketProxyRequestContext::default();
            (context.stage, context.request_id, context.event_type) = (stage, request_id, event_type);
            RequestContext::WebSocket(context)
        }
    };
    let is_socket = matches!(context, RequestContext::WebSocket(_));
    let query = query.unwrap_or_default();
    let Ok(uri) = Uri::try_from(format!("https://api.example.com/path?{query}")) else { return };
    let query = uri.query().map(str::to_owned);
    let mut request = Request::new(Body::Empty);
    *request.uri_mut() = uri;
    let sent = as_sent(request.with_raw_http_path(&path).with_request_context(context));

    assert!(sent.uri().path().starts_with('/'));
    assert_eq!(sent.uri().query(), query.as_deref(), "the query is the client's");
    if is_socket {
        assert!(matches!(sent.uri().path(), "/$connect" | "/$default" | "/$disconnect" | "/"), "{}", sent.uri());
    } else if let Some(host) = sent.headers().get(HOST) {
        assert_eq!(Some(host.as_bytes()), domain.as_deref().map(str::as_bytes));
    }
}
