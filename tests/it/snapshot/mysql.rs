//! The same on MySQL.

use mysql_async::prelude::Queryable;
use towline_middleware::Role;

use super::told;
use crate::{
    matrix::contents::{answer, contents},
    support::{eventually, mysql_node, mysql_server},
};

const SHOP: [&str; 19] = [
    "CREATE DATABASE shop CHARACTER SET latin1",
    "USE shop",
    "CREATE TABLE kinds (i INT PRIMARY KEY, a TINYINT, b BIGINT UNSIGNED, f FLOAT, d DOUBLE, n DECIMAL(65,30), bits BIT(13), \
     day DATE, t TIME(6), at DATETIME(3), stamp TIMESTAMP(6) NULL, y YEAR, c CHAR(9), g VARCHAR(99) CHARACTER SET gbk, \
     wide TEXT CHARACTER SET utf16, v VARBINARY(300), e ENUM('x', 'y'), s SET('p', 'q'), j JSON, place GEOMETRY, \
     twice INT AS (i * 2), hidden INT INVISIBLE DEFAULT 5, INDEX ((i + a)))",
    "SET NAMES utf8mb4, sql_mode = 'ALLOW_INVALID_DATES'",
    "INSERT INTO kinds VALUES (1, -1, 18446744073709551615, 1.1, -2.25e300, 12345678901234567890.000000000000000001, \
     b'1010101010101', '0000-00-00', '-838:59:59', '1000-01-01 00:00:00.123', '2038-01-19 03:14:07.999999', 2155, \
     'ö', '中文', 'ünï 😀', X'00275C0A1A22', 'y', 'p,q', '{\"k\": [1, null]}', ST_GeomFromText('LINESTRING(0 0, 1 1)'), \
     DEFAULT)",
    "INSERT INTO kinds (i, day, e) VALUES (2, '2026-02-31', ''), (-3, NULL, NULL)",
    "UPDATE kinds SET hidden = 9 WHERE i = 2",
    "CREATE TABLE `odd näme` (w VARCHAR(20) PRIMARY KEY, parent VARCHAR(20), FOREIGN KEY (parent) REFERENCES `odd näme` (w))",
    "INSERT INTO `odd näme` VALUES ('a', 'a'), ('b', 'a')",
    "CREATE TABLE parted (i INT PRIMARY KEY AUTO_INCREMENT) PARTITION BY HASH (i) PARTITIONS 3",
    "INSERT INTO parted VALUES (), (), (), ()",
    "CREATE TRIGGER told BEFORE INSERT ON parted FOR EACH ROW SET @told = 1",
    "CREATE FUNCTION half(n INT) RETURNS INT DETERMINISTIC RETURN n / 2",
    "CREATE VIEW a_view AS SELECT half(i) FROM parted",
    "CREATE EVENT later ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DELETE FROM parted",
    "CREATE ROLE reader",
    "CREATE USER teller@'%' IDENTIFIED BY 'tells'",
    "GRANT SELECT ON shop.* TO reader",
    "GRANT reader TO teller@'%'",
];

#[tokio::test]
async fn a_new_slave_on_mysql_is_whole_and_follows() {
    let options = ["--max-allowed-packet=1G"];
    let Some(first) = mysql_server(&options).await else { return };
    let Some(second) = mysql_server(&options).await else { return };
    let master = mysql_node(&first, Role::Master, "").await;
    first.run(&SHOP).await;
    // What the binlog no longer has can only come by the snapshot.
    first.run(&["FLUSH BINARY LOGS", "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY"]).await;
    let slave = mysql_node(&second, Role::Slave, &format!("master = {:?}", master.url(""))).await;
    told(&slave, "ready\n").await;
    first.run(&["INSERT INTO shop.parted VALUES ()", "CREATE TABLE shop.after (i INT PRIMARY KEY)"]).await;

    let (mut server, mut own) = (first.connect().await, second.connect().await);
    let questions = ["SHOW GRANTS FOR teller@'%'", "SHOW CREATE USER teller@'%'", "SHOW GRANTS FOR reader"];
    for conn in [&mut server, &mut own] {
        conn.query_drop("SET SESSION print_identified_with_as_hex = 1").await.unwrap();
    }
    eventually("a slave that follows", async || {
        let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'after'";
        if own.query_first(tables).await.unwrap() == Some(1) { Ok(()) } else { Err((slave.log(), master.log())) }
    })
    .await;
    let (mut expected, mut found) = (contents(&mut server, "shop").await, contents(&mut own, "shop").await);
    for all in [&mut expected, &mut found] {
        // It ends with when the trigger was made there.
        let trigger = all.get_mut("SHOW CREATE TRIGGER `told`").unwrap();
        trigger.truncate(trigger.rfind(" | ").unwrap());
    }
    for (what, expected) in &expected {
        assert_eq!(found.get(what), Some(expected), "{what}");
    }
    assert_eq!(found.len(), expected.len());
    for question in questions {
        assert_eq!(answer(&mut own, question).await, answer(&mut server, question).await, "{question}");
    }
    let (code, told) = master.verify().await;
    assert_eq!(code, Some(0), "{told}");
}
