//! Examines a directory of locks and reports findings.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use lock_core::backend::Finding;
use nix::{
    sys::statvfs::statvfs,
    unistd::{AccessFlags, Uid, access, gethostname},
};

use crate::{
    error, files,
    medium::{
        file_system,
        mount::{Mount, NfsFacts},
        temp_record::TempRecord,
    },
    mode::Mode,
    record,
    store::FileStore,
};

/// The difference of clocks above which the doctor warns.
const APART: Duration = Duration::from_secs(2);
/// Free space below which the doctor warns. A record has some hundred bytes, and a name has three
/// files.
const LITTLE_SPACE: u64 = 1024 * 1024;
const FEW_INODES: u64 = 1_000;
/// The number of names above which each sweep and each list is slow.
const MANY_NAMES: usize = 10_000;
/// How many files of other users are checked for write access.
const SAMPLE: usize = 100;

/// Runs all checks. Blocks as long as the file system takes to answer.
pub(crate) fn examine(store: &FileStore) -> Vec<Finding> {
    let directory = files::existing(store.directory());
    let mount = Mount::of(directory).ok().flatten();
    let mut findings = match (&mount, mount.as_ref().and_then(Mount::nfs)) {
        (Some(mount), Some(facts)) => nfs(mount, &facts, &Identity::read()),
        (Some(mount), None) => vec![local(&mount.fs_type, file_system::is_remote(directory))],
        (None, _) => vec![Finding::warning(
            "file system",
            "/proc does not describe it, so unsafe mount options cannot be detected",
        )],
    };
    findings.extend(space(directory));
    if directory != store.directory() {
        findings.push(missing(store.directory(), directory));
        return findings;
    }
    findings.extend(permissions(directory));
    findings.extend(readers(directory, store.mode()));
    findings.extend(writing(store));
    findings.extend(files(directory));
    findings
}

/// Checks the permissions of the real user with the oldest call, because an old seccomp profile
/// answers `faccessat2` with EPERM, and the C library's `faccessat` is that call.
fn may(path: &Path, wanted: AccessFlags) -> nix::Result<()> {
    access(path, wanted)
}

/// The first lock creates the directory. The doctor does not.
fn missing(directory: &Path, existing: &Path) -> Finding {
    const SUBJECT: &str = "directory";
    let text = format!("{} does not exist yet", directory.display());
    match may(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Finding::note(SUBJECT, format!("{text}; the first lock creates it")),
        Err(error) => {
            Finding::unfit(SUBJECT, format!("{text}, and cannot be created in {}: {error}", existing.display()))
                .advice("create it, and give this user write access to it")
        }
    }
}

/// The identity by which the server distinguishes this host from others.
#[derive(Debug, Default)]
struct Identity {
    host: String,
    /// The identifier that the administrator configured.
    uniquifier: String,
}

impl Identity {
    fn read() -> Self {
        // The first source has priority.
        let sources = ["/sys/fs/nfs/net/nfs_client/identifier", "/sys/module/nfs/parameters/nfs4_unique_id"];
        let chosen = sources.iter().filter_map(|path| fs::read_to_string(path).ok());
        let chosen = chosen.map(|text| text.trim().to_owned()).find(|text| !text.is_empty() && text != "(null)");
        let host = gethostname().map(|host| host.to_string_lossy().into_owned());
        Self { host: host.unwrap_or_default(), uniquifier: chosen.unwrap_or_default() }
    }

    fn finding(&self) -> Finding {
        const SUBJECT: &str = "client identity";
        /// The names of hosts without a configured name.
        const NAMELESS: [&str; 6] = ["", "(none)", "localhost", "localhost.localdomain", "debian", "ubuntu"];
        let advice =
            "give each host its own name or its own identity: options nfs nfs4_unique_id=UUID in /etc/modprobe.d";
        // Linux sends both.
        let name = match self.uniquifier.as_str() {
            "" => self.host.clone(),
            uniquifier => format!("{uniquifier}/{}", self.host),
        };
        let text =
            format!("the server knows this host as \"{name}\"; two hosts with one name destroy each other's locks");
        if self.uniquifier.is_empty() && NAMELESS.contains(&self.host.as_str()) {
            return Finding::warning(SUBJECT, text).advice(advice);
        }
        Finding::note(SUBJECT, text).advice(advice)
    }
}

fn nfs(mount: &Mount, facts: &NfsFacts, identity: &Identity) -> Vec<Finding> {
    let mut findings =
        vec![Finding::good("file system", format!("NFSv{} from {} on {}", facts.version, mount.source, mount.point))];
    let objections = facts.objections();
    if objections.is_empty() {
        findings.push(Finding::good("mount options", "none that hides a lost lock or keeps locks on this host"));
    }
    findings.extend(objections.into_iter().map(|(seen, fix)| Finding::unfit("mount options", seen).advice(fix)));
    if mount.has("local_lock=posix") {
        let text = "local_lock=posix: flock(2) locks exclude programs on other hosts, fcntl(2) locks do not";
        findings.push(Finding::note("mount options", text).advice("mount it with local_lock=none"));
    }
    if !mount.has("noresvport") {
        let text = "without noresvport a reconnection after a network failure may take minutes";
        findings.push(Finding::note("mount options", text).advice("mount it with noresvport, as EFS recommends"));
    }
    findings.push(match facts.lease {
        Some(lease) => Finding::good(
            "lease",
            format!("{lease:?}: the server keeps the locks of an unreachable host for this long"),
        ),
        None => Finding::note("lease", "the kernel does not report it; the shortest usual lease, 10 s, is assumed"),
    });
    findings.push(identity.finding());
    findings
}

fn local(fs_type: &str, remote: bool) -> Finding {
    const SUBJECT: &str = "file system";
    match fs_type {
        _ if remote => Finding::warning(
            SUBJECT,
            format!("{fs_type}: its locks may not exclude other hosts, and a lost lock is not detected"),
        )
        .advice("use NFSv4 or a local directory, or check with --peer whether two hosts exclude each other"),
        "overlay" => Finding::warning(
            SUBJECT,
            "overlay: a container's own layer; its locks exclude no other container and disappear with it",
        )
        .advice("use a volume that all contenders mount"),
        "tmpfs" | "ramfs" => {
            Finding::note(SUBJECT, format!("{fs_type}: locks of this machine; a restart removes records and tokens"))
        }
        _ => Finding::good(SUBJECT, format!("{fs_type}: locks of this machine, kept by its kernel")),
    }
}

fn permissions(directory: &Path) -> Option<Finding> {
    const SUBJECT: &str = "permissions";
    let found = fs::metadata(directory).ok()?;
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    let sticky = mode & 0o1000 != 0;
    let text = format!("the directory has mode {mode:o} and belongs to user {owner}");
    Some(match mode & 0o022 {
        0 => Finding::good(SUBJECT, text),
        _ if sticky => {
            Finding::warning(SUBJECT, format!("{text}: its sticky bit keeps one user from replacing another's record"))
                .advice("remove the sticky bit, and write access for others")
        }
        shared if shared & 0o002 != 0 => {
            Finding::warning(SUBJECT, format!("{text}: every user can remove lock files and so break any lock"))
                .advice("remove write access for others (chmod o-w)")
        }
        _ => Finding::note(SUBJECT, format!("{text}: its group can remove lock files and so break any lock")),
    })
}

/// Reports users who may read lock files but not write to them: `flock(1)` needs no more than that.
///
/// On NFS they can hold at least a shared lock, which has the same effect.
fn readers(directory: &Path, mode: Mode) -> Option<Finding> {
    const SUBJECT: &str = "readers";
    let found = fs::metadata(directory).ok()?;
    let lock_files = fs::read_dir(directory).into_iter().flatten().flatten();
    let lock_files = lock_files.filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "lock"));
    let modes = lock_files.take(MANY_NAMES).filter_map(|entry| Some(entry.metadata().ok()?.mode()));
    let modes: Vec<_> = modes.chain(mode.exact.then_some(mode.file)).collect();
    // A user who cannot search the directory cannot open its files.
    let only_reads = |read: u32, write: u32, search: u32| {
        found.mode() & search != 0 && modes.iter().any(|mode| mode & read != 0 && mode & write == 0)
    };
    let may = "may read lock files but not write to them, and so can hold these locks with flock(1)";
    if only_reads(0o004, 0o002, 0o001) {
        let text = format!("every user who can reach the directory {may}");
        let advice = "use mode=660 or mode=640 with a group, and remove read access for others (chmod o-r) from the \
                      lock files";
        return Some(Finding::warning(SUBJECT, text).advice(advice));
    }
    let group = format!("a group whose members can reach the directory {may}");
    only_reads(0o040, 0o020, 0o010).then(|| Finding::note(SUBJECT, group))
}

fn space(directory: &Path) -> Vec<Finding> {
    const SUBJECT: &str = "space";
    let found = match statvfs(directory) {
        Ok(found) => found,
        Err(error) => return vec![Finding::note(SUBJECT, format!("the file system does not report it: {error}"))],
    };
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the types of the numbers depend on the platform"
    )]
    let (free, inodes, all_inodes) = (
        (found.blocks_available() as u64).saturating_mul(found.fragment_size() as u64),
        found.files_available() as u64,
        found.files() as u64,
    );
    // Some file systems have no fixed number of inodes and report zero.
    let few_inodes = all_inodes > 0 && inodes < FEW_INODES;
    let text = format!(
        "{} MiB and {} free",
        free / 1024 / 1024,
        match all_inodes {
            0 => "unlimited inodes".to_owned(),
            _ => format!("{inodes} inodes"),
        }
    );
    vec![if free < LITTLE_SPACE || few_inodes {
        Finding::warning(SUBJECT, format!("{text}: a new lock needs both"))
            .advice("free some space, or run onelock sweep")
    } else {
        Finding::good(SUBJECT, text)
    }]
}

/// Creates, writes and removes a file. This detects what no number shows, such as a quota. The time
/// of the file shows the server's clock.
fn writing(store: &FileStore) -> Vec<Finding> {
    const SUBJECT: &str = "writing";
    let unfit = |error: lock_core::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
        vec![Finding::unfit(SUBJECT, format!("{error}{cause}"))]
    };
    let before = SystemTime::now();
    let sharing = match fs::metadata(store.directory()) {
        Ok(found) => store.mode().sharing(&found),
        Err(error) => return unfit(error::at("inspect the directory", store.directory(), error)),
    };
    let temp = match TempRecord::create(store.directory(), sharing) {
        Ok(temp) => temp,
        Err(error) => return unfit(error),
    };
    let there = temp.server_us().map(|us| SystemTime::UNIX_EPOCH + Duration::from_micros(us));
    let after = SystemTime::now();
    // Recognised by a later sweep, if this process is killed here.
    let mut bytes = [b'\n'; 4096];
    bytes[..record::MAGIC.len()].copy_from_slice(record::MAGIC);
    if let Err(error) = temp.write(&bytes) {
        return unfit(error);
    }
    let mut findings = vec![Finding::good(SUBJECT, "a file could be created, written and removed")];
    findings.extend(there.ok().map(|there| clock(before, there, after)));
    findings
}

/// Compares clocks: `there` is the file system's time, read between `before` and `after` on this
/// machine's clock.
fn clock(before: SystemTime, there: SystemTime, after: SystemTime) -> Finding {
    let (apart, direction) = match (there.duration_since(after), before.duration_since(there)) {
        (Ok(ahead), _) if !ahead.is_zero() => (ahead, "ahead of"),
        (_, Ok(behind)) if !behind.is_zero() => (behind, "behind"),
        _ => (Duration::ZERO, "apart from"),
    };
    let text = format!("the file system's clock is {:.1} s {direction} this machine's", apart.as_secs_f64());
    if apart <= APART {
        return Finding::good("clock", text);
    }
    Finding::warning("clock", format!("{text}: minimum holds and the age of idle names depend on it"))
        .advice("synchronise this machine's clock")
}

fn files(directory: &Path) -> Vec<Finding> {
    const SUBJECT: &str = "files";
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let me = Uid::effective().as_raw();
    let (mut names, mut foreign, mut refused) = (0, 0, 0);
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = path.extension().and_then(|suffix| suffix.to_str());
        if !matches!(kind, Some("lock" | "info" | "prev" | "queue" | "parts" | "fair")) {
            continue;
        }
        names += usize::from(kind == Some("lock"));
        if names <= MANY_NAMES && entry.metadata().is_ok_and(|found| found.uid() != me) {
            foreign += 1;
            let may_write = foreign > SAMPLE || may(&path, AccessFlags::W_OK).is_ok();
            refused += usize::from(!may_write);
        }
    }
    let mut findings = Vec::new();
    if refused > 0 {
        let text =
            format!("{refused} of {foreign} files of other users cannot be written: their locks cannot be acquired");
        findings.push(
            Finding::warning(SUBJECT, text)
                .advice("give all users of the directory a common group and the option mode=0660"),
        );
    } else if foreign > 0 {
        findings.push(Finding::note(SUBJECT, format!("{foreign} files belong to other users and are writable")));
    }
    if names > MANY_NAMES {
        findings.push(
            Finding::note(SUBJECT, format!("{names} names: listing and sweeping them is slow"))
                .advice("run onelock sweep from a crontab"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use lock_core::backend::Level;

    use super::*;

    #[test]
    fn a_host_without_a_unique_identity_is_warned() {
        for (host, uniquifier, level) in [
            ("etl-7", "", Level::Note),
            ("localhost", "", Level::Warning),
            ("", "", Level::Warning),
            ("localhost", "6d0f", Level::Note),
        ] {
            let identity = Identity { host: host.into(), uniquifier: uniquifier.into() };
            assert_eq!(identity.finding().level, level, "{identity:?}");
        }
    }

    #[test]
    fn a_file_system_type_decides_the_level_of_its_finding() {
        for (fs_type, remote, level) in [
            ("ext4", false, Level::Good),
            ("tmpfs", false, Level::Note),
            ("overlay", false, Level::Warning),
            ("fuse.sshfs", true, Level::Warning),
            ("9p", true, Level::Warning),
        ] {
            assert_eq!(local(fs_type, remote).level, level, "{fs_type}");
        }
    }

    #[test]
    fn a_clock_that_differs_is_reported_with_its_direction() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (there, level, words) in [
            (100, Level::Good, "0.0 s apart from"),
            (99, Level::Good, "1.0 s behind"),
            (97, Level::Warning, "3.0 s behind"),
            (111, Level::Warning, "10.0 s ahead of"),
        ] {
            let finding = clock(at(100), at(there), at(101));
            assert_eq!(finding.level, level, "{finding}");
            assert!(finding.text.contains(words), "{finding}");
        }
    }
}
