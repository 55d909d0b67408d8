//! Contestants take turns in short blocks, so that the state of the machine affects all of them.

use super::table::{Table, figure, median, percentile};

/// What one contestant did in its turn.
#[derive(Clone)]
pub(crate) struct Block {
    /// In microseconds, or in acquisitions a second.
    pub(crate) figures: Vec<f64>,
    /// The processor time of each figure in microseconds. Zero where it is not measured.
    pub(crate) processor: f64,
}

impl From<Vec<f64>> for Block {
    fn from(figures: Vec<f64>) -> Self {
        Self { figures, processor: 0.0 }
    }
}

impl Block {
    pub(crate) fn median(&self) -> f64 {
        median(&self.figures)
    }
}

/// Runs `rounds` blocks of each contestant, and returns those of the [usual rounds](usual). `block`
/// runs one block.
pub(crate) fn take<B: Into<Block>>(
    contestants: usize,
    rounds: usize,
    mut block: impl FnMut(usize) -> B,
) -> Vec<Vec<Block>> {
    let mut blocks = vec![Vec::new(); contestants];
    // The order changes each time. The scheduler leaves client and server where the previous
    // contestant put them, on one core or on two, and that alone halves or doubles a round trip.
    let mut order: Vec<_> = (0..contestants).collect();
    for round in 0..=rounds {
        fastrand::shuffle(&mut order);
        for &next in &order {
            let block = block(next).into();
            // The first round opens connections and loads scripts.
            if round > 0 {
                blocks[next].push(block);
            }
        }
    }
    let usual = usual(&blocks);
    blocks.iter().map(|blocks| usual.iter().map(|&round| blocks[round].clone()).collect()).collect()
}

/// Returns the half of the rounds in which the speed of the machine was nearest to its median.
///
/// Where the machine is fast in half of the rounds and slow in the other half, the median of one
/// contestant would be a fast one, and that of the next a slow one.
fn usual(blocks: &[Vec<Block>]) -> Vec<usize> {
    let rounds = blocks.first().map_or(0, Vec::len);
    // The logarithm, so that a slow contestant has the same weight as a fast one.
    let slowness: Vec<f64> =
        (0..rounds).map(|round| blocks.iter().map(|blocks| blocks[round].median().ln()).sum()).collect();
    let mut order: Vec<usize> = (0..rounds).collect();
    if rounds > 0 {
        let middle = median(&slowness);
        order.sort_by(|&a, &b| (slowness[a] - middle).abs().total_cmp(&(slowness[b] - middle).abs()));
        order.truncate(rounds.div_ceil(2));
    }
    order.sort_unstable();
    order
}

/// The columns that [`figures`] fills.
pub(crate) const COLUMNS: [&str; 3] = ["median, µs", "99th percentile, µs", "relative to raw"];

/// Returns median, 99th percentile, and the median of the ratios of neighbouring blocks.
pub(crate) fn figures(mine: &[Block], raw: &[Block]) -> [String; 3] {
    let times: Vec<f64> = mine.iter().flat_map(|block| block.figures.iter().copied()).collect();
    [figure(middle(mine)), figure(percentile(&times, 99)), ratio(mine, raw, Block::median)]
}

/// Returns the median of the medians of blocks.
pub(crate) fn middle(blocks: &[Block]) -> f64 {
    median(&blocks.iter().map(Block::median).collect::<Vec<_>>())
}

/// Returns the median of the ratios of neighbouring blocks.
pub(crate) fn ratio(mine: &[Block], raw: &[Block], of: fn(&Block) -> f64) -> String {
    let ratios: Vec<_> = mine.iter().zip(raw).map(|(mine, raw)| of(mine) / of(raw)).collect();
    format!("{:.2}", median(&ratios))
}

/// Returns how much longer `more` takes than `less`, relative to `raw`: the median of what each
/// round says.
pub(crate) fn added(more: &[Block], less: &[Block], raw: &[Block]) -> f64 {
    let rounds = more.iter().zip(less).zip(raw);
    let added = rounds.map(|((more, less), raw)| (more.median() - less.median()) / raw.median());
    median(&added.collect::<Vec<_>>())
}

/// Returns the median of the processor times.
pub(crate) fn processor(blocks: &[Block]) -> String {
    figure(median(&blocks.iter().map(|block| block.processor).collect::<Vec<_>>()))
}

/// A table of [`COLUMNS`]. The first contestant is the measure of the others.
pub(crate) fn table(title: String, names: &[&str], blocks: &[Vec<Block>]) -> Table {
    let mut table = Table::new(title, &COLUMNS);
    for (name, mine) in names.iter().zip(blocks) {
        table.row(*name, figures(mine, &blocks[0]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Block, added, figures, take};

    #[test]
    fn first_block_of_each_contestant_is_left_out() {
        let mut runs = [0.0; 2];
        let blocks = take(2, 1, |next| {
            runs[next] += 1.0;
            vec![runs[next]]
        });
        for blocks in blocks {
            assert_eq!(blocks.iter().map(Block::median).collect::<Vec<_>>(), [2.0]);
        }
    }

    #[test]
    fn a_change_of_the_machine_affects_all_rows_alike() {
        // The machine is ten times as slow for half of the time, and changes within a round: the
        // one contestant is slow in four rounds of seven, the other in three.
        for changed_between in [[4, 3], [3, 4]] {
            let mut turns = [0; 2];
            let blocks = take(2, 7, |next| {
                turns[next] += 1;
                let slow = turns[next] > 1 && turns[next] <= 1 + changed_between[next];
                vec![[100.0, 120.0][next] * if slow { 10.0 } else { 1.0 }; 3]
            });
            let [raw, mine] = [0, 1].map(|next| figures(&blocks[next], &blocks[0]));
            let times = [&raw, &mine].map(|row| row[0].parse::<f64>().expect("a number"));
            assert!((times[1] / times[0] - 1.2).abs() < 0.01, "{times:?}");
            assert_eq!([&raw[2], &mine[2]], ["1.00", "1.20"]);
        }
    }

    #[test]
    fn ratios_are_those_of_neighbouring_blocks() {
        // The machine was ten times as slow in the second block.
        let blocks = |time: f64| [time, 10.0 * time, time].map(|time| Block::from(vec![time; 3]));
        assert_eq!(figures(&blocks(120.0), &blocks(100.0)), ["120", "1200", "1.20"]);
    }
    #[test]
    fn what_is_added_is_that_of_each_round() {
        // The machine was ten times as slow in the second block.
        let blocks = |time: f64| [time, 10.0 * time, time].map(|time| Block::from(vec![time; 3]));
        let added = added(&blocks(150.0), &blocks(120.0), &blocks(100.0));
        assert!((added - 0.3).abs() < 1e-9, "{added}");
    }
}
