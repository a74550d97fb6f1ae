//! Bytes to packets and back: pure, no I/O, no policy; one packet a file.
