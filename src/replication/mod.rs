//! Changes on their way from the master to the slaves.
//!
//! On the master [`hub`] captures transactions into a `ring`, each `encoded` once; a `sender` per slave takes them from
//! there, or from the binlog by `catch_up`, and pushes them, one that is too long for memory by `stream_push`; `acks` tells when enough slaves have one.
//! `outlook` warns of what is about to go wrong with a slave, by its [`server_facts`] and what binlog is `retained`.
//! `verify` compares what the slaves hold with what the master holds, by the numbers that `digest` makes of tables.
//! A new slave gets its data by a [`snapshot`].
//! On the slave [`apply`] takes batches; `apply_batch` decides whether one is the next and cuts it into groups,
//! `apply_session` makes each a transaction of MySQL, `schema_change` runs what commits by itself.

mod acks;
pub mod apply;
mod apply_batch;
pub(crate) mod apply_session;
mod back_off;
mod binlog_statement;
mod blockers;
mod catch_up;
pub mod digest;
mod encoded;
mod history;
pub mod hub;
pub(crate) mod json_lines;
mod outlook;
pub mod progress;
pub mod protocol;
mod push;
pub mod registration;
mod retained;
mod ring;
mod schema_change;
mod sender;
pub mod server_facts;
pub mod slave_status;
pub mod snapshot;
mod stream_push;
mod streamed_rows;
mod tables;
pub mod verify;

/// Lifts what a server's own settings would put on every session: they must neither cut what is read nor end a session
/// that takes or idles long. `wait_timeout` is in seconds, the longest that every platform takes. What is in `/*M! */` only
/// MariaDB reads, and what is in `/*!80000 */` only MySQL.
const NO_LIMITS: &str = "SET SESSION sql_select_limit = 18446744073709551615, wait_timeout = 2147483 \
                         /*M! , max_statement_time = 0, idle_transaction_timeout = 0, \
                         idle_readonly_transaction_timeout = 0, idle_write_transaction_timeout = 0 */ \
                         /*!80000 , max_execution_time = 0 */";
