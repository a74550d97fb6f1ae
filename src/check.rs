//! A server checked against what replication needs.
