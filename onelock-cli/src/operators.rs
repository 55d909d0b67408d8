//! The commands of operators: `status`, `list`, `break` and `sweep`.

use std::time::SystemTime;

use lock_core::{
    Error, Holder, LockName, Locker, Mode,
    backend::{Break, Listing},
};
use onelock::files::{FileConfig, Sweep};
use serde_json::{Value, json};

use crate::{
    args::{BreakArgs, ListArgs, StatusArgs, SweepArgs},
    exit::{self, Exit, Failure},
    output::{print, print_json, report},
    runtime::runtime,
    store::StoreLocation,
};

/// Runs `onelock status`: a held lock is success, as in `systemctl is-active`.
pub(crate) fn status(args: StatusArgs) -> Result<Exit, Failure> {
    let store = StoreLocation::choose(&args.store)?;
    let (holder, asked) = runtime()?.block_on(async {
        store.warn_of_another_directory(Some(&args.name)).await?;
        let locker = store.open_to_ask().await?;
        Ok::<_, Failure>((locker.admin().inspect(args.name.as_str()).await?, locker.store()))
    })?;
    match &holder {
        _ if args.json => print_json(&json(&args.name, holder.as_ref()))?,
        Some(holder) => print_holders(&args.name, holder)?,
        None => print(&format!("{} is free", args.name))?,
    }
    if holder.is_none() {
        report_asked(&asked);
    }
    Ok(Exit::Code(if holder.is_some() { 0 } else { exit::NOT_ACQUIRED }))
}

/// Runs `onelock list`: prints one held lock a line, and reports the entries that it cannot read.
pub(crate) fn list(args: ListArgs) -> Result<Exit, Failure> {
    let store = StoreLocation::choose(&args.store)?;
    let (listing, asked) = runtime()?.block_on(async {
        store.warn_of_another_directory(None).await?;
        let locker = store.open_to_ask().await?;
        Ok::<_, Failure>((locker.admin().list(&args.prefix).await?, locker.store()))
    })?;
    for (name, holder) in &listing.locks {
        if args.json { print_json(&json(name, Some(holder)))? } else { print_holders(name, holder)? }
    }
    report_odd(&listing, args.json)?;
    if listing.locks.is_empty() {
        report_asked(&asked);
    }
    Ok(Exit::Code(if listing.odd_count() > 0 { exit::CORRUPT } else { 0 }))
}

/// Reports the entries that could not be read on standard error, and as objects if `json` is set.
fn report_odd(listing: &Listing, json: bool) -> Result<(), Failure> {
    for entry in listing.odd() {
        report(&format!("cannot read an entry: {entry}"));
        if json {
            print_json(&json!({ "odd": true, "place": entry.place, "reason": entry.reason }))?;
        }
    }
    match listing.odd_count() - listing.odd().len() {
        0 => {}
        more => {
            let reason = format!("{more} more entries cannot be read");
            report(&reason);
            if json {
                print_json(&json!({ "odd": true, "place": null, "reason": reason }))?;
            }
        }
    }
    Ok(())
}

/// Names the store when no lock was found, because the lock may be held in another store.
fn report_asked(store: &str) {
    report(&format!("asked {store}"));
}

/// Runs `onelock break`: breaks the lock only if it is still as the operator saw it.
pub(crate) fn break_lock(args: BreakArgs) -> Result<Exit, Failure> {
    let store = StoreLocation::choose(&args.store)?;
    runtime()?.block_on(async {
        let locker = store.open_to_ask().await?;
        match break_version(&locker, &args.name, &args.version, args.by).await? {
            Break::Broken => Ok(Exit::Code(0)),
            Break::Changed(now) => {
                let now = now.map_or_else(|| "free".into(), |holder| format!("held by {holder}"));
                let message = format!("the lock \"{}\" was not broken: it has changed, and is now {now}", args.name);
                Err(Failure::new(exit::NOT_ACQUIRED, message))
            }
        }
    })
}

/// Breaks the lock if its record still has this `version`. Without `by` the user of this process is
/// named as the operator.
pub(crate) async fn break_version(
    locker: &Locker,
    name: &LockName,
    version: &str,
    by: Option<String>,
) -> Result<Break, Error> {
    let Some(holder) = locker.admin().inspect(name.as_str()).await? else { return Ok(Break::Changed(None)) };
    // A lock with several holders is broken for one of them.
    let mut holders = std::iter::once(&holder).chain(&holder.others);
    let seen = holders.find(|holder| holder.version.as_ref().is_none_or(|found| found == version));
    let Some(seen) = seen else { return Ok(Break::Changed(Some(holder))) };
    locker.admin().break_lock(name.as_str(), seen, &by.unwrap_or_else(operator)).await
}

/// Runs `onelock sweep`: prints one removed lock file a line.
pub(crate) fn sweep(args: SweepArgs) -> Result<Exit, Failure> {
    // A missing directory is a typing error, and must not be created.
    let backend = FileConfig::new(args.directory).create(false).build()?;
    let swept = backend.sweep(Sweep::new(args.idle).dry_run(args.dry_run))?;
    for path in &swept.removed {
        print(&path.display().to_string())?;
    }
    Ok(Exit::Code(0))
}

/// The operator's name, if `--by` gives none.
fn operator() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let host = nix::unistd::gethostname().ok().map(|host| host.to_string_lossy().into_owned());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.as_deref().unwrap_or("unknown"))
}

/// Prints one line for each holder that the store names.
fn print_holders(name: &LockName, holder: &Holder) -> Result<(), Failure> {
    for holder in alone(holder) {
        let version = holder.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        print(&format!("{name} is held by {holder}{version}"))?;
    }
    match holder.more {
        0 => Ok(()),
        more => print(&format!("{name} is held by {more} more")),
    }
}

/// Returns each named holder without the others.
fn alone(holder: &Holder) -> impl Iterator<Item = Holder> {
    let first = holder.clone().with_others(Vec::new()).with_more(0);
    std::iter::once(first).chain(holder.others.iter().cloned())
}

/// Returns the object of `status --json`.
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

fn holder_json(holder: &Holder) -> Value {
    let since = holder.since.and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok());
    let data = holder.data.as_ref().map(|data| match std::str::from_utf8(data) {
        Ok(text) => json!(text),
        Err(_) => json!(data),
    });
    let (mode, permits) = match holder.mode {
        Mode::Shared => ("shared", None),
        Mode::Permit { of } => ("permit", Some(of.get())),
        _ => ("exclusive", None),
    };
    json!({
        "mode": mode,
        "permits": permits,
        "owner": holder.owner,
        "token": holder.token.map(lock_core::FencingToken::get),
        "since": since.map(|since| since.as_secs_f64()),
        "held_for": holder.held_for.map(|age| age.as_secs_f64()),
        "expires_in": holder.expires_in.map(|left| left.as_secs_f64()),
        "data": data,
        "version": holder.version,
        "foreign": holder.foreign,
    })
}
