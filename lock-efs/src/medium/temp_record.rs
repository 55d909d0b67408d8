//! Writes a record to a temporary file that then replaces the previous record.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use lock_core::{Error, backend::LeaseId};

use crate::{
    clock::us_of,
    error,
    mode::Sharing,
    open::{self, Opened},
};

/// The next record, written to a temporary file and then renamed over the previous record.
#[derive(Debug)]
pub(crate) struct TempRecord {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl TempRecord {
    /// Creates the file, under a name that is never used again.
    ///
    /// So a removal or renaming of the file that the network delivers late cannot reach the file
    /// of a later acquisition.
    pub(crate) fn create(directory: &Path, sharing: Sharing) -> Result<Self, Error> {
        let path = directory.join(format!("{TEMP_RECORD_PREFIX}{}", LeaseId::random()));
        let Opened { file, found, .. } =
            open::unique(&path, sharing.file).map_err(|e| error::at("write the lock record", &path, e))?;
        sharing.apply(&file, &found, &path);
        Ok(Self { file, path, placed: false })
    }

    /// Returns the server's clock in microseconds, taken from the time that it just gave the file.
    pub(crate) fn server_us(&self) -> Result<u64, Error> {
        let time = self.file.metadata().and_then(|found| found.modified());
        time.map(us_of).map_err(|e| error::at("read the timestamp of", &self.path, e))
    }

    /// Writes `bytes` and waits until the server has them.
    ///
    /// A rename by Linux 6.1 sends them first, so other hosts read no empty record. But it does not
    /// report that the server refused them, and would replace the record by an empty one.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all_at(bytes, 0).and_then(|()| self.file.sync_data());
        written.map_err(|e| error::at("write the lock record", &self.path, e))
    }

    /// Writes `bytes` and renames the file to `record`, atomically for readers on all hosts.
    pub(crate) fn place(mut self, bytes: &[u8], record: &Path) -> Result<File, Error> {
        self.write(bytes)?;
        fs::rename(&self.path, record).map_err(|e| error::at("replace the lock record", record, e))?;
        self.placed = true;
        self.file.try_clone().map_err(|e| error::at("duplicate the descriptor of the lock record", record, e))
    }
}

/// The prefix of the names of temporary records. No lock file's name begins with it.
pub(crate) const TEMP_RECORD_PREFIX: &str = ".onelock-";

impl Drop for TempRecord {
    fn drop(&mut self) {
        if !self.placed {
            // A file that cannot be removed here stays until the next sweep.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::mode::Mode;

    fn create(directory: &Path) -> TempRecord {
        let mode = Mode { file: 0o600, directory: 0o700, exact: false };
        let sharing = mode.sharing(&fs::metadata(directory).expect("the test's directory exists"));
        TempRecord::create(directory, sharing).expect("a temporary record can be made")
    }

    #[test]
    fn a_temp_record_takes_its_time_from_the_file_system() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let temp = create(dir.path());
        let ahead = SystemTime::now() + Duration::from_secs(3_600);
        temp.file.set_modified(ahead).expect("the test owns the file");
        let told = SystemTime::UNIX_EPOCH + Duration::from_micros(temp.server_us().expect("the file has a time"));
        assert!(ahead.duration_since(told).expect("the file time is not later") < Duration::from_millis(1));
    }

    #[test]
    fn a_temp_record_replaces_the_record_or_is_removed() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let record = dir.path().join("a.info");
        drop(create(dir.path()));
        for text in ["first, and longer", "second"] {
            create(dir.path()).place(text.as_bytes(), &record).expect("the record can be replaced");
            assert_eq!(fs::read_to_string(&record).expect("the record exists"), text);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }
}
