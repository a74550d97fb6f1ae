//! The innermost service of a session.
