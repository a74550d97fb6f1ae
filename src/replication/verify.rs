//! Whether the slaves hold what the master holds: table by table, in pieces, each at one position that all of them
//! stand at for a moment, while clients go on writing.
//!
//! For each piece the senders are held, the master's server is looked at through a consistent snapshot, whose position
//! is P, the senders go on up to P, and each goes on further as soon as its slave has opened a snapshot there: no slave
//! waits for another. The servers then hash the piece, each in its own time. A slave that does not open its snapshot in
//! time is left out from then on. On MySQL a commit may be seen an instant before its GTID is, so a piece that differs
//! is compared again at another position: only what differs each time is a difference.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use mysql_async::{Conn, prelude::Queryable};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    digest::{Answer, Digest, OPENED, Piece, Question, Snapshot},
    hub::{Hub, Shared},
    protocol::{Family, Mark},
    push::PushTarget,
    sender::Slave,
    slave_status::SlaveState,
};

/// One table compared, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// A table.
    Table(VerifiedTable),
    /// All tables: the last word.
    Done(Summary),
    /// It could not go on.
    Failed {
        /// Why.
        error: String,
    },
}

/// What was found in one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedTable {
    /// As `schema.table`.
    pub table: String,
    /// Rows that were compared.
    pub rows: u64,
    /// None if every slave holds the same.
    pub differences: Vec<Difference>,
}

/// How a slave differs from the master in a piece of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which slave.
    pub slave: String,
    /// At which position.
    pub position: String,
    /// What it is.
    pub what: String,
    /// The first keys whose rows differ.
    pub keys: Vec<String>,
}

/// What was found in all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Tables that were compared.
    pub tables: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// How many tables differ, by slave; every slave that was compared is here.
    pub differing_tables: std::collections::BTreeMap<String, u64>,
    /// Slaves that could not be compared, and why.
    pub not_compared: std::collections::BTreeMap<String, String>,
}

impl Summary {
    /// Whether every slave was compared and none differs.
    pub fn is_equal(&self) -> bool {
        self.not_compared.is_empty() && self.differing_tables.values().all(|tables| *tables == 0)
    }
}

/// Why a verification could not go on.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The master's server.
    #[error("the master's server: {0}")]
    MySql(#[from] mysql_async::Error),
    /// No moment without a commit.
    #[error("the master's server never stood still for long enough to read its position; try again later")]
    NeverStill,
    /// Another one runs.
    #[error("the slaves are being verified already")]
    Busy,
}

/// How often a piece that differs, or can't be compared now, is compared.
const TRIES: usize = 5;
/// How often the master's position is read around the opening of a snapshot until it has not moved.
const STILL_TRIES: usize = 200;
/// How often MariaDB's snapshot is renewed until it stands at the binlog's end.
const END_TRIES: usize = 10;
/// How long a slave may take to open a snapshot: longer than it waits itself for the position.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many keys are told of a difference.
const KEYS_MAX: usize = 5;

impl Hub {
    /// Compares all tables of all slaves with the master's; tells of each table as it goes.
    ///
    /// # Errors
    /// See [`VerifyError`]. A slave that can't be compared is no error: the summary names it.
    ///
    /// # Cancel safety
    /// Dropped, it ends; held senders go on.
    pub async fn verify(&self, told: Option<mpsc::Sender<Verified>>) -> Result<Summary, VerifyError> {
        let shared = self.shared();
        let _one_at_a_time = shared.verifying.try_lock().map_err(|_| VerifyError::Busy)?;
        let mut run = Run { shared, summary: Summary::default(), slaves: Vec::new() };
        for slave in shared.all_slaves() {
            match slave.state() {
                SlaveState::Streaming => {
                    run.summary.differing_tables.insert(slave.id.clone(), 0);
                    run.slaves.push(slave);
                }
                state => {
                    let why = serde_json::to_value(&state).map_or_else(|_| format!("{state:?}"), |v| v.to_string());
                    run.summary.not_compared.insert(slave.id.clone(), why);
                }
            }
        }
        let mut conn = Conn::new(shared.mysql()).await?;
        let tables: Vec<(String, String)> = conn.query(TABLES).await?;
        conn.disconnect().await?;
        for (database, table) in tables {
            let verified = run.table(database, table).await?;
            if let Some(told) = &told
                && told.send(Verified::Table(verified)).await.is_err()
            {
                break; // nobody listens any more
            }
        }
        *shared.verified.lock() = Some(run.summary.clone());
        Ok(run.summary)
    }
}

const TABLES: &str = "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES \
    WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') \
    AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'towline') \
    ORDER BY TABLE_SCHEMA, TABLE_NAME";

struct Run<'a> {
    shared: &'a Arc<Shared>,
    summary: Summary,
    slaves: Vec<Arc<Slave>>,
}

/// Keeps senders from pushing beyond a position, until dropped.
struct Hold<'a>(&'a [Arc<Slave>]);

impl<'a> Hold<'a> {
    fn new(slaves: &'a [Arc<Slave>]) -> Self {
        let hold = Self(slaves);
        hold.limit(Default::default());
        hold
    }

    fn limit(&self, position: towline_middleware::Position) {
        for slave in self.0 {
            slave.gate.send_modify(|gate| gate.limit = Some(position));
        }
    }
}

/// Lets one sender go on.
fn release(slave: &Slave) {
    slave.gate.send_modify(|gate| gate.limit = None);
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|slave| release(slave));
    }
}

impl Run<'_> {
    async fn table(&mut self, database: String, table: String) -> Result<VerifiedTable, VerifyError> {
        let name = format!("{database}.{table}");
        let mut verified = VerifiedTable { table: name, rows: 0, differences: Vec::new() };
        let mut piece = Piece { database, table, after: None, up_to: None, with_rows: false };
        loop {
            piece.with_rows = false;
            piece.up_to = None;
            let mut tries = 0;
            let (own, differences) = loop {
                tries += 1;
                let (own, differences) = self.compare(&mut piece).await?;
                if differences.is_empty() || tries == TRIES {
                    break (own, differences);
                }
                piece.with_rows = true;
            };
            verified.rows += own.map_or(0, |own| own.rows);
            for difference in differences {
                // What concerns the whole table is told once, not for each piece.
                let known = |known: &Difference| known.slave == difference.slave && known.what == difference.what;
                if !difference.keys.is_empty() || !verified.differences.iter().any(known) {
                    verified.differences.push(difference);
                }
            }
            match piece.up_to {
                Some(up_to) => piece.after = Some(up_to),
                None => break,
            }
        }
        self.summary.tables += 1;
        self.summary.rows += verified.rows;
        for (slave, tables) in &mut self.summary.differing_tables {
            *tables += u64::from(verified.differences.iter().any(|difference| difference.slave == *slave));
        }
        Ok(verified)
    }

    /// Compares a piece once, at one position; sets where it ends. Slaves that do not answer are left out from then on.
    async fn compare(&mut self, piece: &mut Piece) -> Result<(Option<Digest>, Vec<Difference>), VerifyError> {
        let slaves = self.slaves.clone();
        let hold = Hold::new(&slaves);
        let mut snapshot = Snapshot::open(&self.shared.mysql()).await?;
        let at = self.still(&mut snapshot).await?;
        if piece.up_to.is_none() {
            piece.up_to = snapshot.bound(piece).await?;
        }
        hold.limit(at.position);
        let question = Question { at: at.clone(), piece: piece.clone() };
        let opened = join_all(slaves.iter().map(async |slave| {
            let opened = Asked::ask(self.shared.target(slave), &question).await;
            release(slave);
            opened
        }));
        let opened = opened.await;
        let mut asked = Vec::with_capacity(opened.len());
        for (slave, opened) in slaves.iter().zip(opened) {
            match opened {
                Err(Unanswered::Silent(why)) => self.leave_out(slave, why),
                Err(Unanswered::Refused(why)) => asked.push((slave, Err(why))),
                Ok(opened) => asked.push((slave, Ok(opened))),
            }
        }
        let answers = join_all(asked.into_iter().map(async |(slave, asked)| match asked {
            Ok(asked) => (slave, asked.answer().await),
            Err(error) => (slave, Answer::Error(error)),
        }));
        let (own, answers) = tokio::join!(snapshot.digest(piece), answers);
        let own = match own {
            // Changed since the snapshot: as good as different, so it is looked at again.
            Err(mysql_async::Error::Server(error)) if error.code == 1412 => None,
            other => other?,
        };
        let differences = answers.into_iter().filter_map(|(slave, answer)| {
            let (what, keys) = difference(own.as_ref(), answer)?;
            Some(Difference { slave: slave.id.clone(), position: at.position.to_string(), what, keys })
        });
        let differences = differences.collect();
        Ok((own, differences))
    }

    /// Compares a slave no further; what was found different in it stays told.
    fn leave_out(&mut self, slave: &Slave, why: String) {
        self.slaves.retain(|kept| kept.id != slave.id);
        self.summary.differing_tables.retain(|id, tables| *id != slave.id || *tables > 0);
        self.summary.not_compared.insert(slave.id.clone(), why);
    }

    /// Makes the snapshot one whose position is known, and tells it.
    async fn still(&self, snapshot: &mut Snapshot) -> Result<Mark, VerifyError> {
        if self.shared.family() == Some(Family::MariaDb) {
            return self.mark_of_mariadb(snapshot).await;
        }
        let mut before = self.shared.newest(snapshot.conn()).await?;
        for _ in 0..STILL_TRIES {
            snapshot.renew().await?;
            let after = self.shared.newest(snapshot.conn()).await?;
            if after == before {
                return Ok(after);
            }
            before = after;
        }
        Err(VerifyError::NeverStill)
    }

    /// MariaDB tells where in the binlog a snapshot stands. If that is the binlog's end its last GTID is the snapshot's;
    /// if a commit is always on its way the server looks the GTID up, for which it reads the file from its beginning.
    async fn mark_of_mariadb(&self, snapshot: &mut Snapshot) -> Result<Mark, VerifyError> {
        const LOOK_UP: &str = "SELECT BINLOG_GTID_POS(\
            (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'binlog_snapshot_file'), \
            (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'binlog_snapshot_position'))";
        for _ in 0..END_TRIES {
            snapshot.renew().await?;
            let stands: Vec<(String, String)> =
                snapshot.conn().query("SHOW STATUS LIKE 'binlog\\_snapshot\\_%'").await?;
            let newest = self.shared.newest(snapshot.conn()).await?;
            let end: Option<mysql_async::Row> = snapshot.conn().query_first("SHOW MASTER STATUS").await?;
            let end = end.and_then(|row| Some([row.get::<String, _>(0)?, row.get::<u64, _>(1)?.to_string()]));
            if end.is_some_and(|end| end.iter().all(|part| stands.iter().any(|(_, value)| value == part))) {
                return Ok(newest);
            }
        }
        let state: Option<String> = snapshot.conn().query_first(LOOK_UP).await?;
        self.shared.mark_in(&state.unwrap_or_default()).ok_or(VerifyError::NeverStill)
    }
}

/// How a slave's piece differs from the master's; none if it does not.
fn difference(own: Option<&Digest>, answer: Answer) -> Option<(String, Vec<String>)> {
    let theirs = match answer {
        Answer::Error(error) => return Some((format!("can't be compared: {error}"), Vec::new())),
        Answer::Digest(theirs) => theirs,
    };
    let (own, theirs) = match (own, &theirs) {
        (None, None) => return None,
        (Some(_), None) => return Some(("the table is missing".to_owned(), Vec::new())),
        (None, Some(_)) => return Some(("the table is not on the master".to_owned(), Vec::new())),
        (Some(own), Some(theirs)) => (own, theirs),
    };
    if (own.rows, &own.sums, &own.definition) == (theirs.rows, &theirs.sums, &theirs.definition) {
        return None;
    }
    if own.definition != theirs.definition {
        return Some(("the table is defined otherwise".to_owned(), Vec::new()));
    }
    // Each row as often as it is there, so that equal rows of a table without a key count.
    let only = |here: &Digest, there: &Digest| {
        let mut there = there.each.clone();
        there.sort_unstable();
        let missing = |row: &&(String, String)| match there.binary_search(row) {
            Ok(at) => {
                there.remove(at);
                false
            }
            Err(_) => true,
        };
        let mut missing = missing;
        here.each.iter().filter(|row| missing(row)).map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    let mut keys = only(own, theirs);
    keys.extend(only(theirs, own));
    let mut seen = std::collections::HashSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    keys.truncate(KEYS_MAX);
    Some((format!("{} rows on the master, {} on the slave, and not the same", own.rows, theirs.rows), keys))
}

/// Why a slave has opened no snapshot.
enum Unanswered {
    /// It did not answer.
    Silent(String),
    /// It answered why: it may be asked again.
    Refused(String),
}

/// A slave that has opened its snapshot and has still to answer.
struct Asked(reqwest::Response, Vec<u8>);

impl Asked {
    async fn ask(target: PushTarget, question: &Question) -> Result<Self, Unanswered> {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, Self::open(target, question));
        opened.await.unwrap_or_else(|_| Err(Unanswered::Silent(format!("no answer within {OPEN_TIMEOUT:?}"))))
    }

    async fn open(target: PushTarget, question: &Question) -> Result<Self, Unanswered> {
        let mut response = target.digest(question).await.map_err(|error| Unanswered::Silent(error.to_string()))?;
        let mut text = Vec::new();
        while text.len() < OPENED.len() {
            match response.chunk().await {
                Ok(Some(chunk)) => text.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(Unanswered::Silent(error.to_string())),
            }
        }
        match text.strip_prefix(OPENED.as_bytes()) {
            Some(rest) if response.status().is_success() => Ok(Self(response, rest.to_vec())),
            _ => Err(Unanswered::Refused(format!("{}: {}", response.status(), String::from_utf8_lossy(&text)))),
        }
    }

    async fn answer(mut self) -> Answer {
        loop {
            match self.0.chunk().await {
                Ok(Some(chunk)) => self.1.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Answer::Error(error.to_string()),
            }
        }
        serde_json::from_slice(&self.1).unwrap_or_else(|error| Answer::Error(error.to_string()))
    }
}
