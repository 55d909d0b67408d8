//! The parent of a torture: starts the processes, kills, freezes and cuts them off by chance, and gathers what they noted.

use std::{
    collections::BTreeSet,
    env, fs, io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lock_core::history::{Event, What};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{
    Run, TASKS, journal,
    link::{Link, Route},
    now,
    process::{Process, Trouble},
    report::Troubles,
};
use crate::cli::store::Store;

/// How long the processes may take to end.
const ENDING: Duration = Duration::from_secs(60);

pub(super) struct Parent<'a> {
    run: &'a Run,
    store: &'a Store,
    route: &'a Route,
    rng: fastrand::Rng,
    /// How long a process stands still or is cut off.
    longest_trouble: Duration,
    processes: Vec<Process>,
    started: u64,
    /// What befell a process, and when.
    own: Vec<(Duration, u64, What)>,
    pub(super) troubles: Troubles,
    /// Processes that did not end when they were told to.
    pub(super) hung: Vec<String>,
    /// Those that ended by themselves, such as on a full disk: what they noted is not all that happened.
    pub(super) ended: Vec<String>,
    /// By how much a pause of ours was too long at most: so late may the processes be, too, on a machine that is busy or was suspended.
    pub(super) late: Duration,
}

impl<'a> Parent<'a> {
    pub(super) fn new(run: &'a Run, store: &'a Store, route: &'a Route, seed: u64, longest_trouble: Duration) -> Self {
        Self {
            run,
            store,
            route,
            rng: fastrand::Rng::with_seed(seed),
            longest_trouble,
            processes: Vec::new(),
            started: 0,
            own: Vec::new(),
            troubles: Troubles::default(),
            hung: Vec::new(),
            ended: Vec::new(),
            late: Duration::ZERO,
        }
    }

    /// Ends early when a process ends by itself.
    pub(super) async fn play(&mut self, processes: u32, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        for _ in 0..processes {
            let link = self.route.link().await?;
            self.start(link)?;
        }
        while Instant::now() < end {
            // The rhythm of the troubles, not a wait for anything.
            let rest = Duration::from_millis(self.rng.u64(50..400));
            self.pause(rest).await;
            self.bury("before it was told to")?;
            if !self.ended.is_empty() {
                break;
            }
            self.end_troubles(false);
            let victim = self.rng.usize(..self.processes.len());
            match self.rng.u8(..5) {
                0 => self.kill(victim)?,
                1 => self.freeze(victim),
                2 | 3 => self.cut(victim),
                _ => {}
            }
            self.notice_freezes();
        }
        fs::write(self.run.stop_file(), "")?;
        self.end_troubles(true);
        self.finish(ENDING).await
    }

    async fn pause(&mut self, length: Duration) {
        let began = now();
        sleep(length).await;
        self.late = self.late.max(now().saturating_sub(began + length));
    }

    /// Waits until all have ended, which they were told to do; not for longer than `limit`.
    async fn finish(&mut self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            self.bury("in the end")?;
            if self.processes.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                break;
            }
            // Those that stand still by themselves.
            for process in &mut self.processes {
                process.signal(Signal::SIGCONT);
            }
            // Until they have noticed the file that tells them to.
            sleep(Duration::from_millis(10)).await;
        }
        for mut process in self.processes.drain(..) {
            self.own.push((now(), process.number, What::Died));
            process.kill()?;
            self.hung.push(format!("process {} hung: told to end, it did not within {limit:?}", process.number));
        }
        Ok(())
    }

    /// Takes those that have ended off the list. They may, once they were told to, and successfully.
    fn bury(&mut self, when: &str) -> io::Result<()> {
        let told = self.run.stop_file().exists();
        let mut index = 0;
        while let Some(process) = self.processes.get_mut(index) {
            match process.ended()? {
                None => index += 1,
                Some(status) => {
                    if !told || !status.success() {
                        self.ended.push(format!("process {} ended by itself {when}: {status}", process.number));
                    }
                    self.processes.swap_remove(index);
                }
            }
        }
        Ok(())
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
            command.env("ONELOCK_URL", &link.url);
        }
        // A process of its own, because it is killed and frozen.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        self.processes.push(Process::new(number, child, link));
        Ok(())
    }

    fn kill(&mut self, victim: usize) -> io::Result<()> {
        let mut process = self.processes.swap_remove(victim);
        // Before the signal: from here on nobody can say that it still believes.
        self.own.push((now(), process.number, What::Died));
        process.kill()?;
        self.troubles.kills += 1;
        // What it sent into a cut arrives now, after its death.
        process.link.iter_mut().for_each(Link::heal);
        let link = process.link.take();
        self.start(link)
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
        let most = u64::try_from(self.longest_trouble.as_millis()).expect("no duration is that long");
        let length = Duration::from_millis(self.rng.u64(..most.max(1)));
        let process = &mut self.processes[victim];
        let free = process.trouble.is_none();
        if free {
            process.trouble = Some((Instant::now() + length, trouble));
            self.own.push((now(), process.number, What::Stopped));
        }
        free
    }

    /// Those that stopped themselves, in the middle of their work, stay so for as long as those that we freeze.
    fn notice_freezes(&mut self) {
        for index in 0..self.processes.len() {
            if self.processes[index].stands_still() && self.begin(index, Trouble::Frozen) {
                self.troubles.freezes += 1;
            }
        }
    }

    fn end_troubles(&mut self, all: bool) {
        for process in &mut self.processes {
            let due = process.trouble.take_if(|(until, _)| all || Instant::now() >= *until);
            match due {
                None => continue,
                Some((_, Trouble::Frozen)) => {
                    process.signal(Signal::SIGCONT);
                }
                Some((_, Trouble::CutOff)) => process.link.iter_mut().for_each(Link::heal),
            }
            self.own.push((now(), process.number, What::Resumed));
        }
    }

    /// What all processes noted, with what befell them, for each name that they knew.
    pub(super) fn collect(&self) -> io::Result<(Vec<Event>, Vec<String>)> {
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for worker in 0..self.started * TASKS {
            let number = worker / TASKS;
            let mut notes = journal::read(&self.run.directory, worker)?;
            // What it noted between the parent's look at the clock and the signal: no harm in knowing less.
            let died = self.own.iter().find(|(_, whose, what)| *whose == number && *what == What::Died);
            if let Some((at, ..)) = died {
                notes.events.retain(|event| event.at < *at);
            }
            // One that ended by itself believed in nothing after its last word.
            let last = notes.events.iter().map(|event| event.at).max().unwrap_or_default();
            let end = (last + Duration::from_nanos(1), number, What::Died);
            let names: BTreeSet<_> = notes.events.iter().map(|event| event.name.clone()).collect();
            for name in names {
                let own = self.own.iter().filter(|(_, whose, _)| *whose == number);
                let own = own.chain(died.is_none().then_some(&end));
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn run(directory: &Path) -> Run {
        Run { directory: directory.to_owned(), prefix: "x/".into(), names: 1, ttl: Duration::from_secs(1) }
    }

    fn process(script: &str) -> Process {
        Process::new(7, Command::new("sh").args(["-c", script]).spawn().unwrap(), None)
    }

    /// What a parent of these processes, who has told them to end, finds fault with.
    async fn faults(limit: Duration, script: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let (run, store) = (run(directory.path()), Store::Configured("memory:".into()));
        fs::write(run.stop_file(), "").unwrap();
        let route = Route::find(&store).await;
        let mut parent = Parent::new(&run, &store, &route, 1, Duration::ZERO);
        parent.processes.push(process(script));
        parent.finish(limit).await.unwrap();
        assert!(parent.processes.is_empty());
        [parent.hung, parent.ended].concat()
    }

    #[tokio::test]
    async fn a_process_that_hangs_in_the_end_is_a_fault() {
        let found = faults(Duration::ZERO, "exec sleep 1000").await;
        assert_eq!(found, ["process 7 hung: told to end, it did not within 0ns"]);
    }

    #[tokio::test]
    async fn a_process_that_ends_with_an_error_is_a_fault() {
        let found = faults(Duration::from_secs(60), "exit 71").await;
        assert_eq!(found, ["process 7 ended by itself in the end: exit status: 71"]);
        assert_eq!(faults(Duration::from_secs(60), "kill -STOP $$; true").await, [""; 0]);
    }

    #[tokio::test]
    async fn one_that_stopped_itself_stands_still_for_as_long_as_those_that_are_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let (run, store) = (run(directory.path()), Store::Configured("memory:".into()));
        let route = Route::find(&store).await;
        let mut parent = Parent::new(&run, &store, &route, 1, Duration::from_secs(3_600));
        parent.processes.push(process("kill -STOP $$; exec sleep 1000"));
        while !parent.processes[0].stands_still() {
            sleep(Duration::from_millis(1)).await;
        }
        parent.notice_freezes();
        parent.notice_freezes();
        assert_eq!(parent.troubles.freezes, 1);
        assert!(parent.processes[0].trouble.is_some_and(|(_, trouble)| trouble == Trouble::Frozen));
        parent.end_troubles(false);
        assert!(parent.processes[0].stands_still());
        parent.end_troubles(true);
        while parent.processes[0].stands_still() {
            sleep(Duration::from_millis(1)).await;
        }
        let noted: Vec<_> = parent.own.iter().map(|(_, _, what)| what.clone()).collect();
        assert_eq!(noted, [What::Stopped, What::Resumed]);
    }
}
