//! Where keys are kept: the schema `towline_app`, its table, and the two procedures through which alone clients reach it.

use std::{
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mysql_async::{Conn, prelude::Queryable};
use parking_lot::Mutex;

use super::super::OwnServer;

/// So many expired keys are removed in one transaction.
const SWEEP_ROWS_MAX: u32 = 1000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE DATABASE IF NOT EXISTS towline_app";
/// A changed table or procedure gets the next number: what is there is never made again.
const TABLE: &str = "idempotency_2";
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS towline_app.idempotency_2 ( \
     account VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
     request_key VARBINARY(255) NOT NULL, fingerprint VARBINARY(32) NOT NULL, \
     at_s BIGINT UNSIGNED NOT NULL DEFAULT 0, repeats BIGINT UNSIGNED NOT NULL DEFAULT 0, \
     affected_rows BIGINT UNSIGNED NOT NULL DEFAULT 0, last_insert_id BIGINT UNSIGNED NOT NULL DEFAULT 0, \
     sets_id BOOLEAN NOT NULL DEFAULT FALSE, info VARBINARY(1024) NOT NULL DEFAULT '', \
     PRIMARY KEY (account, request_key), KEY (at_s)) ENGINE = InnoDB";

/// The first table, whose clock was the session's. Its keys go over to the second; it stays, empty.
const OLD_TABLE: &str = "idempotency";
const MOVE_KEYS: [&str; 4] = [
    "START TRANSACTION",
    "INSERT IGNORE INTO towline_app.idempotency_2 \
       SELECT account, request_key, fingerprint, UNIX_TIMESTAMP(at), repeats, affected_rows, last_insert_id, \
         last_insert_id <> 0, info FROM towline_app.idempotency FOR UPDATE",
    "DELETE FROM towline_app.idempotency",
    "COMMIT",
];

const PROCEDURES: [(&str, &str); 2] = [
    // A row that is there is changed, by which it is locked at once: a lock that two could share would be a deadlock of
    // both. All reads lock: one that does not would fix what the write sees, and a server with snapshot isolation would
    // refuse a write to what has changed since. A client that calls this with a time of its own reaches only its own
    // account's keys.
    (
        "claim_2",
        "CREATE PROCEDURE towline_app.claim_2 (asked VARBINARY(255), print VARBINARY(32), ttl_s BIGINT UNSIGNED, \
           now_s BIGINT UNSIGNED) MODIFIES SQL DATA SQL SECURITY DEFINER BEGIN \
           DECLARE own VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin \
             DEFAULT LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1); \
           INSERT INTO towline_app.idempotency_2 (account, request_key, fingerprint, at_s) \
             VALUES (own, asked, print, now_s) \
             ON DUPLICATE KEY UPDATE repeats = IF(at_s + ttl_s < now_s, 0, repeats + 1), \
               fingerprint = IF(repeats = 0, print, fingerprint), at_s = IF(repeats = 0, now_s, at_s); \
           SELECT repeats = 0, fingerprint = print, affected_rows, last_insert_id, sets_id, info \
             FROM towline_app.idempotency_2 WHERE account = own AND request_key = asked FOR UPDATE; \
         END",
    ),
    // An UPDATE of a key that is not there would lock the gap, and in it the keys of other accounts. An id that the write
    // has brought along is in its OK, but not in LAST_INSERT_ID().
    (
        "keep_2",
        "CREATE PROCEDURE towline_app.keep_2 (asked VARBINARY(255), affected BIGINT UNSIGNED, id BIGINT UNSIGNED, \
           told VARBINARY(1024)) MODIFIES SQL DATA SQL SECURITY DEFINER \
         INSERT INTO towline_app.idempotency_2 (account, request_key, fingerprint) VALUES \
           (LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1), asked, '') \
           ON DUPLICATE KEY UPDATE affected_rows = affected, last_insert_id = id, \
             sets_id = id <> 0 AND id = LAST_INSERT_ID(), info = told",
    ),
];

/// The node's clock, in seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why the schema can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the schema towline_app can't be made: {0}")]
    Server(#[from] mysql_async::Error),
    #[error(
        "`towline_app`.`{name}` is not what the node makes ({what}), so that whoever made it could act in another's place: \
         drop it, and the node makes it anew"
    )]
    Foreign { name: String, what: String },
}

/// Makes what is missing; what is there is not made again, since each statement would travel to the slaves. Looks at the
/// whole afterwards: nothing in the schema may be anybody else's.
pub(super) async fn make(conn: &mut Conn) -> Result<(), Unusable> {
    if kind_of_table(conn, TABLE).await?.is_none() {
        conn.query_drop(SCHEMA).await?;
        conn.query_drop(CREATE_TABLE).await?;
    }
    let found = routines(conn).await?;
    for (name, statement) in PROCEDURES {
        if !found.iter().any(|routine| routine.name.eq_ignore_ascii_case(name)) {
            conn.query_drop(statement).await?;
        }
    }
    match kind_of_table(conn, TABLE).await? {
        Some(kind) if kind == BASE_TABLE => {}
        kind => {
            let what = kind.unwrap_or_else(|| "not there".to_owned());
            return Err(Unusable::Foreign { name: TABLE.to_owned(), what });
        }
    }
    if kind_of_table(conn, OLD_TABLE).await?.is_some_and(|kind| kind == BASE_TABLE) {
        for statement in MOVE_KEYS {
            conn.query_drop(statement).await?;
        }
    }
    match routines(conn).await?.into_iter().find(|routine| !routine.is_own()) {
        Some(Routine { name, definer, security, .. }) => {
            Err(Unusable::Foreign { name, what: format!("made by {definer}, run with the rights of its {security}") })
        }
        None => Ok(()),
    }
}

struct Routine {
    name: String,
    definer: String,
    security: String,
    /// The node's own account.
    own: String,
}

impl Routine {
    fn is_own(&self) -> bool {
        self.definer == self.own && self.security == "DEFINER"
    }
}

async fn routines(conn: &mut Conn) -> Result<Vec<Routine>, mysql_async::Error> {
    let sql = "SELECT routine_name, definer, security_type, CURRENT_USER() FROM information_schema.routines \
               WHERE routine_schema = 'towline_app'";
    conn.query_map(sql, |(name, definer, security, own)| Routine { name, definer, security, own }).await
}

/// A view in a table's place could call functions with the rights of the node.
const BASE_TABLE: &str = "BASE TABLE";

async fn kind_of_table(conn: &mut Conn, name: &str) -> Result<Option<String>, mysql_async::Error> {
    let sql = "SELECT table_type FROM information_schema.tables WHERE table_schema = 'towline_app' AND table_name = ";
    conn.query_first(format!("{sql}'{name}'")).await
}

/// Lets an account, in quotes, execute the procedures.
pub(super) async fn grant(server: &OwnServer, account: &str) -> Result<(), mysql_async::Error> {
    let opts = server.get().ok_or(mysql_async::DriverError::ConnectionClosed)?;
    let mut conn = Conn::new(opts).await?;
    // A backslash in a name is only a backslash then, and an account that was dropped stays so: MariaDB's GRANT would make it
    // again, without a password. Whoever may claim may keep as well: `claim_2` comes last.
    let modes = "SET sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES' /*M! , ',NO_AUTO_CREATE_USER' */)";
    conn.query_drop(modes).await?;
    for procedure in ["keep_2", "claim_2"] {
        conn.query_drop(format!("GRANT EXECUTE ON PROCEDURE towline_app.{procedure} TO {account}")).await?;
    }
    conn.disconnect().await
}

/// How long keys are remembered, by each configuration that still serves a session: a key goes when it has expired for
/// all of them. Kept over a reload.
#[derive(Debug, Default)]
pub(super) struct Promised(Mutex<Vec<Weak<u32>>>);

impl Promised {
    /// Takes note of a configuration, for as long as this number lives.
    pub(super) fn add(&self, ttl_s: &Arc<u32>) {
        let mut promised = self.0.lock();
        promised.retain(|known| known.strong_count() > 0);
        promised.push(Arc::downgrade(ttl_s));
    }

    fn longest_s(&self) -> Option<u32> {
        self.0.lock().iter().filter_map(Weak::upgrade).map(|ttl_s| *ttl_s).max()
    }
}

/// Removes expired keys, now and then, in small transactions.
pub(super) async fn sweep(server: OwnServer, promised: Arc<Promised>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let (Some(opts), Some(ttl_s)) = (server.get(), promised.longest_s()) else { continue };
        let swept = async {
            let mut conn = Conn::new(opts).await?;
            loop {
                let expired_s = now_s().saturating_sub(ttl_s.into());
                let sql = "DELETE FROM towline_app.idempotency_2 WHERE at_s <";
                conn.query_drop(format!("{sql} {expired_s} ORDER BY at_s LIMIT {SWEEP_ROWS_MAX}")).await?;
                if conn.affected_rows() < SWEEP_ROWS_MAX.into() {
                    return conn.disconnect().await;
                }
            }
        };
        if let Err(error) = swept.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "expired idempotency keys could not be removed; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lives_as_long_as_the_longest_promise() {
        let promised = Promised::default();
        assert_eq!(promised.longest_s(), None);
        let (old, new) = (Arc::new(10), Arc::new(5));
        promised.add(&old);
        promised.add(&new);
        assert_eq!(promised.longest_s(), Some(10));
        drop(old);
        assert_eq!(promised.longest_s(), Some(5));
    }
}
