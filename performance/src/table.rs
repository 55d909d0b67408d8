//! Figures of contestants, and the tables that show them.

use std::{fmt::Write as _, num::NonZeroU16, time::Duration};

use lock_core::Mode;

/// The mode of contestants that have one of several permits.
pub(crate) const FOUR_PERMITS: Mode = Mode::Permit { of: NonZeroU16::new(4).unwrap() };

/// A table of the page. The first cell of a row is the name of the contestant.
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// `columns` leaves out the first one, which has the names.
    pub(crate) fn new(title: impl Into<String>, columns: &[impl ToString]) -> Self {
        Self { title: title.into(), columns: columns.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, figures: impl IntoIterator<Item = String>) {
        let row: Vec<_> = std::iter::once(name.into()).chain(figures).collect();
        assert_eq!(row.len(), self.columns.len() + 1, "{row:?} fits the table {:?}", self.title);
        self.rows.push(row);
    }

    /// Returns the table in Markdown, with its title as a heading.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n| | {} |\n|---|", self.title, self.columns.join(" | "));
        text.extend(self.columns.iter().map(|_| "---|"));
        for row in &self.rows {
            write!(text, "\n| {} |", row.join(" | ")).expect("a string has room");
        }
        text.push('\n');
        text
    }
}

/// Returns `value` with three significant digits.
pub(crate) fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// # Panics
/// If there are no values.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::{Table, figure, percentile};

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([0.0421, 1.234, 56.78, 1234.5].map(figure), ["0.042", "1.23", "56.8", "1234"]);
    }

    #[test]
    fn percentiles_are_values_in_order() {
        let values: Vec<f64> = (0..200).rev().map(f64::from).collect();
        assert_eq!([0, 50, 99, 100].map(|percent| percentile(&values, percent)), [0.0, 100.0, 198.0, 199.0]);
    }

    #[test]
    fn table_is_markdown_under_its_title() {
        let mut table = Table::new("Cycle", &["median, µs", "requests"]);
        table.row("raw", ["85".into(), "2".into()]);
        let wanted = "### Cycle\n\n| | median, µs | requests |\n|---|---|---|\n| raw | 85 | 2 |\n";
        assert_eq!(table.markdown(), wanted);
    }
}
