//! Words as numbers, which the scan compares without regard to case.

use super::lexer::Token;

pub(super) const AS: u64 = key(b"AS");
pub(super) const FOR: u64 = key(b"FOR");
pub(super) const WITH: u64 = key(b"WITH");
pub(super) const NEXT: u64 = key(b"NEXT");
pub(super) const INTO: u64 = key(b"INTO");
pub(super) const LOCK: u64 = key(b"LOCK");
pub(super) const LOAD: u64 = key(b"LOAD");
pub(super) const CALL: u64 = key(b"CALL");
pub(super) const MATCH: u64 = key(b"MATCH");
pub(super) const VALUE: u64 = key(b"VALUE");
pub(super) const SELECT: u64 = key(b"SELECT");
pub(super) const SHARE: u64 = key(b"SHARE");
pub(super) const UPDATE: u64 = key(b"UPDATE");
pub(super) const DELETE: u64 = key(b"DELETE");
pub(super) const INSERT: u64 = key(b"INSERT");
pub(super) const AGAINST: u64 = key(b"AGAINST");
pub(super) const REPLACE: u64 = key(b"REPLACE");
pub(super) const PREPARE: u64 = key(b"PREPARE");
pub(super) const EXECUTE: u64 = key(b"EXECUTE");
/// The beginnings of RECURSIVE and PROCEDURE.
pub(super) const RECURSIV: u64 = key(b"RECURSIV");
pub(super) const PROCEDUR: u64 = key(b"PROCEDUR");

/// The word that a text begins with: its first eight bytes, without regard to case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leading(pub(super) u64);

/// A word's first eight bytes as a number in which upper and lower case are the same. Words of letters that are no
/// longer than that are equal exactly if their keys are.
#[inline(always)]
pub(super) fn key_of(token: Token, sql: &[u8]) -> u64 {
    let length = token.len().min(8);
    match sql.get(token.start()..token.start() + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
        Some(eight) => u64::from_le_bytes(eight) & (u64::MAX >> (64 - 8 * length)) & CASELESS,
        None => key(&token.bytes(sql)[..length]),
    }
}

/// The bits that letters of either case share.
const CASELESS: u64 = u64::from_le_bytes([0xdf; 8]);

const fn key(word: &[u8]) -> u64 {
    let mut key = 0;
    let mut at = 0;
    while at < word.len() {
        key |= (word[at] as u64) << (8 * at);
        at += 1;
    }
    key & CASELESS
}
