//! Reaps orphans that became children of the supervisor.
//!
//! In a container the supervisor may be PID 1: then every orphan of an exec probe becomes its
//! child, and would stay a zombie until the limit of processes is reached.

use std::{sync::Arc, time::Duration};

use nix::unistd::Pid;
use tokio::sync::Notify;

use super::process_tree;
use crate::sys;

/// How long a child may be a zombie. A library that started the child reaps it much sooner, and
/// must get its status.
const ZOMBIE_TIME: Duration = Duration::from_secs(1);

/// Reaps all children but `watchdog`, whose status is needed. `ended` tells of SIGCHLD.
pub(super) async fn reap(ended: Arc<Notify>, watchdog: Pid) {
    let mut seen: Vec<Pid> = Vec::new();
    loop {
        if seen.is_empty() {
            ended.notified().await;
        }
        tokio::time::sleep(ZOMBIE_TIME).await;
        let zombies = process_tree::zombies().into_iter().filter(|pid| *pid != watchdog);
        let (abandoned, fresh) = zombies.partition(|pid| seen.contains(pid));
        Vec::into_iter(abandoned).for_each(sys::reap);
        seen = fresh;
    }
}
