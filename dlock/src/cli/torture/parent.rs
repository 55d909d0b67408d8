//! The parent of a torture: starts the processes, kills and freezes them by chance, and has the history checked.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lock_core::{
    LeaseId,
    history::{Event, Rules, What, check},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Run, journal, now,
    report::{Outcome, Troubles},
};
use crate::cli::{
    args::TortureArgs,
    exit::{self, Exit, Failure},
    run,
    store::{Store, remove_traces},
};

/// A lock that nobody holds must be had within the longest lease and this: a loaded machine is no violation.
const SLACK: Duration = Duration::from_secs(20);
/// Where locks do not expire a frozen holder keeps its lock, and all others only wait.
const FROZEN_ON_FILES: Duration = Duration::from_millis(500);
/// How long the processes may take to end.
const ENDING: Duration = Duration::from_secs(60);

/// `dlock torture`
pub(in crate::cli) fn torture(args: TortureArgs) -> Result<Exit, Failure> {
    let id = LeaseId::random().to_string();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let store = Store::choose(&args.store)?;
    let locker = run::runtime()?.block_on(store.open())?;
    let directory = own_directory(&id)?;
    let run = Run { directory, prefix: format!("dlock-torture/{id}/"), names: args.names, ttl: args.ttl };
    let has_ttl = locker.capabilities().ttl;
    eprintln!("torturing {} for {} with seed {seed}", locker.store(), humantime::format_duration(args.time));
    let mut parent = Parent {
        run: &run,
        store: &store,
        rng: fastrand::Rng::with_seed(seed),
        longest_freeze: if has_ttl { 2 * args.ttl } else { FROZEN_ON_FILES },
        processes: Vec::new(),
        started: 0,
        own: Vec::new(),
        troubles: Troubles::default(),
    };
    let started = Instant::now();
    parent.play(args.processes, args.time).map_err(|e| Failure::os("running the processes", e))?;
    let (events, errors) = parent.collect().map_err(|e| Failure::os("reading the journals", e))?;
    let bound = SLACK + if has_ttl { 2 * args.ttl } else { Duration::ZERO };
    let report = check(&events, &Rules { obtainable_within: Some(bound) });
    if report.violations.is_empty() {
        let _ = fs::remove_dir_all(&run.directory);
    }
    remove_traces(&locker.store(), &id);
    let outcome = Outcome {
        store: locker.store(),
        seed,
        processes: args.processes,
        took: started.elapsed(),
        bound,
        troubles: parent.troubles,
        errors,
        report,
        journals: run.directory.clone(),
    };
    outcome.print(args.json)?;
    Ok(Exit::Code(match outcome.passed() {
        Some(true) => 0,
        Some(false) => exit::NOT_HAD,
        None => exit::UNAVAILABLE,
    }))
}

fn own_directory(id: &str) -> Result<PathBuf, Failure> {
    let directory = env::temp_dir().join(format!("dlock-torture-{id}"));
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|e| Failure::os("making a directory", e))?;
    Ok(directory)
}

struct Process {
    worker: u64,
    child: Child,
    frozen_until: Option<Instant>,
}

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's pids are i32"));
        // It is our child and has not been waited for, so the pid is still its own.
        let _ = kill(pid, signal);
    }
}

struct Parent<'a> {
    run: &'a Run,
    store: &'a Store,
    rng: fastrand::Rng,
    longest_freeze: Duration,
    processes: Vec<Process>,
    started: u64,
    /// What the parent did to a worker, and when.
    own: Vec<(Duration, u64, What)>,
    troubles: Troubles,
}

impl Parent<'_> {
    fn play(&mut self, processes: u32, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        for _ in 0..processes {
            self.start()?;
        }
        while Instant::now() < end {
            // The rhythm of the troubles, not a wait for anything.
            thread::sleep(Duration::from_millis(self.rng.u64(50..400)));
            self.thaw(false);
            let victim = self.rng.usize(..self.processes.len());
            match self.rng.u8(..3) {
                0 => self.kill(victim)?,
                1 => self.freeze(victim),
                _ => self.wake(),
            }
        }
        fs::write(self.run.stop_file(), "")?;
        self.thaw(true);
        let end = Instant::now() + ENDING;
        while let Some(running) = self.running()? {
            self.wake();
            if Instant::now() > end {
                self.own.push((now(), self.processes[running].worker, What::Died));
                self.processes[running].signal(Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// One that has not ended yet.
    fn running(&mut self) -> io::Result<Option<usize>> {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if process.child.try_wait()?.is_none() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn start(&mut self) -> io::Result<()> {
        let worker = self.started;
        self.started += 1;
        let mut command = Command::new(env::current_exe()?);
        command.arg("torture-worker").arg("--directory").arg(&self.run.directory);
        command.args(["--prefix", &self.run.prefix, "--names", &self.run.names.to_string()]);
        command.args(["--ttl", &format!("{}ms", self.run.ttl.as_millis())]);
        command.args(["--worker", &worker.to_string(), "--seed", &self.rng.u64(..).to_string()]);
        command.args(["--parent", &std::process::id().to_string()]);
        self.store.pass_to(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        self.processes.push(Process { worker, child, frozen_until: None });
        Ok(())
    }

    fn kill(&mut self, victim: usize) -> io::Result<()> {
        let mut process = self.processes.swap_remove(victim);
        // Before the signal: from here on nobody can say that it still believes.
        self.own.push((now(), process.worker, What::Died));
        process.signal(Signal::SIGKILL);
        process.child.wait()?;
        self.troubles.kills += 1;
        self.start()
    }

    fn freeze(&mut self, victim: usize) {
        let most = u64::try_from(self.longest_freeze.as_millis()).expect("a ttl is at most a year");
        let length = Duration::from_millis(self.rng.u64(..most.max(1)));
        let process = &mut self.processes[victim];
        if process.frozen_until.is_none() {
            process.frozen_until = Some(Instant::now() + length);
            self.own.push((now(), process.worker, What::Stopped));
            process.signal(Signal::SIGSTOP);
            self.troubles.freezes += 1;
        }
    }

    /// Wakes those that stand still by themselves; does nothing to those that run.
    fn wake(&self) {
        self.processes.iter().filter(|process| process.frozen_until.is_none()).for_each(|p| p.signal(Signal::SIGCONT));
    }

    fn thaw(&mut self, all: bool) {
        for process in &mut self.processes {
            if process.frozen_until.is_some_and(|until| all || Instant::now() >= until) {
                process.frozen_until = None;
                process.signal(Signal::SIGCONT);
                self.own.push((now(), process.worker, What::Resumed));
            }
        }
    }

    /// What all processes noted, with what befell them, for each name that they knew.
    fn collect(&mut self) -> io::Result<(Vec<Event>, Vec<String>)> {
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for worker in 0..self.started {
            let mut notes = journal::read(&self.run.directory, worker)?;
            // What it noted between the parent's look at the clock and the signal: no harm in knowing less.
            let died = self.own.iter().find(|(_, whose, what)| *whose == worker && *what == What::Died);
            if let Some((at, ..)) = died {
                notes.events.retain(|event| event.at < *at);
            }
            let stopped = notes.events.iter().filter(|event| event.what == What::Stopped).count();
            self.troubles.freezes += u64::try_from(stopped).expect("a count");
            let names: BTreeSet<_> = notes.events.iter().map(|event| event.name.clone()).collect();
            for name in names {
                let own = self.own.iter().filter(|(_, whose, _)| *whose == worker);
                let event = |(at, _, what): &(Duration, u64, What)| Event {
                    at: *at,
                    worker,
                    name: name.clone(),
                    what: what.clone(),
                };
                events.extend(own.map(event));
            }
            events.extend(notes.events);
            errors.extend(notes.errors);
        }
        Ok((events, errors))
    }
}

impl Drop for Parent<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.signal(Signal::SIGKILL);
            let _ = process.child.wait();
        }
    }
}
