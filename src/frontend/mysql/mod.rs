//! Clients that speak the MySQL protocol.
//!
//! A client gets one connection to this node's MySQL, opened when it connects and kept until it leaves. The login is
//! relayed: the server's salt goes into the greeting and the client's proof goes to the server, so that the node knows
//! no passwords. Then each packet becomes a [`Command`](towline_middleware::Command), goes through the stack, and the
//! reply is written as it comes.

mod client;
mod connection;
mod handshake;
mod listener;
mod networks;
mod stream;

use std::{sync::Arc, time::Duration};

use towline_middleware::{Classifier, Role, Stack};

use crate::{
    keepalive::Keepalive,
    tls::Acceptor,
    upstream::{Endpoint, Killer, LoginKey},
};

pub use listener::{Listeners, SessionCount, serve};
pub use networks::Networks;

/// What every session of this front shares.
#[derive(Clone, Debug)]
pub struct MySqlFront {
    /// The node's role, for what sessions are fenced with.
    pub role: Role,
    /// Where this node's MySQL listens.
    pub endpoint: Endpoint,
    /// The layers, applied once per session.
    pub stack: Stack,
    /// Tells reads from writes.
    pub classifier: Arc<dyn Classifier>,
    /// Whether clients may answer LOAD DATA LOCAL with a file of theirs.
    pub local_infile: bool,
    /// Ends what a client abandons.
    pub killer: Killer,
    /// TLS for clients; none if the node has no certificate.
    pub tls: Option<Acceptor>,
    /// Whether clients must come under TLS, or over a Unix socket.
    pub tls_required: bool,
    /// The node's own key for passwords of clients that come in clear.
    pub login_key: LoginKey,
    /// Which proxies say whose connections they bring.
    pub proxies: Networks,
    /// Limits.
    pub limits: Limits,
}

/// Limits of the MySQL front.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions at a time; one more gets error 1040.
    pub connections_max: usize,
    /// From accept to the end of the login, MySQL's part included.
    pub handshake_timeout: Duration,
    /// The largest packet of a client.
    pub packet_bytes_max: usize,
    /// How long a client may go without a command.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of its reply.
    pub write_timeout: Duration,
    /// When clients over TCP are asked whether they are still there.
    pub keepalive: Keepalive,
    /// How long running commands may go on when the node stops.
    pub shutdown_grace: Duration,
}
