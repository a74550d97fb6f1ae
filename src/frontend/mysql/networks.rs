//! Networks whose word on a client's address is taken.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// A list of networks, as in `10.0.0.0/8`, and of single addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of them. An IPv4 address is the same when it comes over an IPv6 socket.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, Self::Error> {
        let read = |text: &String| {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("`{text}` is neither an address nor a network like 10.0.0.0/8"))
        };
        texts.iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_network_and_in_no_other() {
        let networks = Networks::try_from(vec!["10.1.0.0/16".to_owned(), "192.168.0.7".into(), "fd00::/8".into()]);
        let networks = networks.expect("networks");
        let contains = |address: &str| networks.contains(address.parse().expect("an address"));
        assert!(contains("10.1.2.3") && contains("::ffff:10.1.2.3") && contains("192.168.0.7") && contains("fd12::1"));
        assert!(!contains("10.2.0.1") && !contains("192.168.0.8") && !contains("fe80::1"));
        assert!(!Networks::default().contains("127.0.0.1".parse().expect("an address")));
        assert!(Networks::try_from(vec!["10.0.0.0/40".to_owned()]).is_err());
    }
}
