//! The PROXY protocol: a proxy's first bytes on a connection, which say whose connection it is.
//!
//! Source: HAProxy, "The PROXY protocol, versions 1 & 2".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Cursor, Malformed};

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of version 1.
const TEXT: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const TEXT_LEN_MAX: usize = 107;
/// Signature, version and command, family, length.
const FIXED_LEN: usize = 16;
/// Version 2: the connection is the proxy's own, as for its health checks.
const LOCAL: u8 = 0x20;
/// Version 2: the connection is a client's.
const PROXY: u8 = 0x21;
/// TCP over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Both ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's.
    pub source: SocketAddr,
    /// Where it has connected.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length in bytes.
    pub len: usize,
    /// Both ends; none if the connection is the proxy's own, or not over TCP.
    pub ends: Option<Ends>,
}

/// Appends a header of version 2; without ends, one that says that the connection is the proxy's own.
pub fn encode(out: &mut Vec<u8>, ends: Option<Ends>) {
    out.extend_from_slice(&SIGNATURE);
    let Some(Ends { source, destination }) = ends else {
        return out.extend_from_slice(&[LOCAL, 0, 0, 0]);
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[PROXY, TCP4, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[PROXY, TCP6, 0, 36]);
            out.extend_from_slice(&mapped(from).octets());
            out.extend_from_slice(&mapped(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Reads a header of either version at the front of `bytes`; `None` when more bytes are needed.
///
/// # Errors
/// There is no header.
pub fn decode(bytes: &[u8]) -> Result<Option<ProxyHeader>, Malformed> {
    if bytes.starts_with(&SIGNATURE) {
        return decode_binary(bytes);
    }
    if bytes.starts_with(TEXT) {
        return decode_text(bytes);
    }
    let may_become = |signature: &[u8]| signature.starts_with(bytes);
    if may_become(&SIGNATURE) || may_become(TEXT) { Ok(None) } else { Err(Malformed("PROXY header")) }
}

fn decode_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, Malformed> {
    let Some(&[command, family, high, low]) = bytes.get(12..FIXED_LEN).and_then(|fixed| fixed.first_chunk()) else {
        return Ok(None);
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    let Some(addresses) = bytes.get(FIXED_LEN..len) else { return Ok(None) };
    let ends = match (command, family) {
        (LOCAL, _) => None,
        (PROXY, TCP4) => {
            Some(read_ends(addresses, |cursor| Some(Ipv4Addr::from(*cursor.bytes(4)?.as_array()?).into())))
        }
        (PROXY, TCP6) => {
            Some(read_ends(addresses, |cursor| Some(Ipv6Addr::from(*cursor.bytes(16)?.as_array()?).into())))
        }
        // Other families are passed over, as the specification asks.
        (PROXY, _) => None,
        _ => return Err(Malformed("PROXY header's version or command")),
    };
    match ends {
        Some(None) => Err(Malformed("PROXY header's addresses")),
        Some(ends) => Ok(Some(ProxyHeader { len, ends })),
        None => Ok(Some(ProxyHeader { len, ends: None })),
    }
}

fn read_ends(addresses: &[u8], ip: impl Fn(&mut Cursor<'_>) -> Option<IpAddr>) -> Option<Ends> {
    let mut cursor = Cursor::new(addresses);
    let (from, to) = (ip(&mut cursor)?, ip(&mut cursor)?);
    let mut port = || Some(u16::from_be_bytes(*cursor.bytes(2)?.as_array()?));
    Some(Ends { source: SocketAddr::new(from, port()?), destination: SocketAddr::new(to, port()?) })
}

fn decode_text(bytes: &[u8]) -> Result<Option<ProxyHeader>, Malformed> {
    let Some(end) = bytes.windows(2).take(TEXT_LEN_MAX - 1).position(|window| window == b"\r\n") else {
        return if bytes.len() < TEXT_LEN_MAX { Ok(None) } else { Err(Malformed("PROXY line without end")) };
    };
    let words: Option<Vec<&str>> = std::str::from_utf8(&bytes[..end]).ok().map(|line| line.split(' ').collect());
    let ends = match words.as_deref() {
        Some(["PROXY", "UNKNOWN", ..]) => Some(None),
        Some(["PROXY", "TCP4" | "TCP6", from, to, from_port, to_port]) => {
            let end = |ip: &str, port: &str| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
            end(from, from_port).zip(end(to, to_port)).map(|(source, destination)| Some(Ends { source, destination }))
        }
        _ => None,
    };
    match ends {
        Some(ends) => Ok(Some(ProxyHeader { len: end + 2, ends })),
        None => Err(Malformed("PROXY line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().expect("an address"), destination: destination.parse().expect("an address") }
    }

    fn whole(bytes: &[u8]) -> ProxyHeader {
        decode(bytes).expect("a header").expect("a whole header")
    }

    #[test]
    fn version_2_round_trips() {
        for ends in
            [None, Some(ends("10.0.0.7:51000", "10.0.0.1:4306")), Some(ends("[fd00::7]:51000", "[fd00::1]:4306"))]
        {
            let mut bytes = Vec::new();
            encode(&mut bytes, ends);
            let len = bytes.len();
            bytes.extend_from_slice(b"rest");
            assert_eq!(whole(&bytes), ProxyHeader { len, ends });
            for cut in 0..len {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "{cut}");
            }
        }
        let mut mixed = Vec::new();
        encode(&mut mixed, Some(ends("10.0.0.7:1", "[fd00::1]:2")));
        assert_eq!(whole(&mixed).ends, Some(ends("[::ffff:10.0.0.7]:1", "[fd00::1]:2")));
    }

    #[test]
    fn version_1_is_a_line() {
        let line = b"PROXY TCP4 10.0.0.7 10.0.0.1 51000 4306\r\n";
        assert_eq!(whole(line), ProxyHeader { len: line.len(), ends: Some(ends("10.0.0.7:51000", "10.0.0.1:4306")) });
        assert_eq!(whole(b"PROXY UNKNOWN\r\n").ends, None);
        for cut in 0..line.len() {
            assert_eq!(decode(&line[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let mut short = SIGNATURE.to_vec();
        short.extend_from_slice(&[PROXY, TCP4, 0, 3, 1, 2, 3]);
        let mut version_3 = SIGNATURE.to_vec();
        version_3.extend_from_slice(&[0x31, TCP4, 0, 0]);
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x20\x00\x00\x01",
            b"PROXY TCP4 10.0.0.7 nowhere 1 2\r\n",
            b"PROXY TCP4 10.0.0.7 10.0.0.1 1\r\n",
            b"PROXY \xff\r\n",
            &[TEXT, &[b'x'; TEXT_LEN_MAX]].concat(),
            &short,
            &version_3,
        ] {
            assert!(decode(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
