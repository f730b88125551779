//! A browser's connection, which it asks for in SOCKS 5 (RFC 1928): where to, and then whatever a page and its server
//! have to say to each other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::counted::Counted;
use super::destinations::{ConnectError, Destinations};
use super::{Chain, Noted, splice};
use crate::causes::Causes;

/// Chromium asks as soon as it has connected.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NOTHING_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;

/// What is answered. Chromium tells a page of none but the first.
#[derive(Clone, Copy)]
enum Reply {
    Connected = 0,
    NotAllowed = 2,
    HostUnreachable = 4,
    UnknownCommand = 7,
}

pub async fn serve(
    mut browser: TcpStream,
    chain: &Chain,
    destinations: &Destinations,
    noted: &Noted,
) -> io::Result<()> {
    let asked = timeout(GREETING_TIMEOUT, asked_for(&mut browser)).await.map_err(io::Error::other)??;
    let Some((host, port)) = asked else {
        return answer(&mut browser, Reply::UnknownCommand).await;
    };
    let proxy = chain.upstream_for(None, &host, port);
    let connected = match proxy {
        Some(proxy) => proxy.reach(destinations, &host, port).await,
        None => destinations.connect(&host, port).await,
    };
    match connected {
        Ok(mut server) => {
            answer(&mut browser, Reply::Connected).await?;
            if proxy.is_some() {
                return splice(&mut browser, &mut Counted::new(server, &noted.carried)).await;
            }
            splice(&mut browser, &mut server).await
        }
        Err(error) => {
            if matches!(error, ConnectError::Credentials) {
                noted.refused.notify_one();
            }
            // Where its client went is not for the log; why it did not get there is.
            tracing::debug!(error = %Causes(&error), "a page's connection is not made");
            let closed = matches!(error, ConnectError::Closed(_));
            answer(&mut browser, if closed { Reply::NotAllowed } else { Reply::HostUnreachable }).await
        }
    }
}

/// Host and port. `None`: it does not ask for a connection.
async fn asked_for(browser: &mut TcpStream) -> io::Result<Option<(String, u16)>> {
    let [version, methods] = read(browser).await?;
    let mut offered = vec![0; usize::from(methods)];
    browser.read_exact(&mut offered).await?;
    if version != VERSION || !offered.contains(&NO_AUTHENTICATION) {
        browser.write_all(&[VERSION, NOTHING_ACCEPTABLE]).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    browser.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [_, command, _, kind] = read(browser).await?;
    let host = match kind {
        1 => Ipv4Addr::from(read(browser).await?).to_string(),
        4 => Ipv6Addr::from(read(browser).await?).to_string(),
        3 => {
            let [length] = read(browser).await?;
            let mut name = vec![0; usize::from(length)];
            browser.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(io::Error::other)?
        }
        _ => return Ok(None),
    };
    let port = u16::from_be_bytes(read(browser).await?);
    Ok((command == CONNECT).then_some((host, port)))
}

async fn read<const N: usize>(browser: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    browser.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// With an address that nobody looks at.
async fn answer(browser: &mut TcpStream, reply: Reply) -> io::Result<()> {
    browser.write_all(&[VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}
