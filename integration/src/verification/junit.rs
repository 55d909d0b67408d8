//! Reads the report of `cargo nextest run`.

use std::collections::BTreeMap;

/// How often each test ran, by the last part of its name.
#[derive(Debug, Default)]
pub struct Runs {
    passed: BTreeMap<String, u64>,
    failed: Vec<String>,
}

impl Runs {
    /// Reads the JUnit report of nextest.
    pub fn parse(xml: &str) -> Self {
        let mut runs = Self::default();
        for case in xml.split("<testcase ").skip(1) {
            let Some(name) = attribute(case, "name") else { continue };
            let short = name.rsplit("::").next().unwrap_or(name).to_owned();
            let body = case.split("</testcase>").next().unwrap_or(case);
            if body.contains("<failure") || body.contains("<error") {
                runs.failed.push(name.to_owned());
            } else {
                *runs.passed.entry(short).or_default() += 1;
            }
        }
        runs
    }

    /// Returns how often the case passed, such as on how many backends.
    pub fn passed(&self, case: &str) -> u64 {
        self.passed.get(case).copied().unwrap_or_default()
    }

    /// Returns the tests that failed.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = tag.split_once(&format!("{name}=\""))?;
    value.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_case_and_failures_are_named() {
        let xml = r#"<testsuite name="a"><testcase name="native::one_wins" classname="a"></testcase>
            <testcase name="java::one_wins" classname="a"/>
            <testcase name="two_win" classname="b"><failure type="x">no</failure></testcase></testsuite>"#;
        let runs = Runs::parse(xml);
        assert_eq!((runs.passed("one_wins"), runs.passed("two_win")), (2, 0));
        assert_eq!(runs.failed(), ["two_win"]);
    }
}
