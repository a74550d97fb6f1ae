//! Changes on their way from the master to the slaves.
//!
//! On the slave [`apply`] takes batches; `apply_batch` decides whether one is the next and cuts it into groups,
//! `apply_session` makes each a transaction of MySQL, `schema_change` runs what commits by itself.

pub mod apply;
mod apply_batch;
mod apply_session;
mod binlog_statement;
mod blockers;
pub mod progress;
pub mod protocol;
pub mod registration;
mod schema_change;
mod tables;
