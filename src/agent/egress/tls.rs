//! TLS to a proxy, checked as the system checks it.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Reads the system's certificates when the first such proxy is used: most containers never see one.
fn connector() -> io::Result<TlsConnector> {
    static CONNECTOR: OnceLock<TlsConnector> = OnceLock::new();
    if let Some(connector) = CONNECTOR.get() {
        return Ok(connector.clone());
    }
    let config = ClientConfig::with_platform_verifier().map_err(io::Error::other)?;
    Ok(CONNECTOR.get_or_init(|| TlsConnector::from(Arc::new(config))).clone())
}

pub async fn wrap(stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    connector()?.connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// And no panic: there is one provider of cryptography in the process, and it is found.
    #[tokio::test]
    async fn a_proxy_that_speaks_no_tls_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (mut proxy, _) = listener.accept().await.expect("accepted");
        proxy.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("sent");
        let error = wrap(stream, "proxy.example").await.expect_err("no TLS");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}
