//! The slave's side: fetches a snapshot and makes it this server's data.
//!
//! While a row stands in `towline.snapshot` the server's data is not whole and nothing else is applied to it. Each piece
//! of a table is committed together with the record of how far it is, and the position together with the end of the
//! snapshot: whatever is killed between two steps, they go on from there.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use futures_util::future::try_join_all;
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tokio::{sync::watch, time::sleep};
use towline_middleware::{Epoch, layers::admission::AdmissionLayer};

use super::{NO_RIGHT, Plan, RowsLine, RowsQuestion, TablePlan, leave_log, make, quoted};
use crate::replication::{
    NO_LIMITS,
    back_off::BackOff,
    blockers::BlockerWatch,
    json_lines::Lines,
    progress::{ApplyState, SnapshotProgress, Track, now_seconds},
    protocol::{Family, Mark},
    registration::NOT_ADMINISTRATION,
    tables::slave::{self, SlaveRecord},
};

/// Where a slave gets its data from when it has none.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// The URL of the master's administration, without a slash at its end.
    pub master: String,
    /// The cluster's secret.
    pub secret: Option<String>,
    /// Whether data that is of no cluster is replaced.
    pub replace: bool,
    /// Whether a slave that the master's binlog no longer reaches fetches a new one by itself.
    pub again: bool,
    /// Turns clients away while the data is not whole.
    pub admission: AdmissionLayer,
}

/// Why a snapshot can't be had now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("a snapshot can't be written to this server: {0}")]
    MySql(#[from] mysql_async::Error),
    #[error("a snapshot can't be fetched from the master: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the master gives no snapshot: {NOT_ADMINISTRATION}")]
    NotAdministration,
    #[error("the master gives no snapshot, it answers {0}: {1}")]
    Refused(StatusCode, String),
    #[error("the snapshot broke off: {0}")]
    BrokeOff(#[source] axum::Error),
    #[error("the rows of {0} broke off before their end")]
    Cut(String),
    #[error("the snapshot is lost, a new one is begun: {0}")]
    Lost(String),
    #[error("the master speaks another version of snapshots: {0}")]
    Json(#[from] serde_json::Error),
    #[error("this slave's server is {own}, the master's is {theirs}: a slave needs a server of its master's family")]
    OtherFamily { own: Family, theirs: Family },
    #[error(
        "this slave belongs to the cluster {own}, the master of `cluster.master` to {theirs}: name a master of its own \
         cluster there, or empty this server"
    )]
    OtherCluster { own: String, theirs: String },
    #[error(
        "the master of `cluster.master` is of epoch {theirs}, but a master of epoch {own} has pushed here: name the newer \
         master there, the older one must step down"
    )]
    OldEpoch { own: Epoch, theirs: Epoch },
    #[error(
        "this server holds data (schema `{0}`) and is no slave yet: start it empty, or with `--replace` to replace all of \
         its data by the master's"
    )]
    ForeignData(String),
    #[error("the master's definition of {object} can't be made here, the snapshot is begun anew: {error}")]
    Definition { object: String, error: mysql_async::Error },
}

/// How many tables are fetched at a time.
const WORKERS: usize = 4;
/// What a request may take until its answer begins; the master waits for locks while it begins a snapshot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// After how long without a byte of rows the connection counts as cut.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A master's answer that is no snapshot is shown up to here.
const ANSWER_TEXT_MAX: usize = 300;

/// Fetches a snapshot if this server needs one, or `again`, and tries until it has it.
pub(crate) async fn load_until_done(
    options: &SnapshotOptions,
    again: bool,
    mysql: &Opts,
    track: &watch::Sender<Track>,
    blockers_ended: &Arc<AtomicU64>,
) {
    let mut back_off = BackOff::new();
    let mut told = None;
    while let Err(error) = load_once(options, again, mysql, track, blockers_ended).await {
        let error = error.to_string();
        // The same trouble is told once, not at every try.
        if told.as_ref() != Some(&error) {
            tracing::warn!(error, "this slave has no snapshot yet; trying again");
            told = Some(error.clone());
        }
        track.send_modify(|track| track.state = ApplyState::Unavailable { error });
        sleep(back_off.wait()).await;
    }
}

async fn load_once(
    options: &SnapshotOptions,
    again: bool,
    mysql: &Opts,
    track: &watch::Sender<Track>,
    blockers_ended: &Arc<AtomicU64>,
) -> Result<(), LoadError> {
    let opts: Opts = OptsBuilder::from_opts(mysql.clone()).conn_ttl(None).into();
    let mut conn = Conn::new(opts.clone()).await?;
    let record = slave::open(&mut conn).await?;
    let begun = slave::snapshot(&mut conn).await?;
    if begun.is_none() && !again && record.mark != Mark::default() {
        return Ok(());
    }
    if begun.is_none()
        && !again
        && !options.replace
        && let Some(schema) = slave::foreign_schema(&mut conn).await?
    {
        return Err(LoadError::ForeignData(schema));
    }
    set_up(&mut conn).await?;
    let client = Client::builder().no_proxy().read_timeout(SILENCE_MAX.max(ANSWER_TIMEOUT)).build()?;
    let master = Master { client, options };
    let known = match &begun {
        Some(begun) => master.plan(Some(&begun.id)).await?,
        None => None,
    };
    // What was here of a cluster, or of whom this server was taken from, goes in whole, whoever goes on with it.
    let with_accounts = options.replace || again || (begun.is_some() && !record.cluster.is_empty());
    let is_made = known.is_some() && begun.is_some_and(|begun| begun.made);
    let plan = match known {
        Some(plan) => plan,
        None => {
            let plan = master.plan(None).await?.ok_or_else(|| LoadError::Lost("it has gone".to_owned()))?;
            if let Err(refusal) = check(&mut conn, &record, &plan).await {
                master.end(&plan.id).await;
                return Err(refusal);
            }
            slave::begin_snapshot(&mut conn, &plan.id, options.replace.then_some(&*plan.cluster)).await?;
            plan
        }
    };
    tracing::info!(snapshot = plan.id, position = %plan.mark.position, tables = plan.tables.len(), "fetching a snapshot");
    if !is_made {
        // Clients come no more, but those that are here may hold tables.
        let is_mariadb = plan.family == Some(Family::MariaDb);
        let watch = BlockerWatch::start(opts.clone(), conn.id(), is_mariadb, Arc::clone(blockers_ended));
        wipe(&mut conn, with_accounts, is_mariadb).await?;
        drop(watch);
        let made = make::make_on_empty(&mut conn, &plan.before, is_mariadb).await;
        let left_out = master.end_if_unfit(&plan, made).await?;
        slave::snapshot_made(&mut conn, &left_out).await?;
    }
    Loading { master: &master, plan: &plan, opts: &opts, track, rows: AtomicU64::new(0) }.tables().await?;
    let left_out = master.end_if_unfit(&plan, make::make(&mut conn, &plan.after).await).await?;
    slave::finish_snapshot(&mut conn, &plan, now_seconds(), &left_out).await?;
    tracing::info!(position = %plan.mark.position, "the snapshot is whole");
    master.end(&plan.id).await;
    Ok(())
}

/// Refuses a snapshot that must not replace what this server holds; to be called while it still holds that.
async fn check(conn: &mut Conn, record: &SlaveRecord, plan: &Plan) -> Result<(), LoadError> {
    let version: String = conn.query_first("SELECT VERSION()").await?.unwrap_or_default();
    let own = Family::of_version(&version);
    if let Some(theirs) = plan.family.filter(|theirs| *theirs != own) {
        return Err(LoadError::OtherFamily { own, theirs });
    }
    if !record.cluster.is_empty() && record.cluster != plan.cluster {
        let [own, theirs] = [&record.cluster, &plan.cluster].map(String::clone);
        return Err(LoadError::OtherCluster { own, theirs });
    }
    if plan.epoch < record.fence {
        return Err(LoadError::OldEpoch { own: record.fence, theirs: plan.epoch });
    }
    Ok(())
}

/// What is loaded is not written to this server's own binlog, if the account may say so; the rest of its session means
/// the same whatever the server's settings are.
async fn set_up(conn: &mut Conn) -> mysql_async::Result<()> {
    conn.query_drop(NO_LIMITS).await?;
    leave_log(conn).await?;
    conn.query_drop("SET SESSION foreign_key_checks = 0, unique_checks = 0, lock_wait_timeout = 60").await?;
    let own = [
        "check_constraint_checks = 0",
        "system_versioning_insert_history = 1",
        "system_versioning_alter_history = KEEP",
        "innodb_strict_mode = 0",
    ];
    for own in own {
        // All but the last are MariaDB's, and the second a new one.
        const UNKNOWN: u16 = 1193;
        match conn.query_drop(format!("SET SESSION {own}")).await {
            Err(mysql_async::Error::Server(error)) if [UNKNOWN, NO_RIGHT].contains(&error.code) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Removes what a former try has made and, if that was asked for, what was here.
async fn wipe(conn: &mut Conn, with_accounts: bool, is_mariadb: bool) -> mysql_async::Result<()> {
    for schema in slave::foreign_schemas(conn).await? {
        conn.query_drop(format!("DROP DATABASE {}", quoted(&schema))).await?;
    }
    if with_accounts {
        let is_role = if is_mariadb { "is_role = 'Y'" } else { "FALSE" };
        let accounts: Vec<(String, String, bool)> = conn
            .query(format!(
                "SELECT User, Host, {is_role} FROM mysql.user WHERE User NOT IN ('root', 'mariadb.sys', 'mysql', '') \
                 AND User NOT LIKE 'mysql.%' AND CONCAT(User, '@', Host) <> CURRENT_USER()"
            ))
            .await?;
        for (user, host, is_role) in accounts {
            let sql = match (is_role, user.as_str()) {
                (true, "PUBLIC") => "REVOKE ALL PRIVILEGES, GRANT OPTION FROM PUBLIC".to_owned(),
                (true, _) => format!("DROP ROLE {}", quoted(&user)),
                _ => format!("DROP USER {}@{}", quoted(&user), quoted(&host)),
            };
            conn.query_drop(sql).await?;
        }
    }
    Ok(())
}

/// The master, as far as snapshots go.
struct Master<'a> {
    client: Client,
    options: &'a SnapshotOptions,
}

impl Master<'_> {
    fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/admin/snapshots{path}", self.options.master));
        match &self.options.secret {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        }
    }

    /// The plan of a snapshot that was begun, or of a new one; none if it is no more.
    async fn plan(&self, id: Option<&str>) -> Result<Option<Plan>, LoadError> {
        let request = self.request(reqwest::Method::POST, "").json(&serde_json::json!({ "id": id }));
        let answer = request.send().await?;
        if answer.status() == StatusCode::NOT_FOUND && id.is_some() {
            return Ok(None);
        }
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(LoadError::NotAdministration);
        }
        Ok(Some(serde_json::from_slice(&accepted(answer).await?.bytes().await?)?))
    }

    async fn rows(&self, question: &RowsQuestion) -> Result<Lines, LoadError> {
        let answer = self.request(reqwest::Method::POST, "/rows").json(question).send().await?;
        let body: reqwest::Body = accepted(answer).await?.into();
        Ok(Lines::new(Body::new(body)))
    }

    /// Lets a snapshot go in which something can't be made: the master's definitions may change, those of a snapshot don't.
    async fn end_if_unfit<T>(&self, plan: &Plan, made: Result<T, LoadError>) -> Result<T, LoadError> {
        if matches!(made, Err(LoadError::Definition { .. })) {
            self.end(&plan.id).await;
        }
        made
    }

    /// Lets a snapshot go. If that is lost the master does so in time.
    async fn end(&self, id: &str) {
        let _ = self.request(reqwest::Method::DELETE, &format!("?id={id}")).send().await;
    }
}

async fn accepted(answer: Response) -> Result<Response, LoadError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default();
    Err(LoadError::Refused(status, text.chars().take(ANSWER_TEXT_MAX).collect()))
}

/// A snapshot whose rows are on their way.
struct Loading<'a> {
    master: &'a Master<'a>,
    plan: &'a Plan,
    opts: &'a Opts,
    track: &'a watch::Sender<Track>,
    /// How many rows are here.
    rows: AtomicU64,
}

impl Loading<'_> {
    async fn tables(&self) -> Result<(), LoadError> {
        self.tell();
        // The largest first, so that the last ones end together.
        let mut numbers: Vec<usize> = (0..self.plan.tables.len()).collect();
        numbers.sort_by_key(|number| std::cmp::Reverse(self.plan.tables[*number].rows));
        let numbers = Mutex::new(VecDeque::from(numbers));
        let workers = (0..WORKERS.min(self.plan.tables.len())).map(|_| async {
            let mut conn = Conn::new(self.opts.clone()).await?;
            set_up(&mut conn).await?;
            conn.query_drop("SET NAMES binary").await?;
            conn.query_drop("SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', time_zone = '+00:00'")
                .await?;
            loop {
                let next = numbers.lock().pop_front();
                let Some(number) = next else { return Ok::<_, LoadError>(()) };
                self.table(&mut conn, number).await?;
            }
        });
        try_join_all(workers).await.map(drop)
    }

    async fn table(&self, conn: &mut Conn, number: usize) -> Result<(), LoadError> {
        let table = &self.plan.tables[number];
        let progress = slave::table_progress(conn, number).await?;
        if progress.as_ref().is_some_and(|progress| progress.done) {
            self.count(table.rows);
            return Ok(());
        }
        let after = progress.as_ref().map(|progress| progress.after.clone()).unwrap_or_default();
        if progress.is_none() {
            slave::begin_table(conn, number).await?;
        } else if after.is_empty() {
            empty(conn, table).await?;
        }
        let question = RowsQuestion { snapshot: self.plan.id.clone(), table: number, after };
        let mut lines = self.master.rows(&question).await?;
        while let Some(line) = lines.next().await.map_err(LoadError::BrokeOff)? {
            match serde_json::from_slice(&line)? {
                RowsLine::Rows { sql, rows, after } => {
                    conn.query_drop("BEGIN").await?;
                    conn.query_drop(sql.0.as_slice()).await?;
                    slave::move_table(conn, number, &after, false).await?;
                    conn.query_drop("COMMIT").await?;
                    self.count(rows);
                }
                RowsLine::Alive => {}
                RowsLine::End => return Ok(slave::move_table(conn, number, &[], true).await?),
                RowsLine::Lost(why) => return Err(LoadError::Lost(why)),
            }
        }
        Err(LoadError::Cut(format!("{}.{}", table.database, table.table)))
    }

    fn count(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        let rows = self.rows.load(Ordering::Relaxed);
        // The server only estimates how many rows there are.
        let expected = self.plan.tables.iter().map(|table| table.rows).sum::<u64>().max(rows + 1);
        let progress = SnapshotProgress {
            position: self.plan.mark.position,
            tables: self.plan.tables.len(),
            rows,
            percent: rows * 100 / expected,
        };
        self.track.send_modify(|track| track.state = ApplyState::Loading(progress));
    }
}

/// Removes the rows that a try has left which can't be gone on with.
async fn empty(conn: &mut Conn, table: &TablePlan) -> mysql_async::Result<()> {
    let place = format!("{}.{}", quoted(&table.database), quoted(&table.table));
    if !table.versioned {
        return conn.query_drop(format!("TRUNCATE TABLE {place}")).await;
    }
    conn.query_drop(format!("DELETE FROM {place}")).await?;
    conn.query_drop(format!("DELETE HISTORY FROM {place}")).await
}
