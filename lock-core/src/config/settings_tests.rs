use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{ConfigString, Settings, tests::any_config};

/// The configuration of an application.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Application {
    lock: Settings,
}

fn toml(text: &str) -> Settings {
    toml::from_str::<Application>(text).unwrap().lock
}

fn meaning(settings: Settings) -> Result<ConfigString, String> {
    ConfigString::try_from(settings).map_err(|error| {
        let shown = error.to_string();
        assert!(!format!("{shown} {error:?}").contains("hunter2"), "{error:?}");
        shown
    })
}

#[test]
fn settings_mean_the_same_in_every_format() {
    let expected =
        ConfigString::parse("redis://app:hunter2@h:1/0?replicas=2&require=fencing,holder&ttl=20s&tls=true").unwrap();
    let in_toml = "[lock]\nurl = 'redis://app@h:1/0?ttl=20s'\npassword = 'hunter2'\nreplicas = 2\ntls = \
        true\nrequire = ['fencing', 'holder']\n";
    let in_json = r#"{"lock": {"url": "redis://app@h:1/0?ttl=20s", "password": "hunter2", "replicas": 2,
        "tls": true, "require": ["fencing", "holder"]}}"#;
    let in_yaml = "lock:\n  url: redis://app@h:1/0?ttl=20s\n  password: hunter2\n  replicas: 2\n  tls: true\n  \
        require:\n    - fencing\n    - holder\n";
    for settings in [
        toml(in_toml),
        serde_json::from_str::<Application>(in_json).unwrap().lock,
        yaml_serde::from_str::<Application>(in_yaml).unwrap().lock,
        toml("lock = 'redis://app:hunter2@h:1/0?ttl=20s&replicas=2&tls=true&require=fencing,holder'"),
    ] {
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
        assert_eq!(meaning(settings), Ok(expected.clone()));
    }
}

#[test]
fn errors_are_those_of_config_strings_without_secrets() {
    for (text, message) in [
        (
            "ulr = 'memory:'",
            "open: the settings of the store have no url; add one such as url = \"file:///var/lib/app/locks\"; is \
             \"ulr\" a misspelling of it?",
        ),
        (
            "ttl = '3s'",
            "open: the settings of the store have no url; add one such as url = \"file:///var/lib/app/locks\"",
        ),
        (
            "url = 'var/locks'",
            "open on var/locks: it has no scheme; begin with one such as redis:// for a server or file:// for a \
             directory",
        ),
        ("url = 'memory:?ttl=3s'\nttl = '4s'", "open on memory:?ttl=3s: option \"ttl\" is given twice; leave one out"),
        (
            "url = 'redis://u:hunter2@h'\npassword = 'hunter2'",
            "open on redis://u:***@h: the config string already has a password; leave one out",
        ),
        (
            "url = 'redis://u:hunter2@h'\nttl = ''",
            "open on redis://u:***@h: option \"ttl\" is empty; give it a value or leave it out",
        ),
        ("url = 'redis://u:hunter2@h:x'", "open on redis://***@h:x: a port is not a number from 1 to 65535"),
        (
            "url = 'memory:'\nttl = { s = 3 }",
            "open: \"ttl\" must be a text, a whole number, true, false or a list of these",
        ),
        (
            "url = 'memory:'\nrequire = [['a']]",
            "open: \"require\" must be a text, a whole number, true, false or a list of these",
        ),
        (
            "url = 'memory:'\nrequire = []",
            "open on memory:: option \"require\" is empty; give it a value or leave it out",
        ),
        (
            "url = 'memory:'\n'a b' = 1",
            "open on memory:: the name of an option may contain only letters, digits, \"_\", \"-\" and \".\"",
        ),
    ] {
        assert_eq!(meaning(toml(&format!("[lock]\n{text}\n"))), Err(message.to_owned()), "{text}");
    }
    let wrong = "open: the settings of a store must be a config string, or a table with url and options";
    for text in ["null", "[\"redis://u:hunter2@h\"]"] {
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(meaning(settings), Err(wrong.to_owned()));
    }
    let null: Settings = serde_json::from_str(r#"{"url": "memory:", "ttl": null}"#).unwrap();
    assert!(meaning(null).unwrap_err().contains("\"ttl\" is empty"));
    let twice: Settings = serde_json::from_str(r#"{"url": "memory:", "ttl": "3s", "ttl": "4s"}"#).unwrap();
    assert_eq!(meaning(twice), Err("open: \"ttl\" is given twice; leave one out".to_owned()));
}

proptest! {
    #[test]
    fn settings_keep_their_meaning_through_every_format(config in any_config()) {
        let settings = Settings::from(config.clone());
        prop_assert!(ConfigString::try_from(&settings).unwrap() == config);
        let text = config.expose();
        prop_assert!(Settings::from(ConfigString::parse(&text).unwrap()) == settings);
        let application = Application { lock: settings };
        let in_toml: Application = toml::from_str(&toml::to_string(&application).unwrap()).unwrap();
        let in_json: Application = serde_json::from_str(&serde_json::to_string(&application).unwrap()).unwrap();
        let in_yaml: Application = yaml_serde::from_str(&yaml_serde::to_string(&application).unwrap()).unwrap();
        for read in [in_toml, in_json, in_yaml] {
            prop_assert!(read == application, "{read:?} is not {application:?}");
            prop_assert!(ConfigString::try_from(read.lock).unwrap() == config);
        }
    }
}

#[test]
fn later_layers_win_option_by_option() {
    let file = || toml("[lock]\nurl = 'redis://app@h:1/0?ttl=20s'\npassword = 'hunter2'\nreplicas = 2\n");
    let over = |later: Settings| meaning(file().overlay(later)).unwrap().expose();
    for (later, expected) in [
        (Settings::default(), "redis://app:hunter2@h:1/0?replicas=2&ttl=20s"),
        (Settings::default().with_option("ttl", "5s"), "redis://app:hunter2@h:1/0?replicas=2&ttl=5s"),
        (Settings::from_url("redis://other"), "redis://other?replicas=2&ttl=20s"),
        (Settings::from_url("redis://other?ttl=5s"), "redis://other?replicas=2&ttl=5s"),
        (Settings::from_url("memory:"), "memory:?ttl=20s"),
        (Settings::default().with_option("password", "s2"), "redis://app:s2@h:1/0?replicas=2&ttl=20s"),
    ] {
        assert_eq!(over(later), expected);
    }
    let last = Settings::from_url("redis://a?ttl=1s").overlay(file()).overlay(Settings::from_url("redis://b?ttl=3s"));
    assert_eq!(meaning(last).unwrap().expose(), "redis://b?replicas=2&ttl=3s");
}

#[test]
fn invalid_layer_is_reported_in_either_position() {
    let wrong = || Settings::from_url("var/locks").with_option("ttl", "3s");
    let expected = meaning(wrong()).unwrap_err();
    let right = || Settings::from_url("memory:");
    assert_eq!(meaning(wrong().overlay(right())).unwrap_err(), expected);
    assert_eq!(meaning(right().overlay(wrong())).unwrap_err(), expected);
    let no_url = Settings::default().with_option("ttl", "3s").overlay(Settings::default());
    assert!(meaning(no_url).unwrap_err().contains("have no url"));
}

#[test]
fn environment_is_a_layer_of_url_and_common_options() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let variables = |name: &str| match name {
        "APP_LOCK_URL" => Some("redis://h?replicas=1".into()),
        "APP_LOCK_MIN_HOLD" => Some("3s".into()),
        "APP_LOCK_OWNER" => Some("".into()),
        "APP_LOCK_REPLICAS" => Some("7".into()),
        _ => None,
    };
    let settings = Settings::from_variables("APP_LOCK", variables);
    assert_eq!(meaning(settings).unwrap().expose(), "redis://h?min_hold=3s&replicas=1");
    let odd = Settings::from_variables("X", |_| Some(OsString::from_vec(vec![0xff])));
    assert!(meaning(odd).unwrap_err().contains("is not UTF-8"));
}
