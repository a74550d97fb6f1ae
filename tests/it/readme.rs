//! The README is run: a reader who pastes its lines gets what it says.

use std::process::Command;

use towline::config::Config;
use towline_middleware::Role;

use crate::support::{CLIENT, TestCluster};

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));

/// The blocks of code in this language.
fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    README.split("\n```").filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

#[test]
fn the_configurations_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = blocks("toml").map(|text| {
        let file = folder.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        let role = if text.contains("[master.") { Role::Master } else { Role::Slave };
        Config::load(Some(&file), role).unwrap_or_else(|error| panic!("{error}\n{text}"))
    });
    let [master, slave, _, _] =
        loaded.collect::<Vec<_>>().try_into().expect("a master's, a slave's, one of TLS and one of layers");
    assert_eq!(master.cluster.slaves[0].as_str(), format!("http://{}", slave.http.listen));
    let administration = master.admin_listen().expect("a listener of its own");
    assert_eq!(slave.cluster.master.expect("it registers").as_str(), format!("http://{administration}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_curl_line_works() {
    let cluster = TestCluster::start(1).await;
    let lines: Vec<&str> = blocks("sh").flat_map(str::lines).filter(|line| line.starts_with("curl ")).collect();
    for action in [
        "create_database",
        "create_table",
        "insert",
        "update",
        "delete",
        "select",
        "search",
        "query",
        "drop_table",
        "drop_database",
    ] {
        let named = format!("\"action\": \"{action}\"");
        assert!(lines.iter().any(|line| line.contains(&named)), "no line shows {action}");
    }
    for line in lines {
        if line.contains(":5001") {
            cluster.wait_equal().await;
        }
        let command = line
            .replace("127.0.0.1:5000", cluster.master.url("").trim_start_matches("http://"))
            .replace("127.0.0.1:5001", cluster.slaves[0].url("").trim_start_matches("http://"))
            .replace("demo:demo", &format!("{}:{}", CLIENT.0, CLIENT.1));
        let output = Command::new("sh").args(["-c", &format!("{command} --fail-with-body")]).output().unwrap();
        assert!(output.status.success(), "{line}\n{output:?}");
    }
}
