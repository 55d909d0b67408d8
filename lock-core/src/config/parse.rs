//! Parses a config string into its parts.
//!
//! Messages never quote a part of the input, because it is unknown which part of an unparsable text
//! is a secret. [`redact_unparsed`] shows the whole input instead.

use std::{borrow::Cow, collections::BTreeMap, net::Ipv6Addr};

use percent_encoding::percent_decode_str;

use super::{ConfigString, Host, Secret, secret::redact_unparsed};
use crate::types::{Error, ErrorKind, Operation};

/// A problem and its fix.
type Problem = Cow<'static, str>;

pub(super) fn parse(text: &str) -> Result<ConfigString, Error> {
    // An absolute path can only be a directory of locks.
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let url = if is_path { Cow::from(format!("file://{text}")) } else { text.into() };
    parts(&url).map_err(|problem| {
        Error::new(ErrorKind::Config, problem).with_operation(Operation::Open).with_store(redact_unparsed(text))
    })
}

fn parts(text: &str) -> Result<ConfigString, Problem> {
    check_characters(text)?;
    let (scheme, rest) = scheme(text)?;
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    // Otherwise `redis://u:12?x=secret@h`, with a password that is not encoded, would parse as the
    // option `x` of the host `u`.
    if path.contains('@') || query.is_some_and(|query| query.contains('@')) {
        return Err("write an \"@\" that does not follow a user and password as %40; in a password, write \"/\" as \
            %2F and \"?\" as %3F"
            .into());
    }
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let (user, password) = login.map_or(Ok((None, None)), split_login)?;
    if login.is_some() && hosts.is_empty() {
        return Err("the host is missing after the \"@\"".into());
    }
    let hosts = if hosts.is_empty() { Vec::new() } else { hosts.split(',').map(host).collect::<Result<_, _>>()? };
    let mut config = ConfigString { scheme, user, password, hosts, path: decode(path)?, options: BTreeMap::new() };
    for (i, piece) in query.filter(|query| !query.is_empty()).into_iter().flat_map(|q| q.split('&')).enumerate() {
        let (name, value) = piece.split_once('=').ok_or_else(|| {
            format!(
                "option {} has no value; write NAME=VALUE, with \"&\" between options and %26 for a literal \"&\"",
                i + 1
            )
        })?;
        add_option(&mut config.options, decode(name)?, decode(value)?)?;
    }
    Ok(config)
}

fn check_characters(text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err("the config string is empty; write one such as file:///var/lib/app/locks".into());
    }
    if text.contains(char::is_control) {
        return Err("it contains a control character; is there a trailing line break?".into());
    }
    if text.contains(char::is_whitespace) {
        return Err("it contains a space; write a literal space as %20".into());
    }
    if text.contains('#') {
        return Err("a fragment (\"#…\") has no meaning here; write a literal \"#\" as %23".into());
    }
    Ok(())
}

fn scheme(text: &str) -> Result<(String, &str), Problem> {
    let colon = text.find(':').filter(|colon| {
        let mut bytes = text[..*colon].bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    let Some(colon) = colon else {
        return Err("it has no scheme; begin with one such as redis:// for a server or file:// for a directory".into());
    };
    Ok((text[..colon].to_ascii_lowercase(), &text[colon + 1..]))
}

fn split_login(login: &str) -> Result<(Option<String>, Option<Secret>), Problem> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(decode(password)?)),
        None => (login, None),
    };
    if login.contains('@') {
        return Err("write an \"@\" in a user or password as %40".into());
    }
    if password.as_deref() == Some("") {
        return Err("the password is empty; is a variable not set? Without a password leave out its colon".into());
    }
    let user = decode(user)?;
    Ok(((!user.is_empty()).then_some(user), password.map(Secret::new)))
}

fn host(text: &str) -> Result<Host, Problem> {
    let (name, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']').ok_or("the \"]\" after an IPv6 address is missing")?;
            let address: Ipv6Addr =
                address.parse().map_err(|_| "the brackets do not contain an IPv6 address; write one such as [::1]")?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err("only a colon and a port may follow the \"]\" of an IPv6 address".into()),
            };
            (address.to_string(), port)
        }
        None if text.matches(':').count() > 1 => {
            return Err("a host has more than one colon; an IPv6 address goes in brackets, such as [::1]:6379".into());
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let name = decode(name)?;
            (name.parse::<Ipv6Addr>().map_or(name, |address| address.to_string()), port)
        }
    };
    if name.is_empty() {
        return Err("a host is empty; separate several hosts by commas, such as HOST1,HOST2".into());
    }
    Ok(Host { name, port: port.map(parse_port).transpose()? })
}

fn parse_port(text: &str) -> Result<u16, Problem> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| "a port is not a number from 1 to 65535".into())
}

/// Decodes percent-encoding. `+` is literal.
fn decode(text: &str) -> Result<String, Problem> {
    let mut escapes = text.split('%').skip(1);
    if !escapes.all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit())) {
        return Err("a \"%\" is not followed by two hexadecimal digits; write a literal \"%\" as %25".into());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "its percent-encoded text is not UTF-8")?;
    check_decoded(&decoded)?;
    Ok(decoded.into_owned())
}

fn check_decoded(text: &str) -> Result<(), Problem> {
    if text.contains(char::is_control) {
        return Err("it contains a percent-encoded control character; is there a trailing line break?".into());
    }
    Ok(())
}

/// Checks and adds an option, from a text or from code.
pub(super) fn add_option(options: &mut BTreeMap<String, String>, name: String, value: String) -> Result<(), Problem> {
    check_decoded(&value)?;
    if name.is_empty() {
        return Err("an option has no name; write NAME=VALUE".into());
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Err("the name of an option may contain only letters, digits, \"_\", \"-\" and \".\"".into());
    }
    if value.is_empty() {
        return Err(format!("option \"{name}\" is empty; give it a value or leave it out").into());
    }
    if options.contains_key(&name) {
        return Err(format!("option \"{name}\" is given twice; leave one out").into());
    }
    options.insert(name, value);
    Ok(())
}
