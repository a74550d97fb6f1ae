//! Figures by measurement and cell, one a round, and what becomes of them.

/// Every figure that was taken, in the order of the measurements.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<(&'static str, &'static str, Vec<f64>)>,
    printed: usize,
}

/// What is promised: a measurement's ratio between two cells.
struct Bar {
    what: &'static str,
    measurement: &'static str,
    of: &'static str,
    to: &'static str,
    wanted: Wanted,
}

enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

pub(crate) const TPS: &str = "master, tx/s";

const BARS: [Bar; 8] = [
    bar(
        "catch-up: Towline / native, 1 thread",
        "caught up, tx/s",
        super::TOWLINE,
        super::ONE_THREAD,
        Wanted::AtLeast(2.0),
    ),
    bar(
        "catch-up: Towline / native, 4 threads",
        "caught up, tx/s",
        super::TOWLINE,
        super::FOUR_THREADS,
        Wanted::AtLeast(1.0),
    ),
    bar(
        "master: Towline, ack none / native, clients at the server",
        TPS,
        super::TOWLINE,
        super::ONE_THREAD,
        Wanted::AtLeast(0.95),
    ),
    bar(
        "master: the same, clients at the front",
        TPS,
        super::TOWLINE_FRONT,
        super::ONE_THREAD_FRONT,
        Wanted::AtLeast(0.95),
    ),
    bar(
        "master: Towline at the front / native at the server",
        TPS,
        super::TOWLINE_FRONT,
        super::ONE_THREAD,
        Wanted::AtLeast(0.95),
    ),
    bar(
        "master: Towline, ack one, at the front / semi-sync at the server",
        TPS,
        super::TOWLINE_ONE,
        super::SEMI_SYNC,
        Wanted::AtLeast(1.0),
    ),
    bar("master: the same, both at the front", TPS, super::TOWLINE_ONE, super::SEMI_SYNC_FRONT, Wanted::AtLeast(1.0)),
    bar(
        "visible, p50: Towline / native, 1 thread",
        "visible after, ms p50",
        super::TOWLINE,
        super::ONE_THREAD,
        Wanted::AtMost(1.5),
    ),
];

const fn bar(what: &'static str, measurement: &'static str, of: super::Cell, to: super::Cell, wanted: Wanted) -> Bar {
    Bar { what, measurement, of: of.name, to: to.name, wanted }
}

impl Report {
    /// Adds the figure of one more round.
    pub(crate) fn add(&mut self, measurement: &'static str, cell: &'static str, figure: f64) {
        eprintln!("{cell}: {measurement} {figure:.2}");
        match self.figures.iter_mut().find(|(known, of, _)| (*known, *of) == (measurement, cell)) {
            Some((.., figures)) => figures.push(figure),
            None => self.figures.push((measurement, cell, vec![figure])),
        }
    }

    /// Prints what was added since the last table.
    pub(crate) fn print(&mut self, title: &str) {
        println!("\n{title}\n\n| measurement | way | median | min..max | rounds |\n|---|---|---:|---:|---:|");
        let mut new = self.figures[self.printed..].to_vec();
        // Stable: in each measurement the order of the cells stays.
        let order: Vec<&str> = new.iter().map(|(measurement, ..)| *measurement).collect();
        new.sort_by_key(|(measurement, ..)| order.iter().position(|known| known == measurement));
        for (measurement, cell, figures) in &new {
            println!("| {measurement} | {cell} | {} |", spread(figures));
        }
        self.printed = self.figures.len();
    }

    /// Prints what is promised, as ratios within the rounds.
    pub(crate) fn print_bars(&self) {
        println!("\n| ratio | median | min..max | rounds | wanted | |\n|---|---:|---:|---:|---:|---|");
        for Bar { what, measurement, of, to, wanted } in &BARS {
            let figures = |cell| self.figures.iter().find(|(known, of, _)| (known, of) == (measurement, cell));
            let (Some((.., of)), Some((.., to))) = (figures(of), figures(to)) else { continue };
            let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
            let (reached, wanted) = match wanted {
                Wanted::AtLeast(least) => (median(&ratios) >= *least, format!("at least {least}")),
                Wanted::AtMost(most) => (median(&ratios) <= *most, format!("at most {most}")),
            };
            println!(
                "| {what} | {} | {wanted} | {} |",
                spread(&ratios),
                if reached { "reached" } else { "not reached" }
            );
        }
    }
}

/// Median, spread and number, as cells of a table.
fn spread(figures: &[f64]) -> String {
    let (low, high) = figures.iter().fold((f64::MAX, f64::MIN), |(low, high), f| (low.min(*f), high.max(*f)));
    format!("{:.2} | {low:.2}..{high:.2} | {}", median(figures), figures.len())
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
