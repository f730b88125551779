use super::*;

fn named(host: &'static str, addresses: &'static [&'static str]) -> Resolver {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
    Resolver::with(move |asked| (asked == host).then(|| addresses.clone()))
}

async fn refused(resolver: Resolver, closed_loopback: bool, host: &str) -> Option<Closed> {
    match Destinations::new(closed_loopback, resolver).connect(host, 9).await {
        Err(ConnectError::Closed(closed)) => Some(closed),
        _ => None,
    }
}

#[tokio::test]
async fn a_name_is_refused_if_one_of_its_addresses_is() {
    for (addresses, closed) in [
        (&["127.0.0.1"][..], Closed::Loopback),
        (&["::1"], Closed::Loopback),
        (&["0.0.0.0"], Closed::Loopback),
        (&["::ffff:127.0.0.1"], Closed::Loopback),
        (&["64:ff9b::127.0.0.1"], Closed::Loopback),
        (&["192.0.2.1", "127.0.0.1"], Closed::Loopback),
        (&["169.254.169.254"], Closed::Cloud),
        (&["192.0.2.1", "169.254.170.2"], Closed::Cloud),
        (&["fe80::1"], Closed::Cloud),
        (&["fd00:ec2::254"], Closed::Cloud),
    ] {
        assert_eq!(refused(named("a.example", addresses), true, "a.example").await, Some(closed), "{addresses:?}");
        let open = refused(named("a.example", addresses), false, "a.example").await;
        assert_eq!(open, (closed == Closed::Cloud).then_some(closed), "where loopback is open: {addresses:?}");
    }
}

#[tokio::test]
async fn the_address_that_was_looked_at_is_the_one_that_is_connected_to() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let times = Arc::clone(&asked);
    // The second answer, had anybody asked for it, is the one a page is after.
    let rebinding = Resolver::with(move |_| {
        let first = times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        Some(vec![if first { Ipv4Addr::new(127, 0, 0, 2) } else { Ipv4Addr::LOCALHOST }.into()])
    });
    let destinations = Destinations::new(false, rebinding);
    let connected = destinations.connect("a.example", port).await;
    assert!(matches!(connected, Err(ConnectError::Connection(_))), "{connected:?}");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_not_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // Nobody is at the first (refused), nor anywhere in the documentation's network (silent, or unreachable).
    let destinations = Destinations::new(false, named("a.example", &["127.0.0.2", "192.0.2.1", "127.0.0.1"]));
    let started = tokio::time::Instant::now();
    let stream = destinations.connect("a.example", port).await.expect("the third answers");
    assert_eq!(stream.peer_addr().expect("connected").ip(), Ipv4Addr::LOCALHOST);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_closed_port_is_closed_on_this_machine_only_and_as_long_as_anybody_says_so() {
    let destinations = Destinations::new(false, Resolver::default());
    let at = |host: &str| destinations.check_written(host, 4_711);
    let (one, other) = (destinations.close_port(4_711), destinations.close_port(4_711));
    for here in ["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(at(here), Err(Closed::Port), "{here}");
    }
    assert_eq!(at("192.0.2.1"), Ok(()));
    assert_eq!(destinations.check_written("127.0.0.1", 4_712), Ok(()));
    drop(one);
    assert_eq!(at("127.0.0.1"), Err(Closed::Port));
    drop(other);
    assert_eq!(at("127.0.0.1"), Ok(()));
}

#[test]
fn the_machines_own_addresses_are_known_and_closed_with_loopback() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Whatever would be used to reach others; a machine without any network has none.
    let own = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    let Ok(own) = own else { return };
    assert!(is_own(own.ip()) && !is_own("192.0.2.1".parse().expect("an address")));
    if own.ip().is_loopback() {
        return;
    }
    assert_eq!(Destinations::new(true, Resolver::default()).check(own), Err(Closed::Own));
    let open = Destinations::new(false, Resolver::default());
    assert_eq!(open.check(own), Ok(()));
    let _port = open.close_port(own.port());
    assert_eq!(open.check(own), Err(Closed::Port));
}
