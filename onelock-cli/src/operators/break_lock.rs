//! `onelock break`

use std::io::{IsTerminal, stderr, stdin};

use lock_core::{Error, Holder, LockName, Locker, backend::Break};

use super::holders::{each, print_holders};
use crate::{
    args::BreakArgs,
    exit::{self, Exit, Failure},
    output::{print, say},
    runtime::runtime,
    store::StoreLocation,
    target::Target,
    who,
};

/// Runs `onelock break`: breaks the lock only if it is still as the operator saw it.
pub(crate) fn break_lock(args: BreakArgs) -> Result<Exit, Failure> {
    let Target { name, shown, store } = Target::new(args.name.clone(), args.store.clone())?;
    let has_condition = args.if_holder.is_some() || args.if_token.is_some() || args.if_version.is_some();
    let asks = !args.yes && !has_condition;
    if asks && !(stdin().is_terminal() && stderr().is_terminal()) {
        let message = "without a terminal, say whose lock is broken: give --if-holder, --if-token or --if-version with \
            what `onelock status --json` shows, or --yes for any holder";
        return Err(Failure::new(exit::USAGE, message));
    }
    let store = StoreLocation::choose(&store)?;
    runtime()?.block_on(async {
        let locker = store.open_to_ask().await?;
        let holder = locker.admin().inspect(name.as_str()).await?;
        let not_broken =
            |why: String| Failure::new(exit::NOT_ACQUIRED, format!("the lock \"{shown}\" was not broken: {why}"));
        let Some(holder) = holder else { return Err(not_broken("it is free".to_owned())) };
        let seen = choose_holder(&args, &holder)?.ok_or_else(|| not_broken(none_fits(&holder)))?;
        if asks {
            print_holders(&shown, &seen)?;
            if !confirm(&shown)? {
                return Err(not_broken("the answer was not yes".to_owned()));
            }
        }
        let by = args.by.unwrap_or_else(operator);
        match locker.admin().break_lock(name.as_str(), &seen, &by).await? {
            Break::Broken => {
                print(&format!("broke \"{shown}\", which was held by {seen}; its holder is told: broken by {by}"))?;
                Ok(Exit::Code(0))
            }
            Break::Changed(now) => Err(not_broken(changed(now.as_ref()))),
        }
    })
}

fn changed(now: Option<&Holder>) -> String {
    let now = now.map_or_else(|| "free".to_owned(), |holder| format!("held by {holder}"));
    format!("it has changed, and is now {now}")
}

fn none_fits(holder: &Holder) -> String {
    match holder.more {
        0 => changed(Some(holder)),
        more => format!(
            "none of the {} holders that the store names fits, and {more} more hold the lock; end the process of the \
             one that you mean",
            holder.others.len() + 1
        ),
    }
}

/// Returns the holder whose part of the lock is to be broken, if any fits. Of several that fit, the
/// operator has to name one. A holder that the store only counts may fit too, unless the condition
/// fits one holder at most.
fn choose_holder(args: &BreakArgs, holder: &Holder) -> Result<Option<Holder>, Failure> {
    let fits = |holder: &Holder| {
        args.if_holder.as_ref().is_none_or(|owner| holder.owner.as_ref() == Some(owner))
            && args.if_token.is_none_or(|token| holder.token.is_some_and(|held| held.get() == token))
            && args.if_version.as_ref().is_none_or(|version| holder.version.as_ref().is_none_or(|held| held == version))
    };
    let mut fitting: Vec<_> = each(holder).filter(fits).collect();
    if let (true, Some(version), None, None) = (fitting.is_empty(), &args.if_version, &args.if_holder, args.if_token) {
        return Ok(counted(holder, version));
    }
    let counted = if args.if_token.is_some() || args.if_version.is_some() { 0 } else { holder.more };
    if (fitting.len() > 1 || fitting.len() == 1 && counted > 0) && !args.yes {
        return Err(Failure::new(exit::USAGE, several_fit(&fitting, counted)));
    }
    Ok((!fitting.is_empty()).then(|| fitting.swap_remove(0)))
}

/// Stands for the holder of `version`, if the store may only count it. The store compares the
/// version with those of all holders.
fn counted(holder: &Holder, version: &str) -> Option<Holder> {
    (holder.more > 0).then(|| Holder::default().with_version(version.to_owned()).with_mode(holder.mode))
}

fn several_fit(fitting: &[Holder], counted: u64) -> String {
    let shown = fitting.iter().map(Holder::to_string).collect::<Vec<_>>().join("; ");
    let (count, fit) = (fitting.len(), if fitting.len() == 1 { "holder fits" } else { "holders fit" });
    let counted = match counted {
        0 => String::new(),
        more => format!("; {more} more hold the lock, and the store does not name them"),
    };
    format!(
        "{count} {fit}: {shown}{counted}; say whose part is broken: give its --if-token, or --yes for any of those \
         that are shown"
    )
}

/// Asks on the terminal.
fn confirm(name: &LockName) -> Result<bool, Failure> {
    say(&format!("Its holder may still be working. Break \"{name}\"? Type yes: "));
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(|e| Failure::os("reading the answer", e))?;
    Ok(answer.trim() == "yes")
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
    let named = each(&holder).find(|holder| holder.version.as_ref().is_none_or(|found| found == version));
    let Some(seen) = named.or_else(|| counted(&holder, version)) else { return Ok(Break::Changed(Some(holder))) };
    locker.admin().break_lock(name.as_str(), &seen, &by.unwrap_or_else(operator)).await
}

/// The operator's name, if `--by` gives none.
fn operator() -> String {
    let (user, host) = (who::user(), who::host());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.as_deref().unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use lock_core::FencingToken;

    use super::*;
    use crate::args::{Cli, CliCommand};

    #[test]
    fn a_holder_that_is_only_counted_may_fit_too() {
        let choose = |options: &[&str], more: u64| {
            let line = [&["onelock", "break", "x"], options].concat();
            let CliCommand::Break(args) = Cli::try_parse_from(line).unwrap().command else { panic!("{options:?}") };
            let held = |token| Holder::default().with_owner("one".to_owned()).with_token(FencingToken::new(token));
            let other = held(2).with_owner("two".to_owned()).with_version("v2".to_owned());
            choose_holder(&args, &held(1).with_version("v1".to_owned()).with_others(vec![other]).with_more(more))
        };
        let token = |chosen: Result<Option<Holder>, Failure>| chosen.unwrap().unwrap().token.unwrap().get();
        assert_eq!(token(choose(&["--if-holder", "two"], 0)), 2);
        let refused = choose(&["--if-holder", "two"], 4).unwrap_err();
        assert_eq!(refused.code, exit::USAGE);
        let refused = refused.to_string();
        assert!(refused.starts_with("1 holder fits: two, token 2; 4 more hold the lock"), "{refused}");
        for options in [["--if-token", "2"], ["--if-version", "v2"]] {
            assert_eq!(token(choose(&options, 4)), 2, "{options:?}");
        }
        assert_eq!(token(choose(&["--yes"], 4)), 1);
        let counted = choose(&["--if-version", "v3"], 4).unwrap().unwrap();
        assert_eq!((counted.version.as_deref(), counted.owner), (Some("v3"), None));
        assert!(matches!(choose(&["--if-version", "v3"], 0), Ok(None)));
        assert!(matches!(choose(&["--if-version", "v3", "--if-holder", "one"], 4), Ok(None)));
        assert!(matches!(choose(&["--if-token", "3"], 4), Ok(None)));
    }

    #[test]
    fn a_holder_that_is_not_named_has_not_changed() {
        let holder = Holder::default().with_owner("one".to_owned()).with_others(vec![Holder::default()]);
        assert_eq!(none_fits(&holder), "it has changed, and is now held by one, and 1 other holder");
        let more = none_fits(&holder.with_more(4));
        assert!(more.starts_with("none of the 2 holders that the store names fits, and 4 more hold"), "{more}");
    }
}
