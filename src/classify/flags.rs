//! What a scan notices on its way through a text.

use std::ops::{BitOr, BitOrAssign};

/// A set of the things that a scan noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// `/*! … */` or `/*M! … */`: code or comment, as the server's version has it.
    pub(super) const EXECUTABLE_COMMENT: Self = Self(1);
    /// A string, name or comment without an end.
    pub(super) const UNTERMINATED: Self = Self(1 << 1);
    /// Bytes that two servers, or two settings of one, could read in two ways.
    pub(super) const AMBIGUOUS: Self = Self(1 << 2);
    /// Something stands after a `;`.
    pub(super) const SECOND_STATEMENT: Self = Self(1 << 3);
    /// `FOR UPDATE`, `FOR SHARE` or `LOCK IN SHARE MODE`.
    pub(super) const LOCKING_READ: Self = Self(1 << 4);
    /// `INTO @variable`.
    pub(super) const INTO_VARIABLE: Self = Self(1 << 5);
    /// `INTO` anything else: a file, in a statement that reads.
    pub(super) const INTO_FILE: Self = Self(1 << 6);
    /// `:=`
    pub(super) const ASSIGNS: Self = Self(1 << 7);
    /// A name before `(` that is not known to be a read-only function of the server itself.
    pub(super) const UNKNOWN_FUNCTION: Self = Self(1 << 8);
    /// GET_LOCK and its like.
    pub(super) const LOCK_FUNCTION: Self = Self(1 << 9);
    /// LAST_INSERT_ID with an argument.
    pub(super) const SESSION_FUNCTION: Self = Self(1 << 10);
    /// `NEXT VALUE FOR s` or `s.nextval`.
    pub(super) const SEQUENCE: Self = Self(1 << 11);
    /// A verb that writes, somewhere behind the leading keyword.
    pub(super) const WRITE_VERB: Self = Self(1 << 12);
    /// A statement whose meaning lies in its literals: PREPARE and EXECUTE IMMEDIATE.
    pub(super) const LITERAL_DECIDES: Self = Self(1 << 13);

    /// What makes it uncertain where tokens begin and end.
    pub(super) const DOUBT: Self = Self(Self::EXECUTABLE_COMMENT.0 | Self::UNTERMINATED.0 | Self::AMBIGUOUS.0);

    /// Whether one of these is set.
    pub(super) fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// As a number, for the key.
    pub(super) fn bits(self) -> u16 {
        self.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
