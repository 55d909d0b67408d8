//! Figures, and the files that keep them: one line each, the name and the number.
//!
//! If a figure is another one on purpose, `ONELOCK_GOLDEN=write` writes the files anew.

use std::{fmt::Write as _, fs, path::Path};

/// How far a number of instructions may be from the recorded one, as a share of it.
///
/// Another compiler or C library changes it by a few percent.
pub const INSTRUCTIONS: f64 = 0.1;
/// System calls include those with which threads wake each other, which vary a little. Under
/// valgrind each look at a clock is one too.
pub const SYSTEM_CALLS: f64 = 0.05;

/// What one cycle costs in one respect.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    value: f64,
    /// How far the value may be from the recorded one, as a share of it.
    tolerance: f64,
}

impl Figure {
    /// Creates a figure. `tolerance` is a share of the recorded value.
    pub fn new(name: &str, value: f64, tolerance: f64) -> Self {
        Self { name: name.into(), value, tolerance }
    }

    /// Names the figure as one of `mode`.
    #[must_use]
    pub fn of(self, mode: &str) -> Self {
        Self { name: format!("{mode}: {}", self.name), ..self }
    }

    /// Returns what is wrong, compared with the recorded value.
    fn wrong(&self, recorded: Option<f64>) -> Option<String> {
        let Self { name, value, tolerance } = self;
        let Some(recorded) = recorded else { return Some(format!("{name}: {value:.2}, which is not recorded")) };
        // Files have two digits after the point.
        let differs = (value - recorded).abs() > recorded * tolerance + 0.01;
        let percent = tolerance * 100.0;
        differs.then(|| format!("{name}: {value:.2} instead of {recorded:.2}, and {percent:.0} % is tolerated"))
    }
}

/// Compares the figures with those in `file`, or writes them there.
///
/// # Panics
/// If a figure differs, is new or is gone.
pub fn compare(file: &Path, figures: &[Figure]) {
    if std::env::var("ONELOCK_GOLDEN").is_ok_and(|value| value == "write") {
        let mut text = String::new();
        for Figure { name, value, .. } in figures {
            writeln!(text, "{name} {value:.2}").expect("a string has room");
        }
        fs::write(file, text).expect("the sources can be written");
        return;
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let wrong = differences(&text, figures);
    let advice = "if the change is meant, ONELOCK_GOLDEN=write writes the figures anew";
    let (file, wrong_ones) = (file.display(), wrong.join("; "));
    assert!(wrong.is_empty(), "the costs are others than {file} says: {wrong_ones}\n{advice}");
}

fn differences(text: &str, figures: &[Figure]) -> Vec<String> {
    let lines = || text.lines().filter_map(|line| line.rsplit_once(' '));
    let recorded = |name: &str| lines().find(|(other, _)| *other == name)?.1.parse().ok();
    let wrong = figures.iter().filter_map(|figure| figure.wrong(recorded(&figure.name)));
    let gone = lines().filter(|(name, _)| !figures.iter().any(|figure| figure.name == *name));
    wrong.chain(gone.map(|(name, value)| format!("{name}: none instead of {value}"))).collect()
}

#[test]
fn more_less_new_and_gone_figures_are_reported() {
    let recorded = "instructions 1000.00\ncommand del 1.00\n";
    let figures = |instructions, del| {
        [Figure::new("instructions", instructions, 0.1), Figure::new("command del", del, 0.0)].to_vec()
    };
    let wrong = |figures: &[Figure]| differences(recorded, figures).len();
    assert_eq!(wrong(&figures(1000.0, 1.0)), 0);
    assert_eq!(wrong(&figures(1099.0, 1.0)), 0);
    assert_eq!(wrong(&figures(1101.0, 1.0)), 1);
    assert_eq!(wrong(&figures(899.0, 1.0)), 1);
    assert_eq!(wrong(&figures(1000.0, 1.02)), 1);
    assert_eq!(wrong(&figures(2000.0, 2.0)), 2);
    assert_eq!(wrong(&figures(1000.0, 1.0)[..1]), 1);
    assert_eq!(wrong(&[figures(1000.0, 1.0), vec![Figure::new("command get", 1.0, 0.0)]].concat()), 1);
}
