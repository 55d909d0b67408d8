//! The commands of operators: `status`, `list`, `watch`, `wait`, `break` and `sweep`.

mod break_lock;
mod holders;
mod list;
mod sweep;
mod table;
mod wait;

pub(crate) use self::{
    break_lock::{break_lock, break_version},
    holders::json,
    list::{list, watch},
    sweep::sweep,
    wait::wait,
};
use crate::{
    args::StatusArgs,
    exit::{self, Exit, Failure},
    output::print_json,
    runtime::runtime,
    store::StoreLocation,
    target::Target,
};

/// Runs `onelock status`: a held lock is success, as in `systemctl is-active`.
pub(crate) fn status(args: StatusArgs) -> Result<Exit, Failure> {
    let Target { name, shown, store } = Target::new(args.name, args.store)?;
    let store = StoreLocation::choose(&store)?;
    let (holder, last, asked) = runtime()?.block_on(async {
        store.warn_of_another_directory(Some(&name)).await?;
        let locker = store.open_to_ask().await?;
        let holder = locker.admin().inspect(name.as_str()).await?;
        let last = match holder {
            Some(_) => None,
            // Only an addition to the answer.
            None => locker.admin().last_holder(name.as_str()).await.unwrap_or_default(),
        };
        Ok::<_, Failure>((holder, last, locker.store()))
    })?;
    match &holder {
        Some(holder) if args.json => print_json(&holders::with_process(&shown, Some(holder), &asked))?,
        None if args.json => print_json(&holders::free(&shown, last.as_ref(), &asked))?,
        Some(holder) => holders::print_holders(&shown, holder)?,
        None => holders::print_free(&shown, last.as_ref())?,
    }
    if !args.json {
        holders::print_field("store", &asked)?;
    }
    Ok(Exit::Code(if holder.is_some() { 0 } else { exit::NOT_ACQUIRED }))
}
