//! Where clients and containers find this service.

use axum::http::HeaderMap;
use axum::http::header::HOST;

use crate::ids::SessionId;

/// Where clients and containers find this service.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Where clients connect, if not where they create: `CDP_ENDPOINT`.
    pub cdp_endpoint: Option<String>,
    /// The load balancer in front of the proxies: `ALB_DNS_NAME`.
    pub load_balancer: Option<String>,
    /// This service as clients see it: `PUBLIC_URL`. Without it, as the request named it.
    pub public_url: Option<String>,
    /// This service as containers reach it.
    pub api_endpoint: String,
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
        let base = match &self.public_url {
            // http -> ws, https -> wss.
            Some(url) => url.replacen("http", "ws", 1),
            None => {
                // What ends TLS in front of us says so. A client that makes it up only misleads itself.
                let tls = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
                let scheme = if tls { "wss" } else { "ws" };
                format!("{scheme}://{}", requested_host(headers).unwrap_or("127.0.0.1"))
            }
        };
        format!("{base}/cdp?sessionId={session}&token={token}")
    }
}

fn with_scheme(host: &str) -> String {
    if host.contains("://") { host.to_owned() } else { format!("wss://{host}") }
}

/// The host by which the client reached us, if it is one.
fn requested_host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
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
        addresses.load_balancer = Some("lb.example.com".to_owned());
        assert_eq!(url(&addresses, &headers), "wss://lb.example.com/sessions/ses_1/ws?token=t");
        addresses.cdp_endpoint = Some("ws://127.0.0.1:9000".to_owned());
        assert_eq!(url(&addresses, &headers), "ws://127.0.0.1:9000/cdp?sessionId=ses_1&token=t");
    }
}
