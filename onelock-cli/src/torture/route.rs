//! The route of one process to the store. If the store is plain TCP, it leads through a proxy of
//! the parent on loopback, which can be cut.

use std::{io, net::SocketAddr, time::Duration};

use lock_core::{ConfigString, config::Host};
use test_support::{Direction, Proxy};
use tokio::net::lookup_host;

use crate::store::StoreLocation;

/// How the processes of a run reach the store.
#[derive(Debug)]
pub(super) enum Route {
    /// Each process has its own proxy.
    Proxied { config: ConfigString, part: AddressPart, server: SocketAddr },
    /// There is no proxy, for this reason.
    Direct { why: String },
}

/// The part of a config string that holds the server's address.
#[derive(Debug, Clone, Copy)]
pub(super) enum AddressPart {
    Host,
    Endpoint,
}

impl Route {
    /// Looks up the server, and decides whether a proxy is possible.
    pub(super) async fn find(store: &StoreLocation) -> Self {
        match Self::proxied(store).await {
            Ok(route) => route,
            Err(why) => Self::Direct { why },
        }
    }

    async fn proxied(store: &StoreLocation) -> Result<Self, String> {
        let StoreLocation::Url(url) = store else { return Err(NO_NETWORK.into()) };
        let config = ConfigString::parse(url).map_err(|error| error.to_string())?;
        let (part, address) = address(&config)?;
        let found = lookup_host(&address).await.map_err(|error| format!("{address}: {error}"))?.next();
        let server = found.ok_or_else(|| format!("{address} has no address"))?;
        Ok(Self::Proxied { config, part, server })
    }

    /// Returns why no process can be cut off, if there is no proxy.
    pub(super) fn why_direct(&self) -> Option<String> {
        match self {
            Self::Proxied { .. } => None,
            Self::Direct { why } => Some(why.clone()),
        }
    }

    /// Opens the proxy of one process; `None` without proxies.
    pub(super) async fn open_proxy(&self) -> io::Result<Option<ProcessProxy>> {
        let Self::Proxied { config, part, server } = self else { return Ok(None) };
        let proxy = Proxy::listen(*server).await?;
        let (name, port) = (proxy.addr().ip().to_string(), proxy.addr().port());
        let config = match part {
            AddressPart::Host => config.clone().at_host(Host { name, port: Some(port) }),
            AddressPart::Endpoint => {
                let endpoint = format!("http://{name}:{port}");
                config.clone().without_option("endpoint").with_option("endpoint", endpoint).map_err(io::Error::other)?
            }
        };
        Ok(Some(ProcessProxy { proxy, url: config.expose(), lossy: false }))
    }
}

const NO_TCP: &str = "a Unix socket has no network connection that a proxy could cut";
const NO_NETWORK: &str = "a directory has no network connection that a proxy could cut";

/// Returns the server's address as `host:port`, or the reason why no proxy is possible.
fn address(config: &ConfigString) -> Result<(AddressPart, String), String> {
    match (config.scheme(), config.hosts()) {
        ("redis", [host]) => {
            Ok((AddressPart::Host, Host { port: Some(host.port.unwrap_or(6379)), ..host.clone() }.to_string()))
        }
        ("postgres" | "postgresql", [host]) if host.name.starts_with('/') => Err(NO_TCP.into()),
        ("postgres" | "postgresql", [host]) if config.option("sslmode") != Some("verify-full") => {
            Ok((AddressPart::Host, Host { port: Some(host.port.unwrap_or(5432)), ..host.clone() }.to_string()))
        }
        ("postgres" | "postgresql", []) => {
            Err("the config string names no server that a proxy could stand in for".into())
        }
        ("dynamodb" | "s3" | "gs", _) => {
            match config.option("endpoint").map(|endpoint| endpoint.strip_prefix("http://")) {
                Some(Some(plain)) => {
                    let authority = plain.trim_end_matches('/');
                    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                    Ok((AddressPart::Endpoint, if has_port { authority.into() } else { format!("{authority}:80") }))
                }
                _ => Err("no proxy can stand in front of HTTPS, because the certificate names the host".into()),
            }
        }
        ("az", _) => Err("the endpoint of Azure has a path, which a proxy cannot keep".into()),
        ("file" | "efs" | "memory", _) => Err(NO_NETWORK.into()),
        ("redis+unix", _) => Err(NO_TCP.into()),
        ("rediss", _) | ("postgres" | "postgresql", [_]) => {
            Err("no proxy can stand in front of TLS, because the certificate names the host".into())
        }
        _ => Err("the servers advertise each other's addresses, so clients would bypass a proxy".into()),
    }
}

/// The proxy of one process, and its state.
#[derive(Debug)]
pub(super) struct ProcessProxy {
    proxy: Proxy,
    pub(super) url: String,
    /// Whether bytes were dropped. Later bytes of the same connection must not arrive then, as they
    /// would not on a real network.
    lossy: bool,
}

/// A fault in the network of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NetworkFault {
    /// All connections end, and new ones work.
    Reset,
    /// Nothing passes, and neither side is told.
    Blackhole,
    /// Requests arrive, and replies are lost.
    RepliesLost,
    /// Requests arrive only after the fault.
    RequestsHeld,
    /// Replies arrive only after the fault.
    RepliesHeld,
    /// All data arrives later by this delay.
    Slow(Duration),
    /// Connections end, and new ones are refused.
    Refused,
}

impl ProcessProxy {
    /// Injects a random fault, which lasts until [`heal`](Self::heal).
    pub(super) fn cut(&mut self, rng: &mut fastrand::Rng, ttl: Duration) {
        let slow = ttl.mul_f64(rng.f64() / 4.0);
        let ways = [
            NetworkFault::Reset,
            NetworkFault::Blackhole,
            NetworkFault::RepliesLost,
            NetworkFault::RequestsHeld,
            NetworkFault::RepliesHeld,
            NetworkFault::Slow(slow),
            NetworkFault::Refused,
        ];
        let cut = ways[rng.usize(..ways.len())];
        self.lossy = matches!(cut, NetworkFault::Blackhole | NetworkFault::RepliesLost);
        match cut {
            NetworkFault::Reset => self.proxy.cut(),
            NetworkFault::Blackhole => {
                self.proxy.lose(Direction::Requests);
                self.proxy.lose(Direction::Replies);
            }
            NetworkFault::RepliesLost => self.proxy.lose(Direction::Replies),
            NetworkFault::RequestsHeld => self.proxy.hold(Direction::Requests),
            NetworkFault::RepliesHeld => self.proxy.hold(Direction::Replies),
            NetworkFault::Slow(delay) => {
                self.proxy.delay(Direction::Requests, delay);
                self.proxy.delay(Direction::Replies, delay);
            }
            NetworkFault::Refused => {
                self.proxy.refuse();
                self.proxy.cut();
            }
        }
    }

    pub(super) fn heal(&mut self) {
        if std::mem::take(&mut self.lossy) {
            self.proxy.cut();
        }
        self.proxy.heal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_string_decides_whether_a_proxy_is_possible() {
        for (url, expected) in [
            ("redis://h/2?ttl=1s", Ok("h:6379")),
            ("redis://u:p@[::1]:7", Ok("[::1]:7")),
            ("dynamodb://t?endpoint=http://h:8000/", Ok("h:8000")),
            ("dynamodb://t?endpoint=http://h", Ok("h:80")),
            ("dynamodb://t?endpoint=https://h", Err("HTTPS")),
            ("dynamodb://t?region=eu-west-1", Err("HTTPS")),
            ("rediss://h", Err("TLS")),
            ("postgres://u@h/db", Ok("h:5432")),
            ("postgres://h?sslmode=verify-full", Err("TLS")),
            ("postgres://%2Frun%2Fpostgresql/db", Err("socket")),
            ("postgres:", Err("names no server")),
            ("postgres://a,b/db", Err("each other")),
            ("redis+unix:///run/redis.sock", Err("socket")),
            ("redis+cluster://a,b", Err("each other")),
            ("redis+sentinel://a/mymaster", Err("each other")),
            ("redis+quorum://a,b,c", Err("each other")),
            ("file:///locks", Err("directory")),
        ] {
            let found = address(&ConfigString::parse(url).unwrap()).map(|(_, address)| address);
            match (found, expected) {
                (Ok(address), Ok(expected)) => assert_eq!(address, expected, "{url}"),
                (Err(why), Err(word)) => assert!(why.contains(word), "{url}: {why}"),
                (found, expected) => panic!("{url}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[tokio::test]
    async fn each_process_has_its_own_proxy() {
        let store = StoreLocation::Url("redis://127.0.0.1:1?key_prefix=x".into());
        let route = Route::find(&store).await;
        let (a, b) = (route.open_proxy().await.unwrap().unwrap(), route.open_proxy().await.unwrap().unwrap());
        assert_eq!(a.url, format!("redis://{}?key_prefix=x", a.proxy.addr()));
        assert_ne!(a.url, b.url);
    }
}
