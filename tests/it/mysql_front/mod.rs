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

/// Clears what an EOF before rows can't know, since the server tells the node only after the rows: that another result
/// follows (flag 0x08), and that the query used no index (0x10, 0x20). Clients take the flags of the EOF after the rows.
fn unpredictable(reply: &mut [Packet]) {
    for packet in reply {
        if let [0xfe, _, _, low, _] = &mut packet.payload[..] {
            *low &= !0x38;
        }
    }
}
