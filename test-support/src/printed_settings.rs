//! Checks that the settings of a store survive being printed.

use std::fmt::{Debug, Display};

use lock_core::Error;

/// Parses `url` with each of the options, prints the settings, and parses them again: they are the
/// same afterwards. Each option has another value than the default. Options that belong together
/// stand in one text.
///
/// # Panics
/// If a setting changes, or is the default.
pub fn survive<T: Debug + Display + PartialEq>(parse: fn(&str) -> Result<T, Error>, url: &str, options: &[&str]) {
    let plain = parsed(parse, url);
    assert_eq!(parsed(parse, &plain.to_string()), plain, "{url}");
    for options in options {
        let settings = parsed(parse, &format!("{url}?{options}"));
        assert_ne!(settings, plain, "{url}: {options} is the default");
        assert_eq!(parsed(parse, &settings.to_string()), settings, "{url}: {options}");
    }
}

/// Checks that none of the options is printed.
///
/// # Panics
/// If one is.
pub fn stay_hidden<T: Display>(parse: fn(&str) -> Result<T, Error>, url: &str, options: &[&str]) {
    let plain = parsed(parse, url).to_string();
    for options in options {
        assert_eq!(parsed(parse, &format!("{url}?{options}")).to_string(), plain, "{options}");
    }
}

/// Checks that the store has these options and no others, so that none is left out of a test.
///
/// # Panics
/// If it has others.
pub fn are_all<T: Debug>(parse: fn(&str) -> Result<T, Error>, url: &str, options: &[&[&str]]) {
    let given = options.concat();
    let given = given.iter().flat_map(|options| options.split('&')).filter_map(|option| option.split_once('='));
    let mut names: Vec<_> = given.map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let unknown = parse(&format!("{url}?no_such_option=1")).expect_err("there is no such option").to_string();
    let (_, known) = unknown.rsplit_once("Known: ").expect("the error names the options");
    assert_eq!(names.join(", "), known, "{url}");
}

fn parsed<T>(parse: fn(&str) -> Result<T, Error>, text: &str) -> T {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
