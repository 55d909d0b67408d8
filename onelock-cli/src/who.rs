//! The process that holds a lock, apart from the holder's name for itself: what `run` and `hold`
//! leave in the data of the lock, and other commands show.

use std::{
    ffi::OsStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lock_core::Holder;
use nix::unistd::{User, gethostname, getuid};
use serde_json::{Value, json};

use crate::terminal::{cut, utc};

/// The member of the data under which the fields are.
const KEY: &str = "onelock";
/// The longest command that is recorded, so that records stay small.
const LONGEST_COMMAND: usize = 100;

/// The process that holds a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) host: Option<String>,
    /// The process of onelock, to which signals are sent.
    pub(crate) pid: Option<u32>,
    pub(crate) user: Option<String>,
    /// The program, without its arguments: they may contain secrets, and others can read a store.
    pub(crate) command: Option<String>,
    /// When the process began to wait for the lock, by its own clock.
    pub(crate) started: Option<SystemTime>,
    /// Whether the process becomes the command (`--no-fork`), so that no release is recorded.
    pub(crate) no_fork: bool,
}

impl Who {
    /// Returns this process, which runs `command`.
    pub(crate) fn this_process(command: &OsStr) -> Self {
        Self {
            host: host(),
            pid: Some(std::process::id()),
            user: user(),
            command: Some(cut(&command.to_string_lossy(), LONGEST_COMMAND)),
            started: Some(SystemTime::now()),
            no_fork: false,
        }
    }

    /// Returns the process of a holder: from its data, else from a name like `host:4711-1a2b3c4d`,
    /// which is the default, else as the operating system names it.
    pub(crate) fn of(holder: &Holder) -> Self {
        let data = holder.data.as_deref().and_then(|data| serde_json::from_slice::<Value>(data).ok());
        let of_data = data.and_then(|data| data.get(KEY).map(Self::read));
        let of_owner = || Self::of_owner(holder.owner.as_deref()?);
        let of_system = || Some(Self { host: host(), pid: Some(holder.process?.get()), ..Self::default() });
        of_data.or_else(of_owner).or_else(of_system).unwrap_or_default()
    }

    fn read(fields: &Value) -> Self {
        let text = |name: &str| fields[name].as_str().map(str::to_owned);
        let started = fields["started"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self {
            host: text("host"),
            pid: fields["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
            user: text("user"),
            command: text("command"),
            started: started.and_then(|since| UNIX_EPOCH.checked_add(since)),
            no_fork: fields["no_fork"] == true,
        }
    }

    fn of_owner(owner: &str) -> Option<Self> {
        let (host, process) = owner.rsplit_once(':')?;
        let (pid, random) = process.split_once('-')?;
        let is_default = random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        let pid = Some(pid.parse().ok().filter(|_| is_default)?);
        Some(Self { host: Some(host.to_owned()), pid, ..Self::default() })
    }

    /// Returns the data of a lock of this process.
    pub(crate) fn data(&self) -> Vec<u8> {
        let mut fields = self.fields();
        if self.no_fork {
            fields["no_fork"] = json!(true);
        }
        json!({ KEY: fields }).to_string().into_bytes()
    }

    /// Returns the fields as an object, with `null` for what is unknown.
    pub(crate) fn fields(&self) -> Value {
        let started = self.started.and_then(|started| started.duration_since(UNIX_EPOCH).ok());
        json!({
            "host": self.host,
            "pid": self.pid,
            "user": self.user,
            "command": self.command,
            "started": started.map(|started| started.as_secs()),
        })
    }

    /// Returns what is known, for people: `4711 on etl-7, user etl, command ./job.sh, started …`.
    pub(crate) fn text(&self) -> Option<String> {
        let mut parts = Vec::new();
        match (self.pid, &self.host) {
            (Some(pid), Some(host)) => parts.push(format!("{pid} on {host}")),
            (Some(pid), None) => parts.push(pid.to_string()),
            (None, Some(host)) => parts.push(format!("on {host}")),
            (None, None) => {}
        }
        parts.extend(self.user.as_ref().map(|user| format!("user {user}")));
        parts.extend(self.command.as_ref().map(|command| format!("command {command}")));
        parts.extend(self.started.and_then(utc).map(|at| format!("started {at}")));
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Returns the name of this host.
pub(crate) fn host() -> Option<String> {
    gethostname().ok().map(|host| host.to_string_lossy().into_owned())
}

/// Returns the name of this user.
pub(crate) fn user() -> Option<String> {
    User::from_uid(getuid()).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_survive_in_the_data() {
        let mut who = Who::this_process(OsStr::new("./job.sh"));
        // Whole seconds are kept.
        who.started = Some(UNIX_EPOCH + Duration::from_secs(1_795_942_176));
        let holder = Holder::default().with_owner("nightly".to_owned()).with_data(who.data());
        assert_eq!(Who::of(&holder), who);
        assert_eq!(who.pid, Some(std::process::id()));
        let text = who.text().expect("fields");
        assert!(text.ends_with("command ./job.sh, started 2026-11-29T08:49:36Z"), "{text}");
    }

    #[test]
    fn a_default_owner_tells_the_host_and_the_process() {
        let of = |owner: &str| Who::of(&Holder::default().with_owner(owner.to_owned()));
        let who = of("ip:10:4711-5be6a2c1");
        assert_eq!((who.host.as_deref(), who.pid), (Some("ip:10"), Some(4711)));
        for other in ["etl", "etl:7", "etl:7-x", "etl:x-5be6a2c1", "etl:7-5be6a2cx"] {
            assert_eq!(of(other), Who::default(), "{other}");
        }
    }

    #[test]
    fn the_data_of_others_are_no_fields() {
        for data in ["", "x", "[]", "{}", "{\"onelock\":1}", "{\"onelock\":{\"pid\":-1,\"started\":1e300}}"] {
            let holder = Holder::default().with_data(data.as_bytes().to_vec());
            assert_eq!(Who::of(&holder), Who::default(), "{data}");
        }
        // Milliseconds in place of seconds.
        let holder = Holder::default().with_data(b"{\"onelock\":{\"pid\":7,\"started\":1790000000000}}".to_vec());
        assert_eq!(Who::of(&holder).text().as_deref(), Some("7"));
    }
}
