//! Takes the SQL out of the scripts of MariaDB's own test suites.
//!
//! A script is a list of commands that end at a delimiter; most are SQL, the others talk to the program that runs the
//! scripts. Loops and conditions are gone through once, as if they held; `source` is followed; variables that a script
//! sets plainly are filled in, and what needs others is left out.
//!
//! Source: MariaDB's documentation of mysqltest, "Command reference".

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Scripts that source each other deeper than this are cut off.
const DEPTH_MAX: u32 = 6;
/// Statements of one script, those that it sources included.
const STATEMENTS_MAX: usize = 4_000;

/// Commands that bring SQL with them.
const WITH_SQL: [&str; 7] = ["eval", "evalp", "send", "send_eval", "query", "query_vertical", "query_horizontal"];

/// Commands that are no SQL.
const NO_SQL: [&str; 76] = [
    "append_file",
    "assert",
    "cat_file",
    "change_user",
    "character_set",
    "chmod",
    "connect",
    "connection",
    "copy_file",
    "copy_files_wildcard",
    "dec",
    "die",
    "diff_files",
    "dirty_close",
    "disable_abort_on_error",
    "disable_cursor_protocol",
    "disable_connect_log",
    "disable_info",
    "disable_metadata",
    "disable_parsing",
    "disable_prepare_warnings",
    "disable_ps2_protocol",
    "disable_ps_protocol",
    "disable_query_log",
    "disable_reconnect",
    "disable_result_log",
    "disable_service_connection",
    "disable_session_track_info",
    "disable_view_protocol",
    "disable_warnings",
    "disconnect",
    "echo",
    "enable_abort_on_error",
    "enable_cursor_protocol",
    "enable_connect_log",
    "enable_info",
    "enable_metadata",
    "enable_parsing",
    "enable_prepare_warnings",
    "enable_ps2_protocol",
    "enable_ps_protocol",
    "enable_query_log",
    "enable_reconnect",
    "enable_result_log",
    "enable_service_connection",
    "enable_session_track_info",
    "enable_view_protocol",
    "enable_warnings",
    "error",
    "exec",
    "execw",
    "exit",
    "file_exists",
    "horizontal_results",
    "inc",
    "let",
    "list_files",
    "lowercase_result",
    "mkdir",
    "move_file",
    "optimizer_trace",
    "perl",
    "ping",
    "real_sleep",
    "reap",
    "remove_file",
    "remove_files_wildcard",
    "replace_column",
    "replace_regex",
    "replace_result",
    "result_format",
    "rmdir",
    "shutdown_server",
    "skip",
    "sleep",
    "sorted_result",
];

/// Commands whose body follows on lines of its own.
const WITH_BODY: [&str; 3] = ["perl", "write_file", "append_file"];

/// The scripts below this folder, in a fixed order.
pub(super) fn scripts(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "test") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The statements of one script, in their order.
pub(super) fn statements(root: &Path, script: &Path) -> Vec<Vec<u8>> {
    let mut extraction = Extraction { root, variables: HashMap::new(), statements: Vec::new() };
    extraction.script(script, 0);
    extraction.statements
}

struct Extraction<'a> {
    root: &'a Path,
    variables: HashMap<Vec<u8>, Vec<u8>>,
    statements: Vec<Vec<u8>>,
}

impl Extraction<'_> {
    fn script(&mut self, path: &Path, depth: u32) {
        let Ok(text) = fs::read(path) else { return };
        let mut reader = Reader { rest: &text, delimiter: b";".to_vec() };
        while let Some(command) = reader.next() {
            if self.statements.len() >= STATEMENTS_MAX {
                return;
            }
            let (word, rest) = first_word(command);
            let is = |known: &[&str]| is_one_of(word, known);
            if is(&["source"]) {
                if let Some(next) = self.sourced(rest, path).filter(|_| depth < DEPTH_MAX) {
                    self.script(&next, depth + 1);
                }
            } else if is(&["let"]) {
                self.assign(rest);
            } else if is(&["delimiter"]) {
                reader.delimiter = rest.to_vec();
            } else if is(&WITH_BODY) {
                reader.skip_body(rest, is(&["perl"]));
            } else if is(&WITH_SQL) {
                self.statements.extend(self.filled_in(rest));
            } else if !is(&NO_SQL) && !command.is_empty() {
                self.statements.push(command.to_vec());
            }
        }
    }

    /// The file that is sourced: named from the root of the suites, from their own folders or from beside the script.
    fn sourced(&self, name: &[u8], script: &Path) -> Option<PathBuf> {
        let name = String::from_utf8(self.filled_in(name)?).ok()?;
        let folders = script.ancestors().skip(1).take_while(|folder| folder.starts_with(self.root));
        folders.chain([self.root]).map(|folder| folder.join(&name)).find(|path| path.is_file())
    }

    /// `$name = value`. A value that is asked of the server is not known here.
    fn assign(&mut self, assignment: &[u8]) {
        let Some(equals) = memchr::memchr(b'=', assignment) else { return };
        let name = assignment[..equals].trim_ascii();
        let name = name.strip_prefix(b"$").unwrap_or(name).to_vec();
        let value = assignment[equals + 1..].trim_ascii();
        let value = value.strip_prefix(b"'").and_then(|value| value.strip_suffix(b"'")).unwrap_or(value);
        match self.filled_in(value).filter(|value| !value.starts_with(b"`")) {
            Some(value) => self.variables.insert(name, value),
            None => self.variables.remove(&name),
        };
    }

    /// The text with its variables; none if one is not known.
    fn filled_in(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut filled = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = memchr::memchr(b'$', rest) {
            filled.extend_from_slice(&rest[..dollar]);
            let name = &rest[dollar + 1..];
            let length = name.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
            filled.extend_from_slice(self.variables.get(&name[..length])?);
            rest = &name[length..];
        }
        filled.extend_from_slice(rest);
        Some(filled)
    }
}

/// Cuts a script into commands.
struct Reader<'a> {
    rest: &'a [u8],
    delimiter: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            match self.rest {
                [] => return None,
                [b'#', ..] => {
                    self.line();
                }
                [b'-', b'-', ..] => {
                    // A comment, unless a command follows the dashes.
                    let command = self.line()[2..].trim_ascii();
                    let (word, _) = first_word(command);
                    if [&["source", "let", "delimiter"][..], &WITH_BODY, &WITH_SQL].iter().any(|of| is_one_of(word, of))
                    {
                        return Some(command);
                    }
                }
                [b'}', ..] => self.rest = &self.rest[1..],
                _ => return Some(self.command()),
            }
        }
    }

    fn line(&mut self) -> &'a [u8] {
        let end = memchr::memchr(b'\n', self.rest).map_or(self.rest.len(), |end| end + 1);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        line
    }

    /// Up to the delimiter, or to the brace behind the head of a loop, outside of quotes.
    fn command(&mut self) -> &'a [u8] {
        let text = self.rest;
        let (word, _) = first_word(text);
        let has_block = word.eq_ignore_ascii_case(b"if") || word.eq_ignore_ascii_case(b"while");
        let mut quote = None;
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            match quote {
                Some(_) if byte == b'\\' => at += 1,
                Some(open) if byte == open => quote = None,
                Some(_) => {}
                None if text[at..].starts_with(&self.delimiter) => {
                    self.rest = &text[at + self.delimiter.len()..];
                    return text[..at].trim_ascii();
                }
                None if byte == b'{' && has_block => {
                    self.rest = &text[at + 1..];
                    return &[];
                }
                None if matches!(byte, b'\'' | b'"' | b'`') => quote = Some(byte),
                None => {}
            }
            at += 1;
        }
        self.rest = &[];
        text.trim_ascii()
    }

    /// Steps over the lines of a body, up to the line that ends it.
    fn skip_body(&mut self, arguments: &[u8], is_perl: bool) {
        let mut arguments = arguments.split(u8::is_ascii_whitespace).skip(usize::from(!is_perl));
        let end = arguments.next().filter(|end| !end.is_empty()).unwrap_or(b"EOF");
        self.line();
        while !self.rest.is_empty() && self.line().trim_ascii() != end {}
    }
}

fn is_one_of(word: &[u8], known: &[&str]) -> bool {
    known.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

fn first_word(command: &[u8]) -> (&[u8], &[u8]) {
    let length = command.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    (&command[..length], command[length..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_is_cut_out_of_a_script() {
        let folder = tempfile::tempdir().unwrap();
        let script = "# a comment; no SQL\n--source part.inc\nlet $t= t1;\nSELECT ';' -- a comment\n+ 1;\n\
            --error 1064\neval CREATE TABLE $t (a INT);\neval SELECT $unknown;\nif ($t)\n{\n  SELECT 2;\n}\n\
            delimiter |;\nCREATE PROCEDURE p() BEGIN SELECT 1; END|\ndelimiter ;|\nwrite_file x;\nSELECT no;\nEOF\n\
            perl;\nprint ';';\nEOF\nSELECT 3";
        fs::write(folder.path().join("a.test"), script).unwrap();
        fs::write(folder.path().join("part.inc"), "disable_query_log;\nDROP TABLE t1;\n").unwrap();
        assert_eq!(scripts(folder.path()), [folder.path().join("a.test")]);
        let statements = statements(folder.path(), &folder.path().join("a.test"));
        let texts: Vec<_> = statements.iter().map(|sql| String::from_utf8_lossy(sql)).collect();
        assert_eq!(
            texts,
            [
                "DROP TABLE t1",
                "SELECT ';' -- a comment\n+ 1",
                "CREATE TABLE t1 (a INT)",
                "SELECT 2",
                "CREATE PROCEDURE p() BEGIN SELECT 1; END",
                "SELECT 3"
            ]
        );
    }
}
