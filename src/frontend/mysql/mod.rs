//! Clients that speak the MySQL protocol.
