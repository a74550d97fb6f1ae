//! Clients that write through the master all the time, and what they were told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use mysql_async::{Conn, Error, Opts, prelude::Queryable};
use tokio::{
    sync::RwLock,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::history::{Appended, History};

/// Accounts among which money is moved, and what each has at the start.
pub(super) const ACCOUNTS: u64 = 24;
pub(super) const BALANCE: i64 = 1000;
/// Lists that grow.
pub(super) const LISTS: u64 = 8;
const WRITERS: u64 = 4;
/// How many schemas, tables and columns of a kind the one who changes the schema works on.
const NAMES: u64 = 3;

/// What is there before the first fault.
pub(super) const SCHEMA: [&str; 9] = [
    "CREATE DATABASE bank",
    "CREATE DATABASE side",
    "CREATE TABLE bank.account (id INT PRIMARY KEY, balance BIGINT NOT NULL)",
    "INSERT INTO bank.account SELECT seq - 1, 1000 FROM bank.seq_1_to_24",
    "CREATE TABLE bank.list (k INT, n INT, item BIGINT NOT NULL, PRIMARY KEY (k, n))",
    // Without a key: a row that comes twice stays twice.
    "CREATE TABLE bank.trail (k INT, item BIGINT)",
    "CREATE TABLE bank.bulk (id INT PRIMARY KEY, filling VARCHAR(200), at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6))",
    "CREATE TABLE bank.doc (id INT PRIMARY KEY, body MEDIUMBLOB)",
    "GRANT CREATE USER ON *.* TO app WITH GRANT OPTION",
];
/// Makes the accounts that the load works on what they are before the first fault.
pub(super) const PEOPLE: [&str; 6] = [
    "CREATE OR REPLACE USER keeper IDENTIFIED BY 'first'",
    "DROP USER IF EXISTS p0, p1, p2",
    "DROP ROLE IF EXISTS r0",
    "DROP ROLE IF EXISTS r1",
    "DROP ROLE IF EXISTS r2",
    "GRANT SELECT ON bank.* TO keeper",
];

/// How the acknowledgement of a write is checked.
#[derive(Clone)]
pub(super) struct Promise {
    /// How many slaves' servers must have an acknowledged write at once.
    pub(super) slaves: usize,
    /// How to log in to them, past the nodes.
    pub(super) servers: Vec<Opts>,
    /// The server of the slave that has joined since, where that may be the only one that has a write.
    pub(super) joined: Arc<Mutex<Option<Opts>>>,
}

/// Clients that write.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    master: Opts,
    promise: Promise,
    /// Each transaction holds it to read; whoever holds it to write has a master without clients' transactions.
    turn: RwLock<()>,
    history: Arc<Mutex<History>>,
}

/// How long a client waits for an answer before it connects anew.
const PATIENCE: Duration = Duration::from_secs(15);

impl Load {
    /// Clients of the master, whose choices come from the seed.
    pub(super) fn start(master: Opts, promise: Promise, history: Arc<Mutex<History>>, seed: u64) -> Self {
        let shared = Arc::new(Shared { master, promise, turn: RwLock::default(), history });
        let clients = (0..=WRITERS).map(|number| {
            let client = Client {
                shared: Arc::clone(&shared),
                rng: Rng::with_seed(seed.wrapping_mul(WRITERS + 1).wrapping_add(number)),
                number,
                items: 0,
            };
            tokio::spawn(client.work())
        });
        Self { clients: clients.collect(), shared }
    }

    /// Waits until no client is in a transaction, and keeps all of them from beginning one.
    pub(super) async fn pause(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.shared.turn.write().await
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

struct Client {
    shared: Arc<Shared>,
    rng: Rng,
    /// The last one changes the schema.
    number: u64,
    items: u64,
}

impl Client {
    async fn work(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let connected = timeout(PATIENCE, Conn::new(shared.master.clone())).await;
            let Ok(Ok(mut conn)) = connected else {
                // The node or its server is down.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            loop {
                let turn = shared.turn.read().await;
                let outcome = timeout(PATIENCE, self.act(&mut conn)).await;
                drop(turn);
                match outcome {
                    Ok(Ok(())) => {}
                    // A deadlock, a table that is just being changed, too few slaves …
                    Ok(Err(Error::Server(_))) if conn.query_drop("ROLLBACK").await.is_ok() => {}
                    // Committed or not: nobody was told.
                    _ => break,
                }
                sleep(Duration::from_millis(self.rng.u64(..20))).await;
            }
        }
    }

    async fn act(&mut self, conn: &mut Conn) -> Result<(), Error> {
        if self.number == WRITERS {
            let statement = self.schema_change();
            sleep(Duration::from_millis(self.rng.u64(..100))).await;
            return conn.query_drop(statement).await;
        }
        let level = self.rng.choice(["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
        let level = level.expect("there are four");
        conn.query_drop(format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
        match self.rng.u8(..100) {
            0..45 => {
                conn.query_drop("START TRANSACTION").await?;
                self.transfer(conn).await?;
                conn.query_drop(if self.rng.u8(..8) == 0 { "ROLLBACK" } else { "COMMIT" }).await
            }
            45..90 => self.append(conn).await,
            90..95 => self.fill(conn).await,
            _ => {
                let (id, bytes) = (self.rng.u8(..20), self.rng.u32(..40_000));
                let sql = format!("REPLACE INTO bank.doc VALUES ({id}, REPEAT(RANDOM_BYTES(16), {bytes} DIV 16))");
                conn.query_drop(sql).await
            }
        }
    }

    /// Moves money. The order in which two rows are taken is left to chance, so there are deadlocks.
    async fn transfer(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let (from, to, amount) = (self.rng.u64(..ACCOUNTS), self.rng.u64(..ACCOUNTS), self.rng.i64(1..50));
        if self.rng.bool() {
            conn.query_drop(format!("SELECT balance FROM bank.account WHERE id = {from} FOR UPDATE")).await?;
        }
        if self.rng.u8(..6) == 0 {
            conn.query_drop("SAVEPOINT s").await?;
            conn.query_drop(format!("UPDATE bank.account SET balance = 0 WHERE id = {to}")).await?;
            conn.query_drop("ROLLBACK TO s").await?;
        }
        conn.query_drop(format!("UPDATE bank.account SET balance = balance - {amount} WHERE id = {from}")).await?;
        conn.query_drop(format!("UPDATE bank.account SET balance = balance + {amount} WHERE id = {to}")).await
    }

    /// Puts an item at the end of a list.
    async fn append(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let k = self.rng.u64(..LISTS);
        self.items += 1;
        let item = self.items * (WRITERS + 1) + self.number;
        conn.query_drop("START TRANSACTION").await?;
        let last = format!("SELECT COALESCE(MAX(n), 0) FROM bank.list WHERE k = {k} FOR UPDATE");
        let n = conn.query_first::<u64, _>(last).await?.unwrap_or(0) + 1;
        conn.query_drop(format!("INSERT INTO bank.list (k, n, item) VALUES ({k}, {n}, {item})")).await?;
        conn.query_drop(format!("INSERT INTO bank.trail (k, item) VALUES ({k}, {item})")).await?;
        if self.rng.u8(..4) == 0 {
            self.transfer(conn).await?;
        }
        conn.query_drop("COMMIT").await?;
        let appended = Appended { k, n, item };
        // Before anything that may fail.
        self.shared.history.lock().unwrap().acknowledged(&appended);
        if self.rng.u8(..8) == 0 {
            self.check_promise(&appended).await;
        }
        let gtid: Option<String> = conn.query_first("SELECT @@last_gtid").await?;
        if let Some(seq) = gtid.and_then(|gtid| gtid.rsplit('-').next()?.parse().ok()) {
            self.shared.history.lock().unwrap().numbered(&appended, seq);
        }
        Ok(())
    }

    /// A transaction that is too long to be held in memory, as the nodes are set.
    async fn fill(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let (first, rows) = (self.rng.u32(..500), self.rng.u32(1..1500));
        conn.query_drop("START TRANSACTION").await?;
        conn.query_drop(format!("DELETE FROM bank.bulk WHERE id BETWEEN {first} AND {}", first + rows)).await?;
        let filling = format!(
            "INSERT IGNORE INTO bank.bulk (id, filling) SELECT seq, REPEAT(UUID(), 4) FROM bank.seq_{first}_to_{}",
            first + rows
        );
        conn.query_drop(filling).await?;
        conn.query_drop(format!("DELETE FROM bank.trail WHERE k = {} LIMIT 20", self.rng.u64(..LISTS))).await?;
        conn.query_drop("COMMIT").await
    }

    /// What was acknowledged must be on as many slaves by now. A server that is down tells nothing.
    async fn check_promise(&self, appended: &Appended) {
        let Promise { slaves: wanted, servers, joined } = &self.shared.promise;
        if *wanted == 0 {
            return;
        }
        let joined = joined.lock().unwrap().clone();
        let servers: Vec<&Opts> = servers.iter().chain(&joined).collect();
        let mut lacking = 0;
        for server in &servers {
            let has = timeout(PATIENCE, has((*server).clone(), appended)).await;
            lacking += usize::from(matches!(has, Ok(Ok(false))));
        }
        if lacking > servers.len() - wanted {
            let told = format!("{appended:?} was acknowledged, and {lacking} of {} slaves lack it", servers.len());
            self.shared.history.lock().unwrap().violated(told);
        }
    }

    /// Not of databases: MariaDB makes their folder before the log entry, and does not take it back after a crash. Of
    /// accounts only what can be said of any state, since it does not take those back either.
    fn schema_change(&mut self) -> String {
        let mut pick = || self.rng.u64(..NAMES);
        let (t, u, x) = (pick(), pick(), pick());
        match self.rng.u8(..29) {
            24 => format!("CREATE OR REPLACE USER p{t} IDENTIFIED BY 'p{x}'"),
            25 => format!("DROP USER IF EXISTS p{t}, p{u}"),
            26 if x == 0 => format!("CREATE ROLE IF NOT EXISTS r{t}"),
            26 => format!("DROP ROLE IF EXISTS r{t}"),
            27 if x == 0 => "REVOKE ALL PRIVILEGES, GRANT OPTION FROM keeper".to_owned(),
            27 => format!("GRANT SELECT, INSERT ON side.t{t} TO keeper"),
            28 => format!("ALTER USER keeper IDENTIFIED BY 'k{t}{u}' WITH MAX_QUERIES_PER_HOUR {}", 1000 * (x + 1)),
            0..3 => format!("CREATE TABLE IF NOT EXISTS side.t{t} (i INT PRIMARY KEY AUTO_INCREMENT, s VARCHAR(20))"),
            3..8 => format!("INSERT INTO side.t{t} (s) VALUES ('{x}'), ('{u}')"),
            8 => format!("CREATE OR REPLACE TABLE side.t{t} AS SELECT id AS i, 's' AS s FROM bank.account"),
            9 => format!("CREATE TABLE side.t{t} (PRIMARY KEY (i)) SELECT n * 10 + k AS i, 's' AS s FROM bank.list"),
            10 => format!("DROP TABLE IF EXISTS side.t{t}, side.t{u}"),
            11 => format!("ALTER TABLE side.t{t} ADD COLUMN IF NOT EXISTS x{x} INT DEFAULT {u}"),
            12 => format!("ALTER TABLE side.t{t} DROP COLUMN IF EXISTS x{x}"),
            13 => format!("RENAME TABLE side.t{t} TO side.swap, side.t{u} TO side.t{t}, side.swap TO side.t{u}"),
            14 => format!("TRUNCATE TABLE side.t{t}"),
            15 => format!("CREATE OR REPLACE VIEW side.v{t} AS SELECT * FROM side.t{u}"),
            16 => format!("DROP VIEW side.v{t}"),
            17 => format!("CREATE OR REPLACE PROCEDURE side.p{t}() INSERT INTO side.t{u} (s) VALUES ('p')"),
            18 => format!("CALL side.p{t}()"),
            19 => format!(
                "CREATE OR REPLACE TRIGGER side.g{t} AFTER INSERT ON side.t{t} FOR EACH ROW \
                 INSERT INTO bank.trail (k, item) VALUES (-1, NEW.i)"
            ),
            20 => format!("CREATE SEQUENCE IF NOT EXISTS side.s{t} START {x} CACHE 2"),
            21 => format!("INSERT INTO bank.trail (k, item) VALUES (-2, NEXTVAL(side.s{t}))"),
            22 => format!("ALTER SEQUENCE side.s{t} RESTART {x}"),
            _ if t == 0 => format!("ALTER TABLE bank.account ADD COLUMN IF NOT EXISTS x{x} INT DEFAULT {u}"),
            _ if t == 1 => format!("ALTER TABLE bank.account DROP COLUMN IF EXISTS x{x}"),
            _ => "ALTER TABLE bank.list ENGINE = InnoDB".to_owned(),
        }
    }
}

async fn has(server: Opts, appended: &Appended) -> Result<bool, Error> {
    let mut conn = Conn::new(server).await?;
    let Appended { k, n, item } = appended;
    let found: Option<u64> = conn.query_first(format!("SELECT item FROM bank.list WHERE k = {k} AND n = {n}")).await?;
    conn.disconnect().await?;
    Ok(found == Some(*item))
}
