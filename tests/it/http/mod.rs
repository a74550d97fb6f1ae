//! The HTTP front before a real server.

mod accounts;
mod actions;
mod administration;
mod errors;
mod forward;
mod hostile;
mod slave;
mod values;
