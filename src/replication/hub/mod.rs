//! The master's side: what is committed is captured once, kept in memory for a while, and pushed to every slave.

mod options;
mod shared;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use mysql_async::{Conn, prelude::Queryable};
use parking_lot::Mutex;
use reqwest::{Client, header::HeaderValue};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_middleware::{Acknowledgement, BoxFuture, Position, Replication};

use self::options::checked_url;
pub use self::options::{HubError, HubOptions, HubState, HubStatus};
pub(crate) use self::shared::Shared;
use super::{
    acks::{Acks, Missing},
    back_off::BackOff,
    history::{History, newest},
    outlook,
    progress::now_seconds,
    protocol::{Family, Mark},
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
    capture::{Capture, CaptureError, Source},
    config::AckOnTimeout,
    fail_point::FailPoint,
};

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

    /// Captures, and starts again when the master's MySQL was away, and once behind what can't be captured; but not when it
    /// has lost its history.
    async fn capture_forever(&self) {
        let mut back_off = BackOff::new();
        let mut has_passed = false;
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
            // While the server goes on writing such things slaves would fetch one snapshot after the other.
            if error.is_uncapturable() && !has_passed {
                has_passed = self.pass_over(&error).await.is_ok();
            }
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

    /// Goes on behind what can't be captured. Each slave is told that it needs a snapshot when it comes to it, and
    /// one that has one gets what follows.
    async fn pass_over(&self, error: &CaptureError) -> Result<(), CaptureError> {
        let shared = &self.shared;
        let Some(history) = shared.history.get() else { return Ok(()) };
        tracing::error!(error = error as &dyn std::error::Error, "every slave needs a snapshot");
        let newest = shared.check(history).await?;
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
            let slave = Arc::new(Slave::new(id.clone(), url, shared.acks.add(&id), shared.stop.child_token()));
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
                        Err(Missing { have, wanted, registered }) => {
                            let alike = self.shared.acks.alike();
                            let alike = alike.iter().map(|ids| format!("; {} are one server: remove one", ids.join(" and ")));
                            format!(
                                "within {ack_timeout:?} only {have} of {wanted} wanted slaves have applied it \
                                 ({registered} registered{})",
                                alike.collect::<String>()
                            )
                        }
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

/// How long connecting to a slave may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where nobody waits for changes, what comes within this time is read at once: each time that the server wakes the node
/// takes CPU time from clients.
const UNATTENDED_PAUSE: Duration = Duration::from_millis(20);
/// How often capture that stopped is tried again: someone may have mended the server.
const STOPPED_RETRY: Duration = Duration::from_secs(10);
