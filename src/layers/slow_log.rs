//! What takes long, in the node's log, and statistics by digest in `/status`: how often, how long, how many rows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use quanta::Instant;
use serde::Deserialize;
use serde_json::{Value, json};
use towline_middleware::{
    Command, Error, Final, LayerProblem, LayerSetup, Next, Part, Reply, UserLayer, from_fn,
    wire::frame::{HEADER_LEN, Header},
};

/// Four buckets to each doubling of the time.
const BUCKETS: usize = 4 * 32;
/// How much of a text stands for its digest.
const SAMPLE_BYTES_MAX: usize = 512;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// A command that takes longer, to the end of its reply, is written to the node's log.
    threshold_ms: u64,
    /// How many digests have statistics; those beyond share one.
    #[serde(default = "digests_max")]
    digests_max: usize,
    /// How many `/status` shows, those first on which most time is spent.
    #[serde(default = "top")]
    top: usize,
}

fn digests_max() -> usize {
    1000
}

fn top() -> usize {
    10
}

#[derive(Debug)]
struct SlowLog {
    threshold: Duration,
    digests_max: usize,
    digests: Arc<Digests>,
}

/// What is known of each digest; a reload changes nothing of it.
type Digests = Mutex<HashMap<u64, Statistics, RandomState>>;

/// What is known of one digest.
#[derive(Debug)]
struct Statistics {
    text: Option<String>,
    count: u64,
    errors: u64,
    rows: u64,
    total_us: u64,
    max_us: u64,
    buckets: Box<[u32; BUCKETS]>,
}

/// One command that has ended, or is about to.
struct Run {
    log: Arc<SlowLog>,
    command: Command,
    begun: Instant,
    rows: RowCount,
    is_error: bool,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let Options { threshold_ms, digests_max, top } = setup.options()?;
    let threshold = Duration::from_millis(threshold_ms);
    let log = Arc::new(SlowLog { threshold, digests_max, digests: setup.kept() });
    let shown = log.clone();
    setup.on_status(move || shown.status(top));
    Ok(from_fn(move |command: Command, next: Next| log.clone().call(command, next)))
}

impl SlowLog {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        if !command.kind().runs_sql() {
            return next.run(command).await;
        }
        let rows = RowCount { deprecates_eof: command.session().deprecates_eof(), ..RowCount::default() };
        let mut run = Run { log: self, command: command.clone(), begun: Instant::now(), rows, is_error: false };
        let reply = next.run(command).await?;
        if reply.is_complete() {
            reply.ready().for_each(|part| run.follow(part));
            return Ok(reply);
        }
        // Dropped at the reply's end, which is when it is written down.
        Ok(reply.inspect(move |part| run.follow(part)))
    }

    fn note(&self, run: &Run) {
        let took = run.begun.elapsed();
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let digest = run.command.plan().map_or(0, |plan| plan.digest);
        let mut digests = self.digests.lock();
        let statistics = match digests.get_mut(&digest) {
            Some(statistics) => statistics,
            None => {
                let digest = if digests.len() < self.digests_max { digest } else { 0 };
                digests.entry(digest).or_insert_with(|| Statistics::new(text(&run.command, digest)))
            }
        };
        statistics.count += 1;
        statistics.errors += u64::from(run.is_error);
        statistics.rows += run.rows.rows();
        statistics.total_us = statistics.total_us.saturating_add(us);
        statistics.max_us = statistics.max_us.max(us);
        let bucket = &mut statistics.buckets[bucket(us)];
        *bucket = bucket.saturating_add(1);
        drop(digests);
        if took >= self.threshold {
            let session = run.command.session();
            tracing::warn!(
                took_ms = took.as_millis() as u64,
                rows = run.rows.rows(),
                digest = format!("{digest:016x}"),
                user = &*session.user(),
                schema = &*run.command.schema(),
                connection = session.connection_id(),
                sql = text(&run.command, digest),
                "slow command"
            );
        }
    }

    fn status(&self, top: usize) -> Value {
        let digests = self.digests.lock();
        let mut all: Vec<_> = digests.iter().collect();
        all.sort_by_key(|(_, statistics)| std::cmp::Reverse(statistics.total_us));
        let shown = all.iter().take(top).map(|(digest, own)| {
            json!({
                "digest": format!("{digest:016x}"),
                "sql": own.text,
                "count": own.count,
                "errors": own.errors,
                "rows": own.rows,
                "total_us": own.total_us,
                "p50_us": own.quantile(0.5),
                "p99_us": own.quantile(0.99),
                "max_us": own.max_us,
            })
        });
        json!({"digests": all.len(), "top": shown.collect::<Vec<_>>()})
    }
}

/// The text without literals, as far as it stands for its digest.
fn text(command: &Command, digest: u64) -> Option<String> {
    if digest == 0 {
        return None;
    }
    let session = command.session();
    let mut text = session.classifier().without_literals(command.sql(), session.sql_mode())?;
    text.truncate(text.floor_char_boundary(SAMPLE_BYTES_MAX));
    Some(text)
}

impl Statistics {
    fn new(text: Option<String>) -> Self {
        let buckets = Box::new([0; BUCKETS]);
        Self { text, count: 0, errors: 0, rows: 0, total_us: 0, max_us: 0, buckets }
    }

    /// The upper bound of the bucket below which this part of all runs lies.
    fn quantile(&self, part: f64) -> u64 {
        let all: u64 = self.buckets.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all as f64 * part).ceil() as u64;
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            below += u64::from(*count);
            if below >= wanted {
                return upper_bound(index).min(self.max_us);
            }
        }
        self.max_us
    }
}

/// The bucket of a time: the position of its highest bit, and the two bits behind it.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let octave = us.ilog2();
    let quarter = if octave >= 2 { us >> (octave - 2) & 3 } else { us << (2 - octave) & 3 };
    (4 * octave as usize + quarter as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / 4, bucket as u64 % 4);
    ((4 + quarter + 1) << octave) / 4
}

impl Run {
    fn follow(&mut self, part: &Part) {
        match part {
            Part::Packets(bytes) => self.rows.feed(bytes),
            Part::Final { end: Final::Ok(completion), .. } => self.rows.end_result(completion.affected_rows),
            Part::Final { end: Final::Err(_), .. } => {
                self.rows.end_result(0);
                self.is_error = true;
            }
            Part::Turn(_) => {}
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.log.note(self);
    }
}

/// Counts rows by the headers of their packets.
#[derive(Debug, Default)]
struct RowCount {
    deprecates_eof: bool,
    /// Bytes of the current frame that are still to come.
    skip: usize,
    /// The start of a header, or of the packet that tells how many columns there are.
    begun: Vec<u8>,
    /// The frame goes on with the packet before it.
    continues: bool,
    packets: u64,
    columns: u64,
    rows: u64,
}

impl RowCount {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = self.skip.min(bytes.len());
                self.skip -= here;
                bytes = &bytes[here..];
                continue;
            }
            // A header and one byte more, which in a result's first packet is the number of columns (or starts it).
            self.begun.push(bytes[0]);
            bytes = &bytes[1..];
            let Some(header) = Header::decode(&self.begun) else { continue };
            if header.len == 0 || self.begun.len() > HEADER_LEN {
                let first = self.begun.get(HEADER_LEN).copied().unwrap_or(0);
                self.begun.clear();
                self.skip = header.len.saturating_sub(1);
                if !self.continues {
                    self.packet(first);
                }
                self.continues = header.continues();
            }
        }
    }

    fn packet(&mut self, first: u8) {
        if self.packets == 0 {
            // More than 250 columns are not told apart from rows; nobody counts on that.
            self.columns = u64::from(first);
        }
        self.packets += 1;
    }

    fn end_result(&mut self, affected_rows: u64) {
        let head = 1 + self.columns + u64::from(!self.deprecates_eof);
        self.rows += self.packets.saturating_sub(head) + affected_rows;
        self.packets = 0;
    }

    /// Rows sent and changed, of all results that have ended.
    fn rows(&self) -> u64 {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::{
        Role,
        rows::{Column, ResultSet},
        testing::{FakeRouter, command, conformance, run, session_with},
    };

    use super::*;
    use crate::{classify::SqlClassifier, layers::tests::setup};

    #[tokio::test]
    async fn it_conforms() {
        conformance(|| layer(&mut setup("slow_log", json!({"threshold_ms": 1000}))).unwrap()).await;
    }

    #[tokio::test]
    async fn rows_are_counted_at_any_cut() {
        let command = command("SELECT a, b FROM t");
        let result = ResultSet::new([Column::text("a"), Column::integer("b")]);
        let rows = (0..5).fold(result, |result, n| result.row(["x".into(), i64::from(n).into()]));
        let reply = rows.reply(&command).unwrap();
        let Some(Part::Packets(bytes)) = reply.ready().next().cloned() else { panic!("no rows") };
        for chunk in 1..bytes.len() {
            let mut count = RowCount { deprecates_eof: true, ..RowCount::default() };
            bytes.chunks(chunk).for_each(|piece| count.feed(piece));
            count.end_result(0);
            assert_eq!(count.rows(), 5, "in pieces of {chunk}");
        }
        let mut setup = setup("slow_log", json!({"threshold_ms": 0}));
        let layer = layer(&mut setup).unwrap();
        run(layer, FakeRouter::new([reply]), command).await.unwrap();
    }

    #[test]
    fn digests_without_room_share_statistics_and_those_that_had_room_keep_theirs() {
        let (threshold, digests) = (Duration::MAX, Arc::default());
        let log = Arc::new(SlowLog { threshold, digests_max: 2, digests });
        let session = session_with(Role::Master, Arc::new(SqlClassifier::new()));
        for sql in ["SELECT a", "SELECT b", "SELECT c", "SELECT d", "SELECT a"] {
            let (command, rows) = (Command::query(&session, sql), RowCount::default());
            drop(Run { log: log.clone(), command, begun: Instant::now(), rows, is_error: false });
        }
        let status = log.status(10);
        let mut shown: Vec<_> =
            status["top"].as_array().unwrap().iter().map(|own| (&own["sql"], &own["count"])).collect();
        shown.sort_by_key(|(sql, _)| sql.to_string());
        let wanted = [("SELECT a".into(), 2.into()), ("SELECT b".into(), 1.into()), (Value::Null, 2.into())];
        assert_eq!(shown, wanted.each_ref().map(|(sql, count)| (sql, count)));
    }

    #[test]
    fn buckets_are_in_order_and_hold_their_times() {
        for us in (0..5000).chain((0..40).map(|bit| 1 << bit)) {
            let bucket = bucket(us);
            assert!(us <= upper_bound(bucket) || bucket == BUCKETS - 1, "{us}");
        }
        assert!((0..5000).map(bucket).is_sorted());
    }
}
