//! What names whoever runs it names the same account on a slave.

use mysql_async::{Conn, Row, prelude::Queryable};

use crate::support::{TestCluster, eventually};

const BY_APP: [&str; 5] = [
    "CREATE ROLE IF NOT EXISTS r1 WITH ADMIN CURRENT_USER",
    "CREATE DATABASE d",
    "CREATE EVENT d.e1 ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DO 1",
    "CREATE DEFINER = CURRENT_USER() EVENT d.e2 ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DO 1",
    "ALTER DEFINER = CURRENT_USER EVENT d.e1 COMMENT 'altered'",
];

const OF_WHOM: &str = "SELECT CONCAT_WS(' ', User, Host, Role, Admin_option) FROM mysql.roles_mapping WHERE Role LIKE 'r%' \
    UNION ALL SELECT CONCAT_WS(' ', EVENT_NAME, DEFINER, EVENT_COMMENT) FROM information_schema.EVENTS ORDER BY 1";

#[tokio::test]
async fn roles_and_events_belong_to_the_same_account() {
    let cluster = TestCluster::start(1).await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    server.query_drop("GRANT CREATE USER ON *.* TO app@'%'").await.unwrap();
    let mut app = cluster.master().await;
    for sql in BY_APP {
        app.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let told = async |conn: &mut Conn| conn.query_map(OF_WHOM, |row: Row| row.get::<String, _>(0)).await.unwrap();
    let on_master = told(&mut server).await;
    assert!(on_master.contains(&Some("app % r1 Y".to_owned())), "{on_master:?}");
    let mut slave = Conn::new(cluster.slaves[0].server_opts()).await.unwrap();
    eventually("the same owners on the slave", async || {
        let on_slave = told(&mut slave).await;
        if on_slave == on_master { Ok(()) } else { Err((on_slave, on_master.clone())) }
    })
    .await;
}
