//! A node whose server comes and goes.

use reqwest::StatusCode;
use towline::{
    demo::{NodeProcess, NodeSpec},
    managed::{self, ManagedOptions, ManagedServer},
};
use towline_middleware::Role;

use crate::support::{copy_template, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_a_server_that_is_away_and_serves_when_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("server");
    copy_template(&data_dir).await;
    let password = managed::login(&data_dir).unwrap().pass().unwrap().to_owned();
    let config = format!(
        "[mysql]\nmanaged = false\nurl = \"mysql://towline:{password}@localhost?socket={}\"\n\
         [mysql_front]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"",
        data_dir.join("mysqld.sock").display()
    );
    let mut node = NodeProcess::spawn(NodeSpec {
        program: env!("CARGO_BIN_EXE_towline").into(),
        name: "node".to_owned(),
        role: Role::Master,
        folder: folder.path().join("node"),
        config: config.parse().unwrap(),
        variables: Vec::new(),
    })
    .unwrap();
    eventually("a word that MySQL is away", async || {
        let log = node.log_end().to_string();
        if log.contains("waiting for MySQL") { Ok(()) } else { Err(log) }
    })
    .await;

    let options = ManagedOptions::new(&data_dir, Role::Master);
    let server = ManagedServer::start(options.clone()).await.unwrap();
    let ready = node.ready().await.unwrap_or_else(|error| panic!("{error}"));
    let readiness = format!("http://{}/readyz", ready.http);
    let answers = async |wanted: StatusCode| {
        eventually("the node's word on whether it can serve", async || {
            let answer = reqwest::get(&readiness).await.map_err(|error| error.to_string())?;
            let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
            if status == wanted { Ok(()) } else { Err(format!("{status}: {body}")) }
        })
        .await;
    };
    answers(StatusCode::OK).await;
    server.stop().await;
    drop(server);
    answers(StatusCode::SERVICE_UNAVAILABLE).await;
    let server = ManagedServer::start(options).await.unwrap();
    answers(StatusCode::OK).await;
    assert_eq!(node.stop().await.and_then(|status| status.code()), Some(0), "{}", node.log_end());
    server.stop().await;
}
