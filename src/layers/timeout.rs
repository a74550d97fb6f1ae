//! A bound on how long MySQL may work on a command: what takes longer is ended at the server, by `KILL QUERY`.
//!
//! Only the time that MySQL takes counts, not that of a client which reads slowly. The command is never abandoned here:
//! its reply is read to its end, so that the session goes on, and the client gets error 3024.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use mysql_async::{Conn, prelude::Queryable};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use towline_middleware::{
    BoxFuture, Command, Error, Figure, Final, LayerProblem, LayerSetup, Next, Part, Parts, Reply, ServerError, Session,
    UserLayer, from_fn,
};

use super::OwnServer;

/// "Query execution was interrupted."
const INTERRUPTED: u16 = 1317;
/// How long a KILL may take, and how long after it the next is sent if the command still runs.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// For what only reads.
    read_ms: Option<u64>,
    /// For all else. A statement that is ended is rolled back.
    write_ms: Option<u64>,
}

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
    let ended = setup.counter("ended", "Commands ended since they took too long.", &[]);
    let own = Arc::new(Timeout {
        read: read_ms.map(Duration::from_millis),
        write: write_ms.map(Duration::from_millis),
        server,
        ended,
    });
    Ok(from_fn(move |command: Command, next: Next| {
        let own = own.clone();
        async move { own.call(command, next).await }
    }))
}

impl Timeout {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        let allowed = if command.intent().may_write() { self.write } else { self.read };
        let Some(left) = allowed.filter(|_| command.kind().runs_sql()) else {
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
        let begun = Instant::now();
        if !self.is_over {
            if let Ok(done) = timeout(self.left, &mut work).await {
                self.left = self.left.saturating_sub(begun.elapsed());
                return done;
            }
            self.is_over = true;
            self.own.ended.increment();
        }
        loop {
            self.own.kill(self.session.connection_id()).await;
            if let Ok(done) = timeout(KILL_TIMEOUT, &mut work).await {
                return done;
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
    use towline_middleware::testing::conformance;

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let options = json!({"read_ms": 1000, "write_ms": 1000});
        conformance(|| layer(&mut setup("timeout", options.clone()), OwnServer::default()).unwrap()).await;
    }
}
