//! What takes a process of its own: signals, files and limits of the system.

use std::fs;

use mysql_async::{Conn, OptsBuilder};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use towline_middleware::Role;

use crate::support::{
    CLIENT, TestNode,
    certificates::Certificates,
    eventually,
    wire_client::{Target, WireClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_a_new_certificate_at_a_signal_and_clients_on_its_socket() {
    let certificates = Certificates::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("front.sock");
    // What a node that was killed has left.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let config = format!(
        "[mysql_front]\nsocket = {socket:?}\n[tls]\ncert = {:?}\nkey = {:?}\nrequired = true",
        certificates.path("cert.pem"),
        certificates.path("key.pem")
    );
    let mut node = TestNode::start("tls", Role::Master, &config).await;
    node.make_client().await;
    let under_tls = || OptsBuilder::from_opts(node.opts(CLIENT.0, CLIENT.1)).ssl_opts(certificates.client());
    Conn::new(under_tls()).await.expect("a session under TLS");
    let local = OptsBuilder::from_opts(node.opts(CLIENT.0, CLIENT.1)).socket(Some(socket.to_string_lossy()));
    Conn::new(local).await.expect("a session on the socket");
    certificates.sign("localhost");
    kill_process(node.pid(), Signal::HUP).expect("the node runs");
    eventually("a session with the new certificate", async || Conn::new(under_tls()).await.map(drop)).await;
    fs::write(certificates.path("cert.pem"), "no certificate").expect("a file");
    kill_process(node.pid(), Signal::HUP).expect("the node runs");
    eventually("a word on the certificate", async || {
        let log = node.log();
        if log.contains("not reloaded: the old one stays in use") { Ok(()) } else { Err(log) }
    })
    .await;
    Conn::new(under_tls()).await.expect("the old certificate is still in use");
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_out_of_descriptors_keeps_its_clients_waiting_and_takes_them_when_it_has_some() {
    let node = TestNode::start("descriptors", Role::Master, "").await;
    node.make_client().await;
    let pid = node.pid();
    let used = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("the node's descriptors").count();
    // A child has its parent's limits.
    let before = getrlimit(Resource::Nofile);
    let limit = |current| {
        let limit = Rlimit { current, ..before };
        prlimit(Some(pid), Resource::Nofile, limit).expect("a limit of a child's");
    };
    limit(Some(used as u64 + 3));
    let mut clients = Vec::new();
    for _ in 0..10 {
        // The system takes them, whether the node does or not.
        clients.push(WireClient::open(&Target::Front(node.mysql_front())).await);
    }
    eventually("the node's word", async || {
        let log = node.log();
        if log.contains("can't accept clients") { Ok(()) } else { Err(log) }
    })
    .await;
    limit(before.current);
    for mut client in clients {
        // A greeting, or for the few that were taken too early the news that the node can't reach its server.
        client.read().await.expect("an answer for each");
    }
    node.connect(CLIENT.0, CLIENT.1).await.expect("all is as before");
}
