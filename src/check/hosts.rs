//! What the server makes of the address that all clients of the node share.

use std::net::{IpAddr, UdpSocket};

use ipnet::IpNet;

use super::{CheckError, Line, Target, server::Server};

/// More accounts than anybody reads.
const SHOWN_MAX: usize = 20;

/// Looks at the connection between node and server, and at the accounts that it can be used by.
pub(super) async fn check(target: Target<'_>, server: &mut Server) -> Result<Vec<Line>, CheckError> {
    let seen = Seen::of(target, server).await?;
    let mut lines = vec![encryption(target, &seen)];
    if target.proxy_protocol {
        lines.push(proxy_protocol(server, &seen));
    } else {
        lines.push(accounts(server, &seen).await?);
    }
    Ok(lines)
}

/// How the server sees the node.
#[derive(Debug)]
struct Seen {
    /// The host part of `USER()`.
    host: String,
    /// The node's own address on the way there; none over a Unix socket.
    address: Option<IpAddr>,
}

impl Seen {
    async fn of(target: Target<'_>, server: &mut Server) -> Result<Self, CheckError> {
        let rows = server.query::<String>("the host that it sees", "SELECT USER()").await?;
        let host = rows.first().and_then(|user| user.rsplit_once('@')).map_or("", |(_, host)| host).to_owned();
        let destination = (target.opts.ip_or_hostname(), target.opts.tcp_port());
        // Connecting a datagram socket sends nothing: it asks the system which address it would use.
        let local = |remote| {
            let socket = UdpSocket::bind(("::", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))?;
            socket.connect(remote)?;
            socket.local_addr()
        };
        let address = if server.by_socket { None } else { local(destination).ok() };
        Ok(Self { host, address: address.map(|address| address.ip().to_canonical()) })
    }

    /// Whether an account with this host part is for connections of the node's.
    fn matches(&self, pattern: &str) -> bool {
        if let Some((base, mask)) = pattern.split_once('/') {
            return self.address.is_some_and(|address| in_network(base, mask, address));
        }
        let address = self.address.map(|address| address.to_string());
        [Some(self.host.as_str()), address.as_deref()].into_iter().flatten().any(|host| is_like(pattern, host))
    }

    fn is_this_machine(&self) -> bool {
        self.address.is_none_or(|address| address.is_loopback())
    }
}

/// An account's host as a network, as in `10.0.0.0/255.255.255.0` and `10.0.0.0/24`.
fn in_network(base: &str, mask: &str, address: IpAddr) -> bool {
    let network = match (base.parse::<IpAddr>(), mask.parse::<IpAddr>(), mask.parse::<u8>()) {
        (Ok(base), Ok(mask), _) => IpNet::with_netmask(base, mask).ok(),
        (Ok(base), _, Ok(bits)) => IpNet::new(base, bits).ok(),
        _ => None,
    };
    network.is_some_and(|network| network.contains(&address))
}

/// LIKE as the server does it for hosts: in any case, `%` for any text, `_` for any character, `\` before a plain one.
fn is_like(pattern: &str, text: &str) -> bool {
    fn like(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'%', rest @ ..], _) => (0..=text.len()).any(|skipped| like(rest, &text[skipped..])),
            ([b'\\', plain, rest @ ..], [first, others @ ..]) => {
                plain.eq_ignore_ascii_case(first) && like(rest, others)
            }
            ([b'_', rest @ ..], [_, others @ ..]) => like(rest, others),
            ([plain, rest @ ..], [first, others @ ..]) => plain.eq_ignore_ascii_case(first) && like(rest, others),
            _ => false,
        }
    }
    // An account's host has at most 255 bytes; more than a few `%` in it would only be somebody's joke.
    pattern.matches('%').count() <= 4 && like(pattern.as_bytes(), text.as_bytes())
}

fn encryption(target: Target<'_>, seen: &Seen) -> Line {
    const NAME: &str = "nobody can listen in between the node and MySQL";
    if target.tls.is_some() || seen.is_this_machine() {
        return Line::ok(NAME);
    }
    Line::warning(NAME, "the connection leaves this machine in clear", "set `tls.backend = \"verify_identity\"`")
}

fn proxy_protocol(server: &Server, seen: &Seen) -> Line {
    const NAME: &str = "the server takes clients' addresses by the PROXY protocol";
    let Some(networks) = server.variable("proxy_protocol_networks") else {
        return Line::failed(NAME, "this server does not know it", "set `mysql.proxy_protocol = false`");
    };
    let own = seen.address.map_or_else(|| "localhost".to_owned(), |address| address.to_string());
    let takes = |network: &str| match seen.address {
        _ if network == "*" => true,
        None => network == "localhost",
        Some(address) => match network.split_once('/') {
            Some((base, bits)) => in_network(base, bits, address),
            None => network.parse() == Ok(address),
        },
    };
    if networks.split([',', ' ']).any(|network| takes(network.trim())) {
        return Line::ok(NAME);
    }
    let both = if networks.is_empty() { own.clone() } else { format!("{networks},{own}") };
    Line::failed(
        NAME,
        format!("it takes them from `{networks}` and not from {own}"),
        format!("set `proxy_protocol_networks = {both}`"),
    )
}

async fn accounts(server: &mut Server, seen: &Seen) -> Result<Line, CheckError> {
    const NAME: &str = "every account can be used from the node's address";
    let (table, sql) = if server.is_mariadb() {
        (
            "mysql.global_priv",
            "SELECT user, host FROM mysql.global_priv WHERE NOT IFNULL(JSON_VALUE(priv, '$.is_role'), 0) \
             AND NOT IFNULL(JSON_VALUE(priv, '$.account_locked'), 0) ORDER BY user, host",
        )
    } else {
        ("mysql.user", "SELECT user, host FROM mysql.user WHERE account_locked = 'N' ORDER BY user, host")
    };
    let Some(accounts) = server.query_if_allowed::<(String, String)>("its accounts", sql).await? else {
        let mend = format!("run `GRANT SELECT ON {table} TO {}`", server.account);
        return Ok(Line::warning(NAME, "the accounts can't be read, so nobody knows", mend));
    };
    let unusable: Vec<String> = accounts.iter().filter_map(|account| unusable(account, &accounts, seen)).collect();
    if unusable.is_empty() {
        return Ok(Line::ok(NAME));
    }
    let more = unusable.len().saturating_sub(SHOWN_MAX);
    let mut listed = unusable[..unusable.len() - more].join(", ");
    if more > 0 {
        listed.push_str(&format!(" and {more} more"));
    }
    let found =
        format!("the server sees all clients of the node at `{}`, where these are not valid: {listed}", seen.host);
    let mend = format!(
        "make an account for that host (`RENAME USER … TO 'name'@'{}'`), or set `mysql.proxy_protocol` (MariaDB)",
        seen.host
    );
    Ok(Line::warning(NAME, found, mend))
}

/// An account that is not valid from the node's address, with the one that would be taken in its place.
fn unusable((user, host): &(String, String), accounts: &[(String, String)], seen: &Seen) -> Option<String> {
    if seen.matches(host) {
        return None;
    }
    let instead = accounts.iter().find(|(other, host)| other == user && seen.matches(host));
    let is_loopback = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    match instead {
        // Two names for one machine, which servers make for the same administrator.
        Some((_, other)) if is_loopback(host) && is_loopback(other) => None,
        Some((_, other)) => Some(format!("'{user}'@'{host}' (clients would be '{user}'@'{other}')")),
        None => Some(format!("'{user}'@'{host}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(host: &str, address: Option<&str>) -> Seen {
        Seen { host: host.to_owned(), address: address.map(|address| address.parse().expect("an address")) }
    }

    #[test]
    fn hosts_match_as_the_server_matches_them() {
        let node = seen("proxy.example.com", Some("10.1.2.3"));
        for host in [
            "%",
            "10.1.2.3",
            "10.1.%",
            "10.1.2._",
            "%.Example.com",
            "10.1.2.0/24",
            "10.1.2.0/255.255.255.0",
            "proxy.example.com",
        ] {
            assert!(node.matches(host), "{host}");
        }
        for host in ["localhost", "10.2.%", "10.1.3.0/24", "10.1.3.0/255.255.255.0", "%.example.org", "", "10.1.2.3/x"]
        {
            assert!(!node.matches(host), "{host}");
        }
        assert!(seen("localhost", None).matches("localhost") && !seen("localhost", None).matches("127.0.0.1"));
        assert!(is_like(r"my\_host", "my_host") && !is_like(r"my\_host", "myxhost"));
    }

    #[test]
    fn an_account_is_listed_with_the_one_that_stands_in_for_it() {
        let accounts = [("app", "10.9.%"), ("app", "%"), ("job", "10.9.0.1"), ("root", "localhost"), ("root", "::1")]
            .map(|(user, host)| (user.to_owned(), host.to_owned()));
        let listed = |seen: &Seen| -> Vec<String> {
            accounts.iter().filter_map(|account| unusable(account, &accounts, seen)).collect()
        };
        let local = seen("localhost", None);
        assert_eq!(listed(&local), ["'app'@'10.9.%' (clients would be 'app'@'%')", "'job'@'10.9.0.1'"]);
        let remote = seen("10.9.0.1", Some("10.9.0.1"));
        assert_eq!(listed(&remote), ["'root'@'localhost'", "'root'@'::1'"]);
    }
}
