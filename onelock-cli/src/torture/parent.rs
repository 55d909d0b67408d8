//! The parent of a run: starts the processes, kills, freezes and cuts them off at random, and
//! collects their journals.

use std::{
    collections::BTreeSet,
    env, fs, io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lock_history::{Event, EventKind};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{
    journal,
    process::{Process, ProcessFault},
    report::FaultCounts,
    route::{ProcessProxy, Route},
    shared::{TASKS, TortureRun, now},
};
use crate::{live::LiveLine, store::StoreLocation, terminal::short};

/// How long the processes may take to end after the stop request.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Parent<'a> {
    run: &'a TortureRun,
    store: &'a StoreLocation,
    route: &'a Route,
    rng: fastrand::Rng,
    /// The kinds of the next faults.
    kinds: Vec<u8>,
    /// The longest time for which a process is frozen or cut off.
    longest_fault: Duration,
    processes: Vec<Process>,
    started: u64,
    /// The faults of processes, with their times.
    fault_events: Vec<(Duration, u64, EventKind)>,
    pub(super) faults: FaultCounts,
    /// Processes that did not end after the stop request.
    pub(super) hung: Vec<String>,
    /// Processes that ended unexpectedly, for example on a full disk. Their journals are
    /// incomplete.
    pub(super) unexpected_exits: Vec<String>,
    /// By how much the longest pause of the parent was late. On a machine that is busy or was
    /// suspended, the workers may be late by as much.
    pub(super) lateness: Duration,
}

impl<'a> Parent<'a> {
    pub(super) fn new(
        run: &'a TortureRun,
        store: &'a StoreLocation,
        route: &'a Route,
        seed: u64,
        longest_fault: Duration,
    ) -> Self {
        Self {
            run,
            store,
            route,
            rng: fastrand::Rng::with_seed(seed),
            kinds: Vec::new(),
            longest_fault,
            processes: Vec::new(),
            started: 0,
            fault_events: Vec::new(),
            faults: FaultCounts::default(),
            hung: Vec::new(),
            unexpected_exits: Vec::new(),
            lateness: Duration::ZERO,
        }
    }

    /// Runs the processes for `time` and injects faults; stops early if a process ends
    /// unexpectedly.
    pub(super) async fn inject_faults(
        &mut self,
        processes: u32,
        time: Duration,
        progress: &LiveLine,
    ) -> io::Result<()> {
        let began = Instant::now();
        let end = began + time;
        for _ in 0..processes {
            let proxy = self.route.open_proxy().await?;
            self.start(proxy)?;
        }
        while Instant::now() < end {
            progress.set(&format!(
                "onelock torture: {} of {}, {} processes, {}",
                short(began.elapsed()),
                short(time),
                self.processes.len(),
                self.faults
            ));
            // This is the rhythm of the faults, and waits for no event.
            let rest = Duration::from_millis(self.rng.u64(50..400));
            self.pause(rest).await;
            self.reap("before the stop request")?;
            if !self.unexpected_exits.is_empty() {
                break;
            }
            self.end_faults(false);
            let victim = self.rng.usize(..self.processes.len());
            match self.next_kind() {
                0 => self.kill(victim)?,
                1 => self.freeze(victim),
                2 | 3 => self.cut(victim),
                _ => {}
            }
            self.note_self_stops();
        }
        progress.set("onelock torture: waiting for the processes to end");
        fs::write(self.run.stop_file(), "")?;
        self.end_faults(true);
        self.finish(EXIT_TIMEOUT).await
    }

    /// Returns the kind of the next fault: each of five once, in a random order, and then again. So
    /// even a short run has all of them.
    fn next_kind(&mut self) -> u8 {
        if self.kinds.is_empty() {
            self.kinds.extend(0..5);
            self.rng.shuffle(&mut self.kinds);
        }
        self.kinds.pop().expect("was just filled")
    }

    async fn pause(&mut self, length: Duration) {
        let began = now();
        sleep(length).await;
        self.lateness = self.lateness.max(now().saturating_sub(began + length));
    }

    /// Waits until all processes have ended after the stop request, at most for `limit`.
    async fn finish(&mut self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            self.reap("after the stop request")?;
            if self.processes.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                break;
            }
            // Some workers have stopped themselves.
            for process in &mut self.processes {
                process.signal(Signal::SIGCONT);
            }
            // They end as soon as they notice the stop file.
            sleep(Duration::from_millis(10)).await;
        }
        for mut process in self.processes.drain(..) {
            self.fault_events.push((now(), process.number, EventKind::Died));
            process.kill()?;
            self.hung
                .push(format!("process {} hung: it did not end within {limit:?} of the stop request", process.number));
        }
        Ok(())
    }

    /// Removes ended processes from the list. An end is expected only after the stop request, and
    /// only with success.
    fn reap(&mut self, when: &str) -> io::Result<()> {
        let told = self.run.stop_file().exists();
        let mut index = 0;
        while let Some(process) = self.processes.get_mut(index) {
            match process.exit_status()? {
                None => index += 1,
                Some(status) => {
                    if !told || !status.success() {
                        self.unexpected_exits
                            .push(format!("process {} ended unexpectedly {when}: {status}", process.number));
                    }
                    self.processes.swap_remove(index);
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, proxy: Option<ProcessProxy>) -> io::Result<()> {
        let number = self.started;
        self.started += 1;
        let mut command = Command::new(env::current_exe()?);
        command.arg("torture-worker").arg("--directory").arg(&self.run.directory);
        command.args(["--prefix", &self.run.prefix, "--names", &self.run.names.to_string()]);
        command.args(["--ttl", &format!("{}ms", self.run.ttl.as_millis())]);
        command.args(["--number", &number.to_string(), "--seed", &self.rng.u64(..).to_string()]);
        command.args(["--parent", &std::process::id().to_string()]);
        self.store.pass_to(&mut command);
        if let Some(proxy) = &proxy {
            command.env("ONELOCK_URL", &proxy.url);
        }
        // A separate process, because it is killed and frozen.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        self.processes.push(Process::new(number, child, proxy));
        Ok(())
    }

    fn kill(&mut self, victim: usize) -> io::Result<()> {
        let mut process = self.processes.swap_remove(victim);
        // Before the signal: from here on, the dead process must not count as a holder.
        self.fault_events.push((now(), process.number, EventKind::Died));
        process.kill()?;
        self.faults.kills += 1;
        // Requests that were held up by a cut arrive now, after the death of their sender.
        process.proxy.iter_mut().for_each(ProcessProxy::heal);
        let proxy = process.proxy.take();
        self.start(proxy)
    }

    fn freeze(&mut self, victim: usize) {
        if self.begin_fault(victim, ProcessFault::Frozen) {
            self.processes[victim].signal(Signal::SIGSTOP);
            self.faults.freezes += 1;
        }
    }

    fn cut(&mut self, victim: usize) {
        if self.processes[victim].proxy.is_some() && self.begin_fault(victim, ProcessFault::CutOff) {
            self.processes[victim].proxy.iter_mut().for_each(|proxy| proxy.cut(&mut self.rng, self.run.ttl));
            self.faults.cuts += 1;
        }
    }

    /// Records the start of a fault; `false` if the process already has one.
    fn begin_fault(&mut self, victim: usize, fault: ProcessFault) -> bool {
        let most = u64::try_from(self.longest_fault.as_millis()).expect("no duration is that long");
        let length = Duration::from_millis(self.rng.u64(..most.max(1)));
        let process = &mut self.processes[victim];
        let free = process.fault.is_none();
        if free {
            process.fault = Some((Instant::now() + length, fault));
            self.fault_events.push((now(), process.number, EventKind::Stopped));
        }
        free
    }

    /// Counts workers that stopped themselves as frozen, so that they are resumed as the others
    /// are.
    fn note_self_stops(&mut self) {
        for index in 0..self.processes.len() {
            if self.processes[index].is_stopped() && self.begin_fault(index, ProcessFault::Frozen) {
                self.faults.freezes += 1;
            }
        }
    }

    fn end_faults(&mut self, all: bool) {
        for process in &mut self.processes {
            let due = process.fault.take_if(|(until, _)| all || Instant::now() >= *until);
            match due {
                None => continue,
                Some((_, ProcessFault::Frozen)) => {
                    process.signal(Signal::SIGCONT);
                }
                Some((_, ProcessFault::CutOff)) => process.proxy.iter_mut().for_each(ProcessProxy::heal),
            }
            self.fault_events.push((now(), process.number, EventKind::Resumed));
        }
    }

    /// Collects the entries of all journals, and adds the faults of each process to each name that
    /// it used.
    pub(super) fn collect(&self) -> io::Result<(Vec<Event>, Vec<String>)> {
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for worker in 0..self.started * TASKS {
            let number = worker / TASKS;
            let mut notes = journal::read(&self.run.directory, worker)?;
            // Entries between the time of death and the signal are dropped, because fewer events
            // cannot cause a false violation.
            let died = self.fault_events.iter().find(|(_, whose, what)| *whose == number && *what == EventKind::Died);
            if let Some((at, ..)) = died {
                notes.events.retain(|event| event.at < *at);
            }
            // A process that ended by itself held nothing after its last entry.
            let last = notes.events.iter().map(|event| event.at).max().unwrap_or_default();
            let end = (last + Duration::from_nanos(1), number, EventKind::Died);
            let names: BTreeSet<_> = notes.events.iter().map(|event| event.name.clone()).collect();
            for name in names {
                let own = self.fault_events.iter().filter(|(_, whose, _)| *whose == number);
                let own = own.chain(died.is_none().then_some(&end));
                let event = |(at, _, what): &(Duration, u64, EventKind)| Event {
                    at: *at,
                    worker,
                    name: name.clone(),
                    kind: what.clone(),
                };
                events.extend(own.map(event));
            }
            events.extend(notes.events);
            errors.extend(notes.errors);
        }
        Ok((events, errors))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn run(directory: &Path) -> TortureRun {
        TortureRun { directory: directory.to_owned(), prefix: "x/".into(), names: 1, ttl: Duration::from_secs(1) }
    }

    fn process(script: &str) -> Process {
        Process::new(7, Command::new("sh").args(["-c", script]).spawn().unwrap(), None)
    }

    /// Returns the problems of a run whose processes run `script` after the stop request.
    async fn problems(limit: Duration, script: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let (run, store) = (run(directory.path()), StoreLocation::Url("memory:".into()));
        fs::write(run.stop_file(), "").unwrap();
        let route = Route::find(&store).await;
        let mut parent = Parent::new(&run, &store, &route, 1, Duration::ZERO);
        parent.processes.push(process(script));
        parent.finish(limit).await.unwrap();
        assert!(parent.processes.is_empty());
        [parent.hung, parent.unexpected_exits].concat()
    }

    #[tokio::test]
    async fn a_process_that_hangs_after_the_stop_request_fails() {
        let found = problems(Duration::ZERO, "exec sleep 1000").await;
        assert_eq!(found, ["process 7 hung: it did not end within 0ns of the stop request"]);
    }

    #[tokio::test]
    async fn a_process_that_ends_with_an_error_fails_the_run() {
        let found = problems(Duration::from_secs(60), "exit 71").await;
        assert_eq!(found, ["process 7 ended unexpectedly after the stop request: exit status: 71"]);
        assert_eq!(problems(Duration::from_secs(60), "kill -STOP $$; true").await, [""; 0]);
    }

    #[tokio::test]
    async fn a_process_that_stops_itself_counts_as_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let (run, store) = (run(directory.path()), StoreLocation::Url("memory:".into()));
        let route = Route::find(&store).await;
        let mut parent = Parent::new(&run, &store, &route, 1, Duration::from_secs(3_600));
        parent.processes.push(process("kill -STOP $$; exec sleep 1000"));
        while !parent.processes[0].is_stopped() {
            sleep(Duration::from_millis(1)).await;
        }
        parent.note_self_stops();
        parent.note_self_stops();
        assert_eq!(parent.faults.freezes, 1);
        assert!(parent.processes[0].fault.is_some_and(|(_, fault)| fault == ProcessFault::Frozen));
        parent.end_faults(false);
        assert!(parent.processes[0].is_stopped());
        parent.end_faults(true);
        while parent.processes[0].is_stopped() {
            sleep(Duration::from_millis(1)).await;
        }
        let noted: Vec<_> = parent.fault_events.iter().map(|(_, _, what)| what.clone()).collect();
        assert_eq!(noted, [EventKind::Stopped, EventKind::Resumed]);
    }
}
