//! The parent of a torture: starts the processes, kills, freezes and cuts them off by chance, and has the history checked.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::unix::{fs::DirBuilderExt, process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use lock_core::{
    LeaseId, Locker, TryAcquire,
    backend::Release,
    history::{Event, Rules, What, check},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::sleep;

use super::{
    Run, TASKS, journal,
    link::{Link, Route},
    now,
    report::{Outcome, Troubles},
};
use crate::cli::{
    args::TortureArgs,
    exit::{self, Exit, Failure},
    run,
    store::Store,
};

/// A lock that nobody holds must be had within the longest lease and this: a loaded machine is no violation.
const SLACK: Duration = Duration::from_secs(20);
/// Where locks do not expire a frozen holder keeps its lock, and all others only wait.
const FROZEN_ON_FILES: Duration = Duration::from_millis(500);
/// How long the processes may take to end.
const ENDING: Duration = Duration::from_secs(60);

/// `dlock torture`
pub(in crate::cli) fn torture(args: TortureArgs) -> Result<Exit, Failure> {
    run::runtime()?.block_on(tortured(args))
}

async fn tortured(args: TortureArgs) -> Result<Exit, Failure> {
    let id = LeaseId::random().to_string();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let store = Store::choose(&args.store)?;
    let locker = store.open().await?;
    let prefix = format!("dlock-torture/{id}/");
    works(&locker, &format!("{prefix}0")).await?;
    let route = Route::find(&store).await;
    let run = Run { directory: own_directory(&id)?, prefix, names: args.names, ttl: args.ttl };
    let has_ttl = locker.capabilities().ttl;
    eprintln!("torturing {} for {} with seed {seed}", locker.store(), humantime::format_duration(args.time));
    let mut parent = Parent {
        run: &run,
        store: &store,
        route: &route,
        rng: fastrand::Rng::with_seed(seed),
        longest_trouble: if has_ttl { 2 * args.ttl } else { FROZEN_ON_FILES },
        processes: Vec::new(),
        started: 0,
        own: Vec::new(),
        troubles: Troubles::default(),
    };
    let started = Instant::now();
    parent.play(args.processes, args.time).await.map_err(|e| Failure::os("running the processes", e))?;
    let (events, errors) = parent.collect().map_err(|e| Failure::os("reading the journals", e))?;
    let bound = SLACK + if has_ttl { 2 * args.ttl } else { Duration::ZERO };
    let report = check(&events, &Rules { obtainable_within: Some(bound) });
    if report.violations.is_empty() {
        let _ = fs::remove_dir_all(&run.directory);
    }
    let outcome = Outcome {
        store: locker.store(),
        seed,
        processes: args.processes,
        took: started.elapsed(),
        bound,
        troubles: parent.troubles,
        not_cut: match &route {
            Route::Proxied { .. } => None,
            Route::Straight { why } => Some(why.clone()),
        },
        errors,
        left: clean_up(&locker, &run, bound).await,
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

/// Takes a lock of this run and gives it back: what keeps that from working is told at once, by the store, and not as the workers' errors at
/// the end of the whole time. A store that does not answer is asked for no longer than its timeouts allow.
async fn works(locker: &Locker, name: &str) -> Result<(), Failure> {
    if let TryAcquire::Acquired(guard) = locker.try_acquire(name).await? {
        let _: Release = guard.release().await?;
    }
    Ok(())
}

fn own_directory(id: &str) -> Result<PathBuf, Failure> {
    let directory = env::temp_dir().join(format!("dlock-torture-{id}"));
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|e| Failure::os("making a directory", e))?;
    Ok(directory)
}

/// Has the store forget the names of this run. Says which of them it did not, and why.
async fn clean_up(locker: &Locker, run: &Run, bound: Duration) -> Vec<String> {
    let mut left = Vec::new();
    for name in (0..run.names).map(|index| run.name(index)) {
        let forgotten = async {
            // The last holder may have been killed: take the lock after it, and give it back.
            match locker.acquire_within(&name, bound).await? {
                TryAcquire::Acquired(guard) => drop(guard.release().await?),
                TryAcquire::Held(_) => return Ok(false),
            };
            locker.forget(&name).await
        };
        match forgotten.await {
            Ok(true) => {}
            Ok(false) => left.push(format!("{name}: it is held")),
            Err(error) => left.push(error.to_string()),
        }
    }
    left
}

struct Process {
    number: u64,
    child: Child,
    link: Option<Link>,
    trouble: Option<(Instant, Trouble)>,
}

/// One at a time for each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Frozen,
    CutOff,
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
    route: &'a Route,
    rng: fastrand::Rng,
    /// How long a process stands still or is cut off.
    longest_trouble: Duration,
    processes: Vec<Process>,
    started: u64,
    /// What the parent did to a process, and when.
    own: Vec<(Duration, u64, What)>,
    troubles: Troubles,
}

impl Parent<'_> {
    async fn play(&mut self, processes: u32, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        for _ in 0..processes {
            let link = self.route.link().await?;
            self.start(link)?;
        }
        while Instant::now() < end {
            // The rhythm of the troubles, not a wait for anything.
            sleep(Duration::from_millis(self.rng.u64(50..400))).await;
            self.end_troubles(false);
            let victim = self.rng.usize(..self.processes.len());
            match self.rng.u8(..5) {
                0 => self.kill(victim)?,
                1 => self.freeze(victim),
                2 | 3 => self.cut(victim),
                _ => {}
            }
            self.wake();
        }
        fs::write(self.run.stop_file(), "")?;
        self.end_troubles(true);
        let end = Instant::now() + ENDING;
        while let Some(running) = self.running()? {
            self.wake();
            if Instant::now() > end {
                self.own.push((now(), self.processes[running].number, What::Died));
                self.processes[running].signal(Signal::SIGKILL);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// One that has not ended yet.
    fn running(&mut self) -> io::Result<Option<usize>> {
        for (index, process) in self.processes.iter_mut().enumerate() {
            match process.child.try_wait()? {
                None => return Ok(Some(index)),
                Some(status) => by_us(process.number, status)?,
            }
        }
        Ok(None)
    }

    fn start(&mut self, link: Option<Link>) -> io::Result<()> {
        let number = self.started;
        self.started += 1;
        let mut command = Command::new(env::current_exe()?);
        command.arg("torture-worker").arg("--directory").arg(&self.run.directory);
        command.args(["--prefix", &self.run.prefix, "--names", &self.run.names.to_string()]);
        command.args(["--ttl", &format!("{}ms", self.run.ttl.as_millis())]);
        command.args(["--number", &number.to_string(), "--seed", &self.rng.u64(..).to_string()]);
        command.args(["--parent", &std::process::id().to_string()]);
        self.store.pass_to(&mut command);
        if let Some(link) = &link {
            command.env("DLOCK_URL", &link.url);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        self.processes.push(Process { number, child, link, trouble: None });
        Ok(())
    }

    fn kill(&mut self, victim: usize) -> io::Result<()> {
        let mut process = self.processes.swap_remove(victim);
        // Before the signal: from here on nobody can say that it still believes.
        self.own.push((now(), process.number, What::Died));
        process.signal(Signal::SIGKILL);
        by_us(process.number, process.child.wait()?)?;
        self.troubles.kills += 1;
        // What it sent into a cut arrives now, after its death.
        process.link.iter_mut().for_each(Link::heal);
        self.start(process.link)
    }

    fn freeze(&mut self, victim: usize) {
        if self.begin(victim, Trouble::Frozen) {
            self.processes[victim].signal(Signal::SIGSTOP);
            self.troubles.freezes += 1;
        }
    }

    fn cut(&mut self, victim: usize) {
        if self.processes[victim].link.is_some() && self.begin(victim, Trouble::CutOff) {
            self.processes[victim].link.iter_mut().for_each(|link| link.cut(&mut self.rng, self.run.ttl));
            self.troubles.cuts += 1;
        }
    }

    /// Notes the begin of a trouble; `false` when the process has one already.
    fn begin(&mut self, victim: usize, trouble: Trouble) -> bool {
        let most = u64::try_from(self.longest_trouble.as_millis()).expect("a ttl is at most a year");
        let length = Duration::from_millis(self.rng.u64(..most.max(1)));
        let process = &mut self.processes[victim];
        let free = process.trouble.is_none();
        if free {
            process.trouble = Some((Instant::now() + length, trouble));
            self.own.push((now(), process.number, What::Stopped));
        }
        free
    }

    /// Wakes those that stand still by themselves; does nothing to those that run.
    fn wake(&self) {
        let frozen = |process: &&Process| matches!(process.trouble, Some((_, Trouble::Frozen)));
        self.processes.iter().filter(|process| !frozen(process)).for_each(|p| p.signal(Signal::SIGCONT));
    }

    fn end_troubles(&mut self, all: bool) {
        for process in &mut self.processes {
            let due = process.trouble.take_if(|(until, _)| all || Instant::now() >= *until);
            match due {
                None => continue,
                Some((_, Trouble::Frozen)) => process.signal(Signal::SIGCONT),
                Some((_, Trouble::CutOff)) => process.link.iter_mut().for_each(Link::heal),
            }
            self.own.push((now(), process.number, What::Resumed));
        }
    }

    /// What all processes noted, with what befell them, for each name that they knew.
    fn collect(&mut self) -> io::Result<(Vec<Event>, Vec<String>)> {
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for worker in 0..self.started * TASKS {
            let number = worker / TASKS;
            let mut notes = journal::read(&self.run.directory, worker)?;
            // What it noted between the parent's look at the clock and the signal: no harm in knowing less.
            let died = self.own.iter().find(|(_, whose, what)| *whose == number && *what == What::Died);
            if let Some((at, ..)) = died {
                notes.events.retain(|event| event.at < *at);
            }
            let stopped = notes.events.iter().filter(|event| event.what == What::Stopped).count();
            self.troubles.freezes += u64::try_from(stopped).expect("a count");
            let names: BTreeSet<_> = notes.events.iter().map(|event| event.name.clone()).collect();
            for name in names {
                let own = self.own.iter().filter(|(_, whose, _)| *whose == number);
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

/// A process that could not go on, because the disk was full for its journal, say, has let go of its locks without a note: that must not look
/// like a broken promise of the store.
fn by_us(number: u64, status: ExitStatus) -> io::Result<()> {
    if status.success() || status.signal() == Some(Signal::SIGKILL as i32) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "process {number} ended by itself, with {status}: what it noted is not all that happened"
    )))
}

impl Drop for Parent<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.signal(Signal::SIGKILL);
            let _ = process.child.wait();
        }
    }
}
