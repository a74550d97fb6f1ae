//! One slave's sender: a task with its own cursor, so that no slave waits for another.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use towline_middleware::Position;

use super::{
    acks::AckId,
    back_off::BackOff,
    catch_up::CatchUp,
    encoded::{BatchHead, Encoded, body},
    hub::Shared,
    outlook::Outlook,
    protocol::{Applied, Mark, NotApplied, PushRefusal, VERSION},
    push::PushTarget,
    ring::Following,
    slave_status::{SlaveState, SlaveStatus},
    stream_push::{StreamError, push_streamed},
};
use crate::{
    capture::{CaptureError, CaptureOptions, Rereading},
    fail_point::FailPoint,
};

/// A registered slave and what its sender last found out.
#[derive(Debug)]
pub(crate) struct Slave {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) ack_id: AckId,
    /// Ends its sender.
    pub(crate) removed: CancellationToken,
    /// What holds its sender back.
    pub(crate) gate: watch::Sender<Gate>,
    seen: Mutex<Seen>,
    outlook: Mutex<Outlook>,
}

/// What holds a sender back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Why nothing is pushed at all.
    pub(crate) paused: Option<String>,
    /// The last transaction that may be pushed, while the slaves are compared.
    pub(crate) limit: Option<Position>,
}

#[derive(Debug)]
struct Seen {
    state: SlaveState,
    mark: Option<Mark>,
    committed_at: u64,
    pushed: u64,
    last_error: Option<String>,
}

impl Slave {
    pub(crate) fn new(id: String, url: String, ack_id: AckId, removed: CancellationToken) -> Self {
        let state = SlaveState::Connecting;
        let seen = Seen { state, mark: None, committed_at: 0, pushed: 0, last_error: None };
        let gate = watch::Sender::default();
        Self { id, url, ack_id, removed, gate, seen: Mutex::new(seen), outlook: Mutex::default() }
    }

    /// Where it stood when it last said so.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.seen.lock().mark.clone()
    }

    /// What is about to go wrong with it.
    pub(crate) fn outlook(&self) -> Outlook {
        self.outlook.lock().clone()
    }

    /// Records what is about to go wrong with it, and reports each warning once.
    pub(crate) fn set_outlook(&self, outlook: Outlook) {
        let mut known = self.outlook.lock();
        for warning in outlook.warnings.iter().filter(|warning| !known.warnings.contains(warning)) {
            tracing::warn!(slave = self.id, url = self.url, warning, "a slave may soon be unable to follow");
        }
        *known = outlook;
    }

    /// How pushing to it goes.
    pub(crate) fn state(&self) -> SlaveState {
        self.seen.lock().state.clone()
    }

    /// What the master knows of it. `newest` is the newest captured position; `next` tells the commit time of the
    /// transaction after a mark, if memory holds it.
    pub(crate) fn status(&self, newest: Position, next: impl FnOnce(&Mark) -> Option<u64>, now: u64) -> SlaveStatus {
        let seen = self.seen.lock();
        let behind = seen.mark.as_ref().map(|mark| newest.seq.0.saturating_sub(mark.position.seq.0));
        let lag_seconds = seen.mark.as_ref().map(|mark| match mark.position >= newest {
            true => 0,
            false => now.saturating_sub(next(mark).unwrap_or(seen.committed_at)),
        });
        let Outlook { max_allowed_packet, binlog_left_seconds, warnings } = self.outlook();
        SlaveStatus {
            id: self.id.clone(),
            url: self.url.clone(),
            state: seen.state.clone(),
            mark: seen.mark.clone(),
            behind,
            lag_seconds: lag_seconds.filter(|lag| *lag < now),
            pushed: seen.pushed,
            last_error: seen.last_error.clone(),
            max_allowed_packet,
            binlog_left_seconds,
            warnings,
        }
    }
}

/// Pushes to one slave until it is removed.
pub(crate) async fn run(shared: Arc<Shared>, slave: Arc<Slave>) {
    let target = shared.target(&slave);
    let mut sender =
        Sender { shared, slave, target, cursor: None, confirmed: false, catch_up: None, back_off: BackOff::new() };
    let removed = sender.slave.removed.clone();
    removed.run_until_cancelled(sender.push_forever()).await;
}

/// How often a slave that lacks nothing is asked whether it is still there and where it stands.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often a slave that refuses is asked again.
const ASK_REFUSING: Duration = Duration::from_secs(2);

/// Which of the two histories is the right one a person must say: nothing of a slave is replaced for it.
fn forked(error: String) -> SlaveState {
    SlaveState::Refusing { refusal: PushRefusal::Forked.word(), error }
}

/// What an error in reading the binlog makes of a slave. What can't be captured the hub has passed by if `is_capturing`, so
/// that a snapshot begins behind it.
fn binlog_state(error: &CaptureError, is_capturing: bool) -> SlaveState {
    let text = error.to_string();
    match error {
        CaptureError::BinlogGone { .. } => SlaveState::NeedsSnapshot { error: text },
        CaptureError::Forked { .. } => forked(text),
        error if error.is_uncapturable() && is_capturing => SlaveState::NeedsSnapshot { error: text },
        _ => SlaveState::MasterAway { error: text },
    }
}

struct Sender {
    shared: Arc<Shared>,
    slave: Arc<Slave>,
    target: PushTarget,
    /// Where the slave stands; none before it was asked.
    cursor: Option<Mark>,
    /// Whether the slave itself has said yes to `cursor`, and not only named it in a refusal.
    confirmed: bool,
    catch_up: Option<CatchUp>,
    back_off: BackOff,
}

impl Sender {
    async fn push_forever(&mut self) {
        self.shared.ready().await;
        let mut gate = self.slave.gate.subscribe();
        loop {
            if let Some(error) = self.shared.lost() {
                self.enter(SlaveState::MasterAway { error });
                return;
            }
            let paused = gate.borrow_and_update().paused.clone();
            if let Some(reason) = paused {
                self.forget_place();
                self.enter(SlaveState::Paused { reason });
                // The sender of the gate lives in `self`.
                let _ = gate.wait_for(|gate| gate.paused.is_none()).await;
            }
            let batch = match self.cursor.clone() {
                // Asked first: what it refuses need not travel.
                Some(cursor) if self.confirmed => match self.next_batch(&cursor).await {
                    Ok(batch) => batch,
                    Err(state) => {
                        self.cut_off(&cursor, state).await;
                        continue;
                    }
                },
                _ => Vec::new(),
            };
            let after = self.cursor.clone().unwrap_or_default();
            match self.push(&after, &batch).await {
                Ok(answer) => self.answered(&after, &batch, answer).await,
                Err(StreamError::Capture(error)) => {
                    self.cut_off(&after, binlog_state(&error, self.shared.is_capturing())).await
                }
                Err(error) => self.wait_in(SlaveState::Away { error: error.to_string() }).await,
            }
        }
    }

    /// Waits where the binlog gives nothing to push, and tells a slave that it no longer reaches.
    async fn cut_off(&mut self, cursor: &Mark, state: SlaveState) {
        if matches!(state, SlaveState::Refusing { .. } | SlaveState::Ahead { .. }) {
            // What it has confirmed is none of this history.
            self.shared.acks.confirm(self.slave.ack_id, Position::default(), None);
        }
        if let SlaveState::NeedsSnapshot { error } = &state {
            // It may fetch a new one by itself; if it does not hear this it does so the next time.
            let told = self.pieces(cursor, Some(error), &[]);
            let _ = self.target.post(told).await;
        }
        self.wait_in(state).await;
    }

    /// The next push asks where the slave stands.
    fn forget_place(&mut self) {
        self.cursor = None;
        self.confirmed = false;
        self.catch_up = None;
    }

    /// Stays in a state that needs someone else to move, then asks where the slave stands.
    async fn wait_in(&mut self, state: SlaveState) {
        self.forget_place();
        let wait = match state {
            SlaveState::Away { .. } | SlaveState::MasterAway { .. } => self.back_off.wait(),
            _ => ASK_REFUSING,
        };
        self.enter(state);
        tokio::time::sleep(wait).await;
    }

    /// What follows the cursor. Empty when the slave lacks nothing and should only be asked.
    async fn next_batch(&mut self, cursor: &Mark) -> Result<Vec<Arc<Encoded>>, SlaveState> {
        let mut captured = self.shared.captured.subscribe();
        let mut gate = self.slave.gate.subscribe();
        let mut waited = false;
        loop {
            captured.borrow_and_update();
            let Gate { paused, limit } = gate.borrow_and_update().clone();
            if paused.is_some() {
                return Ok(Vec::new());
            }
            let following = self.shared.ring.lock().following(cursor, self.shared.limits);
            match following {
                Following::Here(mut batch) => {
                    self.catch_up = None;
                    batch.retain(|entry| limit.is_none_or(|limit| entry.mark.position <= limit));
                    if !batch.is_empty() || waited {
                        return Ok(batch);
                    }
                    self.enter(SlaveState::Streaming);
                    // An error here means that time is over, or that the hub ends and this task with it.
                    let changed = async {
                        tokio::select! {
                            changed = captured.changed() => changed,
                            changed = gate.changed() => changed,
                        }
                    };
                    waited = !matches!(timeout(HEARTBEAT, changed).await, Ok(Ok(())));
                }
                Following::Older if limit.is_some() => {
                    // It lags behind what memory holds; the comparison will find that out and let go.
                    let _ = timeout(HEARTBEAT, gate.changed()).await;
                }
                Following::Older => return self.next_from_binlog(cursor).await,
                Following::Newer if !waited => {
                    // Another reader of the binlog may have been a little faster than the hub.
                    waited = !matches!(timeout(HEARTBEAT, captured.changed()).await, Ok(Ok(())));
                }
                Following::Newer => return Err(SlaveState::Ahead { slave: cursor.position }),
                Following::Forked => {
                    let error =
                        format!("its transaction {} ({}) is not in the master's history", cursor.position, cursor.gtid);
                    return Err(forked(error));
                }
            }
        }
    }

    async fn next_from_binlog(&mut self, cursor: &Mark) -> Result<Vec<Arc<Encoded>>, SlaveState> {
        let shared = &self.shared;
        let catch_up = self.catch_up.get_or_insert_with(|| {
            let options = CaptureOptions { from: cursor.clone(), ..shared.capture_options() };
            CatchUp::start(options, shared.limits)
        });
        let batch = catch_up.next().await.map_err(|error| binlog_state(&error, shared.is_capturing()))?;
        self.enter(SlaveState::CatchingUp);
        Ok(batch)
    }

    async fn push(&self, after: &Mark, batch: &[Arc<Encoded>]) -> Result<Result<Applied, NotApplied>, StreamError> {
        let shared = &self.shared;
        let pieces = self.pieces(after, None, batch);
        let streamed = batch.first().and_then(|entry| Some((&entry.mark.gtid, entry.streamed.as_ref()?)));
        let answer = match streamed {
            Some((gtid, streamed)) => {
                let options = CaptureOptions { from: after.clone(), ..shared.capture_options() };
                let changes = Rereading::open(&options, gtid, streamed).await?;
                push_streamed(&self.target, pieces, changes, shared.change_timeout()).await?
            }
            None => self.target.post(pieces).await?,
        };
        FailPoint::Answered.pass();
        Ok(answer)
    }

    /// The body of a push.
    fn pieces(&self, after: &Mark, out_of_reach: Option<&str>, batch: &[Arc<Encoded>]) -> Vec<Bytes> {
        let shared = &self.shared;
        let (cluster, epoch) = shared.cluster();
        let head = shared.captured.borrow().position;
        let (version, family, formats) = (VERSION, shared.family(), Vec::new());
        body(BatchHead { version, cluster: &cluster, epoch, family, after, head, out_of_reach, formats }, batch)
    }

    async fn answered(&mut self, after: &Mark, batch: &[Arc<Encoded>], answer: Result<Applied, NotApplied>) {
        let expected = batch.last().map_or(after, |entry| &entry.mark);
        match answer {
            Ok(Applied { applied, server }) if applied.is_same(expected) => {
                // A question alone brings nobody further, and one that stands in another history may say yes to it.
                if !batch.is_empty() || self.shared.ring.lock().vouches_for(&applied) {
                    self.back_off.reset();
                    self.shared.acks.confirm(self.slave.ack_id, applied.position, server);
                }
                self.confirmed = true;
                self.cursor = Some(applied.clone());
                FailPoint::Confirmed.pass();
                let mut seen = self.slave.seen.lock();
                seen.mark = Some(applied);
                seen.pushed += batch.len() as u64;
                if let Some(last) = batch.last() {
                    seen.committed_at = last.committed_at;
                }
            }
            Ok(Applied { applied, .. }) => {
                let error = format!("it answered {} to a push up to {}", applied.position, expected.position);
                self.wait_in(SlaveState::Away { error }).await;
            }
            Err(refusal) => self.refused(after, refusal).await,
        }
    }

    async fn refused(&mut self, after: &Mark, NotApplied { refusal, message, at }: NotApplied) {
        if let Some(at) = &at {
            self.slave.seen.lock().mark = Some(at.clone());
        }
        match (refusal, at) {
            (PushRefusal::Position, Some(at)) if at != *after => {
                self.catch_up = None;
                self.confirmed = false;
                self.cursor = Some(at);
            }
            (PushRefusal::Position | PushRefusal::Unavailable | PushRefusal::Damaged, _) => {
                self.wait_in(SlaveState::Away { error: message }).await;
            }
            (PushRefusal::Forked, at) => {
                // It holds data or a history that is not this cluster's: what it confirmed counts no more.
                self.shared.acks.confirm(self.slave.ack_id, Position::default(), None);
                // The question after the very beginning is refused so by a slave that stands elsewhere at `0:0`.
                let error = at.map_or(message.clone(), |at| format!("{message} (it stands at {})", at.position));
                self.wait_in(SlaveState::Refusing { refusal: PushRefusal::Forked.word(), error }).await;
            }
            (refusal, _) => self.wait_in(SlaveState::Refusing { refusal: refusal.word(), error: message }).await,
        }
    }

    /// Records a state, and reports it once.
    fn enter(&self, state: SlaveState) {
        let mut seen = self.slave.seen.lock();
        if seen.state == state {
            return;
        }
        let (slave, url) = (&self.slave.id, &self.slave.url);
        match &state {
            SlaveState::Paused { reason } => tracing::warn!(slave, url, reason, "pushing to a slave is paused"),
            SlaveState::Connecting | SlaveState::Streaming | SlaveState::CatchingUp => {
                tracing::info!(slave, url, ?state, "pushing to a slave");
            }
            SlaveState::Away { error } | SlaveState::MasterAway { error } => {
                seen.last_error = Some(error.clone());
                tracing::warn!(slave, url, error, "can't push to a slave now; trying again");
            }
            SlaveState::Refusing { error, .. } | SlaveState::NeedsSnapshot { error } => {
                seen.last_error = Some(error.clone());
                tracing::error!(slave, url, error, "a slave takes no more changes until someone mends it");
            }
            SlaveState::Ahead { slave: position } => {
                let error = format!("it is at {position}, beyond the master's binlog");
                tracing::error!(slave, url, error, "a slave has transactions that the master has lost");
                seen.last_error = Some(error);
            }
        }
        seen.state = state;
    }
}
