//! The MySQL front before a real server.

mod endings;
mod hostile;
mod login;
mod replies;
mod session;

use crate::support::TestServer;

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
