//! Telling reads from writes.
//!
//! scan ▸ cache ▸ (on a miss) rules and parser. The scan is one pass over the bytes: it cuts them as the server's lexer
//! does and yields a key of the text's shape, its leading keyword and what is to be noticed. Texts of one shape share
//! one plan. On a miss the rules decide by keyword, with what the scan noticed, on a template of the text
//! in which literals are plain and repeated rows are left out; sqlparser then reads the same template and may only make
//! the intent stronger.
//!
//! - What is not understood is [`Intent::Unknown`], and so a write to whoever guards a promise.
//! - What hangs on bytes that are not part of the shape (the text inside of PREPARE's string, a text that can't be cut
//!   with certainty) is decided anew each time.
//! - The text alone never tells all: a view may call a function that writes. The server has the last word
//!   ([`Classifier::learn_write`]).

mod cache;
mod cursor;
mod flags;
mod functions;
mod keyword;
mod lexer;
mod noticed;
mod parse;
mod protected;
mod rules;
mod scan;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod verdict;
mod with_list;

pub(crate) use protected::{TRACKING, contains_ignoring_case, contains_name, is_name};

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use towline_middleware::{Classifier, Explanation, Intent, Plan, SqlMode, Token};

use self::{
    cache::Cache,
    cursor::Cursor,
    flags::Flags,
    functions::Family,
    lexer::Kind,
    rules::Facts,
    scan::{Scan, Scanner},
    verdict::{DefaultSchema, Verdict},
};

/// Templates, and so texts without their literals, are cut off behind this.
pub(crate) const TEMPLATE_BYTES_MAX: usize = 64 * 1024;
/// A text whose literals must be looked at has no more tokens than this.
const TOKENS_MAX: usize = 4096;
/// Longer texts with executable comments are not looked through.
const READINGS_BYTES_MAX: usize = 16 * 1024;
/// How deep texts may stand inside texts (PREPARE of a PREPARE).
const NESTING_MAX: u32 = 3;
/// So many shapes that the server showed to be writes are remembered; later ones are only counted. On a slave the
/// read-only session stands behind them.
const LEARNED_MAX: usize = 65_536;

/// Tells what SQL means to do, once per shape.
#[derive(Debug)]
pub struct SqlClassifier {
    scanner: Scanner,
    cache: Cache,
    learned: RwLock<HashSet<u64>>,
    misclassified: AtomicU64,
}

impl Default for SqlClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl SqlClassifier {
    /// A classifier for a server that may be MariaDB or MySQL: functions that only one of them knows are taken for
    /// stored ones, which may write.
    pub fn new() -> Self {
        Self::of(Family::Any)
    }

    /// A classifier for the server that gives this version (`10.11.19-MariaDB-log`, `9.7.4`).
    pub fn for_server(version: &str) -> Self {
        Self::of(Family::of_version(version))
    }

    /// The key of a text's shape, as its plan will have it: one scan, and nothing decided.
    pub fn key(&self, sql: &[u8], mode: SqlMode) -> u64 {
        self.scanner.scan(sql, mode).key
    }

    /// The statements of a text, parted where the server parts them under the default mode. The body of a stored
    /// program is parted too.
    pub fn statements<'a>(&self, text: &'a [u8]) -> Vec<&'a [u8]> {
        let mut statements = Vec::new();
        let mut start = 0;
        for token in self.scanner.tokens(text, SqlMode::default(), usize::MAX).unwrap_or_default() {
            if token.kind == Kind::Semicolon {
                statements.push(&text[start..token.start()]);
                start = token.start() + 1;
            }
        }
        statements.push(&text[start..]);
        statements.retain(|sql| !sql.trim_ascii().is_empty());
        statements
    }

    fn of(family: Family) -> Self {
        Self {
            scanner: Scanner::new(family),
            cache: Cache::new(),
            learned: RwLock::default(),
            misclassified: AtomicU64::new(0),
        }
    }

    /// Decides a text without its cache entry.
    fn decide(&self, sql: &[u8], mode: SqlMode, scan: &Scan, nesting: u32) -> Decision {
        if scan.flags.has(Flags::DOUBT) {
            let verdict = self.both_readings(sql, mode, nesting).unwrap_or_else(|| in_doubt(sql, scan));
            return Decision::of_this_text(verdict);
        }
        let template = self.scanner.template(sql, mode, scan, TEMPLATE_BYTES_MAX);
        let by_literals = scan.flags.has(Flags::LITERAL_DECIDES);
        // The template is plain SQL: no mode changes how it is cut.
        let (text, text_mode) = if by_literals { (sql, mode) } else { (&*template.text, SqlMode::default()) };
        let limit = if by_literals { TOKENS_MAX } else { usize::MAX };
        let Some(tokens) = self.scanner.tokens(text, text_mode, limit) else {
            return Decision::of_this_text(refused_if_it_hides(too_long(), sql));
        };
        let function = scan.function.map(|name| name.bytes(sql));
        let mut verdict = self.by_rules(Cursor::new(text, &tokens), mode, scan.flags, function, nesting);
        if template.cut && (verdict.intent > Intent::Read || scan.flags.has(Flags::SECOND_STATEMENT)) {
            // One statement that writes is known by its keyword; all else may go on otherwise behind the cut.
            let is_one_write = verdict.intent.may_write() && !scan.flags.has(Flags::SECOND_STATEMENT);
            let verdict = if is_one_write { verdict } else { verdict.and(too_long()) };
            return Decision::of_this_text(refused_if_it_hides(verdict, sql));
        }
        let mut opinion = parse::opinion(&template.text, self.scanner.is_for_maria_db()).unwrap_or_default();
        if verdict.schema != DefaultSchema::Stays || verdict.cut_in_doubt {
            // Names without a schema are those of another one behind it; what is cut in doubt has none for certain.
            opinion.tables.clear();
        }
        if opinion.writes {
            verdict = verdict.at_least(Intent::Write, "the parser sees a write");
        }
        Decision { verdict, tables: opinion.tables, of_shape: !by_literals }
    }

    /// What the rules say to a text that is cut with certainty, under the mode of its session.
    fn by_rules(
        &self,
        text: Cursor<'_>,
        mode: SqlMode,
        flags: Flags,
        function: Option<&[u8]>,
        nesting: u32,
    ) -> Verdict {
        let inner = |text: &[u8], mode| match nesting {
            NESTING_MAX => Verdict::new(Intent::Unknown, "SQL inside of SQL inside of SQL"),
            _ => within_string(self.decide(text, mode, &self.scanner.scan(text, mode), nesting + 1).verdict, text),
        };
        rules::text(text, Facts { flags, function, mode, inner: &inner })
    }
}

impl SqlClassifier {
    /// The stronger verdict on a text with what is in its executable comments and without; none if it can't be told.
    fn both_readings(&self, sql: &[u8], mode: SqlMode, nesting: u32) -> Option<Verdict> {
        if nesting == NESTING_MAX || sql.len() > READINGS_BYTES_MAX {
            return None;
        }
        let [with, without] = self.scanner.readings(sql, mode)?;
        let decide = |text: &[u8]| self.decide(text, mode, &self.scanner.scan(text, mode), nesting + 1).verdict;
        let verdict = decide(&with).and(decide(&without));
        Some(verdict)
    }
}

impl Classifier for SqlClassifier {
    fn classify(&self, sql: &[u8], mode: SqlMode) -> Arc<Plan> {
        let scan = self.scanner.scan(sql, mode);
        if let Some(plan) = self.cache.get(&scan) {
            return plan;
        }
        let Decision { mut verdict, tables, of_shape } = self.decide(sql, mode, &scan, 0);
        if self.learned.read().contains(&scan.key) {
            verdict = verdict.at_least(Intent::Write, "the server showed it to write");
        }
        let Verdict { intent, rule, refusal, named, schema, .. } = verdict;
        let chooses_schema = schema != DefaultSchema::Stays;
        let digest = self.scanner.digest(sql, mode, &scan);
        let plan = Arc::new(Plan { intent, rule, refusal, digest, key: scan.key, tables, named, chooses_schema });
        if of_shape {
            self.cache.insert(&scan, plan.clone());
            if self.learned.read().contains(&scan.key) && !plan.intent.may_write() {
                // Learned meanwhile, perhaps before the plan was there to be forgotten.
                self.cache.remove(scan.key);
            }
        }
        plan
    }

    fn without_literals(&self, sql: &[u8], mode: SqlMode) -> Option<String> {
        let (template, flags) = self.scanner.certain_template(sql, mode, TEMPLATE_BYTES_MAX)?;
        if flags.has(Flags::SECOND_STATEMENT) {
            self.tokens(sql, mode)?;
        }
        Some(String::from_utf8(template.text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into()))
    }

    fn tokens(&self, sql: &[u8], mode: SqlMode) -> Option<Vec<Token>> {
        let Scan { flags, .. } = self.scanner.scan(sql, mode);
        if flags.has(Flags::DOUBT) {
            return None;
        }
        let tokens = self.scanner.tokens(sql, mode, usize::MAX)?;
        let in_doubt = flags.has(Flags::SECOND_STATEMENT)
            && self.by_rules(Cursor::new(sql, &tokens), mode, flags, None, 0).cut_in_doubt;
        (!in_doubt).then_some(tokens)
    }

    fn calls_no_stored_function(&self, sql: &[u8], mode: SqlMode) -> bool {
        !self.scanner.scan(sql, mode).flags.has(Flags::DOUBT | Flags::UNKNOWN_FUNCTION)
    }

    fn learn_write(&self, key: u64) {
        self.misclassified.fetch_add(1, Ordering::Relaxed);
        let mut learned = self.learned.write();
        if learned.len() < LEARNED_MAX {
            learned.insert(key);
        }
        drop(learned);
        let digest = self.cache.remove(key).map_or(0, |plan| plan.digest);
        tracing::warn!(
            digest = format_args!("{digest:016x}"),
            "the server shows a statement that was taken for a read to be a write; from now on its like are writes"
        );
    }

    fn misclassified(&self) -> u64 {
        self.misclassified.load(Ordering::Relaxed)
    }

    fn explain(&self, sql: &[u8], mode: SqlMode) -> Explanation {
        let cached = self.cache.get(&self.scanner.scan(sql, mode)).is_some();
        let plan = self.classify(sql, mode);
        let mut functions = self.scanner.called(sql, mode, TOKENS_MAX);
        // The columns of an INSERT stand in parentheses behind its table.
        functions.retain(|name| !plan.tables.iter().any(|(_, table)| table.eq_ignore_ascii_case(name)));
        Explanation { plan, functions, cached }
    }
}

/// What was decided, and for what.
struct Decision {
    verdict: Verdict,
    tables: Vec<(Option<String>, String)>,
    /// Whether it holds for all texts of the shape.
    of_shape: bool,
}

impl Decision {
    fn of_this_text(verdict: Verdict) -> Self {
        Self { verdict, tables: Vec::new(), of_shape: false }
    }
}

fn in_doubt(sql: &[u8], scan: &Scan) -> Verdict {
    let rule = if scan.flags.has(Flags::EXECUTABLE_COMMENT) {
        "an executable comment (/*! or /*M!), which servers read differently"
    } else if scan.flags.has(Flags::UNTERMINATED) {
        "a quote or comment without an end"
    } else {
        "bytes that servers read differently"
    };
    let schema = if contains_ignoring_case(sql, "use") { DefaultSchema::Chosen } else { DefaultSchema::Stays };
    refused_if_it_hides(Verdict { schema, ..Verdict::new(Intent::Unknown, rule) }, sql)
}

/// The verdict on a text inside of a string, of which nobody hears when it runs.
fn within_string(verdict: Verdict, text: &[u8]) -> Verdict {
    if verdict.schema != DefaultSchema::Stays {
        return verdict.refused_everywhere(protected::USE_IN_TEXT);
    }
    if contains_name(text, TRACKING) {
        return verdict.refused_everywhere(protected::TRACKING_IN_TEXT);
    }
    verdict
}

fn too_long() -> Verdict {
    Verdict::new(Intent::Unknown, "too long to be looked through")
}

fn refused_if_it_hides(verdict: Verdict, sql: &[u8]) -> Verdict {
    match protected::hides_writes_in_doubt(sql) {
        Some(reason) => verdict.refused_everywhere(reason),
        None => verdict,
    }
}
