//! The types that a column can have.

/// What may follow the name of a type in parentheses.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Arguments {
    /// So many numbers, at least and at most.
    Numbers(usize, usize),
    /// One string or more.
    Strings,
}

/// Which words may follow a type.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Family {
    Number,
    Text,
    Other,
}

/// Every type by name. Source: MariaDB Knowledge Base, "Data Types"; MySQL manual, "Data Types".
pub(super) const TYPES: [(&str, Arguments, Family); 47] = {
    use Arguments::{Numbers, Strings};
    use Family::{Number, Other, Text};
    [
        ("TINYINT", Numbers(0, 1), Number),
        ("SMALLINT", Numbers(0, 1), Number),
        ("MEDIUMINT", Numbers(0, 1), Number),
        ("INT", Numbers(0, 1), Number),
        ("INTEGER", Numbers(0, 1), Number),
        ("BIGINT", Numbers(0, 1), Number),
        ("DECIMAL", Numbers(0, 2), Number),
        ("NUMERIC", Numbers(0, 2), Number),
        ("FLOAT", Numbers(0, 2), Number),
        ("DOUBLE", Numbers(0, 2), Number),
        ("REAL", Numbers(0, 2), Number),
        ("BOOL", Numbers(0, 0), Other),
        ("BOOLEAN", Numbers(0, 0), Other),
        ("BIT", Numbers(0, 1), Other),
        ("DATE", Numbers(0, 0), Other),
        ("TIME", Numbers(0, 1), Other),
        ("DATETIME", Numbers(0, 1), Other),
        ("TIMESTAMP", Numbers(0, 1), Other),
        ("YEAR", Numbers(0, 1), Other),
        ("CHAR", Numbers(0, 1), Text),
        ("VARCHAR", Numbers(1, 1), Text),
        ("TINYTEXT", Numbers(0, 0), Text),
        ("TEXT", Numbers(0, 1), Text),
        ("MEDIUMTEXT", Numbers(0, 0), Text),
        ("LONGTEXT", Numbers(0, 0), Text),
        ("ENUM", Strings, Text),
        ("SET", Strings, Text),
        ("BINARY", Numbers(0, 1), Other),
        ("VARBINARY", Numbers(1, 1), Other),
        ("TINYBLOB", Numbers(0, 0), Other),
        ("BLOB", Numbers(0, 1), Other),
        ("MEDIUMBLOB", Numbers(0, 0), Other),
        ("LONGBLOB", Numbers(0, 0), Other),
        ("JSON", Numbers(0, 0), Other),
        ("UUID", Numbers(0, 0), Other),
        ("INET4", Numbers(0, 0), Other),
        ("INET6", Numbers(0, 0), Other),
        ("SERIAL", Numbers(0, 0), Other),
        ("GEOMETRY", Numbers(0, 0), Other),
        ("POINT", Numbers(0, 0), Other),
        ("LINESTRING", Numbers(0, 0), Other),
        ("POLYGON", Numbers(0, 0), Other),
        ("MULTIPOINT", Numbers(0, 0), Other),
        ("MULTILINESTRING", Numbers(0, 0), Other),
        ("MULTIPOLYGON", Numbers(0, 0), Other),
        ("GEOMETRYCOLLECTION", Numbers(0, 0), Other),
        ("VECTOR", Numbers(1, 1), Other),
    ]
};
