use proptest::{collection::btree_map, option, prelude::*, sample::select};

use super::{ConfigString, Host, Secret};

fn config(scheme: &str, hosts: &[(&str, Option<u16>)], path: &str, options: &[(&str, &str)]) -> ConfigString {
    ConfigString {
        scheme: scheme.into(),
        user: None,
        password: None,
        hosts: hosts.iter().map(|(name, port)| Host { name: (*name).into(), port: *port }).collect(),
        path: path.into(),
        options: options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    }
}

fn login(user: Option<&str>, password: Option<&str>, config: ConfigString) -> ConfigString {
    ConfigString { user: user.map(Into::into), password: password.map(Secret::new), ..config }
}

/// Texts with their meanings and their printed forms.
fn good() -> Vec<(&'static str, ConfigString, &'static str)> {
    vec![
        ("memory:", config("memory", &[], "", &[]), "memory:"),
        ("memory://", config("memory", &[], "", &[]), "memory:"),
        ("Memory:?", config("memory", &[], "", &[]), "memory:"),
        ("memory:?ttl=3s&a=b=c?", config("memory", &[], "", &[("a", "b=c?"), ("ttl", "3s")]), "memory:?a=b=c?&ttl=3s"),
        ("file:///abs/dir", config("file", &[], "/abs/dir", &[]), "file:///abs/dir"),
        ("file:/abs/dir", config("file", &[], "/abs/dir", &[]), "file:///abs/dir"),
        ("/abs/dir", config("file", &[], "/abs/dir", &[]), "file:///abs/dir"),
        ("/abs?mode=660", config("file", &[], "/abs", &[("mode", "660")]), "file:///abs?mode=660"),
        ("file:rel/dir", config("file", &[], "rel/dir", &[]), "file:rel/dir"),
        ("file:./a%20b%3Fc%40d", config("file", &[], "./a b?c@d", &[]), "file:./a%20b%3Fc%40d"),
        ("file:///päth", config("file", &[], "/päth", &[]), "file:///p%C3%A4th"),
        ("file:////two", config("file", &[], "//two", &[]), "file:////two"),
        ("redis://h", config("redis", &[("h", None)], "", &[]), "redis://h"),
        ("redis://H:6379/0", config("redis", &[("H", Some(6379))], "/0", &[]), "redis://H:6379/0"),
        ("redis://[::1]:1", config("redis", &[("::1", Some(1))], "", &[]), "redis://[::1]:1"),
        ("redis://[0:0::A]", config("redis", &[("::a", None)], "", &[]), "redis://[::a]"),
        (
            "redis+sentinel://a:1,b,[::1]/m",
            config("redis+sentinel", &[("a", Some(1)), ("b", None), ("::1", None)], "/m", &[]),
            "redis+sentinel://a:1,b,[::1]/m",
        ),
        (
            "dynamodb://arn%3Aaws%2Fx?region=eu",
            config("dynamodb", &[("arn:aws/x", None)], "", &[("region", "eu")]),
            "dynamodb://arn%3Aaws%2Fx?region=eu",
        ),
        ("x:?a=1+1%262%25", config("x", &[], "", &[("a", "1+1&2%")]), "x:?a=1+1%262%25"),
        ("redis://u:p@h", login(Some("u"), Some("p"), config("redis", &[("h", None)], "", &[])), "redis://u:***@h"),
        ("redis://:p:q@h", login(None, Some("p:q"), config("redis", &[("h", None)], "", &[])), "redis://:***@h"),
        ("redis://@h", config("redis", &[("h", None)], "", &[]), "redis://h"),
        (
            "redis://a%3Ab:p%40%2F%3F@h",
            login(Some("a:b"), Some("p@/?"), config("redis", &[("h", None)], "", &[])),
            "redis://a%3Ab:***@h",
        ),
        ("redis://hunter2@h", login(Some("hunter2"), None, config("redis", &[("h", None)], "", &[])), "redis://***@h"),
        ("x:?token=hunter2", config("x", &[], "", &[("token", "hunter2")]), "x:?token=***"),
        (
            "x:?endpoint=http://u:hunter2%40h",
            config("x", &[], "", &[("endpoint", "http://u:hunter2@h")]),
            "x:?endpoint=***",
        ),
    ]
}

#[test]
fn valid_config_string_is_parsed_redacted_and_written_back() {
    for (text, meaning, shown) in good() {
        let parsed = ConfigString::parse(text).unwrap();
        assert!(parsed == meaning, "{text}: {parsed:?} is not {meaning:?}");
        assert_eq!(parsed.to_string(), shown);
        assert_eq!(format!("{parsed:?}"), format!("ConfigString({shown})"));
        assert!(ConfigString::parse(&parsed.expose()).unwrap() == meaning, "{text}");
    }
}

const AT: &str = "write an \"@\" that does not follow a user and password as %40; in a password, write \"/\" as %2F \
    and \"?\" as %3F";
const PORT: &str = "a port is not a number from 1 to 65535";
const SCHEME: &str = "it has no scheme; begin with one such as redis:// for a server or file:// for a directory";
const EMPTY: &str = "the config string is empty; write one such as file:///var/lib/app/locks";
const NO_VALUE: &str =
    "option 2 has no value; write NAME=VALUE, with \"&\" between options and %26 for a literal \"&\"";
const ESCAPE: &str = "a \"%\" is not followed by two hexadecimal digits; write a literal \"%\" as %25";
const NAME: &str = "the name of an option may contain only letters, digits, \"_\", \"-\" and \".\"";

/// Texts with their form in the error, and the message.
const BAD: &[(&str, &str, &str)] = &[
    ("", "", EMPTY),
    ("  ", "  ", EMPTY),
    ("var/locks", "var/locks", SCHEME),
    ("//var/locks", "//var/locks", SCHEME),
    ("127.0.0.1:6379", "127.0.0.1:6379", SCHEME),
    ("://h", "://h", SCHEME),
    ("a b://h", "a b://h", "it contains a space; write a literal space as %20"),
    ("memory:\n", "memory:\\n", "it contains a control character; is there a trailing line break?"),
    (
        "memory:?owner=a%0A",
        "memory:?owner=a%0A",
        "it contains a percent-encoded control character; is there a trailing line break?",
    ),
    ("memory:#x", "memory:#x", "a fragment (\"#…\") has no meaning here; write a literal \"#\" as %23"),
    ("memory:?a=%zz", "memory:?a=%zz", ESCAPE),
    ("memory:?a=%e", "memory:?a=%e", ESCAPE),
    ("memory:?a=%+1", "memory:?a=%+1", ESCAPE),
    ("memory:?a=%ff", "memory:?a=%ff", "its percent-encoded text is not UTF-8"),
    ("memory:?a=1&b", "memory:?a=1&b", NO_VALUE),
    ("memory:?a=1&", "memory:?a=1&", NO_VALUE),
    ("memory:?=1", "memory:?=1", "an option has no name; write NAME=VALUE"),
    ("memory:?a/b=1", "memory:?a/b=1", NAME),
    ("memory:?a=", "memory:?a=", "option \"a\" is empty; give it a value or leave it out"),
    ("memory:?a=1&a=1", "memory:?a=1&a=1", "option \"a\" is given twice; leave one out"),
    ("memory:?a=1&%61=1", "memory:?a=1&%61=1", "option \"a\" is given twice; leave one out"),
    ("redis://:6379", "redis://:6379", "a host is empty; separate several hosts by commas, such as HOST1,HOST2"),
    ("redis://a,,b", "redis://a,,b", "a host is empty; separate several hosts by commas, such as HOST1,HOST2"),
    ("redis://u:p@/0", "redis://***@/0", "the host is missing after the \"@\""),
    ("redis://h:", "redis://h:", PORT),
    ("redis://h:0", "redis://h:0", PORT),
    ("redis://h:65536", "redis://h:65536", PORT),
    ("redis://h:+80", "redis://h:***", PORT),
    ("redis://user:hunter2", "redis://user:***", PORT),
    (
        "redis://::1:6379",
        "redis://:***",
        "a host has more than one colon; an IPv6 address goes in brackets, such as [::1]:6379",
    ),
    ("redis://[::1", "redis://[:***", "the \"]\" after an IPv6 address is missing"),
    ("redis://[::x]", "redis://[:***", "the brackets do not contain an IPv6 address; write one such as [::1]"),
    ("redis://[::1]x", "redis://[:***", "only a colon and a port may follow the \"]\" of an IPv6 address"),
    (
        "redis://u:@h",
        "redis://***@h",
        "the password is empty; is a variable not set? Without a password leave out its colon",
    ),
    ("redis://u:p@ss@h", "redis://***@h", "write an \"@\" in a user or password as %40"),
    ("redis://u:hunter/2@h", "redis://***@h", AT),
    ("redis://u:12?x=hunter2@h", "redis://***@h", AT),
    ("redis:u:hunter2@h", "redis:***@h", AT),
    ("u:hunter2@h", "u:***@h", AT),
    ("hunter2@h", "***@h", SCHEME),
    ("memory:?owner=me@host", "memory:***@host", AT),
    ("redis://h?password=hunter&2", "redis://h?password=***", NO_VALUE),
];

#[test]
fn invalid_config_string_is_refused_with_a_fix() {
    for (text, shown, message) in BAD {
        let error = ConfigString::parse(text).unwrap_err();
        assert_eq!(error.to_string(), format!("open on {shown}: {message}"), "{text:?}");
        assert_eq!(error.kind(), crate::ErrorKind::Config);
    }
}

#[test]
fn added_passwords_and_options_are_checked() {
    let config = || ConfigString::parse("redis://u@h?ttl=3s").unwrap();
    let full = config().with_password(Secret::new("a/b")).unwrap().with_option("owner", "x y").unwrap();
    assert_eq!(full.expose(), "redis://u:a%2Fb@h?owner=x%20y&ttl=3s");
    assert!(full.has_secrets() && !ConfigString::parse("memory:?owner=x").unwrap().has_secrets());
    let messages = [
        full.clone().with_password(Secret::new("c")),
        config().with_password(Secret::new("")),
        config().with_password(Secret::new("hunter2\n")),
        ConfigString::parse("memory:").unwrap().with_password(Secret::new("hunter2")),
        config().with_option("ttl", "4s"),
        config().with_option("", "hunter2"),
        config().with_option("a", ""),
        config().with_option("password", "hunter2\n"),
    ];
    for (result, words) in messages.into_iter().zip([
        "already has a password",
        "the password is empty",
        "control character",
        "has a password but no host",
        "\"ttl\" is given twice",
        "has no name",
        "is empty",
        "control character",
    ]) {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(words) && !message.contains("hunter2"), "{message}");
    }
}

/// Any text that is valid in a part.
fn part() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|s| s.chars().filter(|c| !c.is_control()).collect())
}

fn part_not_empty() -> impl Strategy<Value = String> {
    part().prop_filter("empty", |s| !s.is_empty())
}

fn host() -> impl Strategy<Value = Host> {
    let ipv6 = any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string());
    let name = prop_oneof!["[a-z0-9.-]{1,9}", ipv6, part_not_empty()];
    (name, option::of(1..=u16::MAX)).prop_map(|(name, port)| Host { name, port })
}

pub(super) fn any_config() -> impl Strategy<Value = ConfigString> {
    let login = (option::of(part_not_empty()), option::of(part_not_empty().prop_map(Secret::new)));
    let hosts = proptest::collection::vec(host(), 0..4);
    let name = prop_oneof!["[A-Za-z0-9_.-]{1,9}", select(vec!["password".to_owned(), "ttl".to_owned()])];
    let options = btree_map(name, part_not_empty(), 0..4);
    ("[a-z][a-z0-9+.-]{0,8}", login, hosts, part(), options).prop_map(|(scheme, login, hosts, path, options)| {
        let (user, password) = if hosts.is_empty() { (None, None) } else { login };
        let path = if hosts.is_empty() || path.is_empty() { path } else { format!("/{path}") };
        ConfigString { scheme, user, password, hosts, path, options }
    })
}

proptest! {
    #[test]
    fn written_config_parses_to_the_same_value(config in any_config()) {
        let text = config.expose();
        let read = ConfigString::parse(&text);
        prop_assert!(read.as_ref().is_ok_and(|read| *read == config), "{text}: {read:?}");
        // The redacted form parses too, so a user can fill the secrets in.
        prop_assert!(ConfigString::parse(&config.redacted()).is_ok());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = ConfigString::parse(&text).map(|config| config.redacted());
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in any::<Vec<u8>>()) {
        let _ = ConfigString::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_of_special_characters_makes_the_parser_panic(text in "[a-z]{0,2}[:/@?&=%#,\\[\\]a2.é]{0,20}") {
        if let Ok(config) = ConfigString::parse(&text) {
            prop_assert!(ConfigString::parse(&config.expose()).unwrap() == config, "{config:?}");
        }
    }

    #[test]
    fn badly_encoded_password_is_never_shown(
        before in "[a1:/?@&=%#,\\[\\] ]{0,6}", after in "[a1:/?@&=%#,\\[\\] \
            ]{0,6}", slashes in select(vec!["//", "", "/"]),
    ) {
        let text = format!("redis:{slashes}u:{before}hunter2{after}@h/0?ttl=3s");
        let shown = match ConfigString::parse(&text) {
            Ok(config) => format!("{config} {config:?} {:?}", super::StoreConfig::from(config.clone()).finish()),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }

    #[test]
    fn badly_encoded_secret_option_is_never_shown(
        before in "[a1:/?@=%#,\\[\\] ]{0,6}", after in "[a1:/?@&=%#,\\[\\] \
            ]{0,6}", name in select(vec!["password", "pasword", "session_token"]),
    ) {
        let text = format!("redis://h:1/0?{name}={before}hunter2{after}&ttl=3s");
        let shown = match ConfigString::parse(&text) {
            Ok(config) => format!("{config} {config:?} {:?}", super::StoreConfig::from(config.clone()).finish()),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }
}
