//! The table of `list` and `watch`.

use std::time::{Duration, SystemTime};

use lock_core::{Holder, LockName, Mode};

use super::holders::{each, mode};
use crate::{
    one_line::one_line,
    terminal::{columns, cut, short},
    who::Who,
};

const HEADER: [&str; COLUMNS] = ["NAME", "HELD BY", "AGE", "LEASE", "MODE", "COMMAND"];
const COLUMNS: usize = 6;
/// The columns that give way if the table is too wide, and the widths that they keep.
const SHRINKING: [(usize, usize); 3] = [(5, 7), (1, 16), (0, 16)];
const GAP: &str = "  ";

/// Returns how long a holder has held its lock: by the store's clock if the answer shows that, else
/// by this machine's.
pub(super) fn age(holder: &Holder) -> Option<Duration> {
    holder.held_for.or_else(|| SystemTime::now().duration_since(holder.since?).ok())
}

/// Returns the lines of the table, of which none is wider than `width`.
pub(super) fn lines(locks: &[(LockName, Holder)], width: Option<usize>) -> Vec<String> {
    let mut rows = vec![HEADER.map(str::to_owned)];
    for (name, holder) in locks {
        rows.extend(each(holder).map(|holder| row(name, &holder)));
        if holder.more > 0 {
            let mut more = row(name, &Holder::default());
            more[1] = format!("{} more", holder.more);
            rows.push(more);
        }
    }
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(cell));
        }
    }
    if let Some(width) = width {
        shrink(&mut widths, width);
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| {
            let cell = cut(cell, width);
            let padding = width.saturating_sub(columns(&cell));
            cell + &" ".repeat(padding)
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        width.map_or_else(|| line.trim_end().to_owned(), |width| cut(line.trim_end(), width))
    };
    rows.iter().map(line).collect()
}

fn shrink(widths: &mut [usize; COLUMNS], width: usize) {
    let room = width.saturating_sub(GAP.len() * (COLUMNS - 1));
    for (column, least) in SHRINKING {
        let excess = widths.iter().sum::<usize>().saturating_sub(room);
        widths[column] -= excess.min(widths[column].saturating_sub(least));
    }
}

fn row(name: &LockName, holder: &Holder) -> [String; COLUMNS] {
    let unknown = || "-".to_owned();
    let who = holder.owner.as_deref().or(holder.foreign.as_deref()).unwrap_or("an unknown holder");
    let mode = match mode(holder) {
        Some(Mode::Shared) => "shared".to_owned(),
        Some(Mode::Permit { of }) => format!("1 of {of}"),
        Some(_) => "excl".to_owned(),
        None => unknown(),
    };
    [
        name.to_string(),
        one_line(who),
        age(holder).map_or_else(unknown, short),
        holder.expires_in.map_or_else(unknown, short),
        mode,
        Who::of(holder).command.map_or_else(unknown, |command| one_line(&command)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks() -> Vec<(LockName, Holder)> {
        let seconds = Duration::from_secs;
        let holder = |owner: &str, age| Holder::default().with_owner(owner.to_owned()).with_held_for(seconds(age));
        let name = |text: &str| LockName::new(text).expect("a valid name");
        vec![
            (name("nightly-etl"), holder("etl-7:4711-5be6a2c1", 200).with_expires_in(seconds(29))),
            (name("reports/quarterly"), holder(&"very-long-owner-".repeat(4), 90_061).with_mode(Mode::Shared)),
        ]
    }

    #[test]
    fn a_table_fits_the_terminal() {
        for width in [1, 20, 60, 80, 120] {
            for line in lines(&locks(), Some(width)) {
                assert!(columns(&line) <= width, "{width}: {line}");
            }
        }
        let shown = lines(&locks(), Some(80));
        assert_eq!(
            shown,
            [
                "NAME               HELD BY                        AGE     LEASE  MODE    COMMAND",
                "nightly-etl        etl-7:4711-5be6a2c1            3m 20s  29s    excl    -",
                "reports/quarterly  very-long-owner-very-long-ow…  1d 1h   -      shared  -",
            ]
        );
    }

    #[test]
    fn no_mode_is_shown_of_a_holder_whose_record_cannot_be_read() {
        let name = LockName::new("x").expect("a valid name");
        let shown = lines(&[(name, Holder::default())], None);
        assert_eq!(shown[1], "x     an unknown holder  -    -      -     -");
    }

    #[test]
    fn a_table_in_a_pipe_is_not_cut() {
        let shown = lines(&locks(), None);
        assert!(shown[2].contains(&"very-long-owner-".repeat(4)), "{shown:?}");
    }
}
