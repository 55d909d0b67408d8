//! The command line of a simulation: many seeds, or one seed again.

use std::{env, process::ExitCode, time::Instant};

use super::{Mistake, On, fingerprint, search};

/// Simulates the core on a store. The arguments are
/// `[--memory] [--json | --hash] [--seeds N] [--from SEED] [--mistake NAME]`, or
/// `[--memory] --list-mistakes`. `--memory` simulates the core on the memory backend instead.
/// `--hash` only prints the hash of each history.
///
/// Without `--mistake` the protocol runs unchanged, and a violation is a failure. With a mistake,
/// the output says how many seeds found it, by one of its [properties](Mistake::properties), and
/// zero is a failure.
///
/// # Errors
/// If an argument is unknown or has a wrong value.
///
/// # Panics
/// If a simulation panics.
pub fn command<'a>(on: impl Into<On<'a>>) -> Result<ExitCode, String> {
    let mut on = on.into();
    let (mut seeds, mut from, mut mistake, mut json, mut hash) = (1_000, 0, None, false, false);
    let mut arguments = env::args().skip(1);
    while let Some(option) = arguments.next() {
        match option.as_str() {
            "--json" => {
                json = true;
                continue;
            }
            "--hash" => {
                hash = true;
                continue;
            }
            "--memory" => {
                on = On::Memory;
                continue;
            }
            "--list-mistakes" => {
                let mistakes = if matches!(on, On::Memory) { &Mistake::OF_MODES[..] } else { &Mistake::ALL };
                mistakes.iter().for_each(|mistake| println!("{mistake}"));
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{option} {value}: {e}"));
        match option.as_str() {
            "--seeds" => seeds = number()?,
            "--from" => from = number()?,
            "--mistake" => mistake = Some(value.parse::<Mistake>()?),
            other => return Err(format!("unknown option {other}")),
        }
    }
    if hash {
        (from..from.saturating_add(seeds)).for_each(|seed| println!("{seed} {:016x}", fingerprint(seed, mistake, on)));
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let found = search(from..from.saturating_add(seeds), mistake, on);
    if json {
        println!("{:#}", found.json());
    } else {
        println!("{found}\n{:.1} s", started.elapsed().as_secs_f64());
    }
    let as_hoped = found.violations.is_empty() == mistake.is_none();
    Ok(if as_hoped { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
