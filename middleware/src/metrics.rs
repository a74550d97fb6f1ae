//! Figures that layers count, for the node's page of metrics.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A figure of a layer. Clones share it; a reload keeps it.
#[derive(Clone, Debug, Default)]
pub struct Figure(Arc<AtomicU64>);

impl Figure {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds so many.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes so many away; for a gauge.
    pub fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// Replaces the value; for a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters that a label tells apart. Clones share them; a reload keeps them.
#[derive(Clone, Debug)]
pub struct Counters {
    metrics: Metrics,
    name: String,
    help: &'static str,
    label: &'static str,
    known: Arc<Mutex<HashMap<String, Figure>>>,
}

impl Counters {
    /// So many values have a counter of their own: clients choose many of them.
    pub const VALUES_MAX: usize = 1000;
    /// The value by which all others are counted together.
    pub const OTHERS: &str = "(others)";

    pub(crate) fn new(metrics: Metrics, name: String, help: &'static str, label: &'static str) -> Self {
        Self { metrics, name, help, label, known: Arc::default() }
    }

    /// The counter of a value.
    pub fn of(&self, value: &str) -> Figure {
        // The map is valid after every single step.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(figure) = known.get(value) {
            return figure.clone();
        }
        let value = if known.len() < Self::VALUES_MAX { value } else { Self::OTHERS };
        let figure = self.metrics.figure(self.name.clone(), FigureKind::Counter, self.help, &[(self.label, value)]);
        if known.len() < Self::VALUES_MAX {
            known.insert(value.to_owned(), figure.clone());
        }
        figure
    }
}

/// Whether a figure only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FigureKind {
    /// It only rises.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One figure with what it is called.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `towline_layer_<layer>_<name>`, for a counter with `_total`.
    pub name: String,
    /// Whether it only rises.
    pub kind: FigureKind,
    /// What it says.
    pub help: &'static str,
    /// Its labels.
    pub labels: Vec<(&'static str, String)>,
    /// Its value now.
    pub value: u64,
}

/// The figures of all layers of a node. Clones share them.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<Key, Entry>>>);

type Key = (String, Vec<(&'static str, String)>);

struct Entry {
    kind: FigureKind,
    help: &'static str,
    figure: Figure,
}

impl Metrics {
    /// The figure of this name and these labels; made at 0 when it is first asked for. What may not stand in a figure's name
    /// becomes `_`: one line that can't be read would spoil the page.
    pub fn figure(
        &self,
        name: String,
        kind: FigureKind,
        help: &'static str,
        labels: &[(&'static str, &str)],
    ) -> Figure {
        let name = name.replace(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_', "_");
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        let entry = || Entry { kind, help, figure: Figure::default() };
        self.lock().entry((name, labels)).or_insert_with(entry).figure.clone()
    }

    /// All figures, those of one name together.
    pub fn samples(&self) -> Vec<Sample> {
        let entries = self.lock();
        let sample = |((name, labels), entry): (&Key, &Entry)| Sample {
            name: name.clone(),
            kind: entry.kind,
            help: entry.help,
            labels: labels.clone(),
            value: entry.figure.get(),
        };
        entries.iter().map(sample).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        // The map is valid after every single step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("figures", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_what_a_page_takes() {
        let metrics = Metrics::default();
        metrics.figure("rows\nper-second é".to_owned(), FigureKind::Gauge, "", &[]);
        assert_eq!(metrics.samples()[0].name, "rows_per_second__");
    }

    #[test]
    fn values_beyond_the_limit_are_counted_together() {
        let metrics = Metrics::default();
        let counters = Counters::new(metrics.clone(), "asked".to_owned(), "Who has asked.", "user");
        for n in 0..Counters::VALUES_MAX + 5 {
            counters.of(&format!("user {n}")).increment();
        }
        counters.of("user 7").increment();
        let samples = metrics.samples();
        assert_eq!(samples.len(), Counters::VALUES_MAX + 1);
        let value = |user: &str| samples.iter().find(|sample| sample.labels[0].1 == user).map(|sample| sample.value);
        assert_eq!((value("user 7"), value("user 0"), value(Counters::OTHERS)), (Some(2), Some(1), Some(5)));
    }
}
