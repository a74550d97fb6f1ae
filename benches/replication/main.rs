//! How does Towline fare beside the server's own replication? One master and one slave on the same settings, the same
//! sysbench load, and ways to replicate that take turns within every round, so that a ratio is one of neighbours in time.
//!
//! - Catching up: the slave is put back to where it stood before so many transactions, and has to get them all. The
//!   clock runs until it has them, and then the tables are compared.
//! - Under load: sysbench writes at the server, and for what can only be had there through the node's front. How much
//!   it gets done, how far the slave falls behind, how long it takes to have everything afterwards, and what CPU time
//!   that costs.
//! - Becoming visible: a row at a time at the master, and the time from its OK until the slave shows it.
//!
//! `make bench-replication ARGS="--rounds 5"`; `--help` tells the rest. The figures mean something on a quiet machine only.

mod load;
mod report;
mod site;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use towline::config::Ack;

use self::{
    load::{Probe, Sysbench},
    report::Report,
    site::{Site, Way},
};

#[derive(Debug, Parser)]
struct Options {
    /// How often each measurement is taken.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Transactions that a slave has to catch up.
    #[arg(long, default_value_t = 100_000)]
    backlog: u64,
    /// Seconds of load, after two that don't count.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Clients that write.
    #[arg(long, default_value_t = 16)]
    threads: u32,
    /// What they do: one of sysbench's loads that write.
    #[arg(long, default_value = "oltp_write_only")]
    workload: String,
    /// Rows whose way is timed, 20 ms apart.
    #[arg(long, default_value_t = 200)]
    samples: u32,
    /// Rows of each of the four tables.
    #[arg(long, default_value_t = 100_000)]
    table_size: u32,
    /// Of catch-up, load and visible, those to measure.
    #[arg(long, value_delimiter = ',', default_value = "catch-up,load,visible")]
    parts: Vec<String>,
    /// Whether the server's own replica logs what it applies, as a slave of Towline's does: only then can it take over. Off
    /// is MariaDB's default, and saves it a write to the disk for each commit.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    log_slave_updates: bool,
    /// Another build of the program.
    #[arg(long, env = "TOWLINE", default_value = env!("CARGO_BIN_EXE_towline"))]
    program: std::path::PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A way to replicate, and where its clients connect.
#[derive(Clone, Copy, Debug)]
struct Cell {
    name: &'static str,
    way: Way,
    /// Whether clients come through the master node's front.
    through_front: bool,
}

const fn cell(name: &'static str, way: Way, through_front: bool) -> Cell {
    Cell { name, way, through_front }
}

const ONE_THREAD: Cell = cell("native, 1 thread", Way::Native { threads: 0, semi_sync: false }, false);
const FOUR_THREADS: Cell = cell("native, 4 threads", Way::Native { threads: 4, semi_sync: false }, false);
const SEMI_SYNC: Cell = cell("native, semi-sync", Way::Native { threads: 0, semi_sync: true }, false);
const TOWLINE: Cell = cell("Towline, ack none", Way::Towline(Ack::None), false);
const ONE_THREAD_FRONT: Cell = cell("native, 1 thread; front", Way::Native { threads: 0, semi_sync: false }, true);
const SEMI_SYNC_FRONT: Cell = cell("native, semi-sync; front", Way::Native { threads: 0, semi_sync: true }, true);
const TOWLINE_FRONT: Cell = cell("Towline, ack none; front", Way::Towline(Ack::None), true);
const TOWLINE_ONE: Cell = cell("Towline, ack one; front", Way::Towline(Ack::One), true);

const ALONE: [Cell; 3] = [ONE_THREAD, FOUR_THREADS, TOWLINE];
const LOADED: [Cell; 8] =
    [ONE_THREAD, TOWLINE, FOUR_THREADS, SEMI_SYNC, TOWLINE_ONE, SEMI_SYNC_FRONT, ONE_THREAD_FRONT, TOWLINE_FRONT];

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let started = std::time::Instant::now();
    let mut site = Site::start(&options.program, options.log_slave_updates).await?;
    let sysbench = Sysbench { workload: options.workload, threads: options.threads, table_size: options.table_size };
    sysbench.prepare(site.master_port()).await?;
    site.keep_beginning().await?;
    let mut report = Report::default();
    let wanted = |part: &str| options.parts.iter().any(|wanted| wanted == part);
    if wanted("catch-up") {
        sysbench.write_transactions(site.master_port(), options.backlog).await?;
        for round in 0..options.rounds {
            for cell in in_turn(&ALONE, round) {
                site.return_to_beginning().await?;
                let caught_up = site.catch_up(cell.way).await?;
                report.add("caught up, tx/s", cell.name, options.backlog as f64 / caught_up.seconds);
                report.add(site::OUTSIDE_CPU, cell.name, caught_up.cpu_outside / options.backlog as f64);
                report.add(site::SLAVE_CPU, cell.name, caught_up.cpu_slave / options.backlog as f64);
            }
        }
        report.print("Catching up");
    }
    for round in 0..options.rounds {
        for cell in in_turn(&LOADED, round).filter(|_| wanted("load")) {
            site.follow(cell.way, cell.through_front).await?;
            let port = if cell.through_front { site.front_port() } else { site.master_port() };
            sysbench.write(port, Duration::from_secs(2)).await?;
            site.wait_equal().await?;
            site.measure_load(cell.name, &mut report, sysbench.write(port, Duration::from_secs(options.seconds)))
                .await?;
            site.leave().await?;
        }
        for cell in in_turn(&ALONE, round).filter(|_| wanted("visible")) {
            site.follow(cell.way, false).await?;
            let mut probe = Probe::start(&site).await?;
            probe.run(options.samples, cell.name, &mut report).await?;
            site.leave().await?;
        }
    }
    report.print("Under load, and becoming visible");
    report.print_bars();
    let seconds = started.elapsed().as_secs();
    println!("\n{} rounds in {seconds} s, log_slave_updates = {}", options.rounds, options.log_slave_updates);
    site.stop().await;
    Ok(())
}

/// Another one is first in each round.
fn in_turn(cells: &[Cell], round: usize) -> impl Iterator<Item = Cell> {
    cells.iter().cycle().skip(round % cells.len()).take(cells.len()).copied()
}
