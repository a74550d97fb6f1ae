//! A bound on how long MySQL may work on a command: what takes longer is ended at the server, by `KILL QUERY`.
//!
//! Only the time that MySQL takes counts, not that of a client which reads slowly, nor that in which a commit waits for
//! slaves to have it (`cluster.ack`). The command is never abandoned here:
//! its reply is read to its end, so that the session goes on, and the client gets error 3024.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use mysql_async::{Conn, prelude::Queryable};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use towline_middleware::{
    BoxFuture, Command, Error, Figure, Final, Intent, LayerProblem, LayerSetup, Next, Part, Parts, Reply, ServerError,
    Session, UserLayer, from_fn,
};

use super::{OwnServer, check_ranges};

/// "Query execution was interrupted."
const INTERRUPTED: u16 = 1317;
/// How long a KILL may take, and how long after it the next is sent if the command still runs.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// A command that has waited for slaves is looked at again after so long at least.
const LOOK_MIN: Duration = Duration::from_millis(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// For what only reads, or changes nothing but its session.
    read_ms: Option<u64>,
    /// For all else, COMMIT included. A statement that is ended is rolled back.
    write_ms: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("neither `read_ms` nor `write_ms` is there: nothing would ever be ended")]
struct NoTimeout;

#[derive(Debug)]
struct Timeout {
    read: Option<Duration>,
    write: Option<Duration>,
    server: OwnServer,
    ended: Figure,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup, server: OwnServer) -> Result<impl UserLayer + use<>, LayerProblem> {
    let Options { read_ms, write_ms } = setup.options()?;
    if read_ms.or(write_ms).is_none() {
        return Err(NoTimeout.into());
    }
    for (key, time) in [("read_ms", read_ms), ("write_ms", write_ms)] {
        check_ranges([(key, time.unwrap_or(u64::MAX), 1..=u64::MAX)])?;
    }
    let ended = setup.counter("ended", "Commands ended since they took too long.", &[]);
    let own = Arc::new(Timeout {
        read: read_ms.map(Duration::from_millis),
        write: write_ms.map(Duration::from_millis),
        server,
        ended,
    });
    Ok(from_fn(move |command: Command, next: Next| own.clone().call(command, next)))
}

impl Timeout {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        let Some(left) = self.allowed(&command) else {
            return next.run(command).await;
        };
        let session = command.session().clone();
        let mut watch = Watch { own: self, session, next: next.clone(), left, is_over: false };
        let mut reply = watch.over(Box::pin(next.run(command))).await?;
        if reply.is_complete() {
            reply.ready_finals().for_each(|end| watch.rename(end));
            if watch.is_over {
                watch.absorb().await?;
            }
            return Ok(reply);
        }
        Ok(reply.wrap(|parts| Box::new(Timed { watch, parts })))
    }

    fn allowed(&self, command: &Command) -> Option<Duration> {
        let allowed = if command.intent() >= Intent::Transaction { self.write } else { self.read };
        allowed.filter(|_| command.kind().runs_sql())
    }

    async fn kill(&self, connection_id: u32) {
        let Some(opts) = self.server.get() else { return };
        let killing = async {
            let mut conn = Conn::new(opts).await?;
            conn.query_drop(format!("KILL QUERY {connection_id}")).await?;
            conn.disconnect().await
        };
        match timeout(KILL_TIMEOUT, killing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, connection_id, "a command that took too long could not be ended");
            }
            Err(_) => tracing::warn!(connection_id, "MySQL took no KILL of a command that took too long in time"),
        }
    }
}

/// One command's time.
struct Watch {
    own: Arc<Timeout>,
    session: Arc<Session>,
    next: Next,
    left: Duration,
    is_over: bool,
}

impl Watch {
    /// Waits for what MySQL is to do, and has it ended when the time is over. It is waited for to its end either way.
    async fn over<T>(&mut self, mut work: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> T {
        if !self.is_over {
            if let Some(done) = self.in_time(&mut work).await {
                return done;
            }
            self.is_over = true;
            self.own.ended.increment();
        }
        loop {
            // What a KILL came too late for may wait for slaves by now.
            if !self.session.held().1 {
                self.own.kill(self.session.connection_id()).await;
            }
            if let Ok(done) = timeout(KILL_TIMEOUT, &mut work).await {
                return done;
            }
        }
    }

    /// Waits for what MySQL is to do; none when the time is over.
    async fn in_time<T>(&mut self, work: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Option<T> {
        let (begun, (held, _), allowed) = (Instant::now(), self.session.held(), self.left);
        loop {
            // While a commit waits for slaves this stays as it is.
            let done = timeout(self.left.max(LOOK_MIN), &mut *work).await;
            let of_slaves = self.session.held().0.saturating_sub(held);
            self.left = allowed.saturating_sub(begun.elapsed().saturating_sub(of_slaves));
            match done {
                Ok(done) => return Some(done),
                Err(_) if self.left.is_zero() => return None,
                Err(_) => {}
            }
        }
    }

    fn rename(&self, end: &mut Final) {
        if let Final::Err(error) = end
            && self.is_over
            && error.code == INTERRUPTED
        {
            *end = Final::Err(ServerError::new(
                3024,
                b"HY000",
                "Query execution was interrupted, maximum statement execution time exceeded",
            ));
        }
    }

    /// A KILL that came after the command's end hits the session's next statement: this one.
    async fn absorb(&self) -> Result<(), Error> {
        let command = Command::query(&self.session, "DO 0");
        self.next.run(command.clone()).await?.collect(&command, 1024).await.map(|_| ())
    }
}

struct Timed {
    watch: Watch,
    parts: Box<dyn Parts>,
}

impl Parts for Timed {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            let Self { watch, parts } = self;
            let mut part = watch.over(parts.next()).await?;
            match &mut part {
                Some(Part::Final { end, .. }) => watch.rename(end),
                None if watch.is_over => watch.absorb().await?,
                _ => {}
            }
            Ok(part)
        })
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        self.parts.answer(payload)
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        self.parts.left()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::{command, conformance};

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let options = json!({"read_ms": 1000, "write_ms": 1000});
        conformance(|| layer(&mut setup("timeout", options.clone()), OwnServer::default()).unwrap()).await;
    }

    #[test]
    fn a_bound_that_is_none_is_told() {
        for (options, wanted) in [
            (json!({}), "neither `read_ms` nor `write_ms`"),
            (json!({"read_ms": 0}), "`read_ms` is from 1"),
            (json!({"read_ms": 5, "write_ms": 0}), "`write_ms` is from 1"),
        ] {
            let Err(error) = layer(&mut setup("timeout", options), OwnServer::default()) else { panic!("taken") };
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_commit_has_the_time_of_a_write() {
        let own = |read, write| Timeout {
            read,
            write,
            server: OwnServer::default(),
            ended: setup("timeout", json!({})).counter("ended", "", &[]),
        };
        let (day, moment) = (Some(Duration::from_secs(86_400)), Some(Duration::from_nanos(1)));
        for (sql, is_write) in
            [("COMMIT", true), ("INSERT INTO t VALUES (1)", true), ("SELECT 1", false), ("SET a = 1", false)]
        {
            let command = command(sql);
            assert_eq!(own(day, moment).allowed(&command), if is_write { moment } else { day }, "{sql}");
        }
    }
}
