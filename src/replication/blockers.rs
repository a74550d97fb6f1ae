//! Client sessions that hold up the applier: found while it waits, and ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::task::JoinHandle;

/// Looks for sessions that block the applier and ends them, until dropped.
#[derive(Debug)]
pub(crate) struct BlockerWatch(JoinHandle<()>);

impl BlockerWatch {
    /// Watches over the session with this connection id, over a connection of its own. `ended` counts the sessions.
    pub(crate) fn start(mysql: Opts, applier: u32, is_mariadb: bool, ended: Arc<AtomicU64>) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = watch(mysql, applier, is_mariadb, &ended).await {
                tracing::warn!(%error, "could not look for sessions that block the applier");
            }
        }))
    }
}

impl Drop for BlockerWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// InnoDB's tables in information_schema show a copy that is made anew only when nobody has looked for 100 ms.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Who holds a row lock that the applier waits for.
const ROW_LOCKS_MARIADB: &str = "SELECT b.trx_mysql_thread_id FROM information_schema.INNODB_LOCK_WAITS w \
    JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_trx_id \
    JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id WHERE r.trx_mysql_thread_id = ?";
const ROW_LOCKS_MYSQL: &str = "SELECT b.PROCESSLIST_ID FROM performance_schema.data_lock_waits w \
    JOIN performance_schema.threads r ON r.THREAD_ID = w.REQUESTING_THREAD_ID \
    JOIN performance_schema.threads b ON b.THREAD_ID = w.BLOCKING_THREAD_ID WHERE r.PROCESSLIST_ID = ?";
/// MySQL without its performance schema names nobody: the oldest transaction that holds row locks, while the applier waits
/// for one. A slave's clients seldom hold any.
const ROW_LOCKS_UNTOLD: &str = "SELECT t.trx_mysql_thread_id FROM information_schema.INNODB_TRX t \
    JOIN information_schema.INNODB_TRX r ON r.trx_state = 'LOCK WAIT' AND r.trx_mysql_thread_id = ? \
    WHERE t.trx_mysql_thread_id <> r.trx_mysql_thread_id AND t.trx_rows_locked > 0 ORDER BY t.trx_started LIMIT 1";

/// While the applier waits for a metadata lock: the client with the oldest open transaction. MariaDB names the owner of
/// a metadata lock only with a plugin, and a slave's clients only read, so the oldest reader is ended first.
const OLDEST_READER: &str = "SELECT t.trx_mysql_thread_id FROM information_schema.INNODB_TRX t \
    JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id \
    WHERE p.ID <> ? AND p.USER <> 'system user' \
    AND EXISTS (SELECT 1 FROM information_schema.PROCESSLIST a WHERE a.ID = ? AND a.STATE LIKE 'Waiting for%metadata lock') \
    ORDER BY t.trx_started LIMIT 1";

async fn watch(mysql: Opts, applier: u32, is_mariadb: bool, ended: &AtomicU64) -> mysql_async::Result<()> {
    let mut conn = Conn::new(mysql).await?;
    let row_locks = match is_mariadb {
        true => ROW_LOCKS_MARIADB,
        false if conn.query_first("SELECT @@global.performance_schema").await? == Some(true) => ROW_LOCKS_MYSQL,
        false => ROW_LOCKS_UNTOLD,
    };
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let mut blockers: Vec<u32> = conn.exec(row_locks, (applier,)).await?;
        if blockers.is_empty() {
            blockers = conn.exec(OLDEST_READER, (applier, applier)).await?;
        }
        blockers.sort_unstable();
        blockers.dedup();
        for id in blockers.into_iter().filter(|id| *id != applier && *id != 0) {
            // Counted before: its end lets the applier go on, which ends this watch at once.
            ended.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(connection = id, "ending a client's session on this slave that holds up the applier");
            if conn.query_drop(format!("KILL CONNECTION {id}")).await.is_err() {
                // It has gone by itself in between: there was nothing to count.
                ended.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
