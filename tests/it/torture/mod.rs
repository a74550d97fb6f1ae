//! A cluster on which everything breaks at once, for a while.
//!
//! `TORTURE_SEED` draws the faults and the clients' choices, `TORTURE_SECONDS` says how long it goes. After every few faults
//! there is a pause in which nothing breaks and nobody writes; then the slaves must equal the master, and nothing that was
//! acknowledged may be missing. Readers on the slaves look all the time. After the first pause a new slave joins by a snapshot.

mod fail_points;
mod faults;
mod full_disk;
mod history;
mod load;
mod readers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_util::FutureExt;
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use tokio::time::sleep;
use towline_middleware::Role;

use self::{
    faults::Fault,
    history::History,
    load::{ACCOUNTS, BALANCE, Load, PEOPLE, Promise, SCHEMA},
    readers::Readers,
};
use crate::{
    matrix::contents::without_counter,
    support::{
        CLIENT, FaultProxy, SmallDisk, TestCluster, TestNode, Weather, checksums, eventually, server::free_port,
    },
};

const SLAVES: usize = 2;
/// How many faults there are between two pauses.
const FAULTS: usize = 10;
/// How long the slaves may take to equal the master in a pause. A server whose disk was full waits for up to a minute.
const PAUSE_MAX: Duration = Duration::from_secs(150);
/// So little is held in memory that a slave which was away reads the binlog, and that some transactions are streamed.
const SMALL: &str = "transaction_buffer_bytes_max = 65536\nring_bytes_max = 200000\nbatch_bytes_max = 65536\n";
/// What MariaDB 10.11.19 says when it can't recover by itself: once in about 20 minutes of torture, when it was killed twice
/// within seconds amid schema changes. As in <https://jira.mariadb.org/browse/MDEV-28870>.
const UNRECOVERABLE: &str = "Missing FILE_CREATE, FILE_DELETE or FILE_MODIFY before FILE_CHECKPOINT";
const DISK_MEGABYTES: u32 = 600;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes TORTURE_SECONDS, 90 unless set: `make torture`"]
async fn nothing_is_lost_whatever_breaks() {
    let seed = variable("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let seconds = variable("TORTURE_SECONDS").unwrap_or(90);
    let mut torture = Torture::start(seed).await;
    let run = AssertUnwindSafe(torture.run(Duration::from_secs(seconds))).catch_unwind().await;
    println!("{}", torture.events.join("\n"));
    if let Err(failure) = run {
        if let Some(loss) = torture.loss_of_a_server().await {
            println!("seed {seed}: void, since MariaDB did not recover by itself: {loss}");
            return;
        }
        for node in torture.cluster.slaves.iter_mut().chain([&mut torture.cluster.master]) {
            eprintln!("TORTURE_SEED={seed} failed; kept: {}", node.keep_folder().display());
        }
        resume_unwind(failure);
    }
    let (acknowledged, sights) = torture.history.lock().unwrap().counts();
    let [cuts, repeats] =
        [FaultProxy::cuts, FaultProxy::repeats].map(|count| torture.links.iter().map(count).sum::<u64>());
    println!(
        "seed {seed}: {} faults, {acknowledged} writes acknowledged, {sights} sights, {cuts} connections cut, \
         {repeats} requests repeated",
        torture.faults
    );
    assert!(acknowledged > 0 && sights > 0, "nothing happened");
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

struct Torture {
    rng: Rng,
    ack: &'static str,
    started: Instant,
    events: Vec<String>,
    faults: usize,
    history: Arc<Mutex<History>>,
    _readers: Readers,
    load: Load,
    /// See [`Promise::joined`].
    joined: Arc<Mutex<Option<Opts>>>,
    /// Between the master and each slave.
    links: Vec<FaultProxy>,
    cluster: TestCluster,
    /// Whether the master's server was killed since the last pause.
    master_died: bool,
}

fn config_of_all() -> String {
    format!("[cluster]\nsecret = 'a secret of the tests'\n{SMALL}")
}

fn disk(path: &std::path::Path) -> Option<SmallDisk> {
    SmallDisk::mount(path, DISK_MEGABYTES)
}

impl Torture {
    async fn start(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (ack, wanted) = rng.choice([("none", 0), ("one", 1), ("majority", 1), ("all", SLAVES)]).expect("four");
        let mut slaves = Vec::new();
        let mut links = Vec::new();
        for number in 1..=SLAVES {
            let slave = TestNode::start_on(&format!("slave-{number}"), Role::Slave, &config_of_all(), disk).await;
            links.push(FaultProxy::start_with(slave.http(), rng.u64(..)).await);
            slaves.push(slave);
        }
        let urls: Vec<String> = links.iter().map(FaultProxy::url).collect();
        let config = format!(
            "{}slaves = {urls:?}\nack = '{ack}'\nack_timeout_ms = 1000\nack_on_timeout = 'error'\n\
             push_timeout_ms = 3000\n",
            config_of_all()
        );
        let master = TestNode::start_on("master", Role::Master, &config, disk).await;
        let cluster = TestCluster::of(master, slaves).await;
        let mut administrator = Conn::new(cluster.master.server_opts()).await.unwrap();
        for statement in SCHEMA.iter().chain(&PEOPLE) {
            administrator.query_drop(*statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        administrator.disconnect().await.unwrap();
        cluster.wait_equal().await;

        let history = Arc::<Mutex<History>>::default();
        let through = |node: &TestNode| node.opts(CLIENT.0, CLIENT.1);
        let readers = Readers::start(cluster.slaves.iter().map(through).collect(), &history);
        let servers = cluster.slaves.iter().map(TestNode::server_opts).collect();
        let joined = Arc::default();
        let load = Load::start(
            through(&cluster.master),
            Promise { slaves: wanted, servers, joined: Arc::clone(&joined) },
            Arc::clone(&history),
            rng.u64(..),
        );
        let (started, events) = (Instant::now(), vec![format!("ack = {ack}")]);
        let master_died = false;
        Self {
            rng,
            ack,
            started,
            events,
            faults: 0,
            history,
            _readers: readers,
            load,
            joined,
            links,
            cluster,
            master_died,
        }
    }

    async fn run(&mut self, time: Duration) {
        while self.started.elapsed() < time {
            for link in &self.links {
                let weather = faults::weather(&mut self.rng);
                self.events.push(format!("{weather:?}"));
                link.set_weather(weather);
            }
            for _ in 0..FAULTS {
                let (wait, fault) = faults::next(&mut self.rng, self.cluster.slaves.len());
                sleep(wait).await;
                self.strike(fault).await;
            }
            self.pause().await;
            if self.links.len() == SLAVES {
                self.join().await;
            }
        }
    }

    /// A new slave, which fetches a snapshot while clients write and all goes on breaking.
    async fn join(&mut self) {
        self.note("a new slave".to_owned());
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let link = FaultProxy::start_with(listen, self.rng.u64(..)).await;
        let config = format!(
            "{}master = {:?}\nurl = {:?}\n[http]\nlisten = '{listen}'\n",
            config_of_all(),
            self.cluster.master.url(""),
            link.url()
        );
        // It may have a write alone as soon as it is registered, before anybody here knows its server. Of a majority, as of
        // all, those that were there before still have to be as many as they were.
        let alone = |server: Opts| {
            if self.ack == "one" {
                *self.joined.lock().unwrap() = Some(server);
            }
        };
        alone(OptsBuilder::default().socket(Some("/nobody/knows")).into());
        let slave = TestNode::start_on("slave-new", Role::Slave, &config, disk).await;
        alone(slave.server_opts());
        self.cluster.slaves.push(slave);
        self.links.push(link);
    }

    fn note(&mut self, event: String) {
        self.events.push(format!("{:8.3} {event}", self.started.elapsed().as_secs_f64()));
    }

    async fn strike(&mut self, fault: Fault) {
        self.note(format!("{fault:?}"));
        self.faults += 1;
        self.master_died |= match &fault {
            Fault::Kill { servers, .. } => servers.contains(&0),
            Fault::FullDisk { node, .. } => *node == 0,
            _ => false,
        };
        match fault {
            Fault::Kill { nodes, servers, down } => {
                servers.iter().for_each(|node| self.node(*node).kill_server());
                for node in &nodes {
                    self.node(*node).kill().await;
                }
                sleep(down).await;
                for node in nodes {
                    self.node(node).restart().await;
                }
            }
            Fault::Die { node, point, passage, patience } => {
                self.node(node).die_at(point, passage, patience).await;
                self.node(node).restart().await;
            }
            Fault::Freeze { node, down } => {
                self.node(node).freeze(true);
                sleep(down).await;
                self.node(node).freeze(false);
            }
            Fault::Weather { slave, weather } => self.links[slave - 1].set_weather(weather),
            // The server may be down.
            Fault::Disconnect { node } => drop(disconnect(self.node(node).server_opts()).await),
            Fault::Rotate => drop(rotate(self.cluster.master.server_opts()).await),
            Fault::FullDisk { node, down, killed } => {
                if self.node(node).fill_disk() {
                    sleep(down).await;
                    self.node(node).clear_disk();
                    if killed {
                        self.node(node).kill_server();
                    }
                }
            }
        }
        self.assert_nothing_wrong();
    }

    /// How the data of one was damaged by the server itself.
    async fn loss_of_a_server(&self) -> Option<String> {
        let nodes = self.cluster.slaves.iter().chain([&self.cluster.master]);
        let mut logs = nodes.map(|node| std::fs::read(node.file("mysql/error.log")).expect("a server's log"));
        if logs.any(|log| String::from_utf8_lossy(&log).contains(UNRECOVERABLE)) {
            return Some(UNRECOVERABLE.to_owned());
        }
        // Killed amid a DROP, 10.11.19 may have removed a table's definition, but neither its rows nor, for the binlog, a word
        // of it. While a client is at work that may be so for a moment.
        let _quiet = tokio::time::timeout(PAUSE_MAX, self.load.pause()).await.ok()?;
        let schema = std::fs::read_dir(self.cluster.master.file("mysql/mariadb/side")).expect("a schema's folder");
        let files = schema.map(|entry| entry.expect("a file").path());
        let is_of_table =
            |path: &PathBuf| path.extension() == Some("ibd".as_ref()) && !path.to_string_lossy().contains('#');
        let mut rows = files.filter(is_of_table);
        rows.find(|rows| !rows.with_extension("frm").exists())
            .map(|rows| format!("{} without its .frm", rows.display()))
    }

    fn node(&mut self, node: faults::Node) -> &mut TestNode {
        match node {
            0 => &mut self.cluster.master,
            slave => &mut self.cluster.slaves[slave - 1],
        }
    }

    fn assert_nothing_wrong(&self) {
        let history = self.history.lock().unwrap();
        assert!(history.violations().is_empty(), "{:#?}", history.violations());
    }

    /// Lets everything come to rest, and looks at it.
    async fn pause(&mut self) {
        self.note("pause".to_owned());
        self.links.iter().for_each(|link| link.set_weather(Weather::Calm));
        let quiet = self.load.pause().await;
        let begun = Instant::now();
        if std::mem::take(&mut self.master_died) {
            self.restore_people().await;
        }
        let lists = loop {
            match self.at_rest().await {
                Ok(lists) => break lists,
                Err(error) if begun.elapsed() > PAUSE_MAX => {
                    let verified = self.cluster.master.verify().await;
                    panic!("not equal after {PAUSE_MAX:?}: {error}; verify: {verified:?}")
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        self.history.lock().unwrap().judge(&lists);
        self.assert_nothing_wrong();
        eventually("a comparison without a difference", async || match self.cluster.master.verify().await {
            (Some(0), _) => Ok(()),
            told => Err(told),
        })
        .await;
        drop(quiet);
        let rested = begun.elapsed();
        self.note(format!("equal after {:.3} s", rested.as_secs_f64()));
    }

    /// What a server had done to accounts when it died, and not logged yet, it keeps to itself.
    async fn restore_people(&self) {
        eventually("the accounts are made anew", async || {
            let mut administrator = Conn::new(self.cluster.master.server_opts()).await?;
            for statement in PEOPLE {
                administrator.query_drop(statement).await?;
            }
            administrator.disconnect().await
        })
        .await;
    }

    /// The master's lists, if every slave equals the master while that does not change.
    async fn at_rest(&self) -> Result<BTreeMap<u64, Vec<u64>>, String> {
        let told = |error: mysql_async::Error| error.to_string();
        let master = &self.cluster.master;
        let mut server = Conn::new(master.server_opts()).await.map_err(told)?;
        let before = last_gtid(&mut server).await.map_err(told)?;
        let expected = contents(master).await.map_err(told)?;
        let money: Option<(u64, i64)> =
            server.query_first("SELECT COUNT(*), SUM(balance) FROM bank.account").await.map_err(told)?;
        assert_eq!(money, Some((ACCOUNTS, ACCOUNTS as i64 * BALANCE)), "the master itself");
        let items: Vec<(u64, u64, u64)> =
            server.query("SELECT k, n, item FROM bank.list ORDER BY k, n").await.map_err(told)?;
        for (number, slave) in (1..).zip(&self.cluster.slaves) {
            let mut server = Conn::new(slave.server_opts()).await.map_err(told)?;
            let at: Option<String> = server.query_first("SELECT gtid FROM towline.position").await.map_err(told)?;
            if at != before {
                return Err(format!("the master is at {before:?}, slave {number} at {at:?}; {}", slave.log()));
            }
            let found = contents(slave).await.map_err(told)?;
            let differing: Vec<_> = expected
                .keys()
                .chain(found.keys())
                .filter(|name| expected.get(*name) != found.get(*name))
                .map(|name| format!("{name}: {:?} on the master, {:?} here", expected.get(name), found.get(name)))
                .collect();
            if !differing.is_empty() {
                return Err(format!("slave {number} differs at {at:?}: {differing:#?}"));
            }
        }
        if last_gtid(&mut server).await.map_err(told)? != before {
            return Err("the master still commits".to_owned());
        }
        let mut lists = BTreeMap::<u64, Vec<u64>>::new();
        for (k, n, item) in items {
            let list = lists.entry(k).or_default();
            list.push(item);
            assert_eq!(list.len() as u64, n, "list {k} on the master itself");
        }
        Ok(lists)
    }
}

async fn rotate(server: Opts) -> mysql_async::Result<()> {
    let mut conn = Conn::new(server).await?;
    conn.query_drop("FLUSH BINARY LOGS").await?;
    conn.disconnect().await
}

/// Ends every session of the server's administrator but its own.
async fn disconnect(server: Opts) -> mysql_async::Result<()> {
    let mut conn = Conn::new(server).await?;
    let sessions = "SELECT id FROM information_schema.processlist WHERE user = SUBSTRING_INDEX(USER(), '@', 1) \
                    AND id <> CONNECTION_ID()";
    for session in conn.query::<u64, _>(sessions).await? {
        // It may have gone by itself.
        let _ = conn.query_drop(format!("KILL {session}")).await;
    }
    conn.disconnect().await
}

async fn last_gtid(server: &mut Conn) -> mysql_async::Result<Option<String>> {
    server.query_first("SELECT @@global.gtid_binlog_pos").await
}

/// The checksum of every table, and how it is defined.
async fn contents(node: &TestNode) -> mysql_async::Result<BTreeMap<String, String>> {
    let mut server = Conn::new(node.server_opts()).await?;
    let mut contents = BTreeMap::new();
    for (table, checksum) in checksums(node).await? {
        let definition: Option<(String, String)> = server.query_first(format!("SHOW CREATE TABLE {table}")).await?;
        let definition = definition.map(|(_, text)| without_counter(text)).unwrap_or_default();
        contents.insert(table, format!("{checksum:?} {definition}"));
    }
    let objects: Vec<(String, String)> = server
        .query(
            "SELECT CONCAT_WS('.', table_schema, table_name), CONCAT(table_type, IFNULL(view_definition, '')) \
             FROM information_schema.tables LEFT JOIN information_schema.views USING (table_schema, table_name) \
             WHERE table_schema IN ('bank', 'side') AND table_type <> 'BASE TABLE' \
             UNION ALL SELECT CONCAT('procedure ', routine_name), routine_definition \
             FROM information_schema.routines WHERE routine_schema = 'side' \
             UNION ALL SELECT CONCAT('trigger ', trigger_name), CONCAT(event_object_table, action_statement) \
             FROM information_schema.triggers WHERE trigger_schema = 'side' \
             UNION ALL SELECT CONCAT('schema ', schema_name), default_collation_name \
             FROM information_schema.schemata WHERE schema_name <> 'towline'",
        )
        .await?;
    contents.extend(objects);
    let people = "SELECT user, priv FROM mysql.global_priv WHERE user = 'keeper' OR user REGEXP '^[pr][0-9]$'";
    for (name, account) in server.query::<(String, String), _>(people).await? {
        contents.insert(format!("account {name}"), lasting(account));
    }
    let rights = "SELECT CONCAT_WS(' ', 'right', user, db, table_name), CONCAT(table_priv) FROM mysql.tables_priv \
                  WHERE user = 'keeper' UNION ALL SELECT CONCAT_WS(' ', 'right', user, db), CONCAT(select_priv, insert_priv) \
                  FROM mysql.db WHERE user = 'keeper'";
    contents.extend(server.query::<(String, String), _>(rights).await?);
    server.disconnect().await?;
    Ok(contents)
}

/// An account without when its password was changed, which each server notes by its own clock.
fn lasting(account: String) -> String {
    let mut account: serde_json::Value = serde_json::from_str(&account).expect("MariaDB keeps accounts as JSON");
    account.as_object_mut().map(|account| account.remove("password_last_changed"));
    account.to_string()
}
