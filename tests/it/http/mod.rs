//! The HTTP front before a real server.

mod accounts;
mod actions;
mod administration;
mod errors;
mod hostile;
mod slave;
mod values;
