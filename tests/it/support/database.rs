//! What a server of either family can be asked, for tests that both must pass.

use mysql_async::{Conn, Opts, prelude::Queryable};
use rustix::process::{Pid, Signal, kill_process};

use super::{Mysql9, TestServer, eventually};
use crate::matrix::script::Family;

/// A private server.
pub(crate) trait Database {
    /// Which family it is of.
    const FAMILY: Family;
    /// The statement that makes its binlog begin anew.
    const RESET_LOG: &str;

    /// How to log in as the administrator.
    fn opts(&self) -> Opts;

    /// Kills it with -9 and returns when it is dead; it starts again by itself.
    async fn kill(&self);

    /// A connection of the administrator's.
    async fn connect(&self) -> Conn {
        Conn::new(self.opts()).await.expect("a server that was started takes connections")
    }

    /// Runs statements as the administrator, one by one.
    async fn run(&self, statements: &[&str]) {
        super::server::run(self.connect().await, statements).await;
    }
}

impl Database for TestServer {
    const FAMILY: Family = Family::MariaDb;
    const RESET_LOG: &str = "RESET MASTER";

    fn opts(&self) -> Opts {
        self.managed().opts()
    }

    async fn kill(&self) {
        let pid = eventually("the server runs", async || self.managed().pid().ok_or("not yet")).await;
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), Signal::KILL).expect("it runs");
    }
}

impl Database for Mysql9 {
    const FAMILY: Family = Family::MySql;
    const RESET_LOG: &str = "RESET BINARY LOGS AND GTIDS";

    fn opts(&self) -> Opts {
        self.opts()
    }

    async fn kill(&self) {
        let mut witness = self.connect().await;
        self.crash();
        eventually("the server dies", async || match witness.query_drop("DO 0").await {
            Ok(()) => Err("it runs"),
            Err(_) => Ok(()),
        })
        .await;
    }
}
