//! A browser's connection that is to go through an HTTP proxy. The browser says what it would say to that proxy, and it
//! goes on as it is: with the credentials that the browser was given for it, and the proxy's own refusals back. But where
//! the session has credentials for the proxy, it is these that are sent, whatever the browser was given.
//!
//! Only the first request of a connection is read. Chromium makes connections of their own for each host, also to a
//! proxy, so those that follow are for the same one.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy, copy_buf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::counted::Counted;
use super::destinations::{ConnectError, Destinations};
use super::upstream::{Stream, split_authority};
use super::{Chain, DOWN, Noted, splice};
use crate::causes::Causes;
use crate::protocol::ProxyCredentials;

/// Chromium's own limit for what it sends is higher than most servers'.
const MAX_HEAD: usize = 256 * 1024;
/// From its first byte on: a connection that is made ahead waits for its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn serve(
    mut browser: TcpStream,
    chain: &Chain,
    destinations: &Destinations,
    noted: &Noted,
) -> io::Result<()> {
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
        Some(upstream) => match destinations.check_written(request.host, request.port) {
            Ok(()) => {
                let proxy = upstream.connect(destinations).await;
                proxy.map(|proxy| (Counted::new(proxy, &noted.carried), &upstream.credentials))
            }
            Err(closed) => Err(closed.into()),
        },
        None => match destinations.connect(request.host, request.port).await {
            Ok(server) => return request.go_around(browser, server, &read).await,
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok((mut proxy, None)) => {
            proxy.write_all(&read).await?;
            splice(&mut browser, &mut proxy).await
        }
        Ok((mut proxy, Some(credentials))) => {
            proxy.write_all(request.for_proxy(credentials).as_bytes()).await?;
            proxy.write_all(&read[request.length..]).await?;
            introduced(browser, proxy, request.path.is_none(), noted).await
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
async fn read_head<R: AsyncRead + Unpin>(from: &mut R, read: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut looked_at: usize = 0;
    loop {
        let start = looked_at.saturating_sub(3);
        if let Some(at) = read[start..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(start + at + 4));
        }
        looked_at = read.len();
        if read.len() >= MAX_HEAD || from.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

/// What is said to and fro once the proxy was told who asks. That it refuses is no question to the browser, which would
/// ask its client, and the answer would not be sent: so the question is left out, and the refusal is an answer like others.
async fn introduced(
    mut browser: TcpStream,
    proxy: Counted<Box<dyn Stream>>,
    tunnel: bool,
    noted: &Noted,
) -> io::Result<()> {
    let (mut from_proxy, mut to_proxy) = tokio::io::split(proxy);
    let (mut from_browser, mut to_browser) = browser.split();
    let up = async {
        copy(&mut from_browser, &mut to_proxy).await?;
        to_proxy.shutdown().await
    };
    // At the same time: a server may want all of what is posted before it answers.
    let down = async {
        let mut read = Vec::with_capacity(1_024);
        let end = read_head(&mut from_proxy, &mut read).await?.unwrap_or(0);
        let refuses = read.get(8..13) == Some(b" 407 ");
        if refuses {
            noted.refused.notify_one();
        }
        // A tunnel has no connection to be kept or closed.
        if end > 0 && (refuses || !tunnel) {
            to_browser.write_all(&for_browser(&read[..end])).await?;
        } else {
            to_browser.write_all(&read[..end]).await?;
        }
        to_browser.write_all(&read[end..]).await?;
        copy_buf(&mut BufReader::with_capacity(DOWN, from_proxy), &mut to_browser).await?;
        to_browser.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// The head of an answer that is its connection's last, and asks for no credentials.
fn for_browser(head: &[u8]) -> Vec<u8> {
    let is =
        |line: &[u8], name: &str| line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name.as_bytes()));
    let dropped =
        |line: &[u8]| ["connection:", "proxy-connection:", "proxy-authenticate:"].iter().any(|name| is(line, name));
    let lines = head.split_inclusive(|byte| *byte == b'\n').filter(|line| *line != b"\r\n" && !dropped(line));
    lines.chain([b"Connection: close\r\n\r\n".as_slice()]).flatten().copied().collect()
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
    target: &'a str,
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
        Some(Self { method, target, host, port, path, headers, length })
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
        self.rewritten(&format!("{slash}{path}"), "Connection: close\r\n")
    }

    /// With the session's credentials for it. A plain request is its connection's last here, too: those that followed
    /// would be without them.
    fn for_proxy(&self, credentials: &ProxyCredentials) -> String {
        let basic = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
        let last = if self.path.is_some() { "Connection: close\r\n" } else { "" };
        self.rewritten(self.target, &format!("Proxy-Authorization: Basic {basic}\r\n{last}"))
    }

    /// Without what the browser has to say to a proxy and of the connection, and with `more`.
    fn rewritten(&self, target: &str, more: &str) -> String {
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        for header in self.headers.split("\r\n") {
            let name = header.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if !name.is_empty() && !name.starts_with("proxy-") && name != "connection" {
                head.push_str(header);
                head.push_str("\r\n");
            }
        }
        head + more + "\r\n"
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

    #[test]
    fn a_proxy_gets_the_sessions_credentials_and_no_others() {
        let credentials = ProxyCredentials { username: "user".to_owned(), password: "secret".to_owned() };
        for (line, last) in
            [("POST http://a.example/b HTTP/1.1", "Connection: close\r\n"), ("CONNECT a.example:443 HTTP/1.1", "")]
        {
            let head = format!(
                "{line}\r\nHost: a.example\r\nProxy-Connection: keep-alive\r\nproxy-authorization: Basic b3RoZXI6MQ==\r\n\r\n"
            );
            let request = Request::parse(head.as_bytes()).expect("a request");
            assert_eq!(
                request.for_proxy(&credentials),
                format!("{line}\r\nHost: a.example\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n{last}\r\n")
            );
        }
    }

    #[test]
    fn an_answer_that_is_the_last_says_so_and_asks_for_nothing() {
        let head =
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nCONNECTION: keep-alive\r\nContent-Length: 2\r\n\r\n";
        let last = "HTTP/1.1 407 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&for_browser(head.as_bytes())), last);
    }
}
