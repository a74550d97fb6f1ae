//! Character sets that are not UTF-8, and the SQL modes that change how a text is cut: what the classifier sees must be
//! what the server sees.

use std::sync::Arc;

use towline::{classify::SqlClassifier, upstream::Endpoint};
use towline_middleware::Role;

use super::{APP, prepare, unpredictable};
use crate::support::{
    Mysql9, TestServer,
    front::TestFront,
    wire_client::{MODERN, OLD, Target, WireClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn replies_in_any_character_set_are_equal_byte_for_byte() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    let texts: [(&str, &[u8]); 7] = [
        ("latin1", b"SELECT 'caf\xe9' AS '\xe4', HEX('\xe9')"),
        ("gbk", b"SELECT '\xbf\x5c' AS `\xbf\x5c`, HEX('\xbf\x5c'), _gbk'\xbf\x5c'"),
        ("sjis", b"SELECT '\x83\x5c\x95\x5c', HEX('\x83\x5c')"),
        ("big5", b"SELECT '\xa5\x5c', LENGTH('\xa5\x5c\\'')"),
        ("cp932", b"SELECT '\x83\x5c' -- \x83\x5c"),
        ("utf8mb4", "SELECT 'ü€😀', name FROM item".as_bytes()),
        ("ascii", b"SELECT 'plain'"),
    ];
    for capabilities in [MODERN, OLD] {
        let mut seen = Vec::new();
        for target in [front.target(), direct.clone()] {
            let mut client = WireClient::connect(&target, capabilities, APP, "shop").await;
            let mut replies = Vec::new();
            for (charset, text) in texts {
                client.run(&format!("SET NAMES {charset}")).await;
                replies.extend(client.command(&[b"\x03", text].concat()).await);
                replies.extend(client.command(&[b"\x16", text].concat()).await.split_off(1));
                client.run("SET character_set_results = utf16").await;
                replies.extend(client.command(&[b"\x03", text].concat()).await);
                replies.extend(client.query("no such statement").await);
            }
            unpredictable(&mut replies);
            seen.push(replies);
        }
        assert_eq!(seen[0], seen[1]);
    }
}

/// How a session is set up, and texts that are a read and a write then, and one read to whoever cuts them otherwise.
const HIDDEN: [(&str, &[u8]); 9] = [
    ("SET NAMES gbk", b"SELECT '\xbf\x5c'; DELETE FROM item; -- '"),
    ("SET character_set_client = sjis", b"SELECT '\x83\x5c'; DELETE FROM item; -- '"),
    ("SET sql_mode = 'NO_BACKSLASH_ESCAPES'", b"SELECT 'a\\'; DELETE FROM item; -- '"),
    ("SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')", b"SELECT 1 AS \"a\\\"; DELETE FROM item; -- \""),
    ("SET sql_mode = 'ANSI'", b"SELECT 1 AS \"a\\\"; DELETE FROM item; -- \""),
    ("SET @old = @@sql_mode, sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'", b"SELECT 'a\\'; DELETE FROM item; -- '"),
    // They fail, and what stands before the error is set.
    ("SET sql_mode = 'NO_BACKSLASH_ESCAPES', rand_seed1 = DEFAULT", b"SELECT 'a\\'; DELETE FROM item; -- '"),
    ("SET NAMES gbk, rand_seed1 = DEFAULT", b"SELECT '\xbf\x5c'; DELETE FROM item; -- '"),
    // There `~` is a letter, and `~abs` the name of a stored function.
    ("SET NAMES swe7", b"SELECT ~abs(id) FROM item"),
];

/// On a slave each hidden write is refused by the guard, as text and prepared, and read for what it is once the session
/// is as before.
async fn assert_found(front: &TestFront, account: (&str, &str)) {
    for capabilities in [MODERN, OLD] {
        for (set_up, text) in HIDDEN {
            let mut client = WireClient::connect(&front.target(), capabilities, account, "shop").await;
            client.query(set_up).await;
            let reply = client.command(&[b"\x03", text].concat()).await;
            assert_eq!(reply[0].error_code(), Some(1290), "{set_up}: {reply:?}");
            let reply = client.command(&[b"\x16", text].concat()).await;
            assert!(reply[0].error_code().is_some(), "{set_up}: {reply:?}");
            client.command(b"\x1f").await;
            let plain = b"SELECT 'a\\'; DELETE FROM item; -- '";
            let reply = client.command(&[b"\x03", &plain[..]].concat()).await;
            assert_eq!(reply[0].payload, [1], "one read after a reset: {reply:?}");
        }
        // In one packet the mode changes between two statements, and the text is cut as it was before.
        let mut client = WireClient::connect(&front.target(), capabilities, account, "shop").await;
        let reply = client.query("SET sql_mode='NO_BACKSLASH_ESCAPES'; SELECT 'a\\'; DELETE FROM item; -- '").await;
        let refused = reply.iter().filter_map(|packet| packet.error_code()).any(|code| code == 1290 || code == 1792);
        assert!(refused, "{reply:?}");
        let reply = client.query("SELECT COUNT(*) FROM item").await;
        assert!(reply.iter().any(|packet| packet.payload == b"\x012"), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_hides_behind_a_character_set_or_a_mode() {
    let server = TestServer::start(Role::Slave).await;
    prepare(&server).await;
    assert_found(&TestFront::start(Role::Slave, &server).await, APP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_hides_on_mysql_9_either() {
    let Some(server) = Mysql9::shared().await else { return };
    // The wire client speaks no login method that this server has: the account has no password.
    server
        .run(&[
            "CREATE USER hidden@'%'",
            "GRANT ALL ON *.* TO hidden@'%'",
            "CREATE DATABASE IF NOT EXISTS shop",
            "CREATE TABLE shop.item (id INT PRIMARY KEY)",
            "INSERT INTO shop.item VALUES (1), (2)",
        ])
        .await;
    let endpoint = Endpoint::unix(&server.socket);
    let front = TestFront::before(Role::Slave, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    assert_found(&front, ("hidden", "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_word_on_the_character_set_counts_and_not_the_logins() {
    let settings = [
        "--skip-character-set-client-handshake",
        "--character-set-server=gbk",
        "--collation-server=gbk_chinese_ci",
        "--sql-mode=ANSI_QUOTES",
    ];
    let server = TestServer::start_with(Role::Slave, &settings).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Slave, &server).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    for text in [HIDDEN[0].1, HIDDEN[3].1] {
        let reply = client.command(&[b"\x03", text].concat()).await;
        assert_eq!(reply[0].error_code(), Some(1290), "{reply:?}");
    }
}
