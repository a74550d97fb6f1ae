//! The servers of the other nodes, as these tell of them.

use std::net::IpAddr;

use futures_util::future::join_all;
use towline_middleware::Role;

use super::{CheckError, Line, server::Server};
use crate::{
    config::Cluster,
    replication::server_facts::{PacketShortage, ServerFacts},
};

/// Compares the `max_allowed_packet` of a master's slaves with the master's, or that of a slave. A node that can't be
/// asked is told of; it may be down.
pub(super) async fn check(role: Role, cluster: &Cluster, server: &mut Server) -> Result<Vec<Line>, CheckError> {
    let own = server.variable("max_allowed_packet").and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
    let nodes: Vec<(String, String)> = match (role, &cluster.master) {
        (Role::Master, _) => {
            let slaves = slaves(cluster, server).await?;
            slaves.into_iter().map(|url| (format!("{url}/slave/server"), url)).collect()
        }
        (Role::Slave, Some(master)) => {
            let url = master.as_str();
            vec![(format!("{url}/admin/server"), url.to_owned())]
        }
        (Role::Slave, None) => Vec::new(),
    };
    let complaints = join_all(nodes.iter().map(async |(path, node)| {
        let other = match ask(path, cluster).await {
            Ok(facts) => facts.max_allowed_packet,
            Err(error) => return Some(unknown(role, node, &error)),
        };
        let shortage = if role == Role::Master {
            PacketShortage::between(other, own)
        } else {
            PacketShortage::between(own, other)
        }?;
        Some(Line::warning(NAME, format!("{node}: {}", shortage.found()), shortage.mend()))
    }));
    let mut complaints: Vec<Line> = complaints.await.into_iter().flatten().collect();
    if complaints.is_empty() && !nodes.is_empty() {
        complaints.push(Line::ok(NAME));
    }
    complaints.extend(secrecy(nodes.iter().map(|(_, node)| node.as_str())));
    Ok(complaints)
}

/// Nodes speak HTTP without TLS, also of accounts.
fn secrecy<'a>(nodes: impl Iterator<Item = &'a str>) -> Option<Line> {
    const NAME: &str = "nobody can listen in between the nodes";
    let is_here = |node: &str| match reqwest::Url::parse(node).ok()?.host_str()? {
        "localhost" => Some(true),
        host => Some(host.trim_matches(['[', ']']).parse::<IpAddr>().ok()?.is_loopback()),
    };
    let elsewhere: Vec<&str> = nodes.filter(|node| is_here(node) != Some(true)).collect();
    (!elsewhere.is_empty()).then(|| {
        Line::warning(
            NAME,
            format!("changes and the secret go to or come from {} in clear", elsewhere.join(", ")),
            "join the nodes' machines by a private network or an encrypted one (WireGuard, IPsec)",
        )
    })
}

const NAME: &str = "rows of the master's fit the slave's max_allowed_packet";

/// Those of the configuration, and those that have registered themselves.
async fn slaves(cluster: &Cluster, server: &mut Server) -> Result<Vec<String>, CheckError> {
    let mut urls: Vec<String> = cluster.slaves.iter().map(|url| url.as_str().to_owned()).collect();
    let has_list = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'towline' AND TABLE_NAME = 'slaves'";
    if !server.query::<u8>("its list of slaves", has_list).await?.is_empty() {
        let registered = server.query_if_allowed("its list of slaves", "SELECT url FROM towline.slaves").await?;
        urls.extend(registered.unwrap_or_default());
    }
    urls.sort();
    urls.dedup();
    Ok(urls)
}

async fn ask(url: &str, cluster: &Cluster) -> Result<ServerFacts, String> {
    let client = reqwest::Client::builder().no_proxy().timeout(super::NEIGHBOUR_TIMEOUT).build();
    let mut request = client.map_err(|error| error.to_string())?.get(url);
    if let Some(secret) = &cluster.secret {
        request = request.bearer_auth(secret.reveal());
    }
    ServerFacts::ask(request).await.map_err(|error| error.to_string())
}

fn unknown(role: Role, node: &str, error: &str) -> Line {
    let other = if role == Role::Master { "slave" } else { "master" };
    let mend = format!("check again when that {other} runs, and with the secret that it has");
    Line::warning(NAME, format!("the {other} {node} could not be asked ({error})"), mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_elsewhere_is_told_of() {
        let told = |nodes: &[&str]| secrecy(nodes.iter().copied()).map(|line| line.to_string());
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["http://127.0.0.1:5001", "http://[::1]:5001/", "http://localhost:5001"]), None);
        let warning = told(&["http://127.0.0.1:5001", "http://10.0.0.2:5001", "http://db2:5001"]).unwrap();
        assert!(warning.contains("come from http://10.0.0.2:5001, http://db2:5001 in clear"), "{warning}");
    }
}
