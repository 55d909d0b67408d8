//! Entry points of the fuzz targets, only in a build for fuzzing.

use crate::{PostgresConfig, environment, part, shedlock::ShedRow};

/// Checks that a config string is parsed or refused.
pub fn config_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = PostgresConfig::from_url(text).map(|config| config.to_string());
}

/// Checks that the texts which third parties write are read or refused: a mode, a row of ShedLock,
/// and a line of the password file.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(mode) = part::read_mode(Some(text)) {
        assert_eq!(part::read_mode(Some(&part::mode_text(mode))).ok(), Some(mode));
    }
    let holder = ShedRow::of_text(text).holder();
    assert!(holder.version.is_none(), "a row of ShedLock cannot be broken: {holder:?}");
    let _ = environment::matching(text, &["h", "5432", "d", "u"]);
}
