//! The entry points of the fuzz targets, only in a build for fuzzing.

use crate::config::ConfigString;

/// Checks that a parsed config string reads back the same, with secrets and without.
pub fn config_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(config) = ConfigString::parse(text) else { return };
    assert!(ConfigString::parse(&config.expose()).is_ok_and(|again| again == config), "{}", config.expose());
    let shown = ConfigString::parse(&config.redacted()).expect("redacted text is a config string");
    assert_eq!(shown.scheme(), config.scheme());
    assert_eq!(format!("{config:?}"), format!("ConfigString({config})"));
}
