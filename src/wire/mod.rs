//! Bytes to packets and back: pure, no I/O, no policy; one packet a file.
//!
//! Source for all of it: MySQL manual, "Client/Server Protocol", and MariaDB Knowledge Base, "Client/Server Protocol".

pub mod capability;
pub mod change_user;
pub mod compressed;
pub mod eof;
pub mod err;
pub mod greeting;
pub mod login;
pub mod ok;
pub mod proxy_header;
pub mod session_state;

pub use towline_middleware::wire::{Cursor, Malformed, cursor, frame};
