//! The core layers, outermost first: trace ▸ admission ▸ classify ▸ the user's ▸ guard ▸ fan-out.

pub mod admission;
pub mod classify;
mod explain;
pub mod fan_out;
pub mod guard;
mod kill;
pub mod trace;
pub mod user;
