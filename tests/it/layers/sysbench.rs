//! sysbench itself, through a master and a slave with all layers in one stack.

use std::process::Stdio;

use mysql_async::{Conn, prelude::Queryable};
use tokio::process::Command;

use super::{
    figure,
    together::{make_tables, put_in_all},
};
use crate::support::{TestCluster, TestNode, eventually};

const THREADS: u64 = 4;
/// Rows that sysbench works on: so many that two of its transactions hardly ever want two of the same.
const ROWS: i64 = 20_000;
/// Rows of another tenant's.
const OTHERS: i64 = 100;

/// One of sysbench's scripts, and how often its event runs.
struct Load {
    script: &'static str,
    user: &'static str,
    events: u64,
}

const POINT_SELECT: Load = Load { script: "oltp_point_select", user: "masked", events: 2000 };
const READ_ONLY: Load = Load { script: "oltp_read_only", user: "a", events: 100 };
const READ_WRITE: Load = Load { script: "oltp_read_write", user: "a", events: 150 };
const KEYED: Load =
    Load { script: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/layers/keyed.lua"), user: "a", events: 200 };

impl Load {
    /// Runs all its events, as text and prepared, and reads from sysbench's reports that nothing went wrong.
    async fn run(&self, node: &TestNode) {
        for prepared in ["disable", "auto"] {
            self.run_as(node, prepared).await;
        }
    }

    async fn run_as(&self, node: &TestNode, prepared: &str) {
        let Self { script, user, events } = self;
        let front = node.mysql_front();
        let output = Command::new("sysbench")
            .args([script, "run", "--db-driver=mysql", "--mysql-db=sb", "--tables=1", "--rand-type=uniform"])
            // The time is a bound for a node that hangs.
            .args(["--time=120", "--forced-shutdown=10"])
            .arg(format!("--mysql-host={}", front.ip()))
            .arg(format!("--mysql-port={}", front.port()))
            .args([format!("--mysql-user={user}"), "--mysql-password=secret".to_owned()])
            .args([format!("--table-size={}", ROWS - 1), format!("--threads={THREADS}")])
            .args([format!("--events={events}"), format!("--db-ps-mode={prepared}")])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap_or_else(|error| panic!("sysbench ({error}): scripts/install-mariadb.sh sysbench installs it"));
        let report = String::from_utf8_lossy(&output.stdout);
        let told =
            || format!("{script} {prepared}: {report}{}; {}", String::from_utf8_lossy(&output.stderr), node.log());
        assert!(output.status.success(), "{}", told());
        let count = |what: &str| {
            let line = report.lines().find_map(|line| line.trim_start().strip_prefix(what)?.split_whitespace().next());
            line.and_then(|count| count.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {what} {}", told()))
        };
        assert_eq!((count("ignored errors:"), count("reconnects:")), (0, 0), "{}", told());
        assert_eq!(count("total number of events:"), *events, "{}", told());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sysbench_meets_no_error_in_all_layers_on_master_and_slave() {
    let cluster = TestCluster::start(1).await;
    let (master, slave) = (&cluster.master, &cluster.slaves[0]);
    make_tables(master, [("a", ROWS), ("b", OTHERS)]).await;
    put_in_all(master).await;
    let mut server = Conn::new(master.server_opts()).await.unwrap();
    let [before, of_others] = state(&mut server).await;

    POINT_SELECT.run(master).await;
    READ_WRITE.run(master).await;
    KEYED.run_as(master, "disable").await;
    let [after, of_others_now] = state(&mut server).await;
    assert_eq!(after.0, before.0, "what is deleted is inserted again");
    assert_ne!(after.1, before.1);
    assert_eq!(of_others_now, of_others);
    assert_eq!(figure(master, "towline_layer_idempotency_repeated_total").await, KEYED.events);
    assert!(figure(master, "towline_layer_rules_matched_total{rule=\"writes\"}").await >= 2 * 4 * READ_WRITE.events);

    cluster.wait_equal().await;
    put_in_all(slave).await;
    POINT_SELECT.run(slave).await;
    READ_ONLY.run(slave).await;

    // Each layer was at work, and none has kept anything from a client.
    for node in [master, slave] {
        assert_eq!(
            figure(node, "towline_layer_mask_masked_total{column=\"sb.sbtest1.c\"}").await,
            2 * POINT_SELECT.events
        );
        for name in ["cache_hits_total", "mirror_compared_total", "limit_waited_total{limit=\"0\"}"] {
            assert!(figure(node, &format!("towline_layer_{name}")).await > 0, "{name}");
        }
        for name in
            ["limit_refused_total{limit=\"0\"}", "tenant_refused_total", "timeout_ended_total", "audit_lost_total"]
        {
            assert_eq!(figure(node, &format!("towline_layer_{name}")).await, 0, "{name}");
        }
        let status = node.status().await;
        let top = status["layer_status"]["slow_log"]["top"].as_array().cloned().unwrap_or_default();
        let count: u64 = top.iter().filter_map(|own| own["count"].as_u64()).sum();
        assert!(count >= 2 * POINT_SELECT.events, "{status:#}");
        eventually("all of masked's commands are written down", async || {
            let written = std::fs::read_to_string(node.file("audit.log")).unwrap();
            let lines = written.lines().filter(|line| line.contains("\"user\":\"masked\""));
            let count = lines.count() as u64;
            if count >= 2 * POINT_SELECT.events { Ok(()) } else { Err(count) }
        })
        .await;
    }
}

/// How many rows, and what is in them: of the tenant that sysbench works for, and of the other.
async fn state(server: &mut Conn) -> [(i64, u64); 2] {
    let sql = "SELECT COUNT(*), CAST(SUM(CRC32(CONCAT_WS(',', id, k, c, pad))) AS UNSIGNED) FROM sb.sbtest1 \
               GROUP BY tenant_id ORDER BY tenant_id";
    let rows: Vec<(i64, u64)> = server.query(sql).await.unwrap();
    rows.try_into().expect("two tenants")
}
