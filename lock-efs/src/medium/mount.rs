//! Reads from `/proc` how the file system of a directory is mounted.

use std::{fs, io, os::fd::AsRawFd, path::Path, time::Duration};

use crate::open;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The mount point, escaped as in `/proc` (a space is `\040`).
    pub(crate) point: String,
    pub(crate) fs_type: String,
    /// The device, or the server and its directory.
    pub(crate) source: String,
    /// Options of this mount and of its file system, such as `rw` and `local_lock=none`.
    options: Vec<String>,
}

/// The properties of an NFS mount that decide whether locks on it are safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NfsFacts {
    /// `3`, `4.0`, `4.1` …
    pub(crate) version: String,
    /// How long the server keeps the locks of an unreachable client.
    pub(crate) lease: Option<Duration>,
    /// Each with the option to use instead.
    unsafe_options: Vec<(&'static str, &'static str)>,
    /// Whether the client silently reacquires lost locks.
    recovers_lost_locks: bool,
    /// Whether the server decides about locks of single bytes too, and not each host for itself.
    pub(crate) shares_byte_locks: bool,
}

impl Mount {
    /// Returns the mount that `directory` is on.
    pub(crate) fn of(directory: &Path) -> io::Result<Option<Self>> {
        let open = open::directory(directory)?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", open.as_raw_fd()))?;
        let Some(id) = info.lines().find_map(|line| line.strip_prefix("mnt_id:")) else { return Ok(None) };
        Ok(Self::find(&fs::read_to_string("/proc/self/mountinfo")?, id.trim()))
    }

    /// Finds the mount with this id in the text of `/proc/self/mountinfo`, which has lines like
    /// `54 33 0:33 / /efs rw,relatime shared:1 - nfs4 HOST:/ rw,vers=4.1`.
    fn find(mountinfo: &str, id: &str) -> Option<Self> {
        let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id))?;
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let (point, of_mount) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (fs_type, source, of_fs) = (file_system.next()?, file_system.next()?, file_system.next()?);
        let options = of_mount.split(',').chain(of_fs.split(',')).map(Into::into).collect();
        Some(Self { point: point.into(), fs_type: fs_type.into(), source: source.into(), options })
    }

    pub(crate) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    fn value(&self, option: &str) -> Option<&str> {
        self.options.iter().find_map(|o| o.strip_prefix(option)?.strip_prefix('='))
    }

    /// Returns the properties of the mount if it is NFS.
    pub(crate) fn nfs(&self) -> Option<NfsFacts> {
        if !matches!(self.fs_type.as_str(), "nfs" | "nfs4") {
            return None;
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Some(self.facts(&read("/proc/self/mountstats"), &read("/sys/module/nfs/parameters/recover_lost_locks")))
    }

    fn facts(&self, mountstats: &str, recover_lost_locks: &str) -> NfsFacts {
        let unsafe_options = [
            ("nolock", "lock"),
            ("local_lock=flock", "local_lock=none"),
            ("local_lock=all", "local_lock=none"),
            ("soft", "hard"),
            ("softerr", "hard"),
        ];
        NfsFacts {
            version: self.value("vers").unwrap_or("unknown").into(),
            lease: lease(mountstats, &self.point),
            unsafe_options: unsafe_options.into_iter().filter(|(option, _)| self.has(option)).collect(),
            recovers_lost_locks: matches!(recover_lost_locks.trim(), "Y" | "1"),
            shares_byte_locks: !["local_lock=posix", "local_lock=all", "nolock"].iter().any(|option| self.has(option)),
        }
    }
}

impl NfsFacts {
    /// Returns what makes locks on this mount unsafe, each with its fix.
    pub(crate) fn objections(&self) -> Vec<(String, String)> {
        let mut objections: Vec<_> = self
            .unsafe_options
            .iter()
            .map(|(option, instead)| {
                let why = match *option {
                    "soft" | "softerr" => "a timeout cannot be distinguished from a lost lock",
                    _ => "its locks do not reach the server and do not exclude other hosts",
                };
                (format!("it is mounted with {option}: {why}"), format!("mount it with {instead}"))
            })
            .collect();
        if !self.version.starts_with('4') {
            let why = "before NFSv4 the server has no lease, so a lost lock cannot be detected";
            objections
                .push((format!("it is mounted with vers={}: {why}", self.version), "mount it with vers=4.1".into()));
        }
        if self.recovers_lost_locks {
            objections.push((
                "the kernel silently reacquires lost locks (nfs.recover_lost_locks=1)".into(),
                "set it to 0 in /sys/module/nfs/parameters and /etc/modprobe.d (options nfs recover_lost_locks=0)"
                    .into(),
            ));
        }
        objections
    }

    /// Returns all objections in one line.
    pub(crate) fn objection(&self) -> Option<String> {
        let all: Vec<_> = self.objections().into_iter().map(|(seen, fix)| format!("{seen}; {fix}")).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Returns the lease of the NFSv4 mount at `point`, from the text of `/proc/self/mountstats`.
fn lease(mountstats: &str, point: &str) -> Option<Duration> {
    let is_point = |line: &str| {
        let mut words = line.strip_prefix("device ").into_iter().flat_map(|line| line.split(' '));
        words.any(|word| word == "on") && words.next() == Some(point)
    };
    // A later mount hides an earlier one at the same path.
    let (at, _) = mountstats.lines().enumerate().filter(|(_, line)| is_point(line)).last()?;
    let section = mountstats.lines().skip(at + 1).take_while(|line| !line.starts_with("device "));
    let seconds = section.flat_map(|line| line.split(',')).find_map(|word| word.strip_prefix("lease_time="))?;
    seconds.parse().ok().filter(|&seconds| seconds > 0).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
33 1 0:2 / / rw - rootfs rootfs rw,size=1k
54 33 0:33 / /mnt/a\\040b rw,relatime shared:7 master:2 - nfs4 10.9.0.1:/ \
rw,vers=4.1,hard,proto=tcp,local_lock=none,addr=10.9.0.1
55 33 0:34 / /old rw - nfs server:/x rw,vers=3,hard,local_lock=none
57 33 0:35 / /fuse rw - fuse.sshfs host: rw
";
    const STATS: &str = "\
device rootfs mounted on / with fstype rootfs
device 10.9.0.1:/ mounted on /mnt/a\\040b with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.1,acregmin=3
\tnfsv4:\tbm0=0xfdffbfff,acl=0x3,sessions,pnfs=not configured,lease_time=90,lease_expired=0
device 10.9.0.1:/ mounted on /mnt/a\\040b with fstype nfs4 statvers=1.1
\tnfsv4:\tbm0=0xfdffbfff,sessions,lease_time=10,lease_expired=4
device server:/x mounted on /old with fstype nfs statvers=1.1
\topts:\trw,vers=3
";

    #[test]
    fn a_mount_is_found_by_id_with_the_options_of_both_levels() {
        let mount = Mount::find(INFO, "54").unwrap();
        assert_eq!((mount.point.as_str(), mount.fs_type.as_str()), ("/mnt/a\\040b", "nfs4"));
        assert_eq!(mount.source, "10.9.0.1:/");
        assert!(mount.has("relatime") && mount.has("hard"));
        assert_eq!(Mount::find(INFO, "5"), None);
        assert_eq!(Mount::find(INFO, "57").unwrap().nfs(), None);
        assert_eq!(Mount::find("54 broken\n", "54"), None);
    }

    #[test]
    fn the_lease_is_that_of_the_latest_mount_at_a_path() {
        assert_eq!(lease(STATS, "/mnt/a\\040b"), Some(Duration::from_secs(10)));
        assert_eq!(lease(STATS, "/old"), None);
        assert_eq!(lease(STATS, "/elsewhere"), None);
        assert_eq!(lease("device a mounted on /x with fstype nfs4\n\tnfsv4:\tlease_time=0\n", "/x"), None);
    }

    #[test]
    fn mount_facts_contain_the_version_and_the_lease() {
        let facts = Mount::find(INFO, "54").unwrap().facts(STATS, "");
        assert_eq!((facts.version.as_str(), facts.lease), ("4.1", Some(Duration::from_secs(10))));
        assert_eq!((facts.objection(), facts.shares_byte_locks), (None, true));
    }

    #[test]
    fn unsafe_mount_options_are_named_with_their_fix() {
        let with = |options: &str| Mount {
            point: "/efs".into(),
            fs_type: "nfs4".into(),
            source: "server:/".into(),
            options: options.split(',').map(Into::into).collect(),
        };
        for (options, recover, fix) in [
            ("rw,vers=4.1,nolock,hard", "N", "mount it with lock"),
            ("rw,vers=4.1,hard,local_lock=flock", "N", "mount it with local_lock=none"),
            ("rw,vers=4.1,hard,local_lock=all", "N", "mount it with local_lock=none"),
            ("rw,vers=4.1,soft,local_lock=none", "N", "mount it with hard"),
            ("rw,vers=4.1,softerr,local_lock=none", "N", "mount it with hard"),
            ("rw,vers=3,hard,local_lock=none", "N", "mount it with vers=4.1"),
            ("rw,vers=4.1,hard,local_lock=none", "Y\n", "recover_lost_locks=0"),
        ] {
            let objection = with(options).facts("", recover).objection().expect(options);
            assert!(objection.contains(fix), "{options}: {objection}");
        }
        let several = with("rw,vers=3,soft,nolock").facts("", "Y").objections();
        assert_eq!(several.len(), 4, "{several:?}");
        // The server still decides about flock(2). Only fcntl(2) locks stay on the host.
        let posix = with("rw,vers=4.1,hard,local_lock=posix").facts("", "N");
        assert_eq!((posix.objection(), posix.shares_byte_locks), (None, false));
    }
}
