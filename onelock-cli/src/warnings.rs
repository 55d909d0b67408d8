//! Shows the warnings of the stores, which they give as events of `tracing`.

use std::fmt::{self, Write};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

use crate::output::report;

/// The crates of the stores. The core has warnings too, and this program reports their causes
/// itself.
const STORES: [&str; 6] = ["lock_efs", "lock_redis", "lock_dynamo", "lock_object", "lock_postgres", "lock_migrate"];

/// Writes each warning of a store from now on as one line to standard error.
pub(crate) fn show() {
    // Only one thread runs yet, and no other subscriber was set.
    let _ = tracing::subscriber::set_global_default(Warnings);
}

/// A subscriber without spans. A crate for subscribers would be more than these few lines need.
#[derive(Debug)]
struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let store = metadata.target().split("::").next().unwrap_or_default();
        metadata.is_event() && *metadata.level() <= Level::WARN && STORES.contains(&store)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        report(&text.line());
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
    /// Returns `warning: message (file: /locks/x.info, error: …)`.
    fn line(&self) -> String {
        let mut line = format!("warning: {}", self.message);
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
        assert_eq!(text.line(), "warning: acquired without a record");
        let fields = vec!["name: etl".into(), "error: the disk is full".into()];
        assert_eq!(
            Text { fields, ..text }.line(),
            "warning: acquired without a record (name: etl, error: the disk is full)"
        );
    }
}
