//! The proxy of a context. The browser itself connects to nothing but its egress, so it is told to go there, and the egress
//! where to go from there: to the same proxy, if its address is none that is closed, and around it to what the client
//! named. A proxy by name is looked at when it is connected to.

use serde_json::{Map, Value};

use crate::agent::egress::{Chain, Egress};

const SERVER: &str = "proxyServer";
const BYPASS: &str = "proxyBypassList";

/// Without a server a context has its browser's proxy, and what it says of a bypass means nothing. A server that is no
/// text is the browser's to complain about.
pub fn take_over(params: &mut Map<String, Value>, egress: &Egress) -> Result<(), String> {
    let Some(server) = params.get(SERVER).and_then(Value::as_str) else { return Ok(()) };
    let chain = Chain::parse(Some(server), params.get(BYPASS).and_then(Value::as_str))?;
    chain.check(egress.destinations()).map_err(|closed| format!("its proxy is not used: {closed}"))?;
    let server = egress.server(chain).map_err(|error| format!("its proxy cannot be reached: {error}"))?;
    params.insert(SERVER.to_owned(), server.into());
    // But for what Chromium leaves out by itself, which is for the egress to judge too.
    params.insert(BYPASS.to_owned(), "<-loopback>".into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::egress::{Destinations, Resolver};

    fn judged(server: &str, closed_loopback: bool) -> Result<Value, String> {
        let egress = Egress::new(&Destinations::new(closed_loopback, Resolver::default()));
        let params = json!({ "disposeOnDetach": true, "proxyServer": server, "proxyBypassList": "a.example" });
        let Value::Object(mut params) = params else { unreachable!() };
        take_over(&mut params, &egress).map(|()| params.into())
    }

    #[tokio::test]
    async fn proxies_on_the_container_or_its_cloud_are_refused() {
        for cloud in
            ["http://169.254.169.254:80", "169.254.170.2", "socks5://2852039166:1", "0xa9fea9fe:80", "[fe80::1]:1"]
        {
            assert!(judged(cloud, true).is_err() && judged(cloud, false).is_err(), "{cloud}");
        }
        for own in
            ["127.0.0.1:3128", "http://127.1:3128/", "0177.0.0.1:1", "2130706433:80", "0:1", "[::1]:80", "[::]:80"]
        {
            assert!(judged(own, true).expect_err(own).contains("loopback"), "{own}");
            assert!(judged(own, false).is_ok(), "as pages on a developer's machine may: {own}");
        }
        for elsewhere in ["http://proxy.example:3128", "192.0.2.1:1", "[2001:db8::1]:1", "127.example"] {
            assert!(judged(elsewhere, true).is_ok(), "{elsewhere}");
        }
        assert!(judged("a.example:1;https=b.example:2", false).expect_err("two").contains("name one"));
    }

    #[tokio::test]
    async fn a_context_is_told_the_egress_whatever_its_proxy_is() {
        for (server, scheme) in [
            ("http://proxy.example:3128", "http://"),
            ("https://proxy.example", "http://"),
            ("socks5://proxy.example", "socks5://"),
            ("socks4://proxy.example", "socks5://"),
            // Not even straight ahead a browser goes by itself.
            ("direct://", "socks5://"),
            ("", "socks5://"),
        ] {
            let told = judged(server, true).expect(server);
            let (name, port) = told["proxyServer"]
                .as_str()
                .and_then(|told| told.strip_prefix(scheme))
                .and_then(|told| told.split_once(':'))
                .expect("a server");
            assert!(name.ends_with(".wallcrawler") && port.parse::<u16>().is_ok(), "{told}");
            assert_eq!((&told["proxyBypassList"], &told["disposeOnDetach"]), (&json!("<-loopback>"), &json!(true)));
        }
    }

    #[tokio::test]
    async fn the_same_proxy_is_the_same_way_out_and_there_are_not_any_number_of_them() {
        let egress = Egress::new(&Destinations::new(true, Resolver::default()));
        let open = |server: String| {
            let mut params = Map::from_iter([("proxyServer".to_owned(), server.into())]);
            take_over(&mut params, &egress).map(|()| params["proxyServer"].clone())
        };
        let first = open("http://a.example:1".to_owned()).expect("opened");
        assert_eq!(open("http://a.example:1".to_owned()), Ok(first));
        let refused = (2..=100).find_map(|port| open(format!("http://a.example:{port}")).err());
        assert!(refused.expect("a limit").contains("at most 64"));
    }

    #[test]
    fn without_a_server_nothing_is_changed() {
        let egress = Egress::new(&Destinations::new(true, Resolver::default()));
        for params in [json!({}), json!({ "proxyServer": 7 }), json!({ "proxyServer": null, "proxyBypassList": "a" })] {
            let Value::Object(mut taken) = params.clone() else { unreachable!() };
            take_over(&mut taken, &egress).expect("nothing to refuse");
            assert_eq!(Value::Object(taken), params);
        }
    }
}
