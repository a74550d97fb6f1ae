//! The master's side: what is committed is captured once, kept in memory for a while, and pushed to every slave.

mod capturing;
mod commits;
mod options;
mod shared;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable};
use parking_lot::Mutex;
use reqwest::{Client, header::HeaderValue};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::options::checked_url;
pub use self::options::{HubError, HubOptions, HubState, HubStatus};
pub(crate) use self::shared::Shared;
use super::{
    acks::Acks,
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

/// How long connecting to a slave may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
