//! Asks the second server, and compares.

use std::time::{Duration, Instant};

use mysql_async::{Opts, Row};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use towline_middleware::Figure;

use super::{
    Job,
    compare::is_same,
    read::Read,
    second::{Bounds, Failure, Second},
};

/// After trouble with the second server nothing is tried on that connection for so long.
const BACK_OFF: Duration = Duration::from_secs(1);
/// One difference is logged in so long; all are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What the tasks that ask the second server share.
pub(super) struct Asking {
    pub(super) opts: Opts,
    pub(super) bounds: Bounds,
    pub(super) compared: Figure,
    pub(super) different: Figure,
    pub(super) failed: Figure,
    pub(super) skipped: Figure,
    pub(super) logged: Mutex<Option<Instant>>,
}

impl Asking {
    /// Asks the second server, one read after the other, on one connection.
    pub(super) async fn work(&self, jobs: &tokio::sync::Mutex<mpsc::Receiver<Job>>) {
        let mut second = None;
        loop {
            let Some(job) = jobs.lock().await.recv().await else { return };
            if !job.read.is_repeatable() {
                self.skipped.increment();
                continue;
            }
            let answer = Second::answer(&mut second, &self.opts, &job.read, self.bounds).await;
            let is_in_trouble = answer.as_ref().is_err_and(Failure::is_of_the_server);
            self.compare(job, answer).await;
            if is_in_trouble {
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    async fn compare(&self, job: Job, answer: Result<Vec<Row>, Failure>) {
        let read = job.read;
        let Ok(own) = job.answer.collect(&read.command, self.bounds.result_bytes_max).await else { return };
        let is_same = match answer {
            Ok(rows) => is_same(&own, &rows),
            Err(Failure::Answer(_) | Failure::Longer) => false,
            Err(failure) => {
                self.failed.increment();
                self.log(&read, || format!("the second server did not answer: {failure}"));
                return;
            }
        };
        self.compared.increment();
        if !is_same {
            self.different.increment();
            self.log(&read, || "the second server answers a read in another way".to_owned());
        }
    }

    fn log(&self, read: &Read, what: impl FnOnce() -> String) {
        let mut logged = self.logged.lock();
        if logged.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        *logged = Some(Instant::now());
        let sql = read.text().unwrap_or_default();
        let digest = read.command.plan().map_or(0, |plan| plan.digest);
        tracing::warn!(digest = format_args!("{digest:016x}"), sql, "{}", what());
    }
}
