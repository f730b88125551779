//! What is said of a request by what was in front of us. Of a client it may be made up, so it is forgotten here unless the
//! peer is one of `TRUSTED_PROXIES`. Behind a gateway of AWS there is no peer: what it writes itself is true.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderName;
use axum::middleware::Next;
use axum::response::Response;

use crate::addresses::{FORWARDED_HOST, FORWARDED_PROTO};
use crate::app::App;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

pub async fn believe_proxies(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    match peer {
        Some(peer) if app.trusted_proxies.believes(peer) => {
            let said: Vec<&str> =
                request.headers().get_all(FORWARDED_FOR).iter().map(|v| v.to_str().unwrap_or("")).collect();
            let client = app.trusted_proxies.client(peer, said.iter().flat_map(|list| list.split(',')));
            if client != peer {
                // Of its port nothing is known.
                request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
            }
        }
        Some(_) => {
            for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST] {
                request.headers_mut().remove(name);
            }
        }
        // The scheme is the gateway's own word; of another host it says nothing.
        None => {
            request.headers_mut().remove(FORWARDED_HOST);
        }
    }
    next.run(request).await
}
