//! One server of a config string.

use std::{fmt, net::Ipv6Addr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// For users, passwords and hosts: all characters except the unreserved ones of RFC 3986.
pub(super) const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
