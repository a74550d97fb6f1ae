//! What a byte may begin.

/// What a byte may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Space, or a sign that may begin a comment.
    Gap,
    /// A word.
    Letter,
    /// A word or a string: `x'00'`.
    Prefix,
    Digit,
    Single,
    Double,
    Backtick,
    Dot,
    Open,
    Close,
    Comma,
    Semicolon,
    At,
    Question,
    Backslash,
    Operator,
}

/// The class of each byte.
pub(super) static CLASSES: [Class; 256] = {
    let mut classes = [Class::Operator; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | 0x09..=0x0d | b'#' | b'-' | b'/' | b'*' => Class::Gap,
            b'x' | b'X' | b'b' | b'B' | b'n' | b'N' => Class::Prefix,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80.. => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Single,
            b'"' => Class::Double,
            b'`' => Class::Backtick,
            b'.' => Class::Dot,
            b'(' => Class::Open,
            b')' => Class::Close,
            b',' => Class::Comma,
            b';' => Class::Semicolon,
            b'@' => Class::At,
            b'?' => Class::Question,
            b'\\' => Class::Backslash,
            _ => Class::Operator,
        };
        byte += 1;
    }
    classes
};

/// Which bytes a word may have behind its first.
static WORD_BYTES: [bool; 256] = {
    let mut word_bytes = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        word_bytes[byte] = matches!(CLASSES[byte], Class::Letter | Class::Prefix | Class::Digit);
        byte += 1;
    }
    word_bytes
};

#[inline(always)]
pub(super) fn is_word_byte(byte: u8) -> bool {
    WORD_BYTES[byte as usize]
}
