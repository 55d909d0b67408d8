//! Shows holders: as text for people, and as objects for programs.

use std::time::SystemTime;

use lock_core::{
    FencingToken, Holder, LockName, Mode,
    backend::{End, PastHolder},
};
use serde_json::{Value, json};

use crate::{
    colours::Colours,
    exit::Failure,
    one_line::one_line,
    output::{print, print_as_is},
    terminal::{short, utc},
    who::Who,
};

/// Prints a line for each holder that the store names, with what is known of its process.
pub(super) fn print_holders(name: &LockName, holder: &Holder) -> Result<(), Failure> {
    for holder in each(holder) {
        let version = holder.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        print_state(name, &Colours::of_output().notable("held"), &format!(" by {holder}{version}"))?;
        if let Some(process) = Who::of(&holder).text() {
            print_field("process", &process)?;
        }
    }
    match holder.more {
        0 => Ok(()),
        more => print_state(name, &Colours::of_output().notable("held"), &format!(" by {more} more")),
    }
}

/// Prints what is known of a free lock.
pub(super) fn print_free(name: &LockName, last: Option<&PastHolder>) -> Result<(), Failure> {
    print_state(name, &Colours::of_output().good("free"), "")?;
    let Some(PastHolder { holder, end, ended_at, .. }) = last else { return Ok(()) };
    let at = ended_at.and_then(|at| Some(format!(" at {}{}", utc(at)?, ago(at)))).unwrap_or_default();
    let end = match end {
        End::Released => format!("released the lock{at}"),
        // The command in its place told nothing.
        End::Crashed if Who::of(holder).no_fork => "ended".to_owned(),
        End::BrokenBy(by) => format!("its lock was broken by {by}{at}"),
        _ => format!("ended without releasing the lock{at}"),
    };
    print_field("last", &format!("{holder}; {end}"))?;
    match Who::of(holder).text() {
        Some(process) => print_field("process", &process),
        None => Ok(()),
    }
}

/// Prints whether the lock is held or free, with the word in its colour.
fn print_state(name: &LockName, word: &str, rest: &str) -> Result<(), Failure> {
    print_as_is(&(one_line(&format!("{name} is ")) + word + &one_line(rest)))
}

/// Returns how long ago `at` was, by the clock of this machine, which may differ from the store's.
fn ago(at: SystemTime) -> String {
    at.elapsed().map(|elapsed| format!(", {} ago", short(elapsed))).unwrap_or_default()
}

/// Prints a fact about the lock of the line before.
pub(super) fn print_field(name: &str, text: &str) -> Result<(), Failure> {
    print(&format!("  {name:<8} {text}"))
}

/// Returns each named holder without the others.
pub(super) fn each(holder: &Holder) -> impl Iterator<Item = Holder> {
    let first = holder.clone().with_others(Vec::new()).with_more(0);
    std::iter::once(first).chain(holder.others.iter().cloned())
}

/// Returns the object of `status --json` and of a line of `list --json`.
pub(super) fn with_process(name: &LockName, holder: Option<&Holder>, store: &str) -> Value {
    let mut object = json(name, holder);
    object["store"] = json!(store);
    if let Some(holder) = holder {
        add_process(&mut object, holder);
        let others = object.get_mut("others").and_then(Value::as_array_mut);
        for (other, holder) in others.into_iter().flatten().zip(&holder.others) {
            add_process(other, holder);
        }
    }
    object
}

/// Returns the object of a free lock.
pub(super) fn free(name: &LockName, last: Option<&PastHolder>, store: &str) -> Value {
    let mut object = with_process(name, None, store);
    object["last"] = last.map_or(Value::Null, |past| {
        let mut last = holder_json(&past.holder);
        add_process(&mut last, &past.holder);
        let (end, by) = match &past.end {
            End::Released => ("released", None),
            End::BrokenBy(by) => ("broken", Some(by)),
            End::Crashed if Who::of(&past.holder).no_fork => ("ended", None),
            _ => ("crashed", None),
        };
        last["end"] = json!(end);
        last["broken_by"] = json!(by);
        last["ended_at"] = json!(past.ended_at.and_then(seconds));
        last
    });
    object
}

fn add_process(object: &mut Value, holder: &Holder) {
    if let (Value::Object(object), Value::Object(fields)) = (object, Who::of(holder).fields()) {
        object.extend(fields);
    }
}

/// Returns the object of a lock in the protocol of `hold --json`.
pub(crate) fn json(name: &LockName, holder: Option<&Holder>) -> Value {
    let Some(holder) = holder else { return json!({ "name": name.as_str(), "held": false }) };
    let mut object = holder_json(holder);
    object["name"] = json!(name.as_str());
    object["held"] = json!(true);
    if holder.count() > 1 {
        object["holders"] = json!(holder.count());
        object["others"] = holder.others.iter().map(holder_json).collect();
    }
    object
}

/// Returns the mode of a holder; `None` if nothing of the holder is known, as when its record may
/// not be read.
pub(super) fn mode(holder: &Holder) -> Option<Mode> {
    let is_unknown = holder.owner.is_none() && holder.foreign.is_none() && holder.token.is_none();
    (!is_unknown || holder.mode != Mode::Exclusive).then_some(holder.mode)
}

fn seconds(at: SystemTime) -> Option<f64> {
    at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

fn holder_json(holder: &Holder) -> Value {
    let data = holder.data.as_ref().map(|data| match std::str::from_utf8(data) {
        Ok(text) => json!(text),
        Err(_) => json!(data),
    });
    let (mode, permits) = match mode(holder) {
        Some(Mode::Shared) => (Some("shared"), None),
        Some(Mode::Permit { of }) => (Some("permit"), Some(of.get())),
        Some(_) => (Some("exclusive"), None),
        None => (None, None),
    };
    json!({
        "mode": mode,
        "permits": permits,
        "owner": holder.owner,
        "token": holder.token.map(FencingToken::get),
        "since": holder.since.and_then(seconds),
        "held_for": holder.held_for.map(|age| age.as_secs_f64()),
        "expires_in": holder.expires_in.map(|left| left.as_secs_f64()),
        "data": data,
        "version": holder.version,
        "foreign": holder.foreign,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_null_only_if_nothing_of_the_holder_is_known() {
        let mode = |holder: Holder| holder_json(&holder)["mode"].clone();
        assert_eq!(mode(Holder::default()), Value::Null);
        assert_eq!(mode(Holder::default().with_mode(Mode::Shared)), "shared");
        assert_eq!(mode(Holder::default().with_foreign("a Redis hash".to_owned())), "exclusive");
    }

    #[test]
    fn a_single_holder_has_no_others() {
        let name = LockName::new("x").expect("valid");
        let one = Holder::default().with_owner("one".to_owned());
        assert!(with_process(&name, Some(&one), "s").get("others").is_none());
        let two = Holder::of_several(vec![one.clone(), one]).expect("holders");
        assert!(with_process(&name, Some(&two), "s")["others"][0].get("pid").is_some());
    }
}
