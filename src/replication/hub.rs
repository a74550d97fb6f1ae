//! The master's side: what is committed is captured once, kept in memory for a while, and pushed to every slave.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use mysql_async::{Conn, Opts, prelude::Queryable};
use parking_lot::Mutex;
use reqwest::{Client, Url, header::HeaderValue};
use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_middleware::{
    Acknowledgement, BoxFuture, ChangeFeed, Changed, Classifier, Epoch, Position, Replication, Step,
};

use super::{
    acks::{Acks, Missing},
    back_off::BackOff,
    encoded::Encoded,
    history::{History, newest},
    outlook,
    progress::now_seconds,
    protocol::{Family, Mark},
    push::PushTarget,
    ring::{BatchLimits, Ring},
    sender::{self, Slave},
    slave_status::SlaveStatus,
    snapshot::{
        Plan, RowsLine, RowsQuestion,
        source::{SnapshotError, Snapshots},
    },
    tables::master::{self, RegisteredSlave},
    verify::Summary,
};
use crate::{
    capture::{Capture, CaptureError, CaptureOptions, Captured, Source},
    config::{Ack, AckOnTimeout},
    fail_point::FailPoint,
};

/// How a master captures and pushes.
#[derive(Clone)]
pub struct HubOptions {
    /// The master's MySQL, with an account that may read the binlog and write the schema `towline`.
    pub mysql: Opts,
    /// What the slaves know the master by; none pushes without authorization.
    pub secret: Option<String>,
    /// The URLs of slaves that are registered at the start. One that is already registered keeps its name.
    pub slaves: Vec<String>,
    /// How many slaves must have applied a write before its client gets the OK.
    pub ack: Ack,
    /// How long the OK waits for them.
    pub ack_timeout: Duration,
    /// What the client gets when they have not in time.
    pub ack_on_timeout: AckOnTimeout,
    /// How many bytes of the newest transactions are kept in memory.
    pub ring_bytes_max: usize,
    /// How many bytes of transactions one push carries; a single one may be longer.
    pub batch_bytes_max: usize,
    /// How many transactions one push carries.
    pub batch_transactions_max: usize,
    /// A transaction with more bytes of events is not held in memory but streamed.
    pub transaction_bytes_max: usize,
    /// How long a slave may take to answer a push, and ten times as long to take one change of a streamed transaction.
    pub push_timeout: Duration,
    /// How often it is looked for what is about to go wrong with a slave.
    pub outlook_interval: Duration,
    /// How often all slaves are compared with the master; none for never.
    pub verify_interval: Option<Duration>,
    /// Whether a slave that differs gets no more changes until it is resumed.
    pub verify_stops_slave: bool,
    /// Learns which statements the server has shown to be writes.
    pub classifier: Arc<dyn Classifier>,
    /// Is told each captured transaction before the position moves.
    pub changes: ChangeFeed,
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the secret nor how to log in.
        f.debug_struct("HubOptions").field("slaves", &self.slaves).field("ack", &self.ack).finish_non_exhaustive()
    }
}

/// Why the hub could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The master's MySQL.
    #[error("the list of slaves in the master's MySQL could not be read or changed: {0}")]
    MySql(#[from] mysql_async::Error),
    /// A slave's URL.
    #[error("`{0}` is no URL of a slave: write http://host:port")]
    Url(String),
    /// A slave's id.
    #[error("a slave's id is 1 to 128 characters long")]
    Id,
    /// A slave of the other family of servers.
    #[error("the slave's server is {slave}, this master's is {master}: a slave needs a server of its master's family")]
    Family {
        /// The slave's.
        slave: Family,
        /// The master's.
        master: Family,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    Client(#[source] reqwest::Error),
    /// The secret.
    #[error("the cluster's secret has characters that HTTP can't carry in a header")]
    Secret,
}

/// How the hub fares.
#[derive(Clone, Debug, Serialize)]
pub struct HubStatus {
    /// The cluster's id; empty until the master's MySQL was reached.
    pub cluster: String,
    /// The master's epoch.
    pub epoch: Epoch,
    /// Whether it captures.
    #[serde(flatten)]
    pub state: HubState,
    /// The newest captured transaction.
    pub captured: Mark,
    /// What memory begins after.
    pub ring_after: Position,
    /// Transactions in memory.
    pub ring_transactions: usize,
    /// Bytes in memory.
    pub ring_bytes: usize,
    /// Writes whose OK had no GTID although `ack` needs one.
    pub unlogged_writes: u64,
}

/// Whether the hub captures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HubState {
    /// The master's MySQL was not reached yet.
    Starting,
    /// It does.
    Running,
    /// The master's MySQL is away; it is tried again.
    Away {
        /// What went wrong.
        error: String,
    },
    /// The binlog holds what can't be captured, or the server is not set up for it. It is tried again slowly; but not where
    /// the server has lost the history that was captured.
    Stopped {
        /// What it is and how it is mended.
        error: String,
    },
}

/// Captures a master's transactions and pushes them to its slaves. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Hub {
    /// Starts to capture and push, whether or not the master's MySQL answers yet.
    ///
    /// # Errors
    /// When the options can't be used: a URL or the secret.
    pub fn start(mut options: HubOptions) -> Result<Self, HubError> {
        for url in &mut options.slaves {
            *url = checked_url(url)?;
        }
        let authorization = match &options.secret {
            None => None,
            Some(secret) => {
                let mut value = HeaderValue::try_from(format!("Bearer {secret}")).map_err(|_| HubError::Secret)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.push_timeout.min(CONNECT_TIMEOUT))
            .timeout(options.push_timeout)
            .build()
            .map_err(HubError::Client)?;
        let limits =
            BatchLimits { bytes_max: options.batch_bytes_max, transactions_max: options.batch_transactions_max.max(1) };
        let shared = Arc::new(Shared {
            acks: Acks::new(options.ack),
            ring: Mutex::new(Ring::new(Mark::default(), options.ring_bytes_max)),
            captured: watch::Sender::new(Mark::default()),
            limits,
            client,
            authorization,
            history: OnceLock::new(),
            is_ready: CancellationToken::new(),
            lost: watch::Sender::default(),
            doubted: Notify::new(),
            state: Mutex::new(HubState::Starting),
            slaves: Mutex::default(),
            registration: tokio::sync::Mutex::default(),
            registered: Notify::new(),
            verifying: tokio::sync::Mutex::default(),
            verified: Mutex::default(),
            snapshots: Snapshots::default(),
            unlogged_writes: AtomicU64::new(0),
            stop: CancellationToken::new(),
            options,
        });
        let hub = Self { shared, tasks: TaskTracker::new() };
        let capturing = hub.clone();
        hub.tasks.spawn(async move {
            let stop = capturing.shared.stop.clone();
            stop.run_until_cancelled(capturing.capture_forever()).await;
        });
        let watching = Arc::clone(&hub.shared);
        hub.tasks.spawn(async move {
            watching.stop.run_until_cancelled(outlook::watch(&watching)).await;
        });
        if let Some(every) = hub.shared.options.verify_interval {
            let verifying = hub.clone();
            hub.tasks.spawn(async move {
                let stop = verifying.shared.stop.clone();
                stop.run_until_cancelled(verifying.verify_forever(every)).await;
            });
        }
        Ok(hub)
    }

    /// Registers a slave under a name, or gives a known one its new URL. A URL that is registered under another name
    /// is the same slave, which takes the new name. `family` is what it says of its server; a slave that does not say is
    /// found out at the first push.
    ///
    /// # Errors
    /// When the id or the URL is none, the slave's server is of the other family, or the master's MySQL can't write it
    /// down.
    pub async fn register(&self, id: &str, url: &str, family: Option<Family>) -> Result<(), HubError> {
        let url = checked_url(url)?;
        if !(1..=128).contains(&id.chars().count()) {
            return Err(HubError::Id);
        }
        let _turn = self.shared.registration.lock().await;
        let mut conn = Conn::new(self.shared.options.mysql.clone()).await?;
        let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
        let own = Family::of_version(&version.unwrap_or_default());
        if let Some(slave) = family.filter(|family| *family != own) {
            conn.disconnect().await?;
            return Err(HubError::Family { slave, master: own });
        }
        master::open(&mut conn).await?;
        let slave = master::register_slave(&mut conn, id, &url).await?;
        conn.disconnect().await?;
        self.shared.forget(|known| known.url == slave.url && known.id != slave.id);
        self.send_to(slave);
        Ok(())
    }

    /// Forgets a slave. False if there is none of that id.
    ///
    /// # Errors
    /// When the master's MySQL can't write it down.
    pub async fn remove(&self, id: &str) -> Result<bool, HubError> {
        let _turn = self.shared.registration.lock().await;
        let mut conn = Conn::new(self.shared.options.mysql.clone()).await?;
        master::open(&mut conn).await?;
        let removed = master::remove_slave(&mut conn, id).await?;
        conn.disconnect().await?;
        self.shared.forget(|known| known.id == id);
        Ok(removed)
    }

    /// Stops pushing to a slave until it is resumed, over restarts too. False if there is none of that id.
    ///
    /// # Errors
    /// When the master's MySQL can't write it down; nothing is changed then.
    pub async fn pause(&self, id: &str, reason: &str) -> Result<bool, HubError> {
        self.set_pause(id, Some(reason)).await
    }

    /// Pushes to a slave again. False if there is none of that id.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&self, id: &str) -> Result<bool, HubError> {
        self.set_pause(id, None).await
    }

    async fn set_pause(&self, id: &str, reason: Option<&str>) -> Result<bool, HubError> {
        let _turn = self.shared.registration.lock().await;
        let mut conn = Conn::new(self.shared.options.mysql.clone()).await?;
        master::open(&mut conn).await?;
        master::set_pause(&mut conn, id, reason).await?;
        conn.disconnect().await?;
        Ok(self.shared.set_pause(id, reason))
    }

    /// Begins a snapshot for a new slave, or tells the plan of the one with this name.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn snapshot(&self, id: Option<&str>) -> Result<Plan, SnapshotError> {
        let shared = &self.shared;
        if let Some(id) = id {
            return shared.snapshots.plan(id).ok_or(SnapshotError::Unknown);
        }
        if shared.history.get().is_none() {
            return Err(SnapshotError::NotReady);
        }
        let (cluster, epoch) = shared.cluster();
        let (before, tables, after) = Default::default();
        let id = format!("{:032x}", fastrand::u128(..));
        let plan = Plan { id, cluster, epoch, family: shared.family(), mark: Mark::default(), before, tables, after };
        shared.snapshots.begin(shared, plan).await
    }

    /// The rows of a table of a snapshot, as they are taken.
    ///
    /// # Errors
    /// There is no such snapshot or table.
    pub fn snapshot_rows(&self, question: RowsQuestion) -> Result<mpsc::Receiver<RowsLine>, SnapshotError> {
        self.shared.snapshots.rows(question)
    }

    /// Lets a snapshot go.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn end_snapshot(&self, id: &str) -> Result<(), SnapshotError> {
        if self.shared.snapshots.end(id) { Ok(()) } else { Err(SnapshotError::Unknown) }
    }

    /// What the last verification has found; none before the first.
    pub fn verified(&self) -> Option<Summary> {
        self.shared.verified.lock().clone()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Verifies again and again.
    async fn verify_forever(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let summary = match self.verify(None).await {
                Ok(summary) => summary,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the slaves could not be verified");
                    continue;
                }
            };
            for (id, tables) in summary.differing_tables.iter().filter(|(_, tables)| **tables > 0) {
                tracing::error!(
                    slave = id,
                    tables,
                    "a slave does not hold what the master holds: run `towline verify`"
                );
                if self.shared.options.verify_stops_slave {
                    self.stop_diverged(id).await;
                }
            }
        }
    }

    /// Pauses a slave that differs, if need be for this process's life only.
    async fn stop_diverged(&self, id: &str) {
        let reason = "it does not hold what the master holds: `towline verify` names the rows";
        if let Err(error) = self.pause(id, reason).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(slave = id, error, "a restart of this node would forget that a slave is paused");
            self.shared.set_pause(id, Some(reason));
        }
    }

    /// Every registered slave.
    pub fn slaves(&self) -> Vec<SlaveStatus> {
        let newest = self.shared.captured.borrow().position;
        let now = now_seconds();
        let slaves = self.shared.slaves.lock();
        let next = |mark: &Mark| self.shared.ring.lock().next_after(mark).map(|entry| entry.committed_at);
        slaves.values().map(|slave| slave.status(newest, next, now)).collect()
    }

    /// How it fares.
    pub fn status(&self) -> HubStatus {
        let shared = &self.shared;
        let (cluster, epoch) = shared.cluster();
        let ring = shared.ring.lock();
        let (ring_transactions, ring_bytes) = ring.size();
        HubStatus {
            cluster,
            epoch,
            state: shared.state.lock().clone(),
            captured: ring.newest().clone(),
            ring_after: ring.before().position,
            ring_transactions,
            ring_bytes,
            unlogged_writes: shared.unlogged_writes.load(Ordering::Relaxed),
        }
    }

    /// The newest captured transaction, as it moves.
    pub fn captured(&self) -> watch::Receiver<Mark> {
        self.shared.captured.subscribe()
    }

    /// Ends capturing and pushing. What a slave lacks it gets after the next start: nothing is lost.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Captures, and starts again when the master's MySQL was away; but not when it has lost its history.
    async fn capture_forever(&self) {
        let mut back_off = BackOff::new();
        loop {
            let error = match self.capture_until_error(&mut back_off).await {
                Err(error @ CaptureError::PrepareGone { .. }) => match self.pass_over(&error).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
                Ok(never) => match never {},
            };
            if error.is_lost_history() {
                return self.shared.lose(&error);
            }
            let (state, wait) = if error.is_transient() {
                (HubState::Away { error: error.to_string() }, back_off.wait())
            } else {
                (HubState::Stopped { error: error.to_string() }, STOPPED_RETRY)
            };
            self.shared.enter(state);
            tokio::time::sleep(wait).await;
        }
    }

    async fn capture_until_error(&self, back_off: &mut BackOff) -> Result<std::convert::Infallible, CaptureError> {
        let shared = &self.shared;
        match shared.history.get() {
            None => self.find_history().await?,
            Some(history) => {
                shared.check(history).await?;
            }
        }
        let mut capture = Capture::open(&shared.capture_options()).await?;
        shared.learn(capture.start());
        shared.enter(HubState::Running);
        loop {
            let captured = match capture.next().now_or_never() {
                Some(captured) => captured?,
                None => {
                    if shared.is_unattended() {
                        tokio::time::sleep(UNATTENDED_PAUSE).await;
                    }
                    shared.next_of(&mut capture).await?
                }
            };
            back_off.reset();
            FailPoint::Captured.pass();
            shared.note(captured);
            FailPoint::Noted.pass();
        }
    }

    /// Goes on behind what nobody can read any more. Each slave is told that it needs a snapshot when it comes to it, and
    /// one that has one gets what follows.
    async fn pass_over(&self, error: &CaptureError) -> Result<(), CaptureError> {
        let shared = &self.shared;
        let Some(history) = shared.history.get() else { return Ok(()) };
        tracing::error!(error = error as &dyn std::error::Error, "every slave needs a snapshot");
        let newest = shared.check(history).await?;
        shared.options.changes.tell(Step { position: newest.position, changed: Changed::Everything });
        shared.begin_after(newest);
        Ok(())
    }

    /// Reads who this master is and where its binlog ends, and starts the senders of the registered slaves.
    async fn find_history(&self) -> Result<(), CaptureError> {
        let shared = &self.shared;
        let connected = |error| CaptureError::Connect(error);
        let _turn = shared.registration.lock().await;
        let mut conn = Conn::new(shared.options.mysql.clone()).await.map_err(connected)?;
        let record = master::open(&mut conn).await.map_err(connected)?;
        let source = Source::of(&mut conn).await?;
        let mut slaves = master::slaves(&mut conn).await.map_err(connected)?;
        for url in &shared.options.slaves {
            if !slaves.iter().any(|slave| slave.url == *url) {
                slaves.push(master::register_slave(&mut conn, url, url).await.map_err(connected)?);
            }
        }
        let newest = newest(&mut conn, source, record.epoch).await.map_err(connected)?;
        // It ends either way.
        let _ = conn.disconnect().await;
        shared.begin_after(newest);
        // Only this task sets it, and only when it was empty.
        let _ = shared.history.set(History { record, source });
        shared.is_ready.cancel();
        slaves.into_iter().for_each(|slave| self.send_to(slave));
        Ok(())
    }

    /// Starts the sender of a slave, unless it has one with this URL.
    fn send_to(&self, RegisteredSlave { id, url, paused }: RegisteredSlave) {
        let shared = &self.shared;
        let slave = {
            let mut slaves = shared.slaves.lock();
            if slaves.get(&id).is_some_and(|known| known.url == url) {
                return;
            }
            let slave = Arc::new(Slave::new(id.clone(), url, shared.acks.add(), shared.stop.child_token()));
            slave.gate.send_modify(|gate| gate.paused = paused);
            if let Some(old) = slaves.insert(id, Arc::clone(&slave)) {
                old.removed.cancel();
                shared.acks.remove(old.ack_id);
            }
            slave
        };
        self.tasks.spawn(sender::run(Arc::clone(shared), slave));
        shared.registered.notify_one();
    }
}

impl Replication for Hub {
    fn position_of(&self, gtid: &str) -> Option<Position> {
        self.shared.history.get()?.position_of(gtid)
    }

    fn known(&self) -> Position {
        self.shared.captured.borrow().position
    }

    fn waits(&self) -> bool {
        self.shared.acks.wanted()
    }

    fn acknowledged(&self, position: Position, known: Position) -> BoxFuture<'_, Acknowledgement> {
        let HubOptions { ack_timeout, ack_on_timeout, .. } = self.shared.options;
        Box::pin(async move {
            let why = if position <= known {
                self.shared.doubted.notify_one();
                format!("{known} was captured before it began: the server has lost its history")
            } else {
                let mut lost = self.shared.lost.subscribe();
                let lost = lost.wait_for(Option::is_some);
                tokio::select! {
                    // The sender lives in `self`.
                    lost = lost => lost.ok().and_then(|lost| lost.clone()).unwrap_or_default(),
                    waited = self.shared.acks.wait(position, ack_timeout) => match waited {
                        Ok(()) => return Acknowledgement::Given,
                        Err(Missing { have, wanted, registered }) => format!(
                            "within {ack_timeout:?} only {have} of {wanted} wanted slaves have applied it ({registered} \
                             registered)"
                        ),
                    },
                }
            };
            Acknowledgement::Missing {
                reason: format!("Committed on the master at {position}, but {why}"),
                is_error: ack_on_timeout == AckOnTimeout::Error,
            }
        })
    }

    fn acknowledged_gtid<'a>(&'a self, gtid: &'a str, known: Position) -> BoxFuture<'a, Acknowledgement> {
        let HubOptions { ack_timeout, ack_on_timeout, .. } = self.shared.options;
        Box::pin(async move {
            // Clients may commit before a new process has asked the master who it is.
            let told = tokio::time::timeout(ack_timeout, self.shared.ready()).await;
            match told.ok().and_then(|()| self.position_of(gtid)) {
                Some(position) => self.acknowledged(position, known).await,
                None => Acknowledgement::Missing {
                    reason: format!(
                        "Committed on the master as {gtid}, but within {ack_timeout:?} replication knew no position of it"
                    ),
                    is_error: ack_on_timeout == AckOnTimeout::Error,
                },
            }
        })
    }

    fn misclassified(&self, key: u64) {
        self.shared.options.classifier.learn_write(key);
    }

    fn unlogged_write(&self) {
        self.shared.unlogged_writes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the hub and its senders share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) acks: Acks,
    pub(crate) ring: Mutex<Ring>,
    /// The newest captured transaction.
    pub(crate) captured: watch::Sender<Mark>,
    pub(crate) limits: BatchLimits,
    pub(crate) client: Client,
    pub(crate) authorization: Option<HeaderValue>,
    /// Set once the master's MySQL was reached.
    history: OnceLock<History>,
    is_ready: CancellationToken,
    /// Why nothing can be captured any more, once the server has lost its history.
    lost: watch::Sender<Option<String>>,
    /// Told when that may be so.
    doubted: Notify,
    state: Mutex<HubState>,
    slaves: Mutex<BTreeMap<String, Arc<Slave>>>,
    /// Held while the table of slaves and `slaves` are changed together.
    registration: tokio::sync::Mutex<()>,
    /// Told when there is a new slave.
    pub(super) registered: Notify,
    /// Held while the slaves are verified.
    pub(super) verifying: tokio::sync::Mutex<()>,
    /// What that found last.
    pub(super) verified: Mutex<Option<Summary>>,
    snapshots: Snapshots,
    unlogged_writes: AtomicU64,
    stop: CancellationToken,
    options: HubOptions,
}

impl Shared {
    /// Whether nobody waits for changes: there is no slave, and no layer that listens.
    fn is_unattended(&self) -> bool {
        self.slaves.lock().is_empty() && !self.options.changes.has_listeners()
    }

    /// The next transaction. While there is none it is looked whether the server still has the last one.
    async fn next_of(&self, capture: &mut Capture) -> Result<Captured, CaptureError> {
        loop {
            tokio::select! {
                captured = capture.next() => return captured,
                () = self.doubted.notified() => {}
                () = tokio::time::sleep(HISTORY_CHECK) => {}
            }
            if let Some(history) = self.history.get() {
                self.check(history).await?;
            }
        }
    }

    /// Tells the last transaction in the binlog of the server, which is still the one that was captured.
    async fn check(&self, history: &History) -> Result<Mark, CaptureError> {
        let mut conn = Conn::new(self.mysql()).await.map_err(CaptureError::Connect)?;
        let captured = self.captured.borrow().clone();
        let newest = history.check(&mut conn, &captured).await?;
        // It ends either way.
        let _ = conn.disconnect().await;
        Ok(newest)
    }

    /// The last transaction in the binlog, for a snapshot: of a server that has lost its history there must be none.
    pub(super) async fn mark_of_snapshot(&self, conn: &mut Conn) -> Result<Mark, SnapshotError> {
        let history = self.history.get().ok_or(SnapshotError::NotReady)?;
        if let Some(error) = self.lost() {
            return Err(SnapshotError::Unfit(error));
        }
        let captured = self.captured.borrow().clone();
        history.check(conn, &captured).await.map_err(|error| {
            self.doubted.notify_one();
            SnapshotError::Unfit(error.to_string())
        })
    }

    /// The same mark with its checksum, if it is captured in a moment.
    pub(super) async fn with_checksum(&self, mark: Mark) -> Mark {
        let mut captured = self.captured.subscribe();
        let reached = captured.wait_for(|captured| captured.position >= mark.position);
        // Without it the slave has only the GTID until its first transaction.
        let _ = tokio::time::timeout(CHECKSUM_WAIT, reached).await.map(drop);
        self.ring.lock().known(&mark).cloned().unwrap_or(mark)
    }

    /// Takes over what capture has found out of the newest transaction.
    fn learn(&self, start: &Mark) {
        let mut ring = self.ring.lock();
        if *ring.newest() != *start && ring.newest().is_same(start) {
            ring.learn(start);
            self.captured.send_replace(start.clone());
        }
    }

    /// Ends all pushing and acknowledging until the node is started again: what the server has now is not what the slaves
    /// have.
    fn lose(&self, error: &CaptureError) {
        let error = format!("{error}. {LOST_MEND}");
        self.acks.void();
        self.lost.send_replace(Some(error.clone()));
        self.enter(HubState::Stopped { error });
    }

    /// Whether what is committed now is captured.
    pub(super) fn is_capturing(&self) -> bool {
        *self.state.lock() == HubState::Running
    }

    /// Why nothing is pushed any more, if so.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Tells and keeps the next transaction. Without a slave it is not kept: one that comes reads the binlog.
    fn note(&self, captured: Captured) {
        let position = captured.transaction.position;
        let mark = if self.is_unattended() {
            let mark = captured.transaction.mark();
            *self.ring.lock() = Ring::new(mark.clone(), self.options.ring_bytes_max);
            mark
        } else {
            self.options.changes.tell(Step { position, changed: captured.changed(&mut Vec::new()) });
            let entry = Arc::new(Encoded::new(captured));
            let mark = entry.mark.clone();
            self.ring.lock().push(entry);
            mark
        };
        self.captured.send_replace(mark);
    }

    /// Forgets what memory holds; what is captured next follows this.
    fn begin_after(&self, newest: Mark) {
        *self.ring.lock() = Ring::new(newest.clone(), self.options.ring_bytes_max);
        self.captured.send_replace(newest);
    }

    /// Waits until the master's MySQL was reached.
    pub(crate) async fn ready(&self) {
        self.is_ready.cancelled().await;
    }

    /// The cluster's id and epoch; empty before [`ready`](Self::ready).
    pub(crate) fn cluster(&self) -> (String, Epoch) {
        self.history.get().map(|history| (history.record.id.clone(), history.record.epoch)).unwrap_or_default()
    }

    /// Which servers the changes are for; none before [`ready`](Self::ready).
    pub(crate) fn family(&self) -> Option<Family> {
        self.history.get().map(History::family)
    }

    /// How long a slave may take for one change of a streamed transaction, and to commit it.
    pub(super) fn change_timeout(&self) -> Duration {
        self.options.push_timeout * 10
    }

    pub(super) fn outlook_interval(&self) -> Duration {
        self.options.outlook_interval
    }

    /// How to log in to the master's MySQL.
    pub(super) fn mysql(&self) -> Opts {
        self.options.mysql.clone()
    }

    /// The last transaction in the master's binlog, asked over this connection.
    pub(super) async fn newest(&self, conn: &mut Conn) -> mysql_async::Result<Mark> {
        match self.history.get() {
            Some(history) => history.newest(conn).await,
            None => Ok(Mark::default()),
        }
    }

    /// The last transaction of this master in a list of GTIDs.
    pub(super) fn mark_in(&self, gtids: &str) -> Option<Mark> {
        self.history.get()?.mark_in(gtids)
    }

    pub(super) fn all_slaves(&self) -> Vec<Arc<Slave>> {
        self.slaves.lock().values().map(Arc::clone).collect()
    }

    pub(super) fn target(&self, slave: &Slave) -> PushTarget {
        PushTarget::new(self.client.clone(), &slave.url, self.authorization.clone())
    }

    fn set_pause(&self, id: &str, reason: Option<&str>) -> bool {
        let slaves = self.slaves.lock();
        let Some(slave) = slaves.get(id) else { return false };
        slave.gate.send_modify(|gate| gate.paused = reason.map(str::to_owned));
        true
    }

    /// Capture from the newest transaction on.
    pub(crate) fn capture_options(&self) -> CaptureOptions {
        CaptureOptions {
            opts: self.options.mysql.clone(),
            epoch: self.cluster().1,
            from: self.ring.lock().newest().clone(),
            transaction_bytes_max: self.options.transaction_bytes_max,
        }
    }

    /// Ends the senders of some slaves.
    fn forget(&self, which: impl Fn(&Slave) -> bool) {
        self.slaves.lock().retain(|_, slave| {
            let forgotten = which(slave);
            if forgotten {
                slave.removed.cancel();
                self.acks.remove(slave.ack_id);
            }
            !forgotten
        });
    }

    fn enter(&self, state: HubState) {
        self.options.changes.set_live(state == HubState::Running);
        let mut known = self.state.lock();
        if *known == state {
            return;
        }
        match &state {
            HubState::Starting | HubState::Running => tracing::info!("capturing the master's binlog"),
            HubState::Away { error } => tracing::warn!(error, "can't read the master's binlog now; trying again"),
            HubState::Stopped { error } => tracing::error!(error, "capture has stopped: no slave gets any change"),
        }
        *known = state;
    }
}

/// How long connecting to a slave may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where nobody waits for changes, what comes within this time is read at once: each time that the server wakes the node
/// takes CPU time from clients.
const UNATTENDED_PAUSE: Duration = Duration::from_millis(20);
/// How long a snapshot waits until its last transaction is captured.
const CHECKSUM_WAIT: Duration = Duration::from_secs(2);
/// After how long without a transaction it is looked whether the server still has the last one.
const HISTORY_CHECK: Duration = Duration::from_secs(5);
const LOST_MEND: &str = "Nothing is captured, pushed or acknowledged until this node is started again: put back the data \
                         that the server had; or, to go on with what it has now, start the node again and empty each slave \
                         that has another history, so that it is filled anew";
/// How often capture that stopped is tried again: someone may have mended the server.
const STOPPED_RETRY: Duration = Duration::from_secs(10);

/// The URL without a slash at its end: one slave has one spelling.
fn checked_url(url: &str) -> Result<String, HubError> {
    let ok = Url::parse(url).is_ok_and(|url| url.scheme() == "http" && url.has_host()) && url.len() <= 512;
    if ok { Ok(url.trim_end_matches('/').to_owned()) } else { Err(HubError::Url(url.to_owned())) }
}
