//! A slave applies each transaction once, or none of it, whatever goes wrong.

use std::time::Duration;

use mysql_async::{Conn, prelude::Queryable};
use towline::replication::{
    apply::{Applier, ApplyOptions},
    progress::ApplyState,
    protocol::{Batch, Change, Mark, NotApplied, PushRefusal},
};
use towline_middleware::{Epoch, Position, Role};

use crate::support::{Changes, Database, Mysql9, TestServer, batch, eventually, mysql_server};

/// A slave's MySQL and its applier.
struct Slave<S = TestServer> {
    server: S,
    applier: Applier,
    session: Conn,
}

impl Slave {
    async fn start() -> Self {
        Self::start_with(&[], |_| ()).await
    }

    async fn start_with(extra_args: &[&str], adjust: impl FnOnce(&mut ApplyOptions)) -> Self {
        let mut slave = Self::of(TestServer::start_with(Role::Slave, extra_args).await).await;
        slave.apply_with(adjust).await;
        slave
    }
}

impl<S: Database> Slave<S> {
    async fn of(server: S) -> Self {
        let applier = Applier::start(ApplyOptions::new(server.opts()));
        let session = server.connect().await;
        Self { server, applier, session }
    }

    /// Lets another applier go on with these options.
    async fn apply_with(&mut self, adjust: impl FnOnce(&mut ApplyOptions)) {
        self.applier.stop().await;
        let mut options = ApplyOptions::new(self.server.opts());
        options.lock_wait = Duration::from_secs(1);
        adjust(&mut options);
        self.applier = Applier::start(options);
    }

    async fn apply(&self, batch: &Batch) {
        let applied = self.applier.push(batch.clone()).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!(applied.applied, batch.transactions.last().unwrap().mark());
    }

    async fn refusal(&self, batch: &Batch) -> NotApplied {
        self.applier.push(batch.clone()).await.expect_err("the push must be refused")
    }

    async fn run(&mut self, sql: &str) {
        self.session.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn rows(&mut self, sql: &str) -> Vec<(i64, i64)> {
        self.session.query(sql).await.unwrap()
    }

    /// How long its own log is.
    async fn log_bytes(&mut self) -> u64 {
        let files: Vec<(String, u64)> = self.session.query("SHOW BINARY LOGS").await.unwrap();
        files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The position as the server holds it.
    async fn position(&mut self) -> Mark {
        let row: Option<(u64, u64, String, Option<u32>)> =
            self.session.query_first("SELECT epoch, seq, gtid, checksum FROM towline.position").await.unwrap();
        let (epoch, seq, gtid, checksum) = row.unwrap();
        Mark { position: Position::new(epoch, seq), gtid, checksum }
    }
}

/// What comes after a part of a batch was applied.
fn rest_of(batch: &Batch, applied: usize) -> Batch {
    let mut rest = batch.clone();
    rest.after = rest.transactions[applied - 1].mark();
    rest.transactions.drain(..applied);
    rest
}

const TABLE: [&str; 2] = ["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT PRIMARY KEY, n INT)"];

/// On one pair of servers, one after the other; each body leaves the slave without the schema.
#[tokio::test]
async fn what_goes_wrong_in_the_middle_of_a_batch_goes_wrong_alike_on_mysql() {
    let Some((mut changes, mut slave)) = mysql_pair("--performance-schema=ON").await else { return };
    fails_in_the_middle(&mut changes, &mut slave).await;
    slave.apply_with(|options| options.lock_tries = 1).await;
    a_lock_is_in_the_way(&mut changes, &mut slave).await;
    slave.apply_with(|options| options.lock_tries = 100).await;
    a_deadlock_is_in_the_way(&mut changes, &mut slave).await;
    the_server_is_killed(&mut changes, &mut slave).await;
}

/// Without its performance schema MySQL does not name the session that holds a lock.
#[tokio::test]
async fn a_client_that_holds_a_lock_is_ended_where_mysql_does_not_tell_who_it_is() {
    let Some((mut changes, mut slave)) = mysql_pair("--performance-schema=OFF").await else { return };
    slave.apply_with(|options| options.lock_tries = 1).await;
    a_lock_is_in_the_way(&mut changes, &mut slave).await;
}

async fn mysql_pair(option: &str) -> Option<(Changes<Mysql9>, Slave<Mysql9>)> {
    let master = mysql_server(&[]).await?;
    let slave = mysql_server(&[option]).await?;
    Some((Changes::of(master).await, Slave::of(slave).await))
}

#[tokio::test]
async fn a_batch_that_fails_in_the_middle_moves_the_position_to_just_before_it() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    fails_in_the_middle(&mut changes, &mut slave).await;
}

async fn fails_in_the_middle<S: Database>(changes: &mut Changes<S>, slave: &mut Slave<S>) {
    let cases = [
        // What someone did on the slave behind Towline's back, the error that follows and what it names, and how it is
        // mended.
        ("INSERT INTO shop.t VALUES (2, 99)", 1062, "'2'", "DELETE FROM shop.t WHERE i = 2"),
        ("DELETE FROM shop.t WHERE i = 10", 1032, "'t'", "INSERT INTO shop.t VALUES (10, 0)"),
        ("RENAME TABLE shop.t TO shop.gone", 1146, "shop.t", "RENAME TABLE shop.gone TO shop.t"),
    ];
    for (damage, code, names, mend) in cases {
        slave.apply(&changes.make(&TABLE).await).await;
        slave.apply(&changes.make(&["INSERT INTO shop.t VALUES (10, 0)"]).await).await;
        slave.run(damage).await;
        let before = changes.at.clone();
        let batch = changes
            .make(&[
                "CREATE TABLE shop.fine (i INT)",
                "INSERT INTO shop.fine VALUES (1)",
                "BEGIN",
                "INSERT INTO shop.t VALUES (1, 1), (2, 2)",
                "UPDATE shop.t SET n = 5 WHERE i = 10",
                "COMMIT",
                "INSERT INTO shop.fine VALUES (2)",
            ])
            .await;
        assert_eq!((batch.transactions.len(), &batch.after), (4, &before));

        let refusal = slave.refusal(&batch).await;
        assert_eq!(refusal.refusal, PushRefusal::Stopped, "{refusal:?}");
        let good = batch.transactions[1].mark();
        assert_eq!((refusal.at.as_ref(), slave.position().await), (Some(&good), good.clone()));
        let ApplyState::Stopped(stop) = slave.applier.progress().state else { panic!("it must have stopped") };
        let failed = batch.transactions[2].mark();
        assert_eq!((&stop.mark, stop.code), (&failed, Some(code)), "{}", refusal.message);
        assert!(stop.tables.contains(&"shop.t".to_owned()));
        for said in [names, "which changes shop.t", &failed.gtid, "Mend it on this slave and resume"] {
            assert!(refusal.message.contains(said), "{said} is not in {}", refusal.message);
        }
        assert_eq!(slave.rows("SELECT 0, i FROM shop.fine").await, [(0, 1)], "the third must wait for the second");

        // It stays where it is, for every later push.
        assert_eq!(slave.refusal(&rest_of(&batch, 2)).await.refusal, PushRefusal::Stopped);
        slave.run(mend).await;
        slave.applier.resume().await;
        slave.apply(&rest_of(&batch, 2)).await;
        assert_eq!(slave.rows("SELECT i, n FROM shop.t ORDER BY i").await, [(1, 1), (2, 2), (10, 5)]);
        assert_eq!(slave.applier.progress().state, ApplyState::Running);
        slave.apply(&changes.make(&["DROP DATABASE shop"]).await).await;
    }
}

/// Its rows are here then, and fail: that is no reason to stop.
#[tokio::test]
async fn a_transaction_that_someone_else_has_applied_is_not_a_fault_of_the_data() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    slave.apply(&changes.make(&TABLE).await).await;
    let batch = changes.make(&["INSERT INTO shop.t VALUES (1, 1)"]).await;
    let last = batch.transactions[0].mark();
    slave.run("INSERT INTO shop.t VALUES (1, 1)").await;
    let moved = format!(
        "UPDATE towline.position SET seq = {}, gtid = '{}', checksum = {}",
        last.position.seq,
        last.gtid,
        last.checksum.unwrap()
    );
    slave.run(&moved).await;
    let refusal = slave.refusal(&batch).await;
    assert_eq!(refusal.refusal, PushRefusal::Unavailable, "{refusal:?}");
    eventually("it knows where it stands", async || match slave.refusal(&batch).await {
        NotApplied { refusal: PushRefusal::Position, at: Some(at), .. } if at == last => Ok(()),
        refusal => Err(refusal),
    })
    .await;
}

#[tokio::test]
async fn a_position_that_an_older_node_has_written_is_gone_on_from() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    slave.apply(&changes.make(&TABLE).await).await;
    slave.applier.stop().await;
    slave.run("ALTER TABLE towline.position DROP COLUMN checksum, DROP COLUMN server").await;
    slave.applier = Applier::start(ApplyOptions::new(slave.server.opts()));
    let mut batch = changes.make(&["INSERT INTO shop.t VALUES (1, 1)"]).await;
    let server = slave.applier.push(batch.clone()).await.unwrap().server.expect("it has a name by now");
    let at: String = slave.session.query_first("SELECT CONCAT(' ', @@port, ' ', @@datadir)").await.unwrap().unwrap();
    assert_eq!(server.split(' ').next().map(str::len), Some(32));
    assert!(server.ends_with(&at), "{server}");

    // From here on another transaction of the same GTID is known for what it is.
    batch = changes.make(&["INSERT INTO shop.t VALUES (2, 2)"]).await;
    batch.after.checksum = batch.after.checksum.map(|checksum| !checksum);
    assert_eq!(slave.refusal(&batch).await.refusal, PushRefusal::Forked);
}

#[tokio::test]
async fn a_server_keeps_its_name_and_a_copy_of_it_has_another() {
    let (mut changes, mut a, mut b) = tokio::join!(Changes::start(), Slave::start(), Slave::start());
    let batch = changes.make(&TABLE).await;
    let name = async |slave: &Slave, batch: &Batch| slave.applier.push(batch.clone()).await.unwrap().server;
    let (of_a, of_b) = (name(&a, &batch).await, name(&b, &batch).await);
    assert!(of_a.is_some() && of_a != of_b, "{of_a:?} {of_b:?}");
    let lot: String = a.session.query_first("SELECT server FROM towline.position").await.unwrap().unwrap();
    b.run(&format!("UPDATE towline.position SET server = '{lot}'")).await;
    for slave in [&mut a, &mut b] {
        slave.applier.stop().await;
        slave.applier = Applier::start(ApplyOptions::new(slave.server.opts()));
    }
    let batch = changes.make(&["INSERT INTO shop.t VALUES (1, 1)"]).await;
    assert_eq!(name(&a, &batch).await, of_a);
    let copy = name(&b, &batch).await.unwrap();
    assert!(copy.starts_with(&lot) && Some(copy) != of_a);
}

#[tokio::test]
async fn a_client_that_holds_a_lock_is_ended_and_the_whole_batch_applied() {
    let (mut changes, mut slave) =
        tokio::join!(Changes::start(), Slave::start_with(&[], |options| options.lock_tries = 1));
    a_lock_is_in_the_way(&mut changes, &mut slave).await;
}

async fn a_lock_is_in_the_way<S: Database>(changes: &mut Changes<S>, slave: &mut Slave<S>) {
    slave.apply(&changes.make(&TABLE).await).await;
    slave.apply(&changes.make(&["INSERT INTO shop.t VALUES (1, 0), (2, 0)"]).await).await;
    let before = slave.position().await;
    let batch = changes.make(&["UPDATE shop.t SET n = 1 WHERE i = 1", "UPDATE shop.t SET n = 1 WHERE i = 2"]).await;

    let mut blocker = slave.server.connect().await;
    blocker.query_drop("BEGIN").await.unwrap();
    blocker.query_drop("SELECT * FROM shop.t WHERE i = 2 FOR UPDATE").await.unwrap();
    let pushing = tokio::spawn({
        let (applier, batch) = (slave.applier.clone(), batch.clone());
        async move { applier.push(batch).await }
    });
    // After the first 1205 the rows of its first transaction must be gone again, not committed with the position.
    eventually("the batch is tried again", async || match slave.applier.progress().counts.lock_retries {
        0 => Err("not yet"),
        _ => Ok(()),
    })
    .await;
    let now = slave.position().await;
    assert!(now == before || now == changes.at, "half of the batch is committed: {now:?}");
    pushing.await.unwrap().unwrap();
    assert_eq!(slave.position().await, changes.at);
    assert_eq!(slave.rows("SELECT i, n FROM shop.t ORDER BY i").await, [(1, 1), (2, 1)]);
    assert!(blocker.query_drop("SELECT 1").await.is_err(), "the session that held the lock must be ended");
    assert_eq!(slave.applier.progress().counts.blockers_ended, 1);

    // A reader's open transaction holds up a schema change in the same way.
    let mut reader = slave.server.connect().await;
    reader.query_drop("BEGIN").await.unwrap();
    reader.query_drop("SELECT * FROM shop.t").await.unwrap();
    slave.apply(&changes.make(&["ALTER TABLE shop.t ADD COLUMN m INT DEFAULT 7"]).await).await;
    assert_eq!(slave.rows("SELECT i, m FROM shop.t ORDER BY i").await, [(1, 7), (2, 7)]);
    assert!(reader.query_drop("SELECT 1").await.is_err(), "the session that held the table must be ended");
    slave.apply(&changes.make(&["DROP DATABASE shop"]).await).await;
}

#[tokio::test]
async fn the_victim_of_a_deadlock_starts_its_batch_again() {
    let (mut changes, mut slave) =
        tokio::join!(Changes::start(), Slave::start_with(&[], |options| options.lock_tries = 100));
    a_deadlock_is_in_the_way(&mut changes, &mut slave).await;
}

async fn a_deadlock_is_in_the_way<S: Database>(changes: &mut Changes<S>, slave: &mut Slave<S>) {
    slave.apply(&changes.make(&TABLE).await).await;
    let rows = "INSERT INTO shop.t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                SELECT i, 0 FROM n";
    slave.apply(&changes.make(&[rows]).await).await;
    let batch = changes.make(&["UPDATE shop.t SET n = 1 WHERE i = 1", "UPDATE shop.t SET n = 1 WHERE i = 2"]).await;

    // The client has changed more rows, so the applier is the victim.
    let mut client = slave.server.connect().await;
    client.query_drop("BEGIN").await.unwrap();
    client.query_drop("UPDATE shop.t SET n = 9 WHERE i BETWEEN 2 AND 500").await.unwrap();
    let pushing = tokio::spawn({
        let (applier, batch) = (slave.applier.clone(), batch.clone());
        async move { applier.push(batch).await }
    });
    eventually("the applier waits for the client", async || {
        let waiting: Option<(String, u64)> =
            slave.session.query_first("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'").await.unwrap();
        if waiting.as_ref().is_some_and(|(_, waits)| *waits == 1) { Ok(()) } else { Err(waiting) }
    })
    .await;
    client.query_drop("UPDATE shop.t SET n = 9 WHERE i = 1").await.unwrap();
    client.query_drop("ROLLBACK").await.unwrap();
    pushing.await.unwrap().unwrap();
    assert_eq!(slave.position().await, changes.at);
    assert!(slave.applier.progress().counts.lock_retries > 0);
    assert_eq!(slave.rows("SELECT n, COUNT(*) FROM shop.t GROUP BY n ORDER BY n").await, [(0, 498), (1, 2)]);
    slave.apply(&changes.make(&["DROP DATABASE shop"]).await).await;
}

#[tokio::test]
async fn one_flipped_bit_anywhere_in_the_events_is_refused() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    slave.apply(&changes.make(&TABLE).await).await;
    let before = slave.position().await;
    let good = changes.make(&["INSERT INTO shop.t VALUES (1, 1)"]).await;
    let parts: [fn(&mut Batch) -> &mut Vec<u8>; 3] =
        [|batch| &mut batch.formats[0].event.0, |batch| &mut rows(batch).maps.0, |batch| &mut rows(batch).events.0];
    for part in parts {
        for at in 0..part(&mut good.clone()).len() {
            let mut bad = good.clone();
            part(&mut bad)[at] ^= 1;
            assert_eq!(slave.refusal(&bad).await.refusal, PushRefusal::Damaged, "byte {at}");
        }
        let mut short = good.clone();
        part(&mut short).pop();
        assert_eq!(slave.refusal(&short).await.refusal, PushRefusal::Damaged);
    }
    let mut formatless = good.clone();
    formatless.formats.clear();
    assert_eq!(slave.refusal(&formatless).await.refusal, PushRefusal::Damaged);
    assert_eq!(slave.position().await, before);
    slave.apply(&good).await;
    assert_eq!(slave.rows("SELECT i, n FROM shop.t").await, [(1, 1)]);
}

fn rows(batch: &mut Batch) -> &mut towline::replication::protocol::RowsChange {
    match &mut batch.transactions[0].changes[0] {
        Change::Rows(rows) => rows,
        Change::Schema(_) => panic!("an insert makes rows"),
    }
}

#[tokio::test]
async fn only_the_next_batch_of_this_history_is_applied() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    let first = changes.make(&TABLE).await;
    let second = changes.make(&["INSERT INTO shop.t VALUES (1, 1)"]).await;
    let third = changes.make(&["UPDATE shop.t SET n = n + 1"]).await;
    assert_eq!(slave.refusal(&second).await.refusal, PushRefusal::Position, "ahead of an empty slave");
    slave.apply(&first).await;
    slave.apply(&second).await;
    let here = second.transactions[0].mark();

    let mut cases = vec![
        ("sent twice", second.clone(), PushRefusal::Position),
        ("sent late", first.clone(), PushRefusal::Position),
        ("from a history that numbers alike", third.clone(), PushRefusal::Forked),
        ("from another cluster", third.clone(), PushRefusal::OtherCluster),
        ("in a later format", third.clone(), PushRefusal::Version),
        ("out of order", third.clone(), PushRefusal::Damaged),
        ("from an epoch that the sender has not", third.clone(), PushRefusal::Damaged),
        ("out of reach where it no longer stands", first.clone(), PushRefusal::Position),
        ("out of reach in another history", third.clone(), PushRefusal::Forked),
        ("out of reach", third.clone(), PushRefusal::OutOfReach),
    ];
    cases[2].1.after.gtid = "0-99-3".into();
    cases[3].1.cluster = "other".into();
    cases[4].1.version += 1;
    let twice = cases[5].1.transactions[0].clone();
    cases[5].1.transactions.push(twice);
    cases[6].1.transactions[0].position.epoch = Epoch(2);
    for (_, batch, _) in &mut cases[7..] {
        batch.out_of_reach = Some("the binlog is gone".into());
    }
    cases[8].1.after.gtid = "0-99-3".into();
    for (what, batch, expected) in &cases {
        let refusal = slave.refusal(batch).await;
        assert_eq!((refusal.refusal, refusal.at.as_ref()), (*expected, Some(&here)), "{what}: {}", refusal.message);
        assert_eq!(slave.position().await, here, "{what}");
    }

    // A question without transactions is answered by where it stands, and a higher epoch fences the lower one.
    let mut question = batch(here.clone(), []);
    question.epoch = Epoch(2);
    assert_eq!(slave.applier.push(question).await.unwrap().applied, here);
    assert_eq!(slave.refusal(&third).await.refusal, PushRefusal::OldEpoch);
    let mut third = third;
    third.epoch = Epoch(2);
    slave.apply(&third).await;
    assert_eq!(slave.rows("SELECT i, n FROM shop.t").await, [(1, 2)]);
}

#[tokio::test]
async fn a_server_that_is_not_fit_says_what_to_change_and_goes_on_when_it_is() {
    let (mut changes, server) = tokio::join!(Changes::start(), TestServer::start(Role::Slave));
    server.run(&["SET GLOBAL slave_exec_mode = IDEMPOTENT"]).await;
    let first = Applier::start(ApplyOptions::new(server.opts()));
    let batch = changes.make(&TABLE).await;
    let refusal = first.push(batch.clone()).await.unwrap_err();
    assert_eq!(refusal.refusal, PushRefusal::Unavailable);
    assert!(refusal.message.contains("SET GLOBAL slave_exec_mode=STRICT"), "{}", refusal.message);

    server.run(&["SET GLOBAL slave_exec_mode = STRICT", "CREATE DATABASE own", "CREATE TABLE own.t (i INT)"]).await;
    let refusal = first.push(batch.clone()).await.unwrap_err();
    assert_eq!(refusal.refusal, PushRefusal::Forked, "a server with data of its own: {}", refusal.message);
    server.run(&["DROP DATABASE own"]).await;
    first.push(batch).await.unwrap();

    let second = Applier::start(ApplyOptions::new(server.opts()));
    let next = changes.make(&["INSERT INTO shop.t VALUES (1, 1)"]).await;
    let refusal = second.push(next.clone()).await.unwrap_err();
    assert!(refusal.message.contains("another applier"), "{}", refusal.message);
    first.stop().await;
    second.push(next).await.unwrap();
}

/// Each of these would change, or hide, what `BINLOG` does; they are looked at whenever the applier connects.
#[tokio::test]
async fn no_setting_that_changes_what_is_applied_is_overlooked() {
    let settings = [
        ("binlog_format", "'STATEMENT'", "'ROW'"),
        ("binlog_row_image", "'MINIMAL'", "'FULL'"),
        ("slave_exec_mode", "'IDEMPOTENT'", "'STRICT'"),
        ("slave_run_triggers_for_rbr", "'YES'", "'NO'"),
        ("slave_type_conversions", "'ALL_LOSSY'", "''"),
        ("event_scheduler", "'ON'", "'OFF'"),
    ];
    let (mut changes, server) = tokio::join!(Changes::start(), TestServer::start(Role::Slave));
    let batch = changes.make(&TABLE).await;
    for (name, wrong, right) in settings {
        server.run(&[&format!("SET GLOBAL {name} = {wrong}")]).await;
        let applier = Applier::start(ApplyOptions::new(server.opts()));
        let refusal = applier.push(batch.clone()).await.expect_err(name);
        assert_eq!(refusal.refusal, PushRefusal::Unavailable, "{name}");
        assert!(refusal.message.contains(&format!("SET GLOBAL {name}=")), "{name}: {}", refusal.message);
        applier.stop().await;
        server.run(&[&format!("SET GLOBAL {name} = {right}")]).await;
    }
    Applier::start(ApplyOptions::new(server.opts())).push(batch.clone()).await.expect("all is as it must be");

    // Nor a binlog that is missing: what a crash left undone could not be told.
    let slave = Slave::start_with(&["--skip-log-bin"], |_| ()).await;
    let refusal = slave.refusal(&batch).await;
    assert!(refusal.message.contains("--log-bin"), "{}", refusal.message);
}

/// Rows that a server holds for itself are no slave's to take, whatever a master sends.
#[tokio::test]
async fn rows_of_the_servers_own_tables_are_never_written() {
    let (mut changes, slave) = tokio::join!(Changes::start(), Slave::start());
    slave.apply(&changes.make(&["CREATE DATABASE mysqx", "CREATE TABLE mysqx.event (i INT)"]).await).await;
    let mut batch = changes.make(&["INSERT INTO mysqx.event VALUES (1)"]).await;
    let map = &mut rows(&mut batch).maps.0;
    let at = map.windows(5).position(|name| name == b"mysqx").expect("its schema's name");
    map[at + 4] = b'l';
    let end = map.len() - 4;
    let sum = crc32fast::hash(&map[..end]);
    map[end..].copy_from_slice(&sum.to_le_bytes());
    let refusal = slave.refusal(&batch).await;
    assert_eq!(refusal.refusal, PushRefusal::Stopped, "{}", refusal.message);
    assert!(refusal.message.contains("`mysql.event` belong to each server itself"), "{}", refusal.message);
}

/// MySQL quotes what it does not understand.
#[tokio::test]
async fn a_password_in_a_refused_statement_is_told_nobody() {
    let (mut changes, slave) = tokio::join!(Changes::start(), Slave::start());
    let mut batch = changes.make(&["CREATE USER someone IDENTIFIED BY 'hush hush'"]).await;
    let Change::Schema(change) = &mut batch.transactions[0].changes[0] else { panic!("a statement") };
    change.sql.0 = b"CREATE USER someone IDENTIFIED BYE 'hush hush'".to_vec();
    let refusal = slave.refusal(&batch).await;
    assert_eq!(refusal.refusal, PushRefusal::Stopped, "{}", refusal.message);
    let ApplyState::Stopped(stop) = slave.applier.progress().state else { panic!("it must have stopped") };
    assert_eq!(stop.code, Some(1064), "{stop:?}");
    for told in [refusal.message, serde_json::to_string(&slave.applier.progress()).unwrap()] {
        assert!(!told.contains("hush"), "{told}");
    }
}

#[tokio::test]
async fn what_can_not_be_applied_exactly_once_stops_the_slave() {
    let (mut changes, slave) = tokio::join!(Changes::start(), Slave::start_with(&["--max-allowed-packet=1M"], |_| ()));
    slave.apply(&changes.make(&TABLE).await).await;
    slave.apply(&changes.make(&["CREATE TABLE shop.m (i INT) ENGINE=MyISAM"]).await).await;
    let batch = changes.make(&["INSERT INTO shop.m VALUES (1)"]).await;
    let refusal = slave.refusal(&batch).await;
    assert_eq!(refusal.refusal, PushRefusal::Stopped);
    assert!(refusal.message.contains("ALTER TABLE shop.m ENGINE=InnoDB"), "{}", refusal.message);

    let (mut changes, slave) = tokio::join!(Changes::start(), Slave::start_with(&["--max-allowed-packet=1M"], |_| ()));
    slave.apply(&changes.make(&["CREATE DATABASE shop", "CREATE TABLE shop.big (b LONGBLOB)"]).await).await;
    let big = changes.make(&["INSERT INTO shop.big VALUES (REPEAT('x', 2000000))"]).await;
    let refusal = slave.refusal(&big).await;
    assert_eq!(refusal.refusal, PushRefusal::Stopped);
    assert!(refusal.message.contains("max_allowed_packet"), "{}", refusal.message);

    // Raised as the message says: the session is not the one that had the old limit.
    slave.server.run(&["SET GLOBAL max_allowed_packet = 1073741824"]).await;
    slave.applier.resume().await;
    assert_eq!(slave.refusal(&big).await.refusal, PushRefusal::Unavailable);
    slave.apply(&big).await;
}

#[tokio::test]
async fn a_row_of_64_megabytes_arrives() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    slave
        .apply(&changes.make(&["CREATE DATABASE shop", "CREATE TABLE shop.big (id INT PRIMARY KEY, b LONGBLOB)"]).await)
        .await;
    let inserts =
        ["INSERT INTO shop.big VALUES (1, REPEAT('x', 64 << 20))", "INSERT INTO shop.big VALUES (2, 'small')"];
    slave.apply(&changes.make(&inserts).await).await;
    assert_eq!(
        slave.rows("SELECT id, CRC32(b) FROM shop.big WHERE id = 1").await,
        [(1, crc32fast::hash(&vec![b'x'; 64 << 20]).into())]
    );
}

#[tokio::test]
async fn a_statement_cut_over_many_binlogs_arrives_whole() {
    // The least packet that the server takes, so that each row event needs a BINLOG of its own with its maps.
    let slave = Slave::start_with(&["--max-allowed-packet=16K"], |_| ());
    let (mut changes, mut slave) = tokio::join!(Changes::start(), slave);
    slave.apply(&changes.make(&TABLE).await).await;
    let inserts = ["INSERT INTO shop.t SELECT seq, 0 FROM shop.seq_1_to_20000", "UPDATE shop.t SET n = i"];
    slave.apply(&changes.make(&inserts).await).await;
    assert_eq!(slave.rows("SELECT COUNT(*), SUM(n) FROM shop.t").await, [(20_000, 200_010_000)]);
}

#[tokio::test]
async fn the_slaves_own_binlog_does_not_repeat_the_whole_batch_for_each_statement() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    slave.apply(&changes.make(&TABLE).await).await;
    slave.apply(&changes.make(&["INSERT INTO shop.t VALUES (1, 1)", "UPDATE shop.t SET n = 2"]).await).await;
    let events: Vec<mysql_async::Row> = slave.session.query("SHOW BINLOG EVENTS").await.unwrap();
    let kinds: Vec<String> = events.iter().map(|event| event.get("Event_type").unwrap()).collect();
    assert!(kinds.iter().any(|kind| kind.starts_with("Update_rows")), "{kinds:?}");
    assert!(!kinds.contains(&"Annotate_rows".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_in_between_loses_nothing_and_applies_nothing_twice() {
    let (mut changes, mut slave) = tokio::join!(Changes::start(), Slave::start());
    the_server_is_killed(&mut changes, &mut slave).await;
}

async fn the_server_is_killed<S: Database>(changes: &mut Changes<S>, slave: &mut Slave<S>) {
    slave.apply(&changes.make(&TABLE).await).await;
    slave.apply(&changes.make(&["INSERT INTO shop.t VALUES (1, 0)"]).await).await;
    for round in 1..=3 {
        let batch = changes.make(&["UPDATE shop.t SET n = n + 1", "UPDATE shop.t SET n = n + 1"]).await;
        let pushing = tokio::spawn({
            let (applier, batch) = (slave.applier.clone(), batch.clone());
            async move { applier.push(batch).await }
        });
        slave.server.kill().await;
        // Whether this push was applied or not, asking again brings it there.
        let first = pushing.await.unwrap();
        let mut next = batch.clone();
        eventually("the batch is applied", async || match slave.applier.push(next.clone()).await {
            Ok(_) => Ok(()),
            Err(NotApplied { refusal: PushRefusal::Position, at: Some(at), .. }) if at == changes.at => Ok(()),
            Err(NotApplied { refusal: PushRefusal::Position, at: Some(at), .. }) if at != next.after => {
                next = rest_of(&batch, 1);
                assert_eq!(at, next.after);
                Err("a part was applied".to_owned())
            }
            Err(refusal) => Err(format!("{refusal:?} after {first:?}")),
        })
        .await;
        // What was applied before the kill is known before the server is back.
        slave.session = eventually("the server is back", async || Conn::new(slave.server.opts()).await).await;
        assert_eq!(slave.rows("SELECT i, n FROM shop.t").await, [(1, 2 * round)]);
        assert_eq!(slave.position().await, changes.at);
    }
}

/// Annotated, each statement of a batch would bring the text of the whole batch into the slave's log.
#[tokio::test]
async fn a_batch_is_not_repeated_in_the_slaves_log_for_each_of_its_statements() {
    let mut changes = Changes::start().await;
    let mut slave = Slave::start().await;
    slave.apply(&changes.make(&TABLE).await).await;
    let inserts: Vec<String> = (0..300).map(|i| format!("INSERT INTO shop.t VALUES ({i}, {i})")).collect();
    let batch = changes.make(&inserts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let sent: usize = batch.transactions.iter().map(|t| serde_json::to_string(t).unwrap().len()).sum();
    let before = slave.log_bytes().await;
    slave.apply(&batch).await;
    let grown = slave.log_bytes().await - before;
    assert!(grown < sent as u64, "{sent} bytes of JSON became {grown} bytes of log");
}
