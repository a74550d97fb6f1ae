//! A master and its slaves.

use std::collections::BTreeMap;

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::Role;

use super::{TestNode, eventually};

/// The account of a cluster's clients, as name and password. It may write everywhere but in `towline` and `mysql`.
pub(crate) const CLIENT: (&str, &str) = ("app", "app");

/// A master and its slaves, each a process with a private MariaDB.
pub(crate) struct TestCluster {
    pub(crate) master: TestNode,
    pub(crate) slaves: Vec<TestNode>,
}

impl TestCluster {
    /// A cluster whose master knows so many slaves, with the account [`CLIENT`] on every node.
    pub(crate) async fn start(slaves: usize) -> Self {
        Self::start_with(slaves, "").await
    }

    /// The same with more of the master's configuration.
    pub(crate) async fn start_with(slaves: usize, master_config: &str) -> Self {
        Self::start_nodes(slaves, master_config, "").await
    }

    /// The same with these layers on every node.
    pub(crate) async fn start_with_layers(slaves: usize, layers: &str) -> Self {
        Self::start_nodes(slaves, layers, layers).await
    }

    async fn start_nodes(slaves: usize, master_config: &str, slave_config: &str) -> Self {
        let secret = "secret = 'a secret of the tests'";
        let slaves = futures_util::future::join_all((1..=slaves).map(|number| async move {
            TestNode::start(&format!("slave-{number}"), Role::Slave, &format!("[cluster]\n{secret}\n{slave_config}"))
                .await
        }))
        .await;
        let urls: Vec<String> = slaves.iter().map(|slave| slave.url("")).collect();
        let config = format!("[cluster]\n{secret}\nslaves = {urls:?}\n{master_config}");
        let master = TestNode::start("master", Role::Master, &config).await;
        Self::of(master, slaves).await
    }

    /// A cluster of nodes that were started one by one.
    pub(crate) async fn of(master: TestNode, slaves: Vec<TestNode>) -> Self {
        let cluster = Self { master, slaves };
        cluster.make_account().await;
        cluster
    }

    /// A connection of [`CLIENT`] to the master, through the node.
    pub(crate) async fn master(&self) -> Conn {
        connect(&self.master).await
    }

    /// A connection of [`CLIENT`] to a slave, through the node.
    pub(crate) async fn slave(&self, index: usize) -> Conn {
        connect(&self.slaves[index]).await
    }

    /// Waits until every table of every slave equals the master's, and returns the checksums. The master's clients must
    /// have gone quiet.
    pub(crate) async fn wait_equal(&self) -> BTreeMap<String, Option<u64>> {
        let master = checksums(&self.master).await.unwrap_or_else(|error| panic!("the master's server: {error}"));
        for slave in &self.slaves {
            eventually("a slave that equals the master", async || match checksums(slave).await {
                Ok(found) if found == master => Ok(()),
                Ok(found) => Err(format!("the master has {master:?}, a slave {found:?}; {}", slave.log())),
                Err(error) => Err(error.to_string()),
            })
            .await;
        }
        master
    }

    /// Waits until every slave is sent what the master commits as it comes, and what comes from the binlog has come.
    pub(crate) async fn wait_streaming(&self) {
        eventually("slaves that stream", async || {
            let status = self.master.status().await;
            let slaves = status["slaves"].as_array().map_or(&[][..], Vec::as_slice);
            let is_streaming =
                slaves.len() == self.slaves.len() && slaves.iter().all(|slave| slave["state"] == "streaming");
            if is_streaming { Ok(()) } else { Err(status) }
        })
        .await;
    }

    async fn make_account(&self) {
        let (user, password) = CLIENT;
        let mut administrator = Conn::new(self.master.server_opts()).await.expect("the master's server");
        for statement in [
            format!("CREATE USER {user}@'%' IDENTIFIED BY '{password}'"),
            format!("GRANT ALL ON `%`.* TO {user}@'%'"),
            format!("GRANT SELECT ON towline.* TO {user}@'%'"),
            format!("GRANT SELECT ON mysql.* TO {user}@'%'"),
        ] {
            administrator.query_drop(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        for node in self.slaves.iter().chain([&self.master]) {
            eventually("the account on every node", async || node.connect(user, password).await?.disconnect().await)
                .await;
        }
    }
}

async fn connect(node: &TestNode) -> Conn {
    let (user, password) = CLIENT;
    node.connect(user, password).await.unwrap_or_else(|error| panic!("{error}; {}", node.log()))
}

/// The checksum of every table that is replicated, asked of the server behind the node.
pub(crate) async fn checksums(node: &TestNode) -> Result<BTreeMap<String, Option<u64>>, mysql_async::Error> {
    let mut server = Conn::new(node.server_opts()).await?;
    let tables: Vec<String> = server
        .query(
            "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables \
             WHERE table_type = 'BASE TABLE' \
             AND table_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys', 'towline')",
        )
        .await?;
    let mut checksums = BTreeMap::new();
    for table in tables {
        let row: Option<(String, Option<u64>)> = server.query_first(format!("CHECKSUM TABLE {table}")).await?;
        let (name, checksum) = row.expect("CHECKSUM TABLE answers one row for a table");
        checksums.insert(name, checksum);
    }
    server.disconnect().await?;
    Ok(checksums)
}
