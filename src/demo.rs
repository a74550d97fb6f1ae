//! A whole cluster on this machine, in one command.
