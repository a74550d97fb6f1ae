//! The master's side of a snapshot, asked by HTTP as a slave asks it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::http::{TestHttp, answer};

/// Begins a snapshot.
async fn begin(http: &TestHttp) -> Value {
    let (status, plan) = answer(http.bare(Method::POST, "/admin/snapshots").json(&json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{plan}");
    plan
}

/// The lines of a table's rows.
async fn rows(http: &TestHttp, plan: &Value, table: &str) -> Vec<Value> {
    let tables = plan["tables"].as_array().unwrap();
    let number = tables.iter().position(|known| known["table"] == table).unwrap();
    let question = json!({"snapshot": plan["id"], "table": number, "after": []});
    let request = http.bare(Method::POST, "/admin/snapshots/rows").json(&question);
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn rows_of_a_table_that_was_put_in_the_place_of_another_never_travel() {
    let (master, http) = TestHttp::master().await;
    master
        .run(&[
            "CREATE TABLE shop.`ä b` (i INT PRIMARY KEY)",
            "INSERT INTO shop.`ä b` VALUES (1)",
            "CREATE TABLE shop.other (i INT PRIMARY KEY)",
            "INSERT INTO shop.other VALUES (2)",
            "CREATE TABLE shop.parted (i INT PRIMARY KEY) PARTITION BY RANGE (i) (PARTITION a VALUES LESS THAN (10), \
             PARTITION b VALUES LESS THAN MAXVALUE)",
            "INSERT INTO shop.parted VALUES (3)",
            "CREATE TABLE shop.part (i INT PRIMARY KEY)",
            "INSERT INTO shop.part VALUES (4)",
        ])
        .await;
    let swaps = [
        ("ä b", "RENAME TABLE shop.`ä b` TO shop.t, shop.other TO shop.`ä b`, shop.t TO shop.other"),
        ("parted", "ALTER TABLE shop.parted EXCHANGE PARTITION a WITH TABLE shop.part"),
        ("part", "ALTER TABLE shop.parted EXCHANGE PARTITION a WITH TABLE shop.part"),
    ];
    for (table, swap) in swaps {
        let plan = begin(&http).await;
        let before = rows(&http, &plan, table).await;
        assert_eq!((before.len(), &before[1]), (2, &json!("end")), "{before:?}");
        master.run(&[swap]).await;
        // What is no longer as it was is told, and nothing of it.
        let after = rows(&http, &plan, table).await;
        let [told] = &after[..] else { panic!("{after:?}") };
        let told = told["lost"].as_str().unwrap();
        assert!(told.contains(table) && told.contains("RENAME TABLE or EXCHANGE PARTITION"), "{told}");
        let (status, _) = answer(http.bare(Method::POST, "/admin/snapshots").json(&json!({"id": plan["id"]}))).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "a snapshot that is lost must be begun anew");
    }
}
