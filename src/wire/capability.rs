//! The capability flags by which client and server agree on the form of packets.
//!
//! Source: MySQL manual, "Capabilities Flags".

/// In a greeting: the server is MySQL. MariaDB leaves it out and uses the reserved bytes for flags of its own.
pub const LONG_PASSWORD: u32 = 1;
/// A schema is named in the login.
pub const CONNECT_WITH_DB: u32 = 1 << 3;
/// zlib compression. Between client and node; the node asks its own MySQL for none.
pub const COMPRESS: u32 = 1 << 5;
/// LOAD DATA LOCAL.
pub const LOCAL_FILES: u32 = 1 << 7;
/// The protocol of MySQL 4.1 and later.
pub const PROTOCOL_41: u32 = 1 << 9;
/// TLS.
pub const SSL: u32 = 1 << 11;
/// The login's answer has a length byte.
pub const SECURE_CONNECTION: u32 = 1 << 15;
/// Several statements in one command.
pub const MULTI_STATEMENTS: u32 = 1 << 16;
/// Several results to one command.
pub const MULTI_RESULTS: u32 = 1 << 17;
/// Several results to one execute.
pub const PS_MULTI_RESULTS: u32 = 1 << 18;
/// The login names its method.
pub const PLUGIN_AUTH: u32 = 1 << 19;
/// The login carries attributes.
pub const CONNECT_ATTRS: u32 = 1 << 20;
/// The login's answer has a length-encoded length.
pub const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
/// OK packets carry changes of the session's state.
pub const SESSION_TRACK: u32 = 1 << 23;
/// Rows end in an OK packet in place of an EOF packet.
pub const DEPRECATE_EOF: u32 = 1 << 24;
/// Results may come without column definitions.
pub const OPTIONAL_RESULTSET_METADATA: u32 = 1 << 25;
/// zstd compression.
pub const ZSTD: u32 = 1 << 26;
/// Parameters stand before the SQL of a query.
pub const QUERY_ATTRIBUTES: u32 = 1 << 27;
/// Logins of several steps, each with a password of its own.
pub const MULTI_FACTOR_AUTH: u32 = 1 << 28;

/// What the node asks of its own MySQL on every connection, whatever the client can do: the GTID of a commit travels
/// in the session state of an OK.
pub const UPSTREAM: u32 = PROTOCOL_41 | SESSION_TRACK | DEPRECATE_EOF;

/// What a client is not offered.
pub const MASKED: u32 = SSL | ZSTD | OPTIONAL_RESULTSET_METADATA | QUERY_ATTRIBUTES | MULTI_FACTOR_AUTH;

/// MariaDB's own capabilities, which stand in bytes that MySQL leaves empty.
///
/// Source: MariaDB Knowledge Base, "Connecting", "Capabilities".
pub mod mariadb {
    /// Reports on the progress of a long command come before its reply.
    pub const PROGRESS: u32 = 1;
    /// COM_STMT_BULK_EXECUTE.
    pub const STMT_BULK_OPERATIONS: u32 = 1 << 2;
    /// Column definitions may have further fields.
    pub const EXTENDED_METADATA: u32 = 1 << 3;
    /// Results of a prepared statement come without column definitions that the client has already.
    pub const CACHE_METADATA: u32 = 1 << 4;

    /// What changes the form of results, so that a layer which looks at rows would not know them.
    pub const FORMS: u32 = PROGRESS | EXTENDED_METADATA | CACHE_METADATA;
    /// What a client is offered, if the server has it. What is not known here is not.
    pub const PASSED: u32 = FORMS | STMT_BULK_OPERATIONS;
}
