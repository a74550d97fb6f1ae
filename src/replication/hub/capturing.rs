//! Capturing what the master commits, as long as the hub lives.

use std::{convert::Infallible, time::Duration};

use futures_util::FutureExt;
use mysql_async::Conn;

use super::{Hub, HubState};
use crate::{
    capture::{Capture, CaptureError, Source},
    fail_point::FailPoint,
    replication::{
        back_off::BackOff,
        history::{History, newest},
        tables::master,
    },
};

/// Where nobody waits for changes, what comes within this time is read at once: each time that the server wakes the node
/// takes CPU time from clients.
const UNATTENDED_PAUSE: Duration = Duration::from_millis(20);
/// How often capture that stopped is tried again: someone may have mended the server.
const STOPPED_RETRY: Duration = Duration::from_secs(10);

impl Hub {
    /// Captures, and starts again when the master's MySQL was away, and once behind what can't be captured; but not when it
    /// has lost its history.
    pub(super) async fn capture_forever(&self) {
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

    async fn capture_until_error(&self, back_off: &mut BackOff) -> Result<Infallible, CaptureError> {
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
}
