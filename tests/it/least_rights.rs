//! The rights that `check` asks for are enough.

use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use towline::check;
use towline_middleware::Role;

use crate::support::{Mysql9, TestNode, TestServer, eventually, mysql_node};

/// Something of every kind that an administrator of a master does.
const STATEMENTS: [&str; 20] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(20))",
    "INSERT INTO shop.item VALUES (1, 'a'), (2, 'b')",
    "CREATE DEFINER = root@localhost PROCEDURE shop.p() SELECT 1",
    "CREATE DEFINER = root@localhost TRIGGER shop.t AFTER INSERT ON shop.item FOR EACH ROW SET @a = 1",
    "CREATE DEFINER = nobody@localhost VIEW shop.v AS SELECT * FROM shop.item",
    "CREATE DEFINER = root@localhost EVENT shop.e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    "CREATE DEFINER = root@localhost FUNCTION shop.f() RETURNS INT DETERMINISTIC RETURN 1",
    "ALTER TABLE shop.item ADD COLUMN amount INT, ADD INDEX (name)",
    "ALTER DATABASE shop CHARACTER SET latin1",
    "CREATE USER reader@'%' IDENTIFIED BY 'x'",
    "ALTER USER reader@'%' WITH MAX_QUERIES_PER_HOUR 1000",
    "CREATE ROLE clerk",
    "GRANT SELECT, UPDATE ON shop.* TO clerk",
    "GRANT clerk TO reader@'%'",
    "GRANT ALL ON shop.* TO reader@'%' WITH GRANT OPTION",
    "GRANT SELECT (id), INSERT ON shop.item TO reader@'%'",
    "GRANT EXECUTE ON PROCEDURE shop.p TO reader@'%'",
    "REVOKE DELETE ON shop.* FROM reader@'%'",
    "UPDATE shop.item SET amount = id",
];

/// Runs the statements that `check` prints as the administrator, on neither server's log.
async fn grant(role: Role, admin: &Opts, node: &Opts) {
    let (_, report) = check::run(role, node.into()).await.unwrap();
    let mut conn = Conn::new(admin.clone()).await.unwrap();
    conn.query_drop("SET sql_log_bin = 0").await.unwrap();
    for line in report.to_string().lines() {
        if let Some((_, rest)) = line.split_once("`GRANT ") {
            let (grant, _) = rest.split_once('`').unwrap();
            conn.query_drop(format!("GRANT {grant}")).await.unwrap_or_else(|error| panic!("{grant}: {error}"));
        }
    }
}

async fn assert_follows(master: &Opts, slave: &Opts, node: &TestNode) {
    const AMOUNTS: &str = "SELECT SUM(amount) FROM shop.item";
    let mut master = Conn::new(master.clone()).await.unwrap();
    for sql in STATEMENTS {
        master.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let mut slave = Conn::new(slave.clone()).await.unwrap();
    eventually("the last change on the slave", async || match slave.query_first(AMOUNTS).await {
        Ok(Some(Some(3))) => Ok(()),
        other => Err(format!("{other:?}: {}", node.log())),
    })
    .await;
    let rights = "SHOW GRANTS FOR reader@'%'";
    let [on_master, on_slave]: [Vec<String>; 2] =
        [master.query(rights).await.unwrap(), slave.query(rights).await.unwrap()];
    assert!(on_master.len() > 3 && on_master == on_slave, "{on_master:?} and {on_slave:?}");
}

#[tokio::test]
async fn a_slave_follows_on_mariadb() {
    let [master_server, slave_server] =
        [TestServer::start(Role::Master).await, TestServer::start_with(Role::Slave, &["--read-only=ON"]).await];
    let mut urls = Vec::new();
    for (role, server) in [(Role::Master, &master_server), (Role::Slave, &slave_server)] {
        server.run(&["SET sql_log_bin = 0", "CREATE USER node@localhost IDENTIFIED BY 'secret'"]).await;
        let node: Opts = OptsBuilder::from_opts(server.opts()).user(Some("node")).pass(Some("secret")).into();
        grant(role, &server.opts(), &node).await;
        urls.push(format!("mysql://node:secret@localhost?socket={}", node.socket().unwrap()));
    }
    let config = |url: &str, cluster: &str| {
        format!("[mysql]\nmanaged = false\nurl = {url:?}\n[cluster]\nsecret = 'of the tests'\n{cluster}")
    };
    let slave = TestNode::start("slave", Role::Slave, &config(&urls[1], "")).await;
    let slaves = format!("slaves = ['{}']", slave.url(""));
    let _master = TestNode::start("master", Role::Master, &config(&urls[0], &slaves)).await;
    assert_follows(&master_server.opts(), &slave_server.opts(), &slave).await;
}

#[tokio::test]
async fn a_slave_follows_on_mysql() {
    let of_slaves = ["--event-scheduler=OFF", "--log-bin-trust-function-creators=ON", "--read-only=ON"];
    let Some(master_server) = Mysql9::start_with(&["--log-bin-trust-function-creators=ON"]).await else { return };
    let Some(slave_server) = Mysql9::start_with(&of_slaves).await else { return };
    for (role, server) in [(Role::Master, &master_server), (Role::Slave, &slave_server)] {
        server.run(&["SET sql_log_bin = 0", "CREATE USER towline@'%' IDENTIFIED BY 'towline'"]).await;
        let node = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port);
        let node = node.user(Some("towline")).pass(Some("towline")).prefer_socket(Some(false));
        grant(role, &server.opts(), &node.into()).await;
    }
    let slave = mysql_node(&slave_server, Role::Slave, "").await;
    let slaves = format!("slaves = ['{}']", slave.url(""));
    let _master = mysql_node(&master_server, Role::Master, &slaves).await;
    assert_follows(&master_server.opts(), &slave_server.opts(), &slave).await;
}
