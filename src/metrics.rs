//! Every metric's name, unit and labels, and the page on which Prometheus reads them.
//!
//! Nothing is registered and nothing is counted here: the figures live where the work is done, and the page is written
//! from them when it is asked for.

use std::fmt::Write;

use towline_middleware::{
    FigureKind, Sample,
    layers::trace::{BUCKETS_US, CommandCounts},
};

use crate::replication::{
    hub::{HubState, HubStatus},
    progress::{ApplyState, Progress},
    slave_status::{SlaveState, SlaveStatus},
    verify::Summary,
};

/// One metric: its name, whether it only rises, and what it says.
#[derive(Debug)]
pub struct Metric {
    /// The name, with its unit last.
    pub name: &'static str,
    kind: &'static str,
    help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $kind:literal $name:literal $help:literal)*) => {
        $(#[doc = $help] pub const $constant: Metric = Metric { name: $name, kind: $kind, help: $help };)*
    };
}

metrics! {
    COMMANDS "counter" "towline_commands_total" "Commands that got the head of their reply."
    REFUSED "counter" "towline_commands_refused_total" "Commands that were answered with an error."
    BROKEN "counter" "towline_commands_broken_total" "Commands whose session ended instead of an answer."
    RUNNING "gauge" "towline_commands_running" "Commands between their arrival and the head of their reply."
    COMMAND_SECONDS "histogram" "towline_command_seconds" "Time from a command to the head of its reply."
    SESSIONS "gauge" "towline_sessions" "Sessions with MySQL, by front; idle ones of HTTP accounts included."
    MYSQL_UP "gauge" "towline_mysql_up" "Whether this node's MySQL answers."
    EPOCH "gauge" "towline_epoch" "The reign of the newest transaction here."
    SEQUENCE "gauge" "towline_sequence" "The number of the newest transaction here: captured on a master, applied on a slave."
    CAPTURE_RUNNING "gauge" "towline_capture_running" "Whether the master's binlog is being captured."
    RING_TRANSACTIONS "gauge" "towline_ring_transactions" "Transactions kept in memory for the slaves."
    RING_BYTES "gauge" "towline_ring_bytes" "Bytes of the transactions kept in memory."
    WRONG_SECRETS "counter" "towline_wrong_secrets_total" "Requests for the cluster's own nodes and tools, pushes among them, without its secret."
    MISCLASSIFIED "counter" "towline_misclassified_total" "Statements taken for reads that the server has shown to be writes."
    UNLOGGED_WRITES "counter" "towline_unlogged_writes_total" "Writes whose OK had no GTID although an acknowledgement needs one."
    SLAVE_BEHIND "gauge" "towline_slave_behind_transactions" "How many transactions a slave lacks at most, by slave."
    SLAVE_LAG_SECONDS "gauge" "towline_slave_lag_seconds" "Age of the oldest transaction that a slave lacks, by slave."
    SLAVE_STREAMING "gauge" "towline_slave_streaming" "Whether a slave gets the newest transactions from memory, by slave."
    SLAVE_BINLOG_LEFT_SECONDS "gauge" "towline_slave_binlog_left_seconds" "Seconds until the master's server is due to purge the binlog that a slave needs next, by slave; absent while it needs none of the past."
    SLAVE_WARNINGS "gauge" "towline_slave_warnings" "What is about to go wrong with a slave: how many warnings /status has of it, by slave."
    SLAVE_PUSHED "counter" "towline_slave_pushed_transactions_total" "Transactions that a slave has confirmed, by slave."
    SLAVE_DIFFERING_TABLES "gauge" "towline_slave_differing_tables" "Tables in which a slave was found to differ when it was last verified, by slave."
    APPLY_REFUSED "counter" "towline_apply_refused_total" "Pushes refused, by why."
    APPLY_RUNNING "gauge" "towline_apply_running" "Whether this slave applies what it is pushed."
    APPLY_LAG_SECONDS "gauge" "towline_apply_lag_seconds" "Age of the oldest transaction that this slave knows of and lacks."
    APPLY_BATCHES "counter" "towline_apply_batches_total" "Batches applied."
    APPLY_TRANSACTIONS "counter" "towline_apply_transactions_total" "Transactions applied."
    APPLY_SCHEMA_CHANGES "counter" "towline_apply_schema_changes_total" "Schema changes applied."
    APPLY_LOCK_RETRIES "counter" "towline_apply_lock_retries_total" "Batches tried again since a lock was in the way."
    APPLY_BLOCKERS_ENDED "counter" "towline_apply_blockers_ended_total" "Client sessions ended since they held up the applier."
}

/// The page that Prometheus reads.
///
/// Source: Prometheus documentation, "Exposition formats", text format 0.0.4.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    last: String,
}

impl Page {
    /// Adds one value. Those of one metric must stand together.
    pub fn put(&mut self, metric: &Metric, labels: &[(&str, &str)], value: u64) {
        self.head(metric.name, metric.kind, metric.help);
        self.sample(metric.name, labels, value);
    }

    /// Adds what clients have done.
    pub fn commands(&mut self, counts: &CommandCounts, running: usize) {
        self.put(&COMMANDS, &[], counts.commands);
        self.put(&REFUSED, &[], counts.refused);
        self.put(&BROKEN, &[], counts.broken);
        self.put(&RUNNING, &[], running as u64);
        self.head(COMMAND_SECONDS.name, COMMAND_SECONDS.kind, COMMAND_SECONDS.help);
        let name = COMMAND_SECONDS.name;
        let mut below = 0;
        let bounds = BUCKETS_US.iter().map(|bound| (*bound as f64 / 1e6).to_string()).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts.buckets) {
            below += count;
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], below);
        }
        self.sample(&format!("{name}_sum"), &[], counts.total_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), &[], below);
    }

    /// Adds a master's capture.
    pub fn hub(&mut self, hub: &HubStatus) {
        self.put(&CAPTURE_RUNNING, &[], u64::from(hub.state == HubState::Running));
        self.put(&RING_TRANSACTIONS, &[], hub.ring_transactions as u64);
        self.put(&RING_BYTES, &[], hub.ring_bytes as u64);
        self.put(&UNLOGGED_WRITES, &[], hub.unlogged_writes);
    }

    /// Adds a master's slaves. What is not known of one is left out.
    pub fn slaves(&mut self, slaves: &[SlaveStatus]) {
        let mut each = |metric: &Metric, value: fn(&SlaveStatus) -> Option<u64>| {
            for slave in slaves {
                if let Some(value) = value(slave) {
                    self.put(metric, &[("slave", &slave.id)], value);
                }
            }
        };
        each(&SLAVE_BEHIND, |slave| slave.behind);
        each(&SLAVE_LAG_SECONDS, |slave| slave.lag_seconds);
        each(&SLAVE_STREAMING, |slave| Some(u64::from(slave.state == SlaveState::Streaming)));
        each(&SLAVE_BINLOG_LEFT_SECONDS, |slave| slave.binlog_left_seconds);
        each(&SLAVE_WARNINGS, |slave| Some(slave.warnings.len() as u64));
        each(&SLAVE_PUSHED, |slave| Some(slave.pushed));
    }

    /// Adds what the last verification has found.
    pub fn verified(&mut self, summary: &Summary) {
        for (slave, tables) in &summary.differing_tables {
            self.put(&SLAVE_DIFFERING_TABLES, &[("slave", slave)], *tables);
        }
    }

    /// Adds a slave's applier.
    pub fn applier(&mut self, progress: &Progress) {
        self.put(&APPLY_RUNNING, &[], u64::from(progress.state == ApplyState::Running));
        self.put(&APPLY_LAG_SECONDS, &[], progress.lag_seconds);
        self.put(&APPLY_BATCHES, &[], progress.counts.batches);
        self.put(&APPLY_TRANSACTIONS, &[], progress.counts.transactions);
        self.put(&APPLY_SCHEMA_CHANGES, &[], progress.counts.schema_changes);
        self.put(&APPLY_LOCK_RETRIES, &[], progress.counts.lock_retries);
        self.put(&APPLY_BLOCKERS_ENDED, &[], progress.counts.blockers_ended);
        for (refusal, count) in &progress.refused {
            self.put(&APPLY_REFUSED, &[("refusal", &refusal.word())], *count);
        }
    }

    /// Adds what the layers count.
    pub fn layers(&mut self, samples: &[Sample]) {
        for sample in samples {
            let kind = match sample.kind {
                FigureKind::Counter => "counter",
                FigureKind::Gauge => "gauge",
            };
            self.head(&sample.name, kind, sample.help);
            let labels: Vec<_> = sample.labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
            self.sample(&sample.name, &labels, sample.value);
        }
    }

    /// The page's text.
    pub fn finish(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        if self.last != name {
            name.clone_into(&mut self.last);
            self.line(format_args!("# HELP {name} {help}"));
            self.line(format_args!("# TYPE {name} {kind}"));
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let mark = if index == 0 { '{' } else { ',' };
            write!(self.text, "{mark}{label}=\"{text}\"").expect("a String takes everything");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_labels_are_escaped() {
        let mut buckets = vec![0; BUCKETS_US.len() + 1];
        buckets[0] = 2;
        buckets[BUCKETS_US.len()] = 1;
        let mut page = Page::default();
        page.commands(&CommandCounts { commands: 3, refused: 1, broken: 0, total_us: 1_500_000, buckets }, 0);
        page.put(&SLAVE_PUSHED, &[("slave", "a\"b\\c\n")], 5);
        page.put(&SLAVE_PUSHED, &[("slave", "d")], 6);
        let text = page.finish();
        for line in [
            "# TYPE towline_command_seconds histogram",
            "towline_command_seconds_bucket{le=\"0.00005\"} 2",
            "towline_command_seconds_bucket{le=\"10\"} 2",
            "towline_command_seconds_bucket{le=\"+Inf\"} 3",
            "towline_command_seconds_sum 1.5",
            "towline_command_seconds_count 3",
            "towline_slave_pushed_transactions_total{slave=\"a\\\"b\\\\c\\n\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE towline_slave_pushed").count(), 1);
    }
}
