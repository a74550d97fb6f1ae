//! What writes at the master, and what looks at the slave.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mysql_async::{Conn, prelude::Queryable};
use tokio::process::Command;

use super::{
    report::Report,
    site::{ACCOUNT, Site},
};

/// Clients that write as one of sysbench's loads does.
#[derive(Clone, Debug)]
pub(crate) struct Sysbench {
    pub(crate) workload: String,
    pub(crate) threads: u32,
    pub(crate) table_size: u32,
}

/// What a load has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) transactions: f64,
    pub(crate) per_second: f64,
}

impl Sysbench {
    /// Makes the tables.
    pub(crate) async fn prepare(&self, port: u16) -> Result<()> {
        self.run(port, 4, &["prepare"]).await.map(drop)
    }

    /// Writes exactly so many transactions.
    pub(crate) async fn write_transactions(&self, port: u16, count: u64) -> Result<()> {
        // A deadlock is tried again and not counted.
        let told = self.run(port, self.threads, &[&format!("--events={count}"), "--time=0", "run"]).await?;
        let done = number_after(&told, "transactions:").context("sysbench tells no transactions")?;
        if done != count as f64 {
            bail!("sysbench has written {done} transactions in place of {count}")
        }
        Ok(())
    }

    /// Writes for so long.
    pub(crate) async fn write(&self, port: u16, time: Duration) -> Result<Written> {
        let told = self.run(port, self.threads, &[&format!("--time={}", time.as_secs()), "run"]).await?;
        let transactions = number_after(&told, "transactions:").context("sysbench tells no transactions")?;
        let rest = told.split_once("transactions:").map_or("", |(_, rest)| rest);
        Ok(Written { transactions, per_second: number_after(rest, "(").context("sysbench tells no rate")? })
    }

    async fn run(&self, port: u16, threads: u32, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("sysbench");
        command.arg(&self.workload).args(["--mysql-host=127.0.0.1", "--mysql-db=sbtest", "--db-ps-mode=disable"]);
        command.arg(format!("--mysql-port={port}")).arg(format!("--mysql-user={ACCOUNT}"));
        command.arg(format!("--mysql-password={ACCOUNT}")).args(["--mysql-ignore-errors=1213,1205,1020", "--tables=4"]);
        command.arg(format!("--table-size={}", self.table_size)).arg(format!("--threads={threads}")).args(arguments);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("run sysbench")?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("sysbench: {told}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(told)
    }
}

fn number_after(text: &str, word: &str) -> Option<f64> {
    text.split_once(word)?.1.split_whitespace().next()?.parse().ok()
}

/// How often the slave is asked for the row, at least: sleeping is no more exact.
const POLL: Duration = Duration::from_micros(100);
/// One row after the other, so seldom that none waits for another.
const EVERY: Duration = Duration::from_millis(20);

/// Times rows from the master's OK until the slave shows them.
#[derive(Debug)]
pub(crate) struct Probe {
    master: Conn,
    slave: Conn,
}

impl Probe {
    pub(crate) async fn start(site: &Site) -> Result<Self> {
        Ok(Self { master: site.master().await?, slave: site.slave().await? })
    }

    pub(crate) async fn run(&mut self, samples: u32, name: &'static str, report: &mut Report) -> Result<()> {
        let mut took = Vec::new();
        let last: Option<u32> = self.master.query_first("SELECT MAX(id) FROM probe.seen").await?;
        let first = last.unwrap_or(0) + 1;
        // The first ones find nothing in place yet.
        for id in first..first + samples + 20 {
            self.master.query_drop(format!("INSERT INTO probe.seen VALUES ({id})")).await?;
            let told = Instant::now();
            let question = format!("SELECT id FROM probe.seen WHERE id = {id}");
            while self.slave.query_first::<u32, _>(&*question).await?.is_none() {
                if told.elapsed() > Duration::from_secs(60) {
                    bail!("row {id} does not come, {name}")
                }
                // The runtime's own sleep is a thousand microseconds long at least.
                std::thread::sleep(POLL);
            }
            took.push(told.elapsed().as_secs_f64() * 1000.0);
            tokio::time::sleep(EVERY).await;
        }
        took.drain(..20);
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took[((took.len() - 1) as f64 * part).round() as usize];
        report.add("visible after, ms p50", name, at(0.5));
        report.add("visible after, ms p99", name, at(0.99));
        Ok(())
    }
}
