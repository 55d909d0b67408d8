//! The doctor's report, as text and as JSON.

use std::{fmt::Write, time::Duration};

use lock_core::{
    Capability, Timing,
    backend::{Capabilities, Finding, Level},
};
use serde_json::{Map, Value, json};

use crate::{
    colours::Colours,
    exit::Failure,
    one_line::one_line,
    output::{print_as_is, print_json},
};

#[derive(Debug)]
pub(super) struct Diagnosis {
    /// The config string without secrets. `None` if no store could be chosen.
    pub(super) store: Option<String>,
    /// `None` if the store could not be opened.
    pub(super) opened: Option<(Capabilities, Timing)>,
    pub(super) findings: Vec<Finding>,
    /// The exit code of a failure that prevented the examination.
    pub(super) failed: Option<u8>,
}

impl Diagnosis {
    /// The report on a store that could not be opened.
    pub(super) fn not_opened(store: Option<String>, failure: &Failure) -> Self {
        let finding = match &store {
            Some(_) => Finding::unfit("store", format!("it could not be opened: {failure}")),
            None => Finding::unfit("store", format!("none could be chosen: {failure}")),
        };
        Self { store, opened: None, findings: vec![finding], failed: Some(failure.code) }
    }

    pub(super) fn is_fit(&self) -> bool {
        self.failed.is_none() && self.findings.iter().all(|finding| finding.level < Level::Unfit)
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json { print_json(&self.json()) } else { print_as_is(&self.text(Colours::of_output())) }
    }

    fn text(&self, colours: Colours) -> String {
        let mut text = format!("store: {}\n", self.store.as_deref().map_or_else(|| "none".to_owned(), one_line));
        if let Some((capabilities, timing)) = &self.opened {
            describe(capabilities, timing, &mut text);
        }
        let (notes, findings): (Vec<_>, Vec<_>) =
            self.findings.iter().partition(|finding| finding.level == Level::Note);
        for finding in findings {
            let level = format!("{:<8}", finding.level);
            let level = match finding.level {
                Level::Good => colours.good(&level),
                Level::Unfit => colours.bad(&level),
                _ => colours.notable(&level),
            };
            let _ = write!(text, "\n{level} ");
            write_finding(finding, &mut text);
        }
        for (i, note) in notes.into_iter().enumerate() {
            if i == 0 {
                text += &format!("\n\n{}", colours.header("notes:"));
            }
            text += "\n         ";
            write_finding(note, &mut text);
        }
        let verdict = if self.is_fit() { colours.good("fit for locks") } else { colours.bad("NOT fit for locks") };
        text + "\n\n" + &verdict
    }

    fn json(&self) -> Value {
        let opened = self.opened.as_ref();
        json!({
            "store": self.store,
            "fit": self.is_fit(),
            "capabilities": opened.map(|(capabilities, _)| {
                all(capabilities).map(|(name, has)| (name.as_str().into(), has.into())).collect::<Map<_, _>>()
            }),
            "timing": opened.map(|(_, timing)| timing_json(timing)),
            "findings": self.findings,
        })
    }
}

fn write_finding(Finding { subject, text: seen, advice, .. }: &Finding, text: &mut String) {
    let _ = write!(text, "{}: {}", one_line(subject), one_line(seen));
    if let Some(advice) = advice {
        let _ = write!(text, "\n         -> {}", one_line(advice));
    }
}

/// Writes a line on the capabilities and one on the timing.
fn describe(capabilities: &Capabilities, timing: &Timing, text: &mut String) {
    let has = |(capability, has)| format!("{capability} {}", if has { "yes" } else { "no" });
    let _ = write!(text, "capabilities: {}", all(capabilities).map(has).collect::<Vec<_>>().join(", "));
    let Timing { ttl, lease, margin, renew_every, grace, attempt_timeout, .. } = *timing;
    let lease = match (ttl, lease) {
        (Some(ttl), _) => format!("ttl {}, margin {}", shown(ttl), shown(margin)),
        (None, Some(lease)) => format!("the store's lease {}, margin {}", shown(lease), shown(margin)),
        (None, None) => "no ttl".into(),
    };
    let renew =
        renew_every.map_or_else(|| "renewed manually".into(), |every| format!("renewed every {}", shown(every)));
    let _ = write!(
        text,
        "\ntiming: {lease}, {renew}, grace {}, request timeout {}\n",
        shown(grace),
        shown(attempt_timeout)
    );
}

fn timing_json(timing: &Timing) -> Value {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    let Timing { ttl, lease, margin, renew_every, grace, attempt_timeout, .. } = *timing;
    json!({
        "ttl": seconds(ttl),
        "lease": seconds(lease),
        "margin": seconds(Some(margin)),
        "renew": seconds(renew_every),
        "grace": seconds(Some(grace)),
        "attempt_timeout": seconds(Some(attempt_timeout)),
    })
}

fn all(capabilities: &Capabilities) -> impl Iterator<Item = (Capability, bool)> {
    Capability::ALL.iter().map(|capability| (*capability, capabilities.has(*capability)))
}

fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
