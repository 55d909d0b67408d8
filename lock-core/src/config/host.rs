//! One server of a config string.

use std::{fmt, net::Ipv6Addr};

use percent_encoding::utf8_percent_encode;

use super::write::STRICT;

/// A server: a name or an address, and an optional port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// A host name, an IPv4 address, an IPv6 address without brackets, or what a store has in this
    /// place (DynamoDB: the table). The case is kept.
    pub name: String,
    /// The port, if one is given.
    pub port: Option<u16>,
}

impl fmt::Display for Host {
    /// Writes the server as in a config string: `h`, `h:6379`, `[::1]:6379`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]", self.name)?;
        } else {
            write!(f, "{}", utf8_percent_encode(&self.name, STRICT))?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}
