//! A private MariaDB as a child process.
