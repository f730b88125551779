//! What pages are led to in tests: proxies that answer everything themselves, and a place where being connected to is
//! already too much.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What it was asked for, one entry a connection or request.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("not poisoned").push(what.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("not poisoned"))
    }
}

async fn accepting<F: Future<Output = Option<()>> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(BufReader<TcpStream>) -> F,
) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(BufReader::new(stream)));
    }
}

async fn head(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => return Some(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

/// Allows everybody to read it, and says no more than `body`.
async fn say(stream: &mut BufReader<TcpStream>, status: &str, body: &str) -> Option<()> {
    answer_with(stream, status, "text/html", body).await
}

async fn answer_with(stream: &mut BufReader<TcpStream>, status: &str, kind: &str, body: &str) -> Option<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()
}

/// An HTTP proxy; with `credentials` (of the Basic kind) only for those who have them. Tunnels lead to a place that
/// says "by tunnel" to everybody.
pub async fn http_proxy(credentials: Option<&'static str>) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Asked::default();
    let noted = asked.clone();
    tokio::spawn(accepting(listener, move |mut stream| {
        let noted = noted.clone();
        async move {
            let mut tunnel = false;
            loop {
                let lines = head(&mut stream).await?;
                if tunnel {
                    say(&mut stream, "200 OK", "by tunnel").await?;
                    continue;
                }
                let (method, target) = lines[0].rsplit_once(' ')?.0.split_once(' ')?;
                let known = |credentials| lines.iter().any(|line| line.ends_with(&format!("Basic {credentials}")));
                if !credentials.is_none_or(known) {
                    let refusal = "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"";
                    say(&mut stream, refusal, "who are you?").await?;
                    continue;
                }
                // The whole browser looks for one wherever it goes.
                if !target.ends_with("/favicon.ico") {
                    noted.note(format!("{method} {target}"));
                }
                tunnel = method == "CONNECT";
                if tunnel {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
                } else {
                    say(&mut stream, "200 OK", "by proxy").await?;
                }
            }
        }
    }));
    (port, asked)
}

/// A SOCKS proxy of either version, behind which everybody says "by SOCKS"; with `credentials` one of version 5, for those
/// who have them.
pub async fn socks_proxy(credentials: Option<(&'static str, &'static str)>) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Asked::default();
    let noted = asked.clone();
    tokio::spawn(accepting(listener, move |mut stream| {
        let noted = noted.clone();
        async move {
            let version = stream.read_u8().await.ok()?;
            if version == 4 {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await.ok()?;
                let port = u16::from_be_bytes([request[1], request[2]]);
                let address: Vec<String> = request[3..7].iter().map(u8::to_string).collect();
                noted.note(format!("{}:{port}", address.join(".")));
                stream.write_all(&[0, 90, 0, 0, 0, 0, 0, 0]).await.ok()?;
            } else {
                let mut greeting = vec![0; usize::from(stream.read_u8().await.ok()?)];
                stream.read_exact(&mut greeting).await.ok()?;
                if let Some(credentials) = credentials {
                    introduce(&mut stream, &greeting, credentials).await?;
                } else {
                    stream.write_all(&[5, 0]).await.ok()?;
                }
                let mut request = [0; 5];
                stream.read_exact(&mut request).await.ok()?;
                let mut host = vec![0; usize::from(request[4])];
                stream.read_exact(&mut host).await.ok()?;
                let port = stream.read_u16().await.ok()?;
                noted.note(format!("{}:{port}", String::from_utf8_lossy(&host)));
                stream.write_all(&[5, 0, 0, 4]).await.ok()?;
                stream.write_all(&[0; 18]).await.ok()?;
            }
            loop {
                head(&mut stream).await?;
                say(&mut stream, "200 OK", "by SOCKS").await?;
            }
        }
    }));
    (port, asked)
}

/// RFC 1929.
async fn introduce(stream: &mut BufReader<TcpStream>, offered: &[u8], (name, word): (&str, &str)) -> Option<()> {
    if !offered.contains(&2) {
        stream.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    stream.write_all(&[5, 2]).await.ok()?;
    let mut said = vec![stream.read_u8().await.ok()?];
    for _ in 0..2 {
        let mut text = vec![0; usize::from(stream.read_u8().await.ok()?)];
        stream.read_exact(&mut text).await.ok()?;
        said.extend(text);
        said.push(b' ');
    }
    let known = said == [b"\x01", name.as_bytes(), b" ", word.as_bytes(), b" "].concat();
    stream.write_all(&[1, u8::from(!known)]).await.ok()?;
    known.then_some(())
}

/// A site, and a note of every connection and datagram on its port, over either IP version.
pub async fn site() -> (u16, Asked) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (Ok(six), Ok(datagrams)) =
            (TcpListener::bind(("::1", port)).await, UdpSocket::bind(("127.0.0.1", port)).await)
        else {
            continue;
        };
        let asked = Asked::default();
        for listener in [listener, six] {
            let noted = asked.clone();
            tokio::spawn(accepting(listener, move |mut stream| {
                noted.note("connection");
                let noted = noted.clone();
                async move {
                    loop {
                        let lines = head(&mut stream).await?;
                        let path = lines[0].split(' ').nth(1)?;
                        noted.note(path);
                        answer(&mut stream, path).await?;
                    }
                }
            }));
        }
        let noted = asked.clone();
        tokio::spawn(async move {
            while datagrams.recv(&mut [0; 2_048]).await.is_ok() {
                noted.note("datagram")
            }
        });
        return (port, asked);
    }
}

/// `/to?URL` redirects, `/worker.js` is a service worker that fetches what it is told to.
async fn answer(stream: &mut BufReader<TcpStream>, path: &str) -> Option<()> {
    if let Some(url) = path.strip_prefix("/to?") {
        return say(stream, &format!("302 Found\r\nLocation: {url}"), "").await;
    }
    if path == "/worker.js" {
        let worker = "onmessage = event => event.waitUntil(fetch(event.data, { mode: 'no-cors' }).then(() => 'reached', String)\
            .then(outcome => event.source.postMessage(outcome)))";
        return answer_with(stream, "200 OK", "text/javascript", worker).await;
    }
    say(stream, "200 OK", "the site").await
}
