//! The two servers, and the ways by which the slave's follows the master's.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use tempfile::TempDir;
use towline::{
    config::Ack,
    demo::{NodeProcess, NodeSpec},
    managed::{ManagedOptions, ManagedServer},
};
use towline_middleware::Role;

use super::{load::Written, report::Report};

/// The account of clients, nodes and replicas, on both servers, and its password.
pub(crate) const ACCOUNT: &str = "bench";
/// Enough for the tables, and the same on both.
const SERVER: [&str; 2] = ["--innodb-buffer-pool-size=512M", "--innodb-log-file-size=512M"];
/// A slave that is now a server's own replica and now a node's keeps what it logs itself apart from its master's history.
const SLAVE: [&str; 2] = ["--gtid-domain-id=1", "--gtid-strict-mode=OFF"];
/// How often the slave is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const SLAVE_TIMEOUT: Duration = Duration::from_secs(600);

/// How the slave follows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// As the server's own replica, with so many `slave_parallel_threads`.
    Native { threads: u8, semi_sync: bool },
    /// By Towline.
    Towline(Ack),
}

/// How a slave caught up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaughtUp {
    pub(crate) seconds: f64,
    /// Of CPU time, in microseconds.
    pub(crate) cpu_outside: f64,
    pub(crate) cpu_slave: f64,
}

/// A master and a slave.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    program: PathBuf,
    master: ManagedServer,
    slave: ManagedServer,
    slave_options: ManagedOptions,
    /// Of both servers, and the HTTP of the slave's node.
    ports: [u16; 3],
    way: Way,
    /// Those that run now.
    nodes: Vec<NodeProcess>,
    front_port: u16,
}

impl Site {
    /// Two servers, the slave's following the master's by Towline.
    pub(crate) async fn start(program: &Path, log_slave_updates: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let free: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let mut ports = [0; 3];
        for (port, listener) in ports.iter_mut().zip(&free) {
            *port = listener.local_addr()?.port();
        }
        drop(free);
        let master = ManagedServer::start(options(folder.path(), Role::Master, ports[0])).await?;
        let mut slave_options = options(folder.path(), Role::Slave, ports[1]);
        slave_options.extra_args.extend(SLAVE.map(str::to_owned));
        slave_options.extra_args.push(format!("--log-slave-updates={}", u8::from(log_slave_updates)));
        let slave = ManagedServer::start(slave_options.clone()).await?;
        for server in [&master, &slave] {
            let mut conn = Conn::new(server.opts()).await?;
            conn.query_drop("SET sql_log_bin = 0").await?;
            conn.query_drop(format!("CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{ACCOUNT}'")).await?;
            conn.query_drop(format!("GRANT ALL ON *.* TO {ACCOUNT}@'%'")).await?;
        }
        let mut conn = Conn::new(master.opts()).await?;
        for sql in ["CREATE DATABASE sbtest", "CREATE DATABASE probe", "CREATE TABLE probe.seen (id INT PRIMARY KEY)"] {
            conn.query_drop(sql).await?;
        }
        let (program, way, nodes) = (program.to_owned(), Way::Towline(Ack::None), Vec::new());
        let mut site = Self { folder, program, master, slave, slave_options, ports, way, nodes, front_port: 0 };
        site.begin(way, false).await?;
        Ok(site)
    }

    pub(crate) fn master_port(&self) -> u16 {
        self.ports[0]
    }

    /// Where the master node takes clients.
    pub(crate) fn front_port(&self) -> u16 {
        self.front_port
    }

    pub(crate) async fn master(&self) -> Result<Conn> {
        Ok(Conn::new(opts(self.ports[0])).await?)
    }

    pub(crate) async fn slave(&self) -> Result<Conn> {
        Ok(Conn::new(opts(self.ports[1])).await?)
    }

    /// Keeps the slave as it is now, to return to, when it has all that was written.
    pub(crate) async fn keep_beginning(&mut self) -> Result<()> {
        self.leave().await?;
        self.set_position().await?;
        self.slave.stop().await;
        run("cp", &["-a", &self.path("slave"), &self.path("beginning")])?;
        self.start_slave().await
    }

    /// Puts the slave back to where it was kept.
    pub(crate) async fn return_to_beginning(&mut self) -> Result<()> {
        self.slave.stop().await;
        run("rm", &["-r", &self.path("slave")])?;
        run("cp", &["-a", &self.path("beginning"), &self.path("slave")])?;
        run("sync", &[])?;
        self.start_slave().await
    }

    async fn start_slave(&mut self) -> Result<()> {
        self.slave = ManagedServer::start(self.slave_options.clone()).await?;
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// Lets the slave, which has all, follow from here on.
    pub(crate) async fn follow(&mut self, way: Way, with_front: bool) -> Result<()> {
        self.set_position().await?;
        self.begin(way, with_front).await?;
        self.master().await?.query_drop("REPLACE INTO probe.seen VALUES (0)").await?;
        self.wait_equal().await
    }

    /// Tells the slave by both ways that it has all.
    async fn set_position(&self) -> Result<()> {
        let gtid = self.newest().await?;
        let mut conn = self.slave().await?;
        conn.query_drop("SET sql_log_bin = 0").await?;
        conn.query_drop(format!("SET GLOBAL gtid_slave_pos = '{gtid}'")).await?;
        let seq = sequence(&gtid)?;
        // Which transaction it is, the next one tells.
        conn.query_drop(format!("UPDATE towline.position SET seq = {seq}, gtid = '{gtid}', checksum = NULL")).await?;
        Ok(())
    }

    async fn begin(&mut self, way: Way, with_front: bool) -> Result<()> {
        self.way = way;
        match way {
            Way::Native { threads, semi_sync } => {
                let mut master = self.master().await?;
                master.query_drop(format!("SET GLOBAL rpl_semi_sync_master_enabled = {semi_sync}")).await?;
                // A master that falls back to asynchronous replication would look faster than it is.
                master.query_drop("SET GLOBAL rpl_semi_sync_master_timeout = 60000").await?;
                if with_front {
                    master.query_drop("SET sql_log_bin = 0").await?;
                    master.query_drop("DELETE FROM towline.slaves").await?;
                    self.start_node(Role::Master, "").await?;
                }
                let mut slave = self.slave().await?;
                slave.query_drop(format!("SET GLOBAL slave_parallel_threads = {threads}")).await?;
                slave.query_drop(format!("SET GLOBAL rpl_semi_sync_slave_enabled = {semi_sync}")).await?;
                slave
                    .query_drop(format!(
                        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = '{ACCOUNT}', \
                         MASTER_PASSWORD = '{ACCOUNT}', MASTER_USE_GTID = slave_pos",
                        self.ports[0]
                    ))
                    .await?;
                slave.query_drop("START SLAVE").await?;
            }
            Way::Towline(ack) => {
                self.master().await?.query_drop("SET GLOBAL rpl_semi_sync_master_enabled = 0").await?;
                self.start_node(Role::Slave, "").await?;
                let ack = if ack == Ack::One { "one" } else { "none" };
                let slave = format!("slaves = ['http://127.0.0.1:{}']", self.ports[2]);
                // A write whose acknowledgement fails must not pass for a fast one.
                let cluster = format!("{slave}\nack = '{ack}'\nack_timeout_ms = 60000\nack_on_timeout = 'error'");
                self.start_node(Role::Master, &cluster).await?;
            }
        }
        Ok(())
    }

    async fn start_node(&mut self, role: Role, cluster: &str) -> Result<()> {
        let (server, http) = if role == Role::Master { (self.ports[0], 0) } else { (self.ports[1], self.ports[2]) };
        let config = format!(
            "[mysql]\nmanaged = false\nurl = 'mysql://{ACCOUNT}:{ACCOUNT}@127.0.0.1:{server}'\n\
             [mysql_front]\nlisten = '127.0.0.1:0'\n[http]\nlisten = '127.0.0.1:{http}'\n\
             [log]\nlevel = 'warn'\n[cluster]\n{cluster}"
        );
        let (program, name) = (self.program.clone(), format!("{role:?} node"));
        let folder = self.folder.path().join(&name);
        let mut node = NodeProcess::spawn(NodeSpec {
            program,
            name,
            role,
            folder,
            config: config.parse()?,
            variables: Vec::new(),
        })?;
        let ready = node.ready().await?;
        if role == Role::Master {
            self.front_port = ready.mysql_front.port();
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Waits until the slave has all, and follows no more.
    pub(crate) async fn leave(&mut self) -> Result<()> {
        self.wait_equal().await?;
        for mut node in self.nodes.drain(..).rev() {
            node.stop().await;
        }
        if matches!(self.way, Way::Native { .. }) {
            self.slave().await?.query_drop("STOP SLAVE").await?;
        }
        Ok(())
    }

    /// How long the slave takes for what it lacks, from when the master is told to send it. It follows no more then.
    pub(crate) async fn catch_up(&mut self, way: Way) -> Result<CaughtUp> {
        let (newest, before) = (sequence(&self.newest().await?)?, self.cpu());
        let started = Instant::now();
        self.begin(way, false).await?;
        self.wait_for(newest).await?;
        let seconds = started.elapsed().as_secs_f64();
        let now = self.cpu();
        self.leave().await?;
        let sums = [checksums(self.master().await?).await?, checksums(self.slave().await?).await?];
        ensure!(sums[0] == sums[1], "the slave does not hold what the master holds: {sums:?}");
        Ok(CaughtUp { seconds, cpu_outside: now[2] - before[2], cpu_slave: now[1] - before[1] })
    }

    /// What is done by a load, and what it does to the slave.
    pub(crate) async fn measure_load(
        &mut self,
        name: &'static str,
        report: &mut Report,
        load: impl Future<Output = Result<Written>>,
    ) -> Result<()> {
        let before = self.cpu();
        let mut load = std::pin::pin!(load);
        let mut behind_most = 0;
        let written = loop {
            tokio::select! {
                written = &mut load => break written?,
                () = tokio::time::sleep(LOOK_EVERY * 4) => {}
            }
            let newest = sequence(&self.newest().await?)?;
            behind_most = behind_most.max(newest.saturating_sub(self.applied().await?));
        };
        let ended = Instant::now();
        self.wait_equal().await?;
        let now = self.cpu();
        report.add(super::report::TPS, name, written.per_second);
        report.add("slave behind at most, tx", name, behind_most as f64);
        let after = ended.elapsed().as_secs_f64();
        report.add("slave has all after, s", name, after);
        let seconds = written.transactions / written.per_second;
        report.add("master, tx/s, until the slave has all", name, written.transactions / (seconds + after));
        for (n, measurement) in ["CPU of the master's server, us/tx", SLAVE_CPU, OUTSIDE_CPU].into_iter().enumerate() {
            report.add(measurement, name, (now[n] - before[n]) / written.transactions);
        }
        Ok(())
    }

    /// The CPU time that the master's server, the slave's and all nodes have taken, in microseconds.
    fn cpu(&self) -> [f64; 3] {
        let nodes = self.nodes.iter().filter_map(NodeProcess::pid).map(cpu_of).sum();
        [self.master.pid().map_or(0.0, cpu_of), self.slave.pid().map_or(0.0, cpu_of), nodes]
    }

    async fn newest(&self) -> Result<String> {
        self.master().await?.query_first("SELECT @@global.gtid_binlog_pos").await?.context("a master's position")
    }

    /// The last transaction that the slave has.
    async fn applied(&self) -> Result<u64> {
        let mut conn = self.slave().await?;
        Ok(match self.way {
            Way::Towline(_) => conn.query_first("SELECT seq FROM towline.position").await?.unwrap_or_default(),
            Way::Native { .. } => {
                let gtid: Option<String> = conn.query_first("SELECT @@global.gtid_slave_pos").await?;
                sequence(&gtid.unwrap_or_default())?
            }
        })
    }

    /// Waits until the slave has all.
    pub(crate) async fn wait_equal(&self) -> Result<()> {
        self.wait_for(sequence(&self.newest().await?)?).await
    }

    async fn wait_for(&self, newest: u64) -> Result<()> {
        let started = Instant::now();
        while self.applied().await? < newest {
            if started.elapsed() > SLAVE_TIMEOUT {
                bail!("the slave has {} of {newest} transactions", self.applied().await?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(crate) async fn stop(self) {
        self.master.stop().await;
        self.slave.stop().await;
    }
}

pub(crate) const SLAVE_CPU: &str = "CPU of the slave's server, us/tx";
pub(crate) const OUTSIDE_CPU: &str = "CPU outside the servers, us/tx";

fn options(folder: &Path, role: Role, port: u16) -> ManagedOptions {
    let name = if role == Role::Master { "master" } else { "slave" };
    let mut options = ManagedOptions::new(folder.join(name), role);
    options.port = Some(port);
    options.extra_args = SERVER.map(str::to_owned).to_vec();
    options
}

fn opts(port: u16) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .prefer_socket(false)
        .user(Some(ACCOUNT))
        .pass(Some(ACCOUNT))
        .into()
}

/// The last number of `0-1-1042`.
fn sequence(gtid: &str) -> Result<u64> {
    gtid.rsplit('-').next().unwrap_or_default().parse().with_context(|| format!("the GTID {gtid:?}"))
}

async fn checksums(mut conn: Conn) -> Result<Vec<(String, Option<u64>)>> {
    Ok(conn.query("CHECKSUM TABLE sbtest.sbtest1, sbtest.sbtest2, sbtest.sbtest3, sbtest.sbtest4").await?)
}

/// What a process has taken of CPU time with all its threads, in microseconds. The kernel counts hundredths of a second.
fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program).args(arguments).status().with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program} {arguments:?}: {status}");
    Ok(())
}
