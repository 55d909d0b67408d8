//! What the fuzz targets call; only in a build for fuzzing.

use crate::config::ConfigString;

/// What is read is written and read back as the same, with its secrets and without.
pub fn config_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(config) = ConfigString::parse(text) else { return };
    assert!(ConfigString::parse(&config.expose()).is_ok_and(|again| again == config), "{}", config.expose());
    let shown = ConfigString::parse(&config.redacted()).expect("what is shown is a config string");
    assert_eq!(shown.scheme(), config.scheme());
    assert_eq!(format!("{config:?}"), format!("ConfigString({config})"));
}
