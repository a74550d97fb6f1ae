//! The master's binlog, made into transactions.
