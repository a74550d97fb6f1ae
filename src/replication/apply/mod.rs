//! The slave's side: batches become transactions of its MySQL, one after the other.

mod worker;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mysql_async::Opts;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use towline_middleware::ChangeFeed;

use self::worker::{BACK_OFF_MIN, Worker, stopping};
use super::{
    apply_session::SessionOptions,
    digest::Snapshot,
    progress::{Progress, Track},
    protocol::{Applied, Batch, Mark, NotApplied, StreamLine},
    snapshot::load::SnapshotOptions,
    streamed_rows::{NewestPush, StreamedLines},
    tables::slave,
};

/// How a slave applies.
#[derive(Clone)]
pub struct ApplyOptions {
    /// The slave's MySQL, with an account that may apply (`BINLOG REPLAY`, `READ ONLY ADMIN`, … on MariaDB).
    pub mysql: Opts,
    /// Above it a wait for a lock is given up and the batch tried again. Whole seconds, at least one.
    pub lock_wait: Duration,
    /// How often a batch is tried while locks are in the way before the sessions that hold them are ended. A batch that
    /// still fails after as many tries more is answered with `unavailable`.
    pub lock_tries: u32,
    /// How long connecting to MySQL may take.
    pub connect_timeout: Duration,
    /// Is told each applied transaction before the position moves.
    pub changes: ChangeFeed,
    /// Where the data of an empty server comes from; none leaves it to be applied from the master's first transaction.
    pub snapshot: Option<SnapshotOptions>,
}

impl fmt::Debug for ApplyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not how to log in.
        f.debug_struct("ApplyOptions").field("lock_wait", &self.lock_wait).finish_non_exhaustive()
    }
}

impl ApplyOptions {
    /// The defaults for this server.
    pub fn new(mysql: Opts) -> Self {
        Self {
            mysql,
            lock_wait: Duration::from_secs(2),
            lock_tries: 3,
            connect_timeout: Duration::from_secs(5),
            changes: ChangeFeed::default(),
            snapshot: None,
        }
    }
}

/// Applies what a master pushes. Clones share one session with MySQL, which works on one batch at a time.
#[derive(Clone, Debug)]
pub struct Applier {
    orders: mpsc::Sender<Order>,
    track: watch::Receiver<Track>,
    position: watch::Receiver<Mark>,
    newest: watch::Sender<NewestPush>,
    blockers_ended: Arc<AtomicU64>,
    options: Arc<ApplyOptions>,
    task: Arc<parking_lot::Mutex<Option<JoinHandle<()>>>>,
}

impl Applier {
    /// Starts to connect; never fails, since MySQL may come later.
    pub fn start(options: ApplyOptions) -> Self {
        if let Some(snapshot) = &options.snapshot {
            // Before the first client: the task may run later.
            snapshot.admission.hold(true);
        }
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let (track, track_reader) = watch::channel(Track::default());
        let (position, position_reader) = watch::channel(Mark::default());
        let blockers_ended = Arc::<AtomicU64>::default();
        let own_options = Arc::new(options.clone());
        let session_options = SessionOptions {
            mysql: options.mysql.clone(),
            lock_wait: options.lock_wait,
            connect_timeout: options.connect_timeout,
        };
        let worker = Worker {
            options,
            session_options,
            inbox,
            track,
            position,
            blockers_ended: Arc::clone(&blockers_ended),
            session: None,
            back_off: BACK_OFF_MIN,
        };
        Self {
            orders,
            track: track_reader,
            position: position_reader,
            newest: watch::Sender::default(),
            blockers_ended,
            options: own_options,
            task: Arc::new(parking_lot::Mutex::new(Some(tokio::spawn(worker.run())))),
        }
    }

    /// Applies a batch, or says why not and where the slave stands.
    ///
    /// # Errors
    /// See [`PushRefusal`](super::protocol::PushRefusal). After `Unavailable` a part of the batch may be applied: ask again.
    ///
    /// # Cancel safety
    /// A batch that was taken is finished even if the future is dropped; the same batch sent again is then refused with
    /// the new position.
    pub async fn push(&self, batch: Batch) -> Result<Applied, NotApplied> {
        self.number(&batch);
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::Push { batch, answer }).await.is_ok()
            && let Ok(result) = answered.await
        {
            return result;
        }
        Err(stopping())
    }

    /// Applies a transaction whose changes come as lines, in one transaction of MySQL that is committed at
    /// [`StreamLine::Commit`]; `batch` has it without them. If the lines end before that, nothing of it has happened.
    ///
    /// # Errors
    /// See [`PushRefusal`](super::protocol::PushRefusal).
    ///
    /// # Cancel safety
    /// As [`push`](Self::push).
    pub async fn push_streamed(&self, batch: Batch, lines: mpsc::Receiver<StreamLine>) -> Result<Applied, NotApplied> {
        let lines = StreamedLines { lines, number: self.number(&batch), newest: self.newest.subscribe() };
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::PushStreamed { batch, lines, answer }).await.is_ok()
            && let Ok(result) = answered.await
        {
            return result;
        }
        Err(stopping())
    }

    /// Numbers a push, which may then end a streamed one before it that stands still, if it is of the same cluster and
    /// of no older master.
    fn number(&self, batch: &Batch) -> u64 {
        let is_own = self.track.borrow().cluster == batch.cluster;
        self.newest.send_if_modified(|newest| {
            let counts = is_own && batch.epoch >= newest.epoch;
            if counts {
                *newest = NewestPush { number: newest.number + 1, epoch: batch.epoch };
            }
            counts
        });
        self.newest.borrow().number
    }

    /// Waits until the server stands at a mark, and looks at it there.
    ///
    /// # Errors
    /// Why it can't, for people: it stands elsewhere, or MySQL is away.
    pub async fn snapshot_at(&self, at: &Mark) -> Result<Snapshot, String> {
        let mut position = self.position.clone();
        let reached = position.wait_for(|mark| mark.position >= at.position);
        // Where it stands if not there is found below.
        let _ = tokio::time::timeout(SNAPSHOT_TIMEOUT, reached).await;
        let told = |error: mysql_async::Error| error.to_string();
        let mut snapshot = Snapshot::open(&self.options.mysql).await.map_err(told)?;
        let record = slave::record(snapshot.conn()).await.map_err(told)?.unwrap_or_default();
        if !record.mark.is_same(at) {
            return Err(format!("it stands at {}, not at {}", record.mark.position, at.position));
        }
        Ok(snapshot)
    }

    /// Tries again what stopped the slave, at the next push.
    pub async fn resume(&self) {
        let (done, is_done) = oneshot::channel();
        if self.orders.send(Order::Resume { done }).await.is_ok() {
            // An error means that the applier stops: there is nothing to resume.
            let _ = is_done.await;
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let mut progress = self.track.borrow().progress();
        progress.counts.blockers_ended = self.blockers_ended.load(Ordering::Relaxed);
        progress
    }

    /// The last applied transaction, as it moves.
    pub fn position(&self) -> watch::Receiver<Mark> {
        self.position.clone()
    }

    /// Finishes the batch that is being applied and ends. Later pushes are answered with `unavailable`.
    pub async fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.orders.send(Order::Stop).await;
        let task = self.task.lock().take();
        if let Some(task) = task {
            // A panic was reported by the runtime; there is nothing left to stop.
            let _ = task.await;
        }
    }
}

/// How long a comparison waits for this slave to come to where it is to be compared.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many pushes may wait; each holds its batch in memory.
const ORDERS_MAX: usize = 2;
#[derive(Debug)]
enum Order {
    Push { batch: Batch, answer: oneshot::Sender<Result<Applied, NotApplied>> },
    PushStreamed { batch: Batch, lines: StreamedLines, answer: oneshot::Sender<Result<Applied, NotApplied>> },
    Resume { done: oneshot::Sender<()> },
    Stop,
}
