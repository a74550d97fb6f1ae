//! The MySQL front before a real server.

mod allocations;
mod charsets;
mod endings;
mod forms;
mod hostile;
mod limits;
mod local_infile;
mod login;
mod probes;
mod process;
mod proxy_protocol;
mod replies;
mod session;
mod tls;
mod vanished;

use crate::support::{TestServer, wire_client::Packet};

/// The account of these tests.
const APP: (&str, &str) = ("app", "secret");

/// Makes the account and a schema with two rows.
async fn prepare(server: &TestServer) {
    server
        .run(&[
            "SET sql_log_bin=0",
            "CREATE USER app@'%' IDENTIFIED BY 'secret'",
            "GRANT ALL ON *.* TO app@'%'",
            "CREATE DATABASE shop",
            "CREATE TABLE shop.item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50), price DECIMAL(10,2))",
            "INSERT INTO shop.item (name, price) VALUES ('lamp', 9.90), ('chair', NULL)",
        ])
        .await;
}

/// Clears what hangs on nothing that a client can see, and what an EOF before rows can't know, since the server tells the node only after the rows: that another result
/// follows (flag 0x08), and that the query used no index (0x10, 0x20). Clients take the flags of the EOF after the rows.
fn unpredictable(reply: &mut [Packet]) {
    for packet in reply {
        if let [0xfe, _, _, low, _] = &mut packet.payload[..] {
            *low &= !0x38;
        }
        sort_reports(&mut packet.payload);
    }
}

/// Puts the reports in an OK on what has changed in the session into an order: MariaDB keeps them by address, so that it
/// differs between two connections that have asked for different ones.
fn sort_reports(payload: &mut [u8]) {
    const STATE_CHANGED: u8 = 0x40;
    // Rows affected, the last id (each of one byte here), status, warnings, the length of the text.
    let [0, 0..=250, 0..=250, _, high, _, _, text @ 0..=250, rest @ ..] = payload else { return };
    let Some([0..=250, reports @ ..]) = rest.get_mut(usize::from(*text)..) else { return };
    if *high & STATE_CHANGED == 0 {
        return;
    }
    let mut found = Vec::new();
    let mut left = &*reports;
    while let [_, length @ 0..=250, ..] = left {
        let Some((report, behind)) = left.split_at_checked(2 + usize::from(*length)) else { return };
        found.push(report.to_vec());
        left = behind;
    }
    if left.is_empty() {
        found.sort();
        reports.copy_from_slice(&found.concat());
    }
}
