//! Runs scenarios on real NFS: `nfs_scenarios NAME...`, on the server of the guest (see
//! `test_support::nfs`).
//!
//! A scenario panics if a guarantee is broken. All processes of the guest share one clock, so their
//! times can be compared.

mod basics;
mod costs;
mod fair;
mod handing_over;
mod limits;
mod loss;
mod modes;
mod peer;
mod sharing;
mod sweeping;
mod waiting;

use std::process::Command;

/// The config string of all clients, which have the mount at the same path.
const URL: &str = "efs:///efs/locks";

fn main() {
    for name in std::env::args().skip(1) {
        println!("== {name}");
        match name.as_str() {
            "exclusion" => basics::exclusion(),
            "killed" => basics::killed(),
            "unmarked" => basics::unmarked(),
            "cut" => loss::cut(),
            "expired" => loss::expired(),
            "quota" => limits::quota(),
            "many" => limits::many(),
            "restart" => loss::restart(),
            "removed" => loss::removed(),
            "cached" => loss::cached(),
            "foreign" => sharing::foreign(),
            "mounts" => sharing::mounts(),
            "hung" => sharing::hung(),
            "readers" => modes::readers(),
            "together" => modes::together(),
            "permits" => modes::permits(),
            "readers-cut" => modes::cut(),
            "readers-power" => modes::power(),
            "readers-restart" => modes::restart(),
            "readers-expired" => modes::expired(),
            "readers-foreign" => modes::foreign(),
            "fair" => fair::order(),
            "fair-cut" => fair::cut(),
            "fair-restart" => fair::restart(),
            "fair-expired" => fair::expired(),
            "fair-ended" => fair::ended(),
            "costs" => costs::costs(),
            "handing-over" => handing_over::handing_over(),
            "waiting" => waiting::waiting(),
            "sweeping" => sweeping::sweeping(),
            other => panic!("unknown scenario {other}"),
        }
    }
}

/// Runs one of the rig's commands, such as `cut_a`.
fn rig(command: &str) -> String {
    let output = Command::new("bash").args(["-c", command]).output().expect("bash is there");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} ended with {}: {text}", output.status);
    text.into_owned()
}
