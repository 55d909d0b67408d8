//! The client: the process that started `onelock hold`. Its locks end with it.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::unistd::{Pid, getppid};
use tokio::io::unix::AsyncFd;

use crate::{
    args::OnLoss,
    exit::{self, Failure},
    run::process_tree::{self, Family},
    sys,
};

/// The process that started this one.
#[derive(Debug)]
pub(super) struct Client {
    pid: Pid,
    /// Refers to the client even if its pid is reused. `None` if the client is in an outer PID
    /// namespace: then only the end of the standard input tells of its end.
    handle: Option<OwnedFd>,
    /// The `onelock` that serves the client, whose processes are no part of its family.
    server: Pid,
}

impl Client {
    /// Finds the client, and checks that it can be ended if `on_loss` demands that. Must be called
    /// before the standard input is moved.
    pub(super) fn find(on_loss: OnLoss) -> Result<Self, Failure> {
        let pid = getppid();
        let handle = match pid.as_raw() {
            0 => None,
            _ => Some(sys::pidfd_open(pid)),
        };
        // The order matters: if the parent is still the same, the handle refers to it.
        if getppid() != pid {
            return Err(Failure::new(exit::NOT_ACQUIRED, "the client ended before it got a lock"));
        }
        let handle = handle.transpose().map_err(|e| Failure::os("watching the client", e))?;
        let client = Self { pid, handle, server: Pid::this() };
        if on_loss != OnLoss::Tell {
            client.check_that_it_can_be_ended()?;
        }
        Ok(client)
    }

    fn check_that_it_can_be_ended(&self) -> Result<(), Failure> {
        process_tree::check_proc("--on-loss tell")?;
        if self.handle.is_none() {
            let message = "the client is in another PID namespace, so a loss cannot end it; start onelock in the \
                           client's namespace, or use --on-loss tell";
            return Err(Failure::new(exit::USAGE, message));
        }
        if self.has_other_end_of_input() == Some(false) {
            let message = format!(
                "process {} started onelock hold, but another process has the other end of its standard input, so a \
                 loss would end the wrong process; in bash write \"coproc LOCK {{ exec onelock hold ...; }}\", or use \
                 --on-loss tell",
                self.pid
            );
            return Err(Failure::new(exit::USAGE, message));
        }
        Ok(())
    }

    /// Whether the client can write to this process's standard input. `None` if the input is no
    /// pipe, or the system does not show the client's descriptors.
    ///
    /// In `coproc LOCK { onelock hold x; }` bash starts a subshell that starts `onelock`: without
    /// `exec` the subshell would be taken for the script.
    fn has_other_end_of_input(&self) -> Option<bool> {
        let input = fs::read_link("/proc/self/fd/0").ok().filter(|input| is_pipe(input))?;
        let process = format!("/proc/{}", self.pid);
        let descriptors = fs::read_dir(format!("{process}/fd")).ok()?;
        Some(descriptors.flatten().any(|entry| {
            let info = Path::new(&process).join("fdinfo").join(entry.file_name());
            fs::read_link(entry.path()).is_ok_and(|target| target == input) && is_writable(&info)
        }))
    }

    /// Returns the future of the client's end.
    pub(super) fn watch(&self) -> Result<ClientWatch, Failure> {
        let handle = self.handle.as_ref().map(|handle| handle.try_clone().and_then(sys::watch_reads));
        handle.transpose().map(ClientWatch).map_err(|e| Failure::os("watching the client", e))
    }

    /// Returns the descriptor that is readable once the client has ended.
    pub(super) fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref().map(AsFd::as_fd)
    }

    /// Asks the client and its descendants to end, and returns the descendants.
    pub(super) fn terminate(&self) -> Family {
        let root = self.handle().map(|handle| (self.pid, handle));
        root.map(|root| process_tree::terminate_family(root, self.server)).unwrap_or_default()
    }

    /// Kills the client and its descendants, also those of `family`, which may not be its
    /// descendants any more. Waits for their end.
    pub(super) fn kill(&self, family: &Family) {
        let client = self.handle().map(|handle| (self.pid, handle));
        let roots: Vec<_> = client.into_iter().chain(family.living()).collect();
        process_tree::kill_families(&roots, self.server);
    }

    /// Kills those of `family` that have not ended, and waits for their end, but not the client.
    pub(super) fn kill_family(&self, family: &Family) {
        process_tree::kill_families(&family.living().collect::<Vec<_>>(), self.server);
    }
}

/// Waits for the end of the client.
#[derive(Debug)]
pub(super) struct ClientWatch(Option<AsyncFd<OwnedFd>>);

impl ClientWatch {
    /// Returns once the client has ended.
    pub(super) async fn ended(&self) {
        match &self.0 {
            // An error means that the runtime ends, and this future with it.
            Some(handle) => drop(handle.readable().await),
            None => std::future::pending().await,
        }
    }
}

fn is_pipe(target: &Path) -> bool {
    target.as_os_str().as_encoded_bytes().starts_with(b"pipe:")
}

/// Whether a descriptor, of which this is the file in `/proc/PID/fdinfo`, is open for writing.
fn is_writable(info: &Path) -> bool {
    let flags = |text: io::Result<String>| -> Option<u32> {
        let text = text.ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    };
    flags(fs::read_to_string(info)).is_some_and(|flags| flags & libc::O_ACCMODE as u32 != 0)
}
