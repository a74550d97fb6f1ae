//! The task that owns the session with MySQL.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use mysql_async::prelude::Queryable;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use towline_middleware::{Changed, Step};

use super::{ApplyOptions, Order};
use crate::replication::{
    apply_batch::{Failure, LockOptions, apply_batch, apply_streamed},
    apply_session::{ApplyError, ApplySession, SessionOptions},
    progress::{ApplyState, Stop, Track},
    protocol::{self, Applied, Batch, Mark, NotApplied, PushRefusal},
    snapshot::load::load_until_done,
    streamed_rows::StreamedLines,
};

pub(super) const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// How often an idle session is tried, so that a lost MySQL is seen before the next push.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Takes one order after the other.
pub(super) struct Worker {
    pub(super) options: ApplyOptions,
    pub(super) session_options: SessionOptions,
    pub(super) inbox: mpsc::Receiver<Order>,
    pub(super) track: watch::Sender<Track>,
    pub(super) position: watch::Sender<Mark>,
    pub(super) blockers_ended: Arc<AtomicU64>,
    pub(super) session: Option<ApplySession>,
    pub(super) back_off: Duration,
}

impl Worker {
    pub(super) async fn run(mut self) {
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
            Ok(applied) => {
                let server = self.session.as_ref().map(|session| session.record.server.clone());
                Ok(Applied { applied, server })
            }
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

pub(super) fn stopping() -> NotApplied {
    NotApplied { refusal: PushRefusal::Unavailable, message: "this node is stopping".to_owned(), at: None }
}

fn loading() -> NotApplied {
    let message = "this slave is fetching a snapshot".to_owned();
    NotApplied { refusal: PushRefusal::Unavailable, message, at: None }
}
