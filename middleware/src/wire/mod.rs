//! The elements of MySQL's packets, shared by the node and the rows of a reply: pure, no I/O.

pub mod cursor;
pub mod frame;

pub use cursor::{Cursor, Malformed};
