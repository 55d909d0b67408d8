//! Prints ratios of the medians that criterion measured in this run.

use std::{fs, path::PathBuf, time::Duration};

/// A benchmark and its baseline, both as `group/function`.
#[derive(Debug)]
pub struct Row {
    ours: &'static str,
    theirs: &'static str,
}

impl Row {
    /// Compares `ours` with `theirs`.
    pub fn new(ours: &'static str, theirs: &'static str) -> Self {
        Self { ours, theirs }
    }
}

/// Prints a line for each row whose benchmarks have run.
pub fn table(rows: &[Row]) {
    println!("\n{:<28} {:>12}   {:<32} {:>12}   ratio", "benchmark", "median", "against", "median");
    for Row { ours, theirs } in rows {
        let (Some(a), Some(b)) = (median(ours), median(theirs)) else { continue };
        println!("{ours:<28} {a:>12.1?}   {theirs:<32} {b:>12.1?}   {:.2}", a.as_secs_f64() / b.as_secs_f64());
    }
}

/// Reads the median of a benchmark's latest run, which criterion stores.
fn median(id: &str) -> Option<Duration> {
    let (group, function) = id.rsplit_once('/')?;
    let group = group.replace('/', "_");
    let path: PathBuf = ["criterion", &group, function, "new", "estimates.json"].iter().collect();
    let text = fs::read_to_string(crate::target_directory().join(path)).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&text).ok()?;
    let nanos = estimates.get("median")?.get("point_estimate")?.as_f64()?;
    Some(Duration::from_secs_f64(nanos / 1e9))
}
