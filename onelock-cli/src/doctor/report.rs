//! The doctor's report, as text and as JSON.

use std::{fmt::Write, time::Duration};

use lock_core::{
    Capability, Timing,
    backend::{Capabilities, Finding, Level},
};
use serde_json::{Map, Value, json};

use crate::{
    exit::Failure,
    one_line::one_line,
    output::{print_as_is, print_json},
};

#[derive(Debug)]
pub(super) struct Diagnosis {
    /// The config string without secrets.
    pub(super) store: String,
    pub(super) capabilities: Capabilities,
    pub(super) timing: Timing,
    pub(super) findings: Vec<Finding>,
    /// The exit code of a failure that prevented the examination.
    pub(super) failed: Option<u8>,
}

impl Diagnosis {
    pub(super) fn is_fit(&self) -> bool {
        self.failed.is_none() && self.findings.iter().all(|finding| finding.level < Level::Unfit)
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json { print_json(&self.json()) } else { print_as_is(&self.text()) }
    }

    fn text(&self) -> String {
        let mut text = format!("store: {}\ncapabilities:", one_line(&self.store));
        for (i, (capability, has)) in self.capabilities().enumerate() {
            let has = if has { "yes" } else { "no" };
            let _ = write!(text, "{} {capability} {has}", if i == 0 { "" } else { "," });
        }
        let Timing { ttl, lease, margin, renew_every, grace, attempt_timeout, .. } = self.timing;
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
        for Finding { level, subject, text: seen, advice } in &self.findings {
            let _ = write!(text, "\n{level:<8} {}: {}", one_line(subject), one_line(seen));
            if let Some(advice) = advice {
                let _ = write!(text, "\n         -> {}", one_line(advice));
            }
        }
        text + "\n\n" + if self.is_fit() { "fit for locks" } else { "NOT fit for locks" }
    }

    fn json(&self) -> Value {
        let capabilities: Map<_, _> =
            self.capabilities().map(|(name, has)| (name.as_str().into(), has.into())).collect();
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        let Timing { ttl, lease, margin, renew_every, grace, attempt_timeout, .. } = self.timing;
        json!({
            "store": self.store,
            "fit": self.is_fit(),
            "capabilities": capabilities,
            "timing": {
                "ttl": seconds(ttl),
                "lease": seconds(lease),
                "margin": seconds(Some(margin)),
                "renew": seconds(renew_every),
                "grace": seconds(Some(grace)),
                "attempt_timeout": seconds(Some(attempt_timeout)),
            },
            "findings": self.findings,
        })
    }

    fn capabilities(&self) -> impl Iterator<Item = (Capability, bool)> {
        Capability::ALL.iter().map(|capability| (*capability, self.capabilities.has(*capability)))
    }
}

fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
