//! Contestants take turns in short blocks, so that the state of the machine affects all of them.

use super::table::{Table, figure, median, percentile};

/// The times of one contestant, in microseconds, by blocks.
pub(crate) type Blocks = Vec<Vec<f64>>;

/// Runs `rounds` blocks of each contestant. `block` returns the times of a block.
pub(crate) fn take(contestants: usize, rounds: usize, mut block: impl FnMut(usize) -> Vec<f64>) -> Vec<Blocks> {
    let mut blocks = vec![Blocks::new(); contestants];
    // The order changes each time. The scheduler leaves client and server where the previous
    // contestant put them, on one core or on two, and that alone halves or doubles a round trip.
    let mut order: Vec<_> = (0..contestants).collect();
    for round in 0..=rounds {
        fastrand::shuffle(&mut order);
        for &next in &order {
            let times = block(next);
            // The first round opens connections and loads scripts.
            if round > 0 {
                blocks[next].push(times);
            }
        }
    }
    blocks
}

/// The columns that [`figures`] fills.
pub(crate) const COLUMNS: [&str; 3] = ["median, µs", "99th percentile, µs", "relative to raw"];

/// Returns median, 99th percentile, and the median of the ratios of neighbouring blocks.
pub(crate) fn figures(mine: &Blocks, raw: &Blocks) -> [String; 3] {
    let times = mine.concat();
    let ratios: Vec<f64> = mine.iter().zip(raw).map(|(mine, raw)| median(mine) / median(raw)).collect();
    [figure(median(&times)), figure(percentile(&times, 99)), format!("{:.2}", median(&ratios))]
}

/// A table of [`COLUMNS`]. The first contestant is the measure of the others.
pub(crate) fn table(title: String, names: &[&str], blocks: &[Blocks]) -> Table {
    let mut table = Table::new(title, &COLUMNS);
    for (name, mine) in names.iter().zip(blocks) {
        table.row(*name, figures(mine, &blocks[0]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{figures, take};

    #[test]
    fn first_block_of_each_contestant_is_left_out() {
        let mut runs = [0.0; 2];
        let blocks = take(2, 3, |next| {
            runs[next] += 1.0;
            vec![runs[next]]
        });
        assert_eq!(blocks, [[[2.0], [3.0], [4.0]]; 2]);
    }

    #[test]
    fn ratios_are_those_of_neighbouring_blocks() {
        // The machine was ten times as slow in the second block.
        let raw = vec![vec![100.0; 3], vec![1000.0; 3], vec![100.0; 3]];
        let mine = vec![vec![120.0; 3], vec![1200.0; 3], vec![120.0; 3]];
        assert_eq!(figures(&mine, &raw), ["120", "1200", "1.20"]);
    }
}
