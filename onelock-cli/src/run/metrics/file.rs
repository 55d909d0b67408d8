//! Replaces the file as a whole, so that the collector never reads a part of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
};

use super::text::{self, HEADER, Series};

/// A larger file is none of ours: a job has about a kilobyte.
const LARGEST: u64 = 16 << 20;

/// Reads the series of the file, changes them, and writes the file anew.
pub(super) fn update(path: &Path, change: impl FnOnce(&mut Series)) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Another run may end at the same moment. Its counters must not be undone. The directory is
    // locked, because the file is replaced, and a lock file would be litter.
    let turn = File::open(directory)?;
    turn.lock()?;
    let mut series = read(path)?;
    change(&mut series);
    replace(path, directory, &text::written(&series))
}

/// Returns the series of an earlier run. A file of another program is refused, and never replaced.
fn read(path: &Path) -> io::Result<Series> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Series::new()),
        opened => opened?,
    };
    let refused = || {
        let message = "it is not a file of onelock run --metrics-file; choose another path";
        io::Error::new(io::ErrorKind::AlreadyExists, message)
    };
    // A longer file would be cut by the next update.
    let found = file.metadata()?;
    if !found.is_file() || found.len() > LARGEST {
        return Err(refused());
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|_| refused())?;
    if !text.starts_with(HEADER) {
        return Err(refused());
    }
    Ok(text::parsed(&text))
}

fn replace(path: &Path, directory: &Path, text: &str) -> io::Result<()> {
    let new = temporary(path, directory)?;
    let written = write_new(&new, text).and_then(|()| fs::rename(&new, path));
    if written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Returns a name that the collector does not read: it takes `*.prom`.
fn temporary(path: &Path, directory: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    Ok(directory.join(format!(".{}.{}.new", name.display(), process::id())))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // What a killed run of the same process id left behind: empty, or with our first line.
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LARGEST)
        && fs::read(path).is_ok_and(|left| left.starts_with(HEADER.as_bytes()) || HEADER.as_bytes().starts_with(&left))
    {
        fs::remove_file(path)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    // The collector is another user, whatever the umask of the job.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn add(path: &Path, name: &str) -> io::Result<()> {
        update(path, |series| {
            series.insert(format!("onelock_run_exit_code{{name=\"{name}\"}}"), "0".into());
        })
    }

    #[test]
    fn series_of_other_jobs_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs.prom");
        add(&path, "a").unwrap();
        add(&path, "b").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("{name=\"a\"} 0\n") && text.contains("{name=\"b\"} 0\n"), "{text}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn files_of_other_programs_are_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        fs::write(&path, "precious").unwrap();
        add(&path, "a").unwrap_err();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        add(&link, "a").unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        add(directory.path(), "a").unwrap_err();
        let temporary = temporary(&directory.path().join("x.prom"), directory.path()).unwrap();
        fs::write(&temporary, "precious").unwrap();
        add(&directory.path().join("x.prom"), "a").unwrap_err();
        assert_eq!(fs::read_to_string(&temporary).unwrap(), "precious");
        fs::write(&temporary, &HEADER[..5]).unwrap();
        add(&directory.path().join("x.prom"), "a").unwrap();
        let long = directory.path().join("long.prom");
        fs::write(&long, HEADER).unwrap();
        OpenOptions::new().write(true).open(&long).unwrap().set_len(LARGEST + 1).unwrap();
        add(&long, "a").unwrap_err();
        add(&directory.path().join("missing/x.prom"), "a").unwrap_err();
    }

    #[test]
    fn updates_at_the_same_time_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs.prom");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || add(path, &number.to_string()).unwrap());
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap().matches("{name=").count(), 8);
    }
}
