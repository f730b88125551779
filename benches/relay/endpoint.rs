//! What the load is sent to, and our relay on the way there.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wallcrawler::native::{self, ServeOptions};
use wallcrawler::splice::{CloseFrame, SpliceOptions, splice};
use wallcrawler::upgrade::{Leg, Upgrade, dial};

/// A message about as long as CDP's are; its frame from a client (masked, with zeros) and from a server.
pub const MESSAGE: usize = 120;
pub const CLIENT_FRAME: usize = 6 + MESSAGE;
pub const SERVER_FRAME: usize = 2 + MESSAGE;
pub const LARGE: usize = 1 << 20;
pub const LARGE_FRAME: usize = 10 + LARGE;

/// `/echo` answers every message with one as long; `/source` sends large ones without end.
pub async fn serve() {
    let app = Router::new()
        .route("/echo", get(|request| upgraded(request, echo)))
        .route("/source", get(|request| upgraded(request, source)));
    listen(app).await;
}

pub async fn relay(upstream: String) {
    let upstream: Arc<str> = upstream.into();
    let app = Router::new().fallback(move |mut request: Request| {
        let upstream = upstream.clone();
        async move {
            let upgrade = match Upgrade::from_request(&mut request) {
                Ok(upgrade) => upgrade,
                Err(refusal) => return refusal.status().into_response(),
            };
            let path = request.uri().path();
            let Ok(browser) = dial(&upstream, path, &[], Duration::from_secs(5)).await else {
                return StatusCode::BAD_GATEWAY.into_response();
            };
            let (response, client) = upgrade.accept();
            tokio::spawn(async move {
                if let Ok(client) = client.await {
                    splice(client, browser, SpliceOptions::default(), pending::<CloseFrame>()).await;
                }
            });
            response
        }
    });
    listen(app).await;
}

async fn listen(app: Router) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("bound"));
    let served = tokio::spawn(native::serve(listener, app, ServeOptions::default(), pending()));
    served.await.expect("no panic").expect("serves");
}

async fn upgraded<F>(mut request: Request, then: fn(Leg) -> F) -> Result<Response, Infallible>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let upgrade = Upgrade::from_request(&mut request).expect("only WebSockets here");
    let (response, leg) = upgrade.accept();
    tokio::spawn(async move {
        if let Ok(leg) = leg.await {
            // Ends with an error whenever the other side hangs up.
            let _ = then(leg).await;
        }
    });
    Ok(response)
}

async fn echo(mut leg: Leg) -> std::io::Result<()> {
    let mut answer = [b'a'; SERVER_FRAME];
    answer[..2].copy_from_slice(&[0x81, MESSAGE as u8]);
    let mut buffer = [0; 4 * CLIENT_FRAME];
    let mut waiting = leg.read_ahead.len();
    loop {
        while waiting >= CLIENT_FRAME {
            leg.stream.write_all(&answer).await?;
            waiting -= CLIENT_FRAME;
        }
        match leg.stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => waiting += read,
        }
    }
}

async fn source(mut leg: Leg) -> std::io::Result<()> {
    let mut frame = vec![b'a'; LARGE_FRAME];
    frame[..2].copy_from_slice(&[0x82, 127]);
    frame[2..10].copy_from_slice(&(LARGE as u64).to_be_bytes());
    loop {
        leg.stream.write_all(&frame).await?;
    }
}
