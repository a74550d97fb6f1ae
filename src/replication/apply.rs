//! The slave's side: batches become transactions of its MySQL, one after the other.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mysql_async::{Opts, prelude::Queryable};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use towline_middleware::{ChangeFeed, Changed, Step};

use super::{
    apply_batch::{Failure, LockOptions, apply_batch, apply_streamed},
    apply_session::{ApplyError, ApplySession, SessionOptions},
    digest::Snapshot,
    progress::{ApplyState, Progress, Stop, Track},
    protocol::{self, Applied, Batch, Mark, NotApplied, PushRefusal, StreamLine},
    snapshot::load::{SnapshotOptions, load_until_done},
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
    /// See [`PushRefusal`]. After [`Unavailable`](PushRefusal::Unavailable) a part of the batch may be applied: ask again.
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
    /// See [`PushRefusal`].
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
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// How often an idle session is tried, so that a lost MySQL is seen before the next push.
const PING_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Order {
    Push { batch: Batch, answer: oneshot::Sender<Result<Applied, NotApplied>> },
    PushStreamed { batch: Batch, lines: StreamedLines, answer: oneshot::Sender<Result<Applied, NotApplied>> },
    Resume { done: oneshot::Sender<()> },
    Stop,
}

fn stopping() -> NotApplied {
    NotApplied { refusal: PushRefusal::Unavailable, message: "this node is stopping".to_owned(), at: None }
}

fn loading() -> NotApplied {
    let message = "this slave is fetching a snapshot".to_owned();
    NotApplied { refusal: PushRefusal::Unavailable, message, at: None }
}

/// The task that owns the session.
struct Worker {
    options: ApplyOptions,
    session_options: SessionOptions,
    inbox: mpsc::Receiver<Order>,
    track: watch::Sender<Track>,
    position: watch::Sender<Mark>,
    blockers_ended: Arc<AtomicU64>,
    session: Option<ApplySession>,
    back_off: Duration,
}

impl Worker {
    async fn run(mut self) {
        if !self.have_data(false).await {
            return;
        }
        // An error is on record in `track` and tried again below.
        let _ = self.connect().await;
        loop {
            let idle = if self.session.is_some() { PING_EVERY } else { self.back_off };
            tokio::select! {
                order = self.inbox.recv() => match order {
                    Some(Order::Push { batch, answer }) => {
                        let result = self.push(batch, None).await;
                        let out_of_reach =
                            result.as_ref().is_err_and(|answer| answer.refusal == PushRefusal::OutOfReach);
                        // The request may be gone; what was applied stays.
                        let _ = answer.send(result);
                        if out_of_reach && !self.have_new_data().await {
                            return;
                        }
                    }
                    Some(Order::PushStreamed { batch, lines, answer }) => {
                        let result = self.push(batch, Some(lines)).await;
                        // As above.
                        let _ = answer.send(result);
                    }
                    Some(Order::Resume { done }) => {
                        self.clear_stop();
                        let _ = done.send(());
                    }
                    Some(Order::Stop) | None => break,
                },
                () = sleep_until(Instant::now() + idle) => self.keep_alive().await,
            }
        }
        if let Some(session) = self.session.take() {
            // It ends either way; the server sees it by the closed socket.
            let _ = session.conn.disconnect().await;
        }
    }

    /// Fetches a new snapshot, if that is wanted, since the master's binlog no longer reaches this slave. False when told
    /// to stop.
    async fn have_new_data(&mut self) -> bool {
        if !self.options.snapshot.as_ref().is_some_and(|options| options.again) {
            return true;
        }
        self.session = None;
        // Before any of the old data goes.
        self.options.changes.set_live(false);
        self.have_data(true).await
    }

    /// Fetches a snapshot if the server needs one, or `again`; until it has it every push is refused. False when told to
    /// stop.
    async fn have_data(&mut self, again: bool) -> bool {
        let Some(options) = &self.options.snapshot else { return true };
        options.admission.hold(true);
        let mut load =
            std::pin::pin!(load_until_done(options, again, &self.options.mysql, &self.track, &self.blockers_ended));
        loop {
            let order = tokio::select! {
                () = &mut load => break,
                order = self.inbox.recv() => order,
            };
            match order {
                Some(Order::Push { answer, .. } | Order::PushStreamed { answer, .. }) => {
                    // The request may be gone.
                    let _ = answer.send(Err(loading()));
                }
                Some(Order::Resume { done }) => drop(done),
                Some(Order::Stop) | None => return false,
            }
        }
        options.admission.hold(false);
        true
    }

    async fn keep_alive(&mut self) {
        let error = match &mut self.session {
            Some(session) => match session.conn.ping().await {
                Ok(()) => return,
                Err(error) => Some(ApplyError::from(error)),
            },
            None => self.connect().await.err(),
        };
        if let Some(error) = error {
            self.lose_session(&error);
        }
    }

    async fn connect(&mut self) -> Result<(), ApplyError> {
        match ApplySession::open(&self.session_options).await {
            Ok(session) => {
                self.back_off = BACK_OFF_MIN;
                self.session = Some(session);
                self.tell_reconnected();
                self.note_record();
                Ok(())
            }
            Err(error) => {
                self.lose_session(&error);
                Err(error)
            }
        }
    }

    /// Tells what of the batch was applied, before its position is seen.
    fn tell_changes(&self, batch: &Batch) {
        let Some(session) = &self.session else { return };
        let (before, now) = (self.position.borrow().position, session.record.mark.position);
        let applied = batch.transactions.iter().filter(|own| own.position > before && own.position <= now);
        for transaction in applied {
            let mut tables = Vec::new();
            let changed = protocol::changed(&transaction.changes, &mut tables);
            self.options.changes.tell(Step { position: transaction.position, changed });
        }
    }

    /// What was committed while the old session broke is only known by the position.
    fn tell_reconnected(&self) {
        let Some(session) = &self.session else { return };
        let position = session.record.mark.position;
        self.options.changes.tell(Step { position, changed: Changed::Everything });
        self.options.changes.set_live(true);
    }

    /// Puts the session's record where others see it.
    fn note_record(&mut self) {
        let Some(session) = &self.session else { return };
        let record = &session.record;
        self.track.send_modify(|track| {
            let moved = track.mark != record.mark;
            track.cluster.clone_from(&record.cluster);
            track.mark.clone_from(&record.mark);
            track.left_out.clone_from(&session.left_out);
            match &track.state {
                ApplyState::Stopped(_) => {}
                // Being asked where it stands brings it no nearer.
                ApplyState::OutOfReach { .. } if !moved => {}
                _ => track.state = ApplyState::Running,
            }
        });
        self.position.send_if_modified(|mark| {
            let moved = *mark != record.mark;
            mark.clone_from(&record.mark);
            moved
        });
    }

    fn lose_session(&mut self, error: &ApplyError) {
        self.session = None;
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        let error = error.to_string();
        self.track.send_if_modified(|track| {
            let known = matches!(&track.state, ApplyState::Unavailable { error: known } if *known == error);
            if !known {
                tracing::warn!(error, "this slave's MySQL is away or not fit; trying again");
            }
            if !matches!(track.state, ApplyState::Stopped(_)) {
                track.state = ApplyState::Unavailable { error };
            }
            !known
        });
    }

    fn clear_stop(&mut self) {
        self.track.send_if_modified(|track| {
            let stopped = matches!(track.state, ApplyState::Stopped(_));
            if stopped {
                track.state = ApplyState::Running;
            }
            stopped
        });
    }

    /// Applies a batch; one whose transaction is streamed by its `lines`.
    async fn push(&mut self, batch: Batch, lines: Option<StreamedLines>) -> Result<Applied, NotApplied> {
        if self.session.is_none() {
            self.connect().await.map_err(|error| self.refuse(PushRefusal::Unavailable, &error))?;
        }
        let stop = match &self.track.borrow().state {
            ApplyState::Stopped(stop) => Some(stop.clone()),
            _ => None,
        };
        if let Some(stop) = stop {
            self.track.send_modify(|track| track.hear(&batch));
            return Err(self.refuse(PushRefusal::Stopped, &StopText(&stop)));
        }
        let Some(session) = &mut self.session else { return Err(stopping()) };
        let locks = LockOptions {
            mysql: &self.options.mysql,
            tries: self.options.lock_tries.max(1),
            blockers_ended: &self.blockers_ended,
        };
        let result = match lines {
            None => {
                let result = apply_batch(session, &batch, &locks, &self.track).await;
                self.tell_changes(&batch);
                result
            }
            Some(lines) => apply_streamed(session, &batch, lines, &locks, &self.track, &self.options.changes).await,
        };
        self.note_record();
        self.note_lag(&batch);
        match result {
            Ok(applied) => Ok(Applied { applied }),
            Err(Failure::Refused(refusal, reason)) => {
                let answer = self.refuse(refusal, &reason);
                if refusal == PushRefusal::OutOfReach {
                    self.note_out_of_reach(&answer.message);
                }
                Err(answer)
            }
            Err(Failure::Stopped(_)) if self.drop_outgrown_session().await => {
                Err(self.refuse(PushRefusal::Unavailable, &"this server takes longer packets by now: try again"))
            }
            Err(Failure::Stopped(stop)) => {
                tracing::error!(position = %stop.mark.position, gtid = stop.mark.gtid, tables = ?stop.tables, code = stop.code,
                    error = stop.error, "this slave has stopped: a change can't be applied");
                let answer = self.refuse(PushRefusal::Stopped, &StopText(&stop));
                self.track.send_modify(|track| track.state = ApplyState::Stopped(stop));
                Err(answer)
            }
            Err(Failure::Session(error)) => {
                let answer = self.refuse(PushRefusal::Unavailable, &error);
                // Read anew at the next connect: what the session knew may be old.
                self.lose_session(&error);
                Err(answer)
            }
        }
    }

    /// What was too long for the session may fit a new one.
    async fn drop_outgrown_session(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        let outgrown = session.is_outgrown().await.unwrap_or(false);
        if outgrown {
            self.session = None;
        }
        outgrown
    }

    fn note_out_of_reach(&self, error: &str) {
        let state = ApplyState::OutOfReach { error: error.to_owned() };
        self.track.send_if_modified(|track| {
            let is_new = track.state != state;
            if is_new {
                tracing::error!(error, "the master's binlog no longer reaches this slave");
                track.state = state;
            }
            is_new
        });
    }

    fn note_lag(&self, batch: &Batch) {
        let last = self.session.as_ref().map(|session| session.record.committed_at).filter(|at| *at > 0);
        self.track.send_modify(|track| {
            let caught_up = track.mark.position >= track.head;
            let applied = batch.transactions.iter().rev().find(|t| t.position <= track.mark.position);
            let next = batch.transactions.iter().find(|t| t.position > track.mark.position).or(applied);
            track.behind_since = next.map(|t| t.committed_at).or(track.behind_since).or(last).filter(|_| !caught_up);
        });
    }

    fn refuse(&self, refusal: PushRefusal, reason: &dyn fmt::Display) -> NotApplied {
        let at = self.session.as_ref().map(|session| session.record.mark.clone());
        self.track.send_modify(|track| *track.refused.entry(refusal).or_default() += 1);
        NotApplied { refusal, message: reason.to_string(), at }
    }
}

/// A stop as the master hears of it.
struct StopText<'a>(&'a Stop);

impl fmt::Display for StopText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stop { mark, tables, error, .. } = self.0;
        write!(f, "stopped at {} ({})", mark.position, mark.gtid)?;
        if !tables.is_empty() {
            write!(f, " which changes {}", tables.join(", "))?;
        }
        write!(f, ": {error}. Mend it on this slave and resume, or take a new snapshot")
    }
}
