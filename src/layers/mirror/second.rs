//! The second server: one connection to it, in a session that is made like the client's for each read.

use std::time::Duration;

use futures_util::TryStreamExt;
use mysql_async::{
    Conn, Opts, QueryResult, Row, ServerError, Value,
    prelude::{Protocol, Queryable},
};
use tokio::time::timeout;
use towline_middleware::CommandKind;

use super::read::Read;

/// How much longer than the second server itself its answer is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// A statement that took too long, as MariaDB and MySQL name it.
const TOO_LONG: [u16; 2] = [1969, 3024];
/// What a row has in any packet besides its values.
const ROW_BYTES_MIN: usize = 4;

/// What a read may cost the second server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) timeout: Duration,
    pub(super) result_bytes_max: usize,
}

/// A connection to the second server.
#[derive(Debug)]
pub(super) struct Second {
    conn: Conn,
    is_mariadb: bool,
    /// It has chosen a default schema, which nothing takes back.
    has_schema: bool,
}

/// Why there is no answer to compare with.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// An answer, too: the read is an error there.
    #[error(transparent)]
    Answer(ServerError),
    /// An answer, too: there is more of it than the first server's.
    #[error("its answer is longer")]
    Longer,
    #[error("it could not be reached: {0}")]
    Connect(#[source] mysql_async::Error),
    #[error("it does not take the client's session: {0}")]
    Session(#[source] mysql_async::Error),
    #[error("its connection broke: {0}")]
    Broken(#[source] mysql_async::Error),
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
}

impl Failure {
    /// Whether it is in trouble: it is left alone for a while then.
    pub(super) fn is_of_the_server(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Timeout(_))
    }

    fn of(error: mysql_async::Error, bounds: Bounds) -> Self {
        match error {
            mysql_async::Error::Server(error) if TOO_LONG.contains(&error.code) => Self::Timeout(bounds.timeout),
            mysql_async::Error::Server(error) => Self::Answer(error),
            error => Self::Broken(error),
        }
    }
}

impl Second {
    /// What the second server answers to a read, on the connection that is open, or a new one.
    pub(super) async fn answer(
        open: &mut Option<Self>,
        opts: &Opts,
        read: &Read,
        bounds: Bounds,
    ) -> Result<Vec<Row>, Failure> {
        let mut own = match open.take() {
            Some(own) if !own.has_schema || !read.schema.is_empty() => own,
            _ => in_time(bounds, async { Self::connect(opts).await.map_err(Failure::Connect) }).await?,
        };
        let answer = in_time(bounds, own.ask(read, bounds)).await;
        let is_usable = match &answer {
            Ok(_) | Err(Failure::Answer(_)) => true,
            Err(Failure::Session(error)) => matches!(error, mysql_async::Error::Server(_)),
            Err(_) => false,
        };
        *open = is_usable.then_some(own);
        answer
    }

    async fn connect(opts: &Opts) -> Result<Self, mysql_async::Error> {
        let mut conn = Conn::new(opts.clone()).await?;
        let is_mariadb = conn.query_first("SELECT VERSION() LIKE '%MariaDB%'").await? == Some(true);
        Ok(Self { conn, is_mariadb, has_schema: false })
    }

    async fn ask(&mut self, read: &Read, bounds: Bounds) -> Result<Vec<Row>, Failure> {
        self.prepare(read, bounds.timeout).await.map_err(Failure::Session)?;
        let sql = &**read.command.sql();
        let rows = match read.command.kind() {
            CommandKind::Query => rows(self.conn.query_iter(sql).await, bounds.result_bytes_max).await,
            _ => rows(self.conn.exec_iter(sql, read.params.clone()).await, bounds.result_bytes_max).await,
        };
        rows.map_err(|error| Failure::of(error, bounds))?.ok_or(Failure::Longer)
    }

    /// Makes the session like the client's, but for what it may do: it ends reads that take too long, and writes nothing.
    async fn prepare(&mut self, read: &Read, timeout: Duration) -> Result<(), mysql_async::Error> {
        self.conn.reset().await?;
        for set in read.sets.iter() {
            self.conn.query_drop(&**set).await?;
        }
        if !read.schema.is_empty() {
            self.has_schema = true;
            self.conn.query_drop(format!("USE `{}`", read.schema.replace('`', "``"))).await?;
        }
        let limit = match self.is_mariadb {
            true => format!("SET SESSION max_statement_time = {}", timeout.as_secs_f64()),
            false => format!("SET SESSION max_execution_time = {}", timeout.as_millis()),
        };
        self.conn.query_drop(limit).await?;
        // A view may call a function that writes.
        self.conn.query_drop("SET SESSION TRANSACTION READ ONLY").await
    }
}

async fn in_time<T>(bounds: Bounds, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(bounds.timeout + GRACE, work).await.unwrap_or(Err(Failure::Timeout(bounds.timeout)))
}

/// The rows of a result; none if their values alone have more bytes.
async fn rows<P: Protocol + Unpin>(
    result: Result<QueryResult<'_, '_, P>, mysql_async::Error>,
    bytes_max: usize,
) -> Result<Option<Vec<Row>>, mysql_async::Error> {
    let (mut result, mut rows, mut left) = (result?, Vec::new(), bytes_max);
    let Some(mut stream) = result.stream::<Row>().await? else { return Ok(Some(rows)) };
    while let Some(row) = stream.try_next().await? {
        let Some(rest) = left.checked_sub(bytes_min(&row)) else { return Ok(None) };
        left = rest;
        rows.push(row);
    }
    Ok(Some(rows))
}

/// No form of this row has fewer bytes.
fn bytes_min(row: &Row) -> usize {
    let of_value = |at| match row.as_ref(at) {
        Some(Value::Bytes(bytes)) => bytes.len(),
        Some(Value::NULL) | None => 0,
        Some(_) => 1,
    };
    ROW_BYTES_MIN + (0..row.len()).map(of_value).sum::<usize>()
}
