//! Counts the requests of this client.

use std::{collections::BTreeMap, fs, time::Duration};

use crate::say;

/// Where every client has its mount.
const MOUNTED: &str = " mounted on /efs with fstype nfs";
/// How long no request may end until all have. Some are sent without waiting for their replies.
const QUIET: Duration = Duration::from_millis(100);

/// Prints the requests of the mount until now, by operation.
pub(crate) async fn count() {
    let mut counted = requests();
    loop {
        tokio::time::sleep(QUIET).await;
        let now = requests();
        if now == counted {
            break;
        }
        counted = now;
    }
    let words: Vec<_> = counted.iter().map(|(operation, number)| format!("{operation}={number}")).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    say("requests", "-", &words);
}

fn requests() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/self/mountstats").expect("Linux has it");
    let of_mount = text.lines().skip_while(|line| !line.contains(MOUNTED)).skip(1);
    let of_mount = of_mount.take_while(|line| !line.starts_with("device "));
    let operations = of_mount.skip_while(|line| line.trim() != "per-op statistics").skip(1);
    let number = |line: &str| {
        let (operation, numbers) = line.trim().split_once(": ")?;
        Some((operation.to_owned(), numbers.split(' ').next()?.parse().ok()?))
    };
    // A client that is idle renews its lease at the server with it, whatever it has locked.
    operations.filter_map(number).filter(|(operation, number)| *number > 0 && operation != "SEQUENCE").collect()
}
