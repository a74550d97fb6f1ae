//! Other layers while clients are at work.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use mysql_async::prelude::Queryable;
use reqwest::StatusCode;
use serde_json::json;
use towline::wire::capability::mariadb;

use super::{client, http, master, reload};
use crate::support::{
    eventually,
    wire_client::{MODERN, Target, WireClient},
};

const DENY: &str = "[[layer]]\nname = 'rules'\nrule = [{ regex = 'probe', action = 'deny' }]";
const OTHER: &str = "[[layer]]\nname = 'slow_log'\nthreshold_ms = 10000\n[[layer]]\nname = 'limit'\nlimit = [{ by = 'all', running_max = 100 }]";

#[tokio::test(flavor = "multi_thread")]
async fn fifty_reloads_under_load_lose_no_query() {
    let node = Arc::new(master(OTHER).await);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for id in 0..4i64 {
        let (node, stop, done) = (node.clone(), stop.clone(), done.clone());
        clients.push(tokio::spawn(async move {
            let mut conn = client(&node).await;
            let connection: Option<u64> = conn.query_first("SELECT CONNECTION_ID()").await.unwrap();
            while !stop.load(SeqCst) {
                match id {
                    0 => {
                        let (status, body) = http(&node, "SELECT ?", json!([7])).await;
                        assert_eq!((status, &body["rows"]), (StatusCode::OK, &json!([[7]])));
                    }
                    1 => assert_eq!(conn.exec_first("SELECT ?", (id,)).await.unwrap(), Some(id)),
                    _ => {
                        let mut transaction = conn.start_transaction(Default::default()).await.unwrap();
                        let sql = format!("UPDATE shop.item SET n = n + 1 WHERE id = {}", id - 1);
                        transaction.query_drop(sql).await.unwrap();
                        transaction.commit().await.unwrap();
                    }
                }
                done.fetch_add(1, SeqCst);
            }
            assert_eq!(
                conn.query_first("SELECT CONNECTION_ID()").await.unwrap(),
                connection,
                "the session was dropped"
            );
        }));
    }
    for round in 0..50 {
        let before = done.load(SeqCst);
        node.write_layers(if round % 2 == 0 { DENY } else { OTHER });
        let wanted = if round % 2 == 0 { json!(["rules"]) } else { json!(["slow_log", "limit"]) };
        if round % 5 == 0 {
            node.hang_up();
            eventually("the layers of the new file", async || {
                let status = node.status().await;
                if status["layers"] == wanted { Ok(()) } else { Err(status) }
            })
            .await;
        } else {
            assert_eq!(reload(&node).await, (StatusCode::OK, json!({"layers": wanted})));
        }
        // A session goes over with its next command.
        eventually("clients go on", async || if done.load(SeqCst) > before { Ok(()) } else { Err("none") }).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
}

/// Begun before there were layers, with results that none can read: MariaDB's cached and extended metadata.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_columns_is_told_that_no_layer_can_read_it() {
    const MASK: &str = "[[layer]]\nname = 'mask'\n[[layer.column]]\ncolumn = 'shop.item.name'\nusers = ['app']";
    let node = master("").await;
    let forms = u64::from(mariadb::EXTENDED_METADATA | mariadb::CACHE_METADATA) << 32 | u64::from(MODERN);
    let mut session = WireClient::connect(&Target::Front(node.mysql_front()), forms, super::APP, "shop").await;
    let prepared = session.command(b"\x16SELECT id, name FROM item").await;
    let execute = [&[0x17], &prepared[0].payload[1..5], &[0, 1, 0, 0, 0]].concat();
    for _ in 0..2 {
        let reply = session.command(&execute).await;
        assert_eq!((&*reply[0].payload, reply.len()), (&[2, 0][..], 4), "no cached metadata: {reply:?}");
    }
    node.write_layers(MASK);
    assert_eq!(reload(&node).await.0, StatusCode::OK);
    let shown = session.query("SELECT id, name FROM item").await;
    assert!(!shown.iter().any(|packet| packet.payload.windows(4).any(|bytes| bytes == b"lamp")), "{shown:?}");
    session.send(0, &execute).await;
    let told = session.read().await.expect("a reason");
    assert_eq!((told.sequence, told.error_code()), (1, Some(1053)), "{told:?}");
    assert!(session.read().await.is_err(), "the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_over_between_transactions_and_a_bad_file_changes_nothing() {
    let node = master(OTHER).await;
    let mut conn = client(&node).await;
    conn.query_drop("BEGIN").await.unwrap();
    node.write_layers(DENY);
    assert_eq!(reload(&node).await.0, StatusCode::OK);
    conn.query_drop("SELECT 'probe'").await.expect("a transaction stays with the layers that it began with");
    conn.query_drop("COMMIT").await.unwrap();
    assert_eq!(super::code(conn.query_drop("SELECT 'probe'").await), Some(1227));
    for (blocks, wanted) in [
        ("[[layer]]\nname = 'ruels'", "did you mean `rules`?"),
        ("[[layer]]\nname = 'rules'\nrule = [{ regex = '(', action = 'deny' }]", "unclosed group"),
        ("no TOML", "config.toml"),
    ] {
        node.write_layers(blocks);
        let (status, body) = reload(&node).await;
        let message = body["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(status == StatusCode::BAD_REQUEST && message.contains(wanted), "{blocks}: {body}");
        assert_eq!(super::code(conn.query_drop("SELECT 'probe'").await), Some(1227), "{blocks}");
        if blocks == "no TOML" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_from_before_the_layer_that_looks_for_them_are_not_ended_without_a_word() {
    let node = master("").await;
    let mut conn = client(&node).await;
    conn.query_drop("LOCK TABLES shop.item WRITE").await.unwrap();
    node.write_layers("[[layer]]\nname = 'idempotency'");
    assert_eq!(reload(&node).await.0, StatusCode::OK);
    let write = "UPDATE shop.item SET n = 1 WHERE id = 1 /* idempotency-key: a */";
    let refusal = conn.query_drop(write).await.unwrap_err();
    assert!(refusal.to_string().contains("LOCK TABLES"), "{refusal}");
    conn.query_drop("UNLOCK TABLES").await.unwrap();
    conn.query_drop(write).await.unwrap();
}
