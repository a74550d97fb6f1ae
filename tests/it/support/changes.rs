//! A master whose transactions a test takes and pushes by hand.

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable};
use tokio::time::timeout;
use towline::{
    capture::{Capture, CaptureOptions, Captured},
    replication::protocol::{Batch, Mark, VERSION},
};
use towline_middleware::{Epoch, Role};

use super::{Database, TestServer};
use crate::matrix::last_gtid;

/// A master's MySQL and the capture that reads it.
pub(crate) struct Changes<S = TestServer> {
    _master: S,
    session: Conn,
    capture: Capture,
    /// The last transaction that was taken.
    pub(crate) at: Mark,
}

impl Changes {
    pub(crate) async fn start() -> Self {
        Self::of(TestServer::start(Role::Master).await).await
    }
}

impl<S: Database> Changes<S> {
    /// Those of a server on which nothing was done yet.
    pub(crate) async fn of(master: S) -> Self {
        let options = CaptureOptions {
            opts: master.opts(),
            epoch: Epoch(1),
            from: Mark::default(),
            transaction_bytes_max: 256 << 20,
        };
        let capture = Capture::open(&options).await.unwrap();
        let session = master.connect().await;
        Self { _master: master, session, capture, at: Mark::default() }
    }

    /// Runs statements on the master and returns what they committed as one batch.
    pub(crate) async fn make(&mut self, statements: &[&str]) -> Batch {
        for sql in statements {
            self.session.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let last = last_gtid(S::FAMILY, &mut self.session).await;
        let mut batch = batch(self.at.clone(), []);
        while self.at.gtid != last {
            let captured = timeout(Duration::from_secs(30), self.capture.next()).await.unwrap().unwrap();
            let Captured { transaction, format, .. } = captured;
            self.at = transaction.mark();
            let format = format.map(|format| format.as_ref().clone());
            batch.formats.extend(format.filter(|format| !batch.formats.contains(format)));
            batch.transactions.push(transaction);
        }
        batch.head = self.at.position;
        batch
    }
}

/// A batch of the cluster `test`, epoch 1.
pub(crate) fn batch(
    after: Mark,
    transactions: impl IntoIterator<Item = towline::replication::protocol::Transaction>,
) -> Batch {
    Batch {
        version: VERSION,
        cluster: "test".into(),
        epoch: Epoch(1),
        family: None,
        after,
        head: towline_middleware::Position::default(),
        out_of_reach: None,
        formats: Vec::new(),
        transactions: transactions.into_iter().collect(),
    }
}
