//! Changes on their way from the master to the slaves.

pub mod protocol;
