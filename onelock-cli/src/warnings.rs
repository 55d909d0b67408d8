//! Shows the warnings of the stores, which they give as events of `tracing`; with `-vv` all events
//! of the library.

use std::fmt::{self, Write};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

use crate::{
    log::{self, Level as LogLevel},
    output::say,
};

/// The crates of the stores. The core has warnings too, and this program reports their causes
/// itself.
const STORES: [&str; 6] = ["lock_efs", "lock_redis", "lock_dynamo", "lock_object", "lock_postgres", "lock_migrate"];

/// Writes each warning of a store from now on as one line to standard error. If `detailed`, also
/// the other events of the stores and of the core.
pub(crate) fn show(detailed: bool) {
    // Only one thread runs yet, and no other subscriber was set.
    let _ = tracing::subscriber::set_global_default(Warnings { detailed });
}

/// A subscriber without spans. A crate for subscribers would be more than these few lines need.
#[derive(Debug)]
struct Warnings {
    detailed: bool,
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let source = metadata.target().split("::").next().unwrap_or_default();
        let is_wanted = if self.detailed {
            *metadata.level() <= Level::DEBUG && (source == "lock_core" || STORES.contains(&source))
        } else {
            *metadata.level() <= Level::WARN && STORES.contains(&source)
        };
        metadata.is_event() && is_wanted
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.detailed { LevelFilter::DEBUG } else { LevelFilter::WARN })
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR | Level::WARN => LogLevel::Warning,
            Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        say(&log::line(level, &text.line(), None));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // No span is enabled.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message of an event, and its other fields.
#[derive(Debug, Default)]
struct Text {
    message: String,
    fields: Vec<String>,
}

impl Text {
    /// Returns `message (file: /locks/x.info, error: …)`.
    fn line(&self) -> String {
        let mut line = self.message.clone();
        if !self.fields.is_empty() {
            let _ = write!(line, " ({})", self.fields.join(", "));
        }
        line
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push(format!("{name}: {value}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_stores_are_one_line_with_their_fields() {
        let text = Text { message: "acquired without a record".into(), fields: vec![] };
        assert_eq!(text.line(), "acquired without a record");
        let fields = vec!["name: etl".into(), "error: the disk is full".into()];
        assert_eq!(Text { fields, ..text }.line(), "acquired without a record (name: etl, error: the disk is full)");
    }
}
