//! The form of messages on standard error: for people, for journald, or as lines of JSON.

use std::{env, io, sync::OnceLock, time::SystemTime};

use nix::sys::stat::fstat;
use serde_json::{Value, json};

use crate::{
    args::LogFormat,
    one_line::{json_line, one_line},
};

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warning,
    Info,
    Debug,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Returns the priority of syslog(3), which journald reads at the start of a line.
    fn priority(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

#[derive(Debug)]
enum Form {
    Text,
    Journal,
    /// With the name of the lock.
    Json(Option<String>),
}

static FORM: OnceLock<Form> = OnceLock::new();

/// Chooses the form for the rest of the process; `lock` is the lock of this command.
pub(crate) fn choose(format: LogFormat, lock: Option<String>) {
    let form = match format {
        LogFormat::Json => Form::Json(lock),
        LogFormat::Text => default_form(),
    };
    // The first choice stays, and there is only one.
    let _ = FORM.set(form);
}

fn default_form() -> Form {
    if is_journal() { Form::Journal } else { Form::Text }
}

/// Whether standard error leads to the journal, as systemd.exec(5) says. A unit may redirect
/// standard error, and its children inherit the variable.
fn is_journal() -> bool {
    let Ok(journal) = env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|found| journal == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Returns the message as one line. An error that ends the process has its exit `code`.
pub(crate) fn line(level: Level, message: &str, code: Option<u8>) -> String {
    formatted(FORM.get_or_init(default_form), SystemTime::now(), level, message, code)
}

fn formatted(form: &Form, now: SystemTime, level: Level, message: &str, code: Option<u8>) -> String {
    let prefix = match level {
        Level::Warning | Level::Debug => format!("{}: ", level.as_str()),
        // The text of an error says that it is one, and a fact needs no name.
        Level::Error | Level::Info => String::new(),
    };
    match form {
        Form::Text => format!("onelock: {prefix}{}\n", one_line(message)),
        Form::Journal => format!("<{}>onelock: {prefix}{}\n", level.priority(), one_line(message)),
        Form::Json(lock) => {
            let mut object = json!({
                "time": humantime::format_rfc3339_millis(now).to_string(),
                "level": level.as_str(),
                "message": message,
            });
            if let Some(lock) = lock {
                object["lock"] = Value::from(lock.as_str());
            }
            if let Some(code) = code {
                object["code"] = Value::from(code);
            }
            json_line(&object) + "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(form: &Form, level: Level) -> String {
        formatted(form, SystemTime::UNIX_EPOCH, level, "a \"b\"\u{1b}", (level == Level::Error).then_some(75))
    }

    #[test]
    fn every_form_is_one_harmless_line() {
        let json = Form::Json(Some("etl".into()));
        for (form, level, line) in [
            (&Form::Text, Level::Error, "onelock: a \"b\"\\u{1b}\n"),
            (&Form::Text, Level::Warning, "onelock: warning: a \"b\"\\u{1b}\n"),
            (&Form::Journal, Level::Error, "<3>onelock: a \"b\"\\u{1b}\n"),
            (&Form::Journal, Level::Warning, "<4>onelock: warning: a \"b\"\\u{1b}\n"),
            (&Form::Journal, Level::Info, "<6>onelock: a \"b\"\\u{1b}\n"),
            (&Form::Journal, Level::Debug, "<7>onelock: debug: a \"b\"\\u{1b}\n"),
        ] {
            assert_eq!(shown(form, level), line);
        }
        let object: Value = serde_json::from_str(&shown(&json, Level::Error)).unwrap();
        assert_eq!(
            object,
            json!({
                "time": "1970-01-01T00:00:00.000Z", "level": "error", "message": "a \"b\"\u{1b}", "lock": "etl",
                "code": 75
            })
        );
        assert!(!shown(&json, Level::Info).contains('\u{1b}'));
    }
}
