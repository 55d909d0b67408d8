//! `onelock list` and `onelock watch`

use std::{io::stdout, time::Duration};

use lock_core::{Locker, backend::Listing};
use serde_json::json;

use super::{holders, table};
use crate::{
    args::{ListArgs, SortBy, WatchArgs},
    colours::Colours,
    exit::{self, Exit, Failure},
    one_line::one_line,
    output::{has_reader, print_as_is, print_json, report},
    pager::print_lines,
    runtime::runtime,
    store::StoreLocation,
    terminal::{cut, output_height, output_width},
};

/// Runs `onelock list`: prints a table of the held locks, and reports the entries that it cannot
/// read.
pub(crate) fn list(args: ListArgs) -> Result<Exit, Failure> {
    let store = StoreLocation::choose(&args.store)?;
    let (mut listing, asked) = runtime()?.block_on(async {
        store.warn_of_another_directory(None).await?;
        let locker = store.open_to_ask().await?;
        Ok::<_, Failure>((locker.admin().list(&args.prefix).await?, locker.store()))
    })?;
    arrange(&mut listing, args.sort, args.stale);
    if args.json {
        for (name, holder) in &listing.locks {
            print_json(&holders::with_process(name, Some(holder), &asked))?;
        }
    } else if !listing.locks.is_empty() {
        let lines = table::lines(&listing.locks, output_width());
        print_lines(&coloured(lines), !args.no_pager)?;
    }
    report_odd(&listing, args.json)?;
    // A lock that is not found may be held in another store.
    if listing.locks.is_empty() {
        report(&format!("asked {asked}"));
    }
    Ok(Exit::Code(if listing.odd_count() > 0 { exit::CORRUPT } else { 0 }))
}

/// Returns the lines of a table without control characters, with a header that stands out.
fn coloured(lines: Vec<String>) -> Vec<String> {
    let colours = Colours::of_output();
    let lines = lines.iter().map(|line| one_line(line)).enumerate();
    lines.map(|(row, line)| if row == 0 { colours.header(&line) } else { line }).collect()
}

/// Sorts the locks, and keeps those that have been held for at least `stale`.
fn arrange(listing: &mut Listing, sort: SortBy, stale: Option<Duration>) {
    if let Some(least) = stale {
        listing.locks.retain(|(_, holder)| holders::each(holder).any(|holder| table::age(&holder) >= Some(least)));
    }
    if sort == SortBy::Age {
        // The oldest first; an unknown age last.
        listing.locks.sort_by_key(|(_, holder)| std::cmp::Reverse(table::age(holder)));
    }
}

/// Runs `onelock watch`: shows the table again and again, until a signal ends it, or the reader of
/// its output has ended.
pub(crate) fn watch(args: WatchArgs) -> Result<Exit, Failure> {
    let store = StoreLocation::choose(&args.store)?;
    runtime()?.block_on(async {
        store.warn_of_another_directory(None).await?;
        let locker = store.open_to_ask().await?;
        let mut clock = tokio::time::interval(args.interval.max(Duration::from_millis(100)));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while has_reader(stdout()) {
            clock.tick().await;
            show(&locker, &args).await?;
        }
        Ok(Exit::Code(0))
    })
}

/// Shows the table once: on a terminal from its first line on, elsewhere with an empty line behind.
async fn show(locker: &Locker, args: &WatchArgs) -> Result<(), Failure> {
    let width = output_width();
    let cut_to_width = |text: &str| width.map_or_else(|| one_line(text), |width| cut(&one_line(text), width));
    let mut lines = Vec::new();
    match locker.admin().list(&args.prefix).await {
        Ok(mut listing) => {
            arrange(&mut listing, args.sort, None);
            lines.push(cut_to_width(&format!("{} held in {}", listing.locks.len(), locker.store())));
            lines.extend(coloured(table::lines(&listing.locks, width)));
            if listing.odd_count() > 0 {
                let odd = format!("{} entries cannot be read; `onelock list` names them", listing.odd_count());
                lines.push(cut_to_width(&odd));
            }
        }
        // The store may answer again.
        Err(error) => lines.push(cut_to_width(&Failure::from(error).to_string())),
    }
    let Some(height) = output_height() else {
        return print_as_is(&(lines.join("\n") + "\n"));
    };
    let shown = lines.iter().take(height - 1).map(|line| format!("{line}\x1b[K"));
    // To the first line, and afterwards the rest of the screen is erased.
    print_as_is(&format!("\x1b[H{}\x1b[J", shown.collect::<Vec<_>>().join("\n")))
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
