//! Log records of the library, for `logging` of Python.

use std::{
    fmt::{self, Write},
    sync::atomic::{AtomicU8, Ordering},
};

use pyo3::prelude::*;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{engine::Engine, events};

/// The least level that is recorded, as in `logging`. Zero records nothing.
static LEAST: AtomicU8 = AtomicU8::new(0);

/// Records log messages of at least this level of `logging` from now on.
#[pyfunction]
pub(crate) fn enable(level: u8) {
    LEAST.store(level.max(1), Ordering::Relaxed);
    // It is set once for the process. A second call only changes the level.
    let _ = tracing::subscriber::set_global_default(Records);
    tracing::callsite::rebuild_interest_cache();
}

/// Puts every event into the queue of the engine. It keeps no spans.
struct Records;

/// The levels of `logging`.
fn level_of(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl Subscriber for Records {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata.level()) >= LEAST.load(Ordering::Relaxed) && metadata.is_event() && is_ours(metadata.target())
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(engine) = Engine::started() else { return };
        let mut line = Line::default();
        event.record(&mut line);
        let logger = format!("onelock.{}", event.metadata().target().split("::").next().unwrap_or_default());
        engine.events.push(events::Event::Record(level_of(event.metadata().level()), logger, line.finish()));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn is_ours(target: &str) -> bool {
    ["lock_", "onelock"].iter().any(|ours| target.starts_with(ours))
}

/// One message: the event first, then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        self.message
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
