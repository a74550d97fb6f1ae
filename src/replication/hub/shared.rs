//! What the hub, its capture and its senders share.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use mysql_async::{Conn, Opts};
use parking_lot::Mutex;
use reqwest::{Client, header::HeaderValue};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use towline_middleware::{Changed, Epoch, Step};

use super::{HubOptions, HubState};
use crate::{
    capture::{Capture, CaptureError, CaptureOptions, Captured},
    replication::{
        acks::Acks,
        encoded::Encoded,
        history::History,
        protocol::{Family, Mark},
        push::PushTarget,
        ring::{BatchLimits, Ring},
        sender::Slave,
        snapshot::source::{SnapshotError, Snapshots},
        verify::Summary,
    },
};

/// How long a snapshot waits until its last transaction is captured.
const CHECKSUM_WAIT: Duration = Duration::from_secs(2);
/// After how long without a transaction it is looked whether the server still has the last one.
const HISTORY_CHECK: Duration = Duration::from_secs(5);
const LOST_MEND: &str = "Nothing is captured, pushed or acknowledged until this node is started again: put back the data \
                         that the server had; or, to go on with what it has now, start the node again and empty each slave \
                         that has another history, so that it is filled anew";

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
    pub(super) history: OnceLock<History>,
    pub(super) is_ready: CancellationToken,
    /// Why nothing can be captured any more, once the server has lost its history.
    pub(super) lost: watch::Sender<Option<String>>,
    /// Told when that may be so.
    pub(super) doubted: Notify,
    pub(super) state: Mutex<HubState>,
    pub(super) slaves: Mutex<BTreeMap<String, Arc<Slave>>>,
    /// Held while the table of slaves and `slaves` are changed together.
    pub(super) registration: tokio::sync::Mutex<()>,
    /// Told when there is a new slave.
    pub(in crate::replication) registered: Notify,
    /// Held while the slaves are verified.
    pub(in crate::replication) verifying: tokio::sync::Mutex<()>,
    /// What that found last.
    pub(in crate::replication) verified: Mutex<Option<Summary>>,
    pub(super) snapshots: Snapshots,
    pub(super) unlogged_writes: AtomicU64,
    pub(super) stop: CancellationToken,
    pub(super) options: HubOptions,
}

impl Shared {
    /// Whether nobody waits for changes: there is no slave, and no layer that listens.
    pub(super) fn is_unattended(&self) -> bool {
        self.slaves.lock().is_empty() && !self.options.changes.has_listeners()
    }

    /// The next transaction. While there is none it is looked whether the server still has the last one.
    pub(super) async fn next_of(&self, capture: &mut Capture) -> Result<Captured, CaptureError> {
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
    pub(super) async fn check(&self, history: &History) -> Result<Mark, CaptureError> {
        let mut conn = Conn::new(self.mysql()).await.map_err(CaptureError::Connect)?;
        let captured = self.captured.borrow().clone();
        let newest = history.check(&mut conn, &captured).await?;
        // It ends either way.
        let _ = conn.disconnect().await;
        Ok(newest)
    }

    /// The last transaction in the binlog, for a snapshot: of a server that has lost its history there must be none.
    pub(in crate::replication) async fn mark_of_snapshot(&self, conn: &mut Conn) -> Result<Mark, SnapshotError> {
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
    pub(in crate::replication) async fn with_checksum(&self, mark: Mark) -> Mark {
        let mut captured = self.captured.subscribe();
        let reached = captured.wait_for(|captured| captured.position >= mark.position);
        // Without it the slave has only the GTID until its first transaction.
        let _ = tokio::time::timeout(CHECKSUM_WAIT, reached).await.map(drop);
        self.ring.lock().known(&mark).cloned().unwrap_or(mark)
    }

    /// Takes over what capture has found out of the newest transaction.
    pub(super) fn learn(&self, start: &Mark) {
        let mut ring = self.ring.lock();
        if *ring.newest() != *start && ring.newest().is_same(start) {
            ring.learn(start);
            self.captured.send_replace(start.clone());
        }
    }

    /// Ends all pushing and acknowledging until the node is started again: what the server has now is not what the slaves
    /// have.
    pub(super) fn lose(&self, error: &CaptureError) {
        let error = format!("{error}. {LOST_MEND}");
        self.acks.void();
        self.lost.send_replace(Some(error.clone()));
        self.enter(HubState::Stopped { error });
    }

    /// Whether what is committed now is captured.
    pub(in crate::replication) fn is_capturing(&self) -> bool {
        *self.state.lock() == HubState::Running
    }

    /// Why nothing is pushed any more, if so.
    pub(in crate::replication) fn lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Tells and keeps the next transaction. Without a slave it is not kept: one that comes reads the binlog.
    pub(super) fn note(&self, captured: Captured) {
        let position = captured.transaction.position;
        let mark = if self.is_unattended() {
            // Heard by whoever begins to listen now.
            self.options.changes.tell(Step { position, changed: Changed::Everything });
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
    pub(super) fn begin_after(&self, newest: Mark) {
        self.options.changes.tell(Step { position: newest.position, changed: Changed::Everything });
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
    pub(in crate::replication) fn change_timeout(&self) -> Duration {
        self.options.push_timeout * 10
    }

    pub(in crate::replication) fn outlook_interval(&self) -> Duration {
        self.options.outlook_interval
    }

    /// How to log in to the master's MySQL.
    pub(in crate::replication) fn mysql(&self) -> Opts {
        self.options.mysql.clone()
    }

    /// The last transaction in the master's binlog, asked over this connection.
    pub(in crate::replication) async fn newest(&self, conn: &mut Conn) -> mysql_async::Result<Mark> {
        match self.history.get() {
            Some(history) => history.newest(conn).await,
            None => Ok(Mark::default()),
        }
    }

    /// The last transaction of this master in a list of GTIDs.
    pub(in crate::replication) fn mark_in(&self, gtids: &str) -> Option<Mark> {
        self.history.get()?.mark_in(gtids)
    }

    pub(in crate::replication) fn all_slaves(&self) -> Vec<Arc<Slave>> {
        self.slaves.lock().values().map(Arc::clone).collect()
    }

    pub(in crate::replication) fn target(&self, slave: &Slave) -> PushTarget {
        PushTarget::new(self.client.clone(), &slave.url, self.authorization.clone())
    }

    pub(super) fn set_pause(&self, id: &str, reason: Option<&str>) -> bool {
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
    pub(super) fn forget(&self, which: impl Fn(&Slave) -> bool) {
        self.slaves.lock().retain(|_, slave| {
            let forgotten = which(slave);
            if forgotten {
                slave.removed.cancel();
                self.acks.remove(slave.ack_id);
            }
            !forgotten
        });
    }

    pub(super) fn enter(&self, state: HubState) {
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
