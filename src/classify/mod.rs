//! Telling reads from writes.
