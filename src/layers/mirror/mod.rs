//! Copies reads to a second server, under an account of its own, and compares what both answer.
//!
//! - Off the path: a read is copied when its answer has gone to the client, through a queue that is bounded in length and
//!   bytes. What does not fit in is dropped and counted; a second server that is slow or away delays nobody.
//! - Only SELECTs outside a transaction whose answer hangs on tables and session variables alone (no `NOW()`, no user
//!   variables): see `is_steady`. What the client has SET is set there, too; a session that has done more than that,
//!   or SET something by a function or a query, or several things in vain, is not copied until it is reset.
//! - The order of rows is left out of account.
//! - The second server ends what takes too long, and its session is read-only: a view may call a function that writes.
//!
//! A write between both reads, or a second server that lags, is seen as a difference: read the figures as rates. The copy
//! is asked in utf8mb4 unless the client has SET another character set.

mod asking;
mod compare;
mod options;
mod read;
mod second;
mod sets;

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use mysql_async::{Opts, OptsBuilder};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_middleware::{
    Command, Completion, Error, Figure, Final, Head, Intent, LayerProblem, LayerSetup, Next, Part, Reply, UserLayer,
    from_fn,
};

use self::{
    asking::Asking,
    options::{InvalidMirror, Options},
    read::Read,
    second::Bounds,
    sets::{Sets, Step},
};

/// What a read in the queue has besides its text and its answer.
const READ_BYTES: usize = 1024;

/// A read that was answered.
struct Job {
    read: Read,
    /// The client's answer: packets and their end.
    answer: Reply,
    /// Its place among the bytes that may wait.
    _bytes: OwnedSemaphorePermit,
}

struct Mirror {
    queue: mpsc::Sender<Job>,
    queue_bytes: Arc<Semaphore>,
    share: f64,
    result_bytes_max: usize,
    dropped: Figure,
    skipped: Figure,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let opts = Opts::from_url(&options.url).map_err(|_| InvalidMirror::Url)?;
    options.validate()?;
    let (queue, jobs) = mpsc::channel(options.queue_max);
    let skipped = setup.counter("skipped", "Reads that can't be copied.", &[]);
    let asking = Arc::new(Asking {
        // Each read brings its own.
        opts: OptsBuilder::from_opts(opts).db_name(None::<String>).into(),
        bounds: Bounds {
            timeout: Duration::from_millis(options.timeout_ms.into()),
            result_bytes_max: options.result_bytes_max,
        },
        compared: setup.counter("compared", "Reads that both servers have answered.", &[]),
        different: setup.counter("different", "Reads that the second server answered in another way.", &[]),
        failed: setup.counter("failed", "Reads that the second server did not answer.", &[]),
        skipped: skipped.clone(),
        logged: Mutex::default(),
    });
    setup.on_missed(|session| session.state::<Sets>().miss());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (stopped, started) = (stop.clone(), tasks.clone());
    setup.on_start(async move {
        let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
        for _ in 0..options.connections_max {
            let (asking, jobs, stopped) = (asking.clone(), jobs.clone(), stopped.clone());
            started.spawn(async move { stopped.run_until_cancelled(asking.work(&jobs)).await });
        }
        Ok(())
    });
    setup.on_stop(async move {
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    });
    let mirror = Arc::new(Mirror {
        queue,
        queue_bytes: Arc::new(Semaphore::new(options.queue_bytes_max as usize)),
        share: options.share,
        result_bytes_max: options.result_bytes_max,
        dropped: setup.counter("dropped", "Reads that were not copied since too many waited.", &[]),
        skipped,
    });
    Ok(from_fn(move |command: Command, next: Next| mirror.clone().call(command, next)))
}

impl Mirror {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        if command.intent() != Intent::Read || !command.kind().runs_sql() {
            let step = Step::of(&command).map(|step| (step, command.session().clone()));
            let reply = next.run(command).await?;
            if let Some((step, session)) = step {
                session.state::<Sets>().follow(step, reply.head() == Head::Ok);
            }
            return Ok(reply);
        }
        let Some(read) = self.read(&command) else { return next.run(command).await };
        let reply = next.run(command).await?;
        let mut taken = Taken { mirror: self, read: Some(read), head: reply.head(), bytes: BytesMut::new() };
        if reply.is_complete() {
            reply.ready().for_each(|part| taken.follow(part));
            return Ok(reply);
        }
        Ok(reply.inspect(move |part| taken.follow(part)))
    }

    /// None for a read that is not copied. Only what costs next to nothing is looked at here.
    fn read(&self, command: &Command) -> Option<Read> {
        if self.share < 1.0 && fastrand::f64() >= self.share {
            return None;
        }
        if self.queue.capacity() == 0 {
            self.dropped.increment();
            return None;
        }
        let read = Read::new(command, self.result_bytes_max);
        if read.is_none() {
            self.skipped.increment();
        }
        read
    }
}

/// An answer on its way to the client, of which a copy is taken.
struct Taken {
    mirror: Arc<Mirror>,
    read: Option<Read>,
    head: Head,
    bytes: BytesMut,
}

impl Taken {
    fn follow(&mut self, part: &Part) {
        if self.read.is_none() {
            return;
        }
        match part {
            Part::Packets(bytes) if self.bytes.len() + bytes.len() <= self.mirror.result_bytes_max => {
                self.bytes.extend_from_slice(bytes);
            }
            Part::Final { end: Final::Ok(completion), .. } if is_of_a_read(completion) => self.send(part.clone()),
            _ => {
                self.mirror.skipped.increment();
                (self.read, self.bytes) = (None, BytesMut::new());
            }
        }
    }

    fn send(&mut self, end: Part) {
        let Some(read) = self.read.take() else { return };
        // Parameters are there as bytes and as values.
        let bytes = READ_BYTES + 2 * read.command.payload().len() + self.bytes.capacity();
        let packets = Part::Packets(self.bytes.split().freeze());
        let room = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.mirror.queue_bytes.clone().try_acquire_many_owned(bytes).ok());
        let job = room.map(|room| Job { read, answer: Reply::new(self.head, [packets, end], None), _bytes: room });
        if job.is_none_or(|job| self.mirror.queue.try_send(job).is_err()) {
            self.mirror.dropped.increment();
        }
    }
}

/// Whether a result is all there is, and nothing was written for it.
fn is_of_a_read(completion: &Completion) -> bool {
    !completion.has_more() && completion.details().gtid.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::conformance;

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let options = json!({"url": "mysql://reader:password@127.0.0.1:1"});
        conformance(|| layer(&mut setup("mirror", options.clone())).unwrap()).await;
    }

    #[test]
    fn options_are_looked_at() {
        let url = "mysql://reader:password@127.0.0.1:1";
        for (options, wanted) in [
            (json!({"url": "nowhere"}), "`url`"),
            (json!({"url": url, "share": 1.5}), "`share`"),
            (json!({"url": url, "queue_max": 0}), "`queue_max`"),
            (json!({"url": url, "queue_max": 1u64 << 62}), "`queue_max`"),
            (json!({"url": url, "connections_max": 1_000_000_000}), "`connections_max`"),
            (json!({"url": url, "timeout_ms": 0}), "`timeout_ms`"),
        ] {
            let Err(error) = layer(&mut setup("mirror", options)) else { panic!("taken") };
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
