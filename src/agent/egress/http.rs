//! A browser's connection that is to go through an HTTP proxy. The browser says what it would say to that proxy, and it
//! goes on as it is: with the credentials that the browser was given for it, and the proxy's own refusals back.
//!
//! Only the first request of a connection is read. Chromium makes connections of their own for each host, also to a
//! proxy, so those that follow are for the same one.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::destinations::{ConnectError, Destinations};
use super::upstream::split_authority;
use super::{Chain, splice};
use crate::causes::Causes;

/// Chromium's own limit for what it sends is higher than most servers'.
const MAX_HEAD: usize = 256 * 1024;
/// From its first byte on: a connection that is made ahead waits for its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn serve(mut browser: TcpStream, chain: &Chain, destinations: &Destinations) -> io::Result<()> {
    let mut read = Vec::with_capacity(1_024);
    if browser.read_buf(&mut read).await? == 0 {
        return Ok(());
    }
    let head = timeout(HEAD_TIMEOUT, read_head(&mut browser, &mut read)).await.map_err(io::Error::other)??;
    let Some(request) = head.and_then(|end| Request::parse(&read[..end])) else {
        // For a page that has found its way here, which is no server of its own.
        return refuse(&mut browser, "400 Bad Request", "this is a proxy").await;
    };
    let outcome = match chain.upstream_for(request.scheme(), request.host, request.port) {
        Some(proxy) => match destinations.check_written(request.host, request.port) {
            Ok(()) => proxy.connect(destinations).await,
            Err(closed) => Err(closed.into()),
        },
        None => match destinations.connect(request.host, request.port).await {
            Ok(server) => return request.go_around(browser, server, &read).await,
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(mut proxy) => {
            proxy.write_all(&read).await?;
            splice(&mut browser, &mut proxy).await
        }
        Err(error) => {
            tracing::debug!(error = %Causes(&error), "a page's connection is not made");
            let status = match error {
                ConnectError::Closed(_) => "403 Forbidden",
                ConnectError::Late => "504 Gateway Timeout",
                _ => "502 Bad Gateway",
            };
            refuse(&mut browser, status, &error.to_string()).await
        }
    }
}

/// Where the head ends, once all of it is there. `None`: it does not.
async fn read_head(browser: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut looked_at: usize = 0;
    loop {
        let from = looked_at.saturating_sub(3);
        if let Some(at) = read[from..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(from + at + 4));
        }
        looked_at = read.len();
        if read.len() >= MAX_HEAD || browser.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

async fn refuse(browser: &mut TcpStream, status: &str, why: &str) -> io::Result<()> {
    let body = format!("wallcrawler: {why}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\n\
         Cache-Control: no-store\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    browser.write_all(answer.as_bytes()).await?;
    browser.shutdown().await
}

/// The first request of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    method: &'a str,
    host: &'a str,
    port: u16,
    /// What a server would be asked for; `None`: a tunnel is.
    path: Option<&'a str>,
    /// Line by line.
    headers: &'a str,
    length: usize,
}

impl<'a> Request<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        let length = head.len();
        let head = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
        let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut words = line.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let (authority, path, port) = if method == "CONNECT" {
            (target, None, 0)
        } else {
            let rest = target.strip_prefix("http://")?;
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            (authority, Some(path), 80)
        };
        let (host, port) = split_authority(authority, port).filter(|(_, port)| *port > 0)?;
        Some(Self { method, host, port, path, headers, length })
    }

    fn scheme(&self) -> Option<&'static str> {
        self.path.map(|_| "http")
    }

    /// To the server itself. A plain request is written as a server expects it, and is the connection's last: those
    /// that followed would have to be rewritten too.
    async fn go_around(&self, mut browser: TcpStream, mut server: TcpStream, read: &[u8]) -> io::Result<()> {
        match self.path {
            None => browser.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
            Some(path) => server.write_all(self.for_server(path).as_bytes()).await?,
        }
        server.write_all(&read[self.length..]).await?;
        splice(&mut browser, &mut server).await
    }

    fn for_server(&self, path: &str) -> String {
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut head = format!("{} {slash}{path} HTTP/1.1\r\n", self.method);
        for header in self.headers.split("\r\n") {
            let name = header.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if !name.is_empty() && !name.starts_with("proxy-") && name != "connection" {
                head.push_str(header);
                head.push_str("\r\n");
            }
        }
        head + "Connection: close\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Option<(String, u16, Option<String>)> {
        let request = Request::parse(head.as_bytes())?;
        Some((request.host.to_owned(), request.port, request.path.map(str::to_owned)))
    }

    #[test]
    fn what_a_browser_says_to_a_proxy_is_read() {
        let tunnel = |host: &str, port| Some((host.to_owned(), port, None));
        let plain = |host: &str, port, path: &str| Some((host.to_owned(), port, Some(path.to_owned())));
        assert_eq!(parse("CONNECT a.example:443 HTTP/1.1\r\nHost: b\r\n\r\n"), tunnel("a.example", 443));
        assert_eq!(parse("CONNECT [::1]:80 HTTP/1.1\r\n\r\n"), tunnel("::1", 80));
        assert_eq!(parse("GET http://a.example/b?c HTTP/1.1\r\n\r\n"), plain("a.example", 80, "/b?c"));
        assert_eq!(parse("GET http://[::1]:81 HTTP/1.1\r\n\r\n"), plain("::1", 81, ""));
        for odd in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "CONNECT a.example:0 HTTP/1.1\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\n\r\n",
            "GET http://a/ b HTTP/1.1\r\n\r\n",
            "GET http://a/\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_server_gets_what_it_would_without_a_proxy() {
        let head = "GET http://a.example?b HTTP/1.1\r\nHost: a.example\r\nProxy-Connection: keep-alive\r\n\
                    Proxy-Authorization: secret\r\nAccept: */*\r\nCONNECTION: keep-alive\r\n\r\n";
        let request = Request::parse(head.as_bytes()).expect("a request");
        assert_eq!(
            request.for_server(request.path.expect("a path")),
            "GET /?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request.length, head.len());
    }
}
