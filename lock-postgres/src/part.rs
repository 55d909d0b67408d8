//! Reads the modes of locks, and the parts of their holders.

use lock_core::{Error, ErrorKind, FencingToken, Holder, Mode};
use tokio_postgres::Row;

use crate::{
    error::unreadable,
    row::{span, time},
};

/// The part of one holder.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// `None` in a minimum hold, after the release.
    id: Option<String>,
    owner: Option<String>,
    token: Option<i64>,
    since: Option<f64>,
    expires: f64,
    data: Option<Vec<u8>>,
}

impl Part {
    /// Returns `None` if the row shows a lock without parts.
    pub(crate) fn read(row: &Row) -> Result<Option<Self>, Error> {
        let read = || {
            let Some(expires) = row.try_get("part_expires")? else { return Ok(None) };
            Ok(Some(Self {
                id: row.try_get("part_id")?,
                owner: row.try_get("part_owner")?,
                token: row.try_get("part_token")?,
                since: row.try_get("part_since")?,
                expires,
                data: row.try_get("part_data")?,
            }))
        };
        read().map_err(unreadable)
    }

    /// How many parts the lock has.
    pub(crate) fn count(row: &Row) -> Result<u64, Error> {
        let count: i64 = row.try_get("parts").map_err(unreadable)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    pub(crate) fn is_unreleased(&self) -> bool {
        self.id.is_some()
    }

    fn holder(&self, mode: Mode, now: f64) -> Holder {
        Holder::default()
            .with_owner(self.owner.clone())
            .with_token(self.token.and_then(|token| FencingToken::new(u64::try_from(token).ok()?)))
            .with_since(self.since.and_then(time))
            .with_expires_in(span(self.expires - now))
            .with_data(self.data.clone())
            .with_version(self.id.clone())
            .with_mode(mode)
            .with_store_time(time(now))
    }
}

/// Describes the holders of `count` parts, of which `parts` are known.
pub(crate) fn several(parts: &[Part], count: u64, mode: Mode, now: f64) -> Option<Holder> {
    let holder = Holder::of_several(parts.iter().map(|part| part.holder(mode, now)).collect())?;
    Some(holder.with_more(count.saturating_sub(parts.len() as u64)))
}

/// The mode in the row, which is null for an exclusive lock.
pub(crate) fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::Shared => "shared".into(),
        Mode::Permit { of } => format!("permit {of}"),
        _ => "exclusive".into(),
    }
}

pub(crate) fn read_mode(text: Option<&str>) -> Result<Mode, Error> {
    let mode = match text {
        None | Some("exclusive") => Some(Mode::Exclusive),
        Some("shared") => Some(Mode::Shared),
        Some(text) => text.strip_prefix("permit ").and_then(|of| of.parse().ok()).map(|of| Mode::Permit { of }),
    };
    mode.ok_or_else(|| {
        let message = "the row of this lock has an unknown mode; check which client writes to the table";
        Error::new(ErrorKind::Corrupt, message).with_ambiguous(false)
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn modes_read_back_and_nonsense_is_corrupt() {
        for mode in [Mode::Exclusive, Mode::Shared, Mode::Permit { of: NonZeroU16::MAX }] {
            assert_eq!(read_mode(Some(&mode_text(mode))).unwrap(), mode);
        }
        assert_eq!(read_mode(None).unwrap(), Mode::Exclusive);
        for nonsense in ["", "permit", "permit 0", "permit 65536", "Shared"] {
            assert_eq!(read_mode(Some(nonsense)).unwrap_err().kind(), ErrorKind::Corrupt, "{nonsense}");
        }
    }
}
