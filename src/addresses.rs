//! Where clients and containers find this service.

use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderName};

use crate::ids::SessionId;

/// How the client reached the proxy in front of us. Where these come from is checked before they get here.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A WebSocket API of API Gateway that holds the clients' sockets: `WEBSOCKET_API_ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebsocketApi {
    /// `local`: this process plays it itself, under [`gateway_path`].
    Local { stage: String },
    /// The one of that id in AWS.
    Aws {
        id: String,
        region: String,
        stage: String,
        /// The base URL of its `@connections` API, the stage included.
        endpoint: String,
    },
}

impl WebsocketApi {
    /// The API's host in AWS.
    pub fn host(id: &str, region: &str) -> String {
        // The partition of China has a domain of its own.
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("{id}.execute-api.{region}.{domain}")
    }
}

/// Where a native server plays the stage of a WebSocket API.
pub fn gateway_path(stage: &str) -> String {
    format!("/gateway/{stage}")
}

/// Where clients and containers find this service.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Where clients connect, if not where they create: `CDP_ENDPOINT`.
    pub cdp_endpoint: Option<String>,
    /// The load balancer in front of the proxies: `ALB_DNS_NAME`.
    pub load_balancer: Option<String>,
    /// Who holds the clients' sockets where nothing of ours can.
    pub websocket_api: Option<WebsocketApi>,
    /// This service as clients see it: `PUBLIC_URL`. Without it, as the request named it.
    pub public_url: Option<String>,
    /// This service as containers reach it.
    pub api_endpoint: String,
    /// The AWS region it runs in, if that is known: `AWS_REGION`.
    pub region: Option<String>,
}

impl Addresses {
    /// The URL at which a client connects to a session. The token goes into the query, because many
    /// clients can set no header.
    pub fn connect_url(&self, headers: &HeaderMap, session: &SessionId, token: &str) -> String {
        if let Some(host) = &self.cdp_endpoint {
            return format!("{}/cdp?sessionId={session}&token={token}", with_scheme(host));
        }
        if let Some(host) = &self.load_balancer {
            return format!("{}/sessions/{session}/ws?token={token}", with_scheme(host));
        }
        let path = match &self.websocket_api {
            Some(WebsocketApi::Aws { id, region, stage, .. }) => {
                let host = WebsocketApi::host(id, region);
                return format!("wss://{host}/{stage}?sessionId={session}&token={token}");
            }
            Some(WebsocketApi::Local { stage }) => gateway_path(stage),
            None => "/cdp".to_owned(),
        };
        // http -> ws, https -> wss.
        let base = self.base_url(headers).replacen("http", "ws", 1);
        format!("{base}{path}?sessionId={session}&token={token}")
    }

    /// Where a session is watched with a web browser, or `None` if only a gateway is configured, which carries no pages
    /// and no frames as large as a picture.
    pub fn live_url(&self, headers: &HeaderMap) -> Option<String> {
        match (self.cdp_endpoint.as_ref().or(self.load_balancer.as_ref()), &self.websocket_api) {
            // ws -> http, wss -> https.
            (Some(host), _) => {
                let url = with_scheme(host);
                let url = url.strip_prefix("ws").map_or_else(|| url.clone(), |rest| format!("http{rest}"));
                Some(url.trim_end_matches('/').to_owned())
            }
            (None, Some(WebsocketApi::Aws { .. })) => None,
            (None, _) => Some(self.base_url(headers)),
        }
    }

    /// This service as the client sees it.
    pub fn base_url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        // What ends TLS in front of us says so.
        let tls = headers.get(FORWARDED_PROTO).is_some_and(|scheme| scheme == "https");
        let scheme = if tls { "https" } else { "http" };
        format!("{scheme}://{}", requested_host(headers).unwrap_or("127.0.0.1"))
    }
}

fn with_scheme(host: &str) -> String {
    if host.contains("://") { host.to_owned() } else { format!("wss://{host}") }
}

/// The host by which the client reached us, if it is one.
fn requested_host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(FORWARDED_HOST).or_else(|| headers.get(HOST))?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (!host.is_empty() && host.bytes().all(plain)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_sent_to_the_first_address_that_is_configured() {
        let session: SessionId = "ses_1".parse().expect("an id");
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "localhost:8080".parse().expect("a host"));
        let mut addresses = Addresses::default();
        let url = |addresses: &Addresses, headers: &HeaderMap| addresses.connect_url(headers, &session, "t");
        assert_eq!(url(&addresses, &headers), "ws://localhost:8080/cdp?sessionId=ses_1&token=t");
        headers.insert(HOST, "evil/path".parse().expect("a value"));
        assert_eq!(url(&addresses, &headers), "ws://127.0.0.1/cdp?sessionId=ses_1&token=t");
        headers.insert(HOST, "abc.example.com".parse().expect("a host"));
        headers.insert("x-forwarded-proto", "https".parse().expect("a value"));
        assert_eq!(url(&addresses, &headers), "wss://abc.example.com/cdp?sessionId=ses_1&token=t");
        addresses.public_url = Some("https://wc.example.com/api".to_owned());
        assert_eq!(url(&addresses, &headers), "wss://wc.example.com/api/cdp?sessionId=ses_1&token=t");
        addresses.websocket_api = Some(WebsocketApi::Local { stage: "prod".to_owned() });
        assert_eq!(url(&addresses, &headers), "wss://wc.example.com/api/gateway/prod?sessionId=ses_1&token=t");
        let aws = |region: &str| WebsocketApi::Aws {
            id: "abc123".to_owned(),
            region: region.to_owned(),
            stage: "prod".to_owned(),
            endpoint: "http://127.0.0.1:9/prod".to_owned(),
        };
        addresses.websocket_api = Some(aws("cn-north-1"));
        let there = "wss://abc123.execute-api.cn-north-1.amazonaws.com.cn/prod?sessionId=ses_1&token=t";
        assert_eq!(url(&addresses, &headers), there);
        addresses.websocket_api = Some(aws("eu-west-1"));
        let there = "wss://abc123.execute-api.eu-west-1.amazonaws.com/prod?sessionId=ses_1&token=t";
        assert_eq!(url(&addresses, &headers), there);
        addresses.load_balancer = Some("lb.example.com".to_owned());
        assert_eq!(url(&addresses, &headers), "wss://lb.example.com/sessions/ses_1/ws?token=t");
        addresses.cdp_endpoint = Some("ws://127.0.0.1:9000".to_owned());
        assert_eq!(url(&addresses, &headers), "ws://127.0.0.1:9000/cdp?sessionId=ses_1&token=t");
    }
}
