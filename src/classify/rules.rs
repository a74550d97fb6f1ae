//! What the statements of a text mean to do, by their leading keywords. What is not listed is unknown, and so a write.

use towline_middleware::{Intent, Named, RefusedOn, SqlMode};

use super::{
    cursor::Cursor,
    flags::Flags,
    lexer::Kind,
    protected::{self, is_own_schema},
    set::set,
    verdict::{DefaultSchema, Verdict},
};

/// Decides the SQL inside of a statement's string: of PREPARE and EXECUTE IMMEDIATE.
pub(super) type Inner<'a> = &'a dyn Fn(&[u8], SqlMode) -> Verdict;

/// What a rule may look at besides the statement's tokens.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    /// What the scan noticed in the whole text.
    pub(super) flags: Flags,
    /// The first name in the text that may be a stored function.
    pub(super) function: Option<&'a [u8]>,
    /// How the server cuts the text.
    pub(super) mode: SqlMode,
    /// Decides the SQL inside of a string.
    pub(super) inner: Inner<'a>,
}

/// The verdict on all statements of a text.
pub(super) fn text(text: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let mut statements = text.statements().map(|next| statement(next, facts));
    // The server answers an empty text with an error.
    let Some(first) = statements.next() else { return Verdict::new(Intent::Read, "no statement") };
    let mut several = false;
    let all = statements.fold(first, |before, next| {
        several = true;
        let changes_lexing = before.changes_lexing;
        // What is not understood may be a SET, too. So is the END of a compound statement, which sets character sets.
        let cut_in_doubt = changes_lexing || before.intent == Intent::Unknown;
        let mut both = before.and(next);
        both.cut_in_doubt |= cut_in_doubt;
        if !changes_lexing {
            return both;
        }
        both.at_least(Intent::Unknown, "a SET before it changes how it is read")
    });
    // The statements of a program's body are parted, too.
    let is_program = several && (is_stored_program(text) || (text.is("BEGIN") && text.is_at(1, "NOT")));
    if is_program
        && facts.flags.has(Flags::LITERAL_DECIDES)
        && let Some(reason) = hides_writes_in_texts(text, facts)
    {
        return all.refused_everywhere(reason);
    }
    if several && all.intent.may_write() && all.schema == DefaultSchema::Own {
        return all.refused_everywhere(
            "the schema `towline` is only Towline's to write to: send USE by itself, then what reads there",
        );
    }
    if several && all.intent.may_write() {
        return all.refused_on_slave("several statements at once, and one may write; send them to the master");
    }
    all
}

/// The verdict on one statement.
pub(super) fn statement(statement: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let verdict = by_keyword(statement, facts);
    let mut verdict = if verdict.intent.may_write() { verdict } else { flagged(verdict, facts) };
    if verdict.intent.may_write() && statement.is("SET") {
        verdict = verdict.refused_on_slave("a SET that may write; send it to the master");
    }
    if verdict.intent.may_write() && writes_own_schema(statement) {
        return verdict.refused_everywhere(
            "the schema `towline` is Towline's own record of what was replicated; only Towline writes to it",
        );
    }
    verdict
}

/// What begins with one of these reads, unless the scan noticed otherwise.
const READS: &[&str] =
    &["SELECT", "WITH", "VALUES", "TABLE", "SHOW", "DESC", "DESCRIBE", "EXPLAIN", "HELP", "CHECKSUM", "DO"];

/// What a slave says to what changes a server and is not replicated.
const OF_THE_SERVER: &str = "it acts on one server alone; run it on the server that is meant";

/// What begins with one of these writes, and what a slave says to it if there is more to say. One without that may be sent
/// to the master in its place.
const WRITES: &[(&str, Option<&str>)] = &[
    ("INSERT", None),
    ("REPLACE", None),
    ("UPDATE", None),
    ("DELETE", None),
    ("TRUNCATE", None),
    ("CREATE", None),
    ("ALTER", None),
    ("DROP", None),
    ("RENAME", None),
    ("GRANT", None),
    ("REVOKE", None),
    ("CALL", None),
    ("LOAD", Some("LOAD writes rows or fills a cache on a slave; load the data on the master")),
    ("IMPORT", Some(OF_THE_SERVER)),
    ("OPTIMIZE", Some("OPTIMIZE TABLE is written to the binlog and would hold up the applier")),
    ("REPAIR", Some("REPAIR TABLE is written to the binlog and would hold up the applier")),
    ("CHECK", Some("CHECK TABLE takes locks that hold up the applier")),
    ("FLUSH", Some("FLUSH takes locks or throws away state that the applier needs")),
    (
        "KILL",
        Some(
            "on a slave KILL ends only sessions of the same account at this node, as in KILL QUERY 7, or it could end the \
         connection that applies the master's changes",
        ),
    ),
    ("BINLOG", Some("BINLOG writes rows; on a slave only Towline's applier uses it")),
    ("PURGE", Some(OF_THE_SERVER)),
    ("CHANGE", Some(OF_THE_SERVER)),
    ("START", Some(OF_THE_SERVER)),
    ("STOP", Some(OF_THE_SERVER)),
    ("SHUTDOWN", Some(OF_THE_SERVER)),
    ("RESTART", Some(OF_THE_SERVER)),
    ("INSTALL", Some(OF_THE_SERVER)),
    ("UNINSTALL", Some(OF_THE_SERVER)),
    ("CACHE", Some(OF_THE_SERVER)),
    ("CLONE", Some(OF_THE_SERVER)),
    ("BACKUP", Some("BACKUP locks hold up the applier")),
];

/// What begins with one of these is a compound statement of MariaDB's, which may do anything.
const COMPOUND: &[&str] = &["IF", "CASE", "LOOP", "FOR", "WHILE", "REPEAT", "DECLARE"];

fn by_keyword(statement: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let mut rest = statement;
    while rest.eat_kind(Kind::Open) {}
    for keyword in READS {
        if rest.is(keyword) {
            return Verdict::new(Intent::Read, format!("keyword {keyword}"));
        }
    }
    if rest.is("START") && rest.is_at(1, "TRANSACTION") {
        return start_transaction(rest);
    }
    if rest.is("RESET") {
        return reset(rest);
    }
    if rest.is("DROP") && rest.is_at(1, "PREPARE") {
        return Verdict::new(Intent::SessionState, "keyword DROP PREPARE");
    }
    for (keyword, on_slave) in WRITES {
        if rest.is(keyword) {
            let verdict = Verdict::new(Intent::Write, format!("keyword {keyword}"));
            let verdict = on_slave.map_or(verdict.clone(), |reason| verdict.refused_on_slave(reason));
            if has_transaction_ids(rest) {
                return verdict.refused_everywhere(
                    "a table versioned by transaction ids (BIGINT … ROW START) can't be replicated: MariaDB logs what is \
                     inserted into it as text; use TIMESTAMP(6)",
                );
            }
            if gives_role_to_whoever_runs_it(rest) {
                return verdict.refused_everywhere(
                    "a role that is granted to CURRENT_USER can't be replicated: the binlog does not say who that was; name \
                     the account",
                );
            }
            return program(rest, verdict, facts);
        }
    }
    for keyword in COMPOUND {
        if rest.is(keyword) {
            return compound(rest, format!("keyword {keyword}"), facts);
        }
    }
    other(rest, facts)
}

/// Whether a role is granted to, or revoked from, the account that runs the statement. Of rights, which are `ON` something,
/// the binlog says who that was.
fn gives_role_to_whoever_runs_it(mut rest: Cursor<'_>) -> bool {
    let mut names_itself = false;
    let is_of_roles = rest.is("GRANT") || rest.is("REVOKE") && !rest.is_at(1, "ALL");
    while is_of_roles && !rest.at_end() && !rest.is("ON") {
        names_itself |= rest.is("CURRENT_USER") || rest.is("CURRENT_ROLE");
        rest.take();
    }
    names_itself && rest.at_end()
}

/// Whether a table is made, or altered, so that its versions begin at ids of transactions (MariaDB).
fn has_transaction_ids(mut rest: Cursor<'_>) -> bool {
    let mut is_number = false;
    while !rest.at_end() {
        is_number = (is_number || rest.is("BIGINT") || rest.is("INT8")) && rest.kind() != Kind::Comma;
        if is_number && rest.is("ROW") && rest.is_at(1, "START") {
            return true;
        }
        rest.take();
    }
    false
}

fn other(mut rest: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let whole = rest;
    let Some((_, word)) = rest.take() else {
        return Verdict::new(Intent::Read, "no statement");
    };
    let keyword = String::from_utf8_lossy(word).to_ascii_uppercase();
    let known = |intent| Verdict::new(intent, format!("keyword {keyword}"));
    match keyword.as_str() {
        "SET" => set(rest, facts),
        "USE" => {
            let is_own = rest.eat_name().is_some_and(|name| is_own_schema(&name));
            let schema = if is_own { DefaultSchema::Own } else { DefaultSchema::Chosen };
            Verdict { schema, ..known(Intent::SessionState) }
        }
        "GET" => known(Intent::SessionState),
        "ANALYZE" => analyze(rest),
        "BEGIN" if rest.is("NOT") => compound(whole, "keyword BEGIN NOT ATOMIC", facts),
        "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => transaction(&keyword, rest),
        "XA" if rest.is("RECOVER") => known(Intent::Read),
        "XA" => known(Intent::Write)
            .refused_on_slave("an XA transaction is one of the server that began it; send it to the master"),
        "LOCK" => known(Intent::Transaction)
            .refused_on_slave("LOCK TABLES would hold up the applier; a slave's tables belong to it"),
        "UNLOCK" => known(Intent::Transaction),
        "HANDLER" => known(Intent::SessionState)
            .refused_on_slave("HANDLER keeps tables open and holds up the applier; use SELECT"),
        "PREPARE" => prepare(rest, facts),
        "EXECUTE" => execute(rest, facts),
        "DEALLOCATE" => known(Intent::SessionState),
        _ => Verdict::new(Intent::Unknown, format!("unknown keyword {keyword}")),
    }
}

/// What the scan noticed makes a statement that seemed to read into more.
fn flagged(mut verdict: Verdict, facts: Facts<'_>) -> Verdict {
    let flags = facts.flags;
    if flags.has(Flags::INTO_VARIABLE | Flags::ASSIGNS | Flags::SESSION_FUNCTION) {
        verdict = verdict.at_least(Intent::SessionState, "sets a user variable or the last insert id");
    }
    if flags.has(Flags::LOCK_FUNCTION) {
        verdict = verdict
            .at_least(Intent::SessionState, "a function on locks")
            .refused_on_slave("GET_LOCK and its like work on locks of one server; take them on the master");
    }
    if flags.has(Flags::LOCKING_READ) {
        verdict = verdict.refused_on_slave(
            "a locking read (FOR UPDATE, FOR SHARE, LOCK IN SHARE MODE) would hold up the applier; lock on the master",
        );
    }
    // A verb that writes brings an INTO of its own.
    if flags.has(Flags::INTO_FILE) && !flags.has(Flags::WRITE_VERB) {
        verdict = verdict
            .at_least(Intent::Write, "INTO without a user variable")
            .refused_on_slave("SELECT ... INTO OUTFILE and INTO DUMPFILE write files on the server's host");
    }
    if flags.has(Flags::SEQUENCE) {
        verdict = verdict.at_least(Intent::Write, "draws from a sequence");
    }
    if flags.has(Flags::WRITE_VERB) {
        verdict = verdict.at_least(Intent::Write, "a verb that writes");
    }
    if flags.has(Flags::UNKNOWN_FUNCTION) {
        let name = String::from_utf8_lossy(facts.function.unwrap_or_default());
        verdict = verdict.at_least(Intent::Write, format!("function {name} may be a stored one"));
    }
    verdict
}

/// `START TRANSACTION` with its list of characteristics.
fn start_transaction(mut rest: Cursor<'_>) -> Verdict {
    rest.take();
    rest.take();
    let mut verdict = Verdict::new(Intent::Transaction, "keyword START TRANSACTION");
    loop {
        let known = if rest.eat("WITH") {
            rest.eat("CONSISTENT") && rest.eat("SNAPSHOT")
        } else if rest.eat("READ") {
            if rest.eat("WRITE") {
                verdict = verdict.refused_on_slave(protected::READ_WRITE);
                true
            } else {
                rest.eat("ONLY")
            }
        } else {
            rest.at_end()
        };
        if !known {
            return verdict.at_least(Intent::Unknown, "START TRANSACTION with more than is known");
        }
        if rest.at_end() {
            return verdict;
        }
        if !rest.eat_kind(Kind::Comma) {
            return verdict.at_least(Intent::Unknown, "START TRANSACTION with more than is known");
        }
    }
}

/// BEGIN, COMMIT, ROLLBACK, SAVEPOINT and RELEASE SAVEPOINT, in full: behind a BEGIN a block may stand.
fn transaction(keyword: &str, mut rest: Cursor<'_>) -> Verdict {
    let known = match keyword {
        "SAVEPOINT" => rest.eat_name().is_some(),
        "RELEASE" => rest.eat("SAVEPOINT") && rest.eat_name().is_some(),
        "BEGIN" => {
            rest.eat("WORK");
            true
        }
        _ => {
            rest.eat("WORK");
            if keyword == "ROLLBACK" && rest.eat("TO") {
                rest.eat("SAVEPOINT");
                rest.eat_name().is_some()
            } else {
                let chain = !rest.eat("AND") || {
                    rest.eat("NO");
                    rest.eat("CHAIN")
                };
                let no = rest.eat("NO");
                chain && (rest.eat("RELEASE") || !no)
            }
        }
    };
    if known && rest.at_end() {
        Verdict::new(Intent::Transaction, format!("keyword {keyword}"))
    } else {
        Verdict::new(Intent::Unknown, format!("{keyword} with more than is known"))
    }
}

/// ANALYZE of a statement runs it; ANALYZE TABLE writes statistics, to the binlog too.
fn analyze(rest: Cursor<'_>) -> Verdict {
    let runs = rest.kind() == Kind::Open || ["SELECT", "WITH", "VALUES", "FORMAT"].iter().any(|word| rest.is(word));
    if runs {
        return Verdict::new(Intent::Read, "keyword ANALYZE");
    }
    Verdict::new(Intent::Write, "keyword ANALYZE")
        .refused_on_slave("ANALYZE TABLE writes statistics and goes to the binlog; run it on the master")
}

fn reset(rest: Cursor<'_>) -> Verdict {
    let verdict = Verdict::new(Intent::Write, "keyword RESET").refused_on_slave(OF_THE_SERVER);
    // It takes a list: RESET QUERY CACHE, MASTER.
    if (1..rest.len()).any(|ahead| rest.is_at(ahead, "MASTER") || rest.is_at(ahead, "BINARY")) {
        return verdict.refused_everywhere(
            "it throws the binlog away, and with it changes that slaves may still need; take the slaves off first and \
             run it on the server itself",
        );
    }
    verdict
}

/// The body of a stored program is not looked through, but neither it nor a text in it that it runs may name what hides
/// writes from replication. What it puts together from pieces at run time, nobody sees beforehand.
fn compound(statement: Cursor<'_>, rule: impl Into<std::borrow::Cow<'static, str>>, facts: Facts<'_>) -> Verdict {
    let verdict = Verdict::new(Intent::Write, rule);
    let named = statement.names().find_map(|(_, name)| protected::hides_writes_in_program(&name?));
    let runs_texts = facts.flags.has(Flags::LITERAL_DECIDES);
    match named.or_else(|| if runs_texts { hides_writes_in_texts(statement, facts) } else { None }) {
        Some(reason) => verdict.refused_everywhere(reason),
        None => verdict,
    }
}

/// Why a stored program is refused for one of the strings in it, if it is.
fn hides_writes_in_texts(mut rest: Cursor<'_>, facts: Facts<'_>) -> Option<String> {
    let mut is_run = false;
    while let Some((token, bytes)) = rest.take() {
        if !is_string(token.kind, bytes) {
            is_run = bytes.eq_ignore_ascii_case(b"IMMEDIATE") || bytes.eq_ignore_ascii_case(b"FROM");
            continue;
        }
        let escapes = !facts.mode.no_backslash_escapes;
        let mut text = unescape(bytes, escapes);
        // Strings in a row are one.
        while rest.kind() == Kind::Text
            && let Some((_, more)) = rest.take()
        {
            text.extend(unescape(more, escapes));
        }
        let refusal = if is_run { (facts.inner)(&text, facts.mode).refusal } else { None };
        let refused = refusal.filter(|refusal| refusal.on == RefusedOn::EveryNode);
        let reason = refused.map(|refusal| refusal.reason.into_owned());
        if let Some(reason) = reason.or_else(|| protected::hides_writes_in_text(&text)) {
            return Some(reason);
        }
        is_run = false;
    }
    None
}

/// Not x'…': there the text is not what is written.
fn is_string(kind: Kind, bytes: &[u8]) -> bool {
    kind == Kind::Text && matches!(bytes[0], b'\'' | b'"')
}

/// CREATE and ALTER of stored programs.
fn program(statement: Cursor<'_>, verdict: Verdict, facts: Facts<'_>) -> Verdict {
    if !is_stored_program(statement) {
        return verdict;
    }
    let rule = verdict.rule.clone();
    compound(statement, rule, facts)
}

fn is_stored_program(statement: Cursor<'_>) -> bool {
    const PROGRAMS: [&str; 5] = ["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"];
    /// `CREATE OR REPLACE DEFINER = 'a'@'b' AGGREGATE FUNCTION`
    const FURTHEST: usize = 12;
    (statement.is("CREATE") || statement.is("ALTER"))
        && (1..FURTHEST).any(|ahead| PROGRAMS.iter().any(|program| statement.is_at(ahead, program)))
}

/// `PREPARE s FROM 'text'`: the class of the text.
fn prepare(mut rest: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let name = rest.eat_name().filter(|_| rest.eat("FROM"));
    match (name, inner_text(rest, facts)) {
        (Some(name), Some(inner)) => {
            let verdict = (facts.inner)(&inner, facts.mode).at_least(Intent::SessionState, "keyword PREPARE");
            Verdict { named: Some(Named::Prepares(folded(&name))), ..verdict }
        }
        _ => Verdict::new(
            Intent::Unknown,
            "PREPARE of a text that is not in the statement, or that the server may read differently",
        ),
    }
}

/// `EXECUTE IMMEDIATE 'text'`: the class of the text. `EXECUTE s` may be anything.
fn execute(mut rest: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    if !rest.eat("IMMEDIATE") {
        let verdict = Verdict::new(Intent::Unknown, "EXECUTE of a statement that was prepared as text");
        let name = rest.eat_name().filter(|_| rest.at_end() || rest.is("USING"));
        // What follows USING may be more than user variables.
        let plain =
            !facts.flags.has(Flags::UNKNOWN_FUNCTION | Flags::SEQUENCE | Flags::WRITE_VERB | Flags::LOCK_FUNCTION);
        return Verdict { named: name.filter(|_| plain).map(|name| Named::Executes(folded(&name))), ..verdict };
    }
    match inner_text(rest, facts) {
        Some(inner) => (facts.inner)(&inner, facts.mode),
        None => Verdict::new(
            Intent::Unknown,
            "EXECUTE IMMEDIATE of a text that is not in the statement, or that the server may read differently",
        ),
    }
}

/// A statement's name: the server compares it without regard to case.
fn folded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// The SQL in a string, if the string is all there is (`USING` aside) and the server runs these very bytes.
///
/// It converts the text first, MariaDB even to `collation_connection` and back. Letters that the other character set
/// lacks become `?`, those of some (armscii8) punctuation; and swe7 has letters in the place of ASCII's brackets, quotes
/// and bars.
fn inner_text(mut rest: Cursor<'_>, facts: Facts<'_>) -> Option<Vec<u8>> {
    let (token, bytes) = rest.take()?;
    let is_all = rest.at_end() || rest.is("USING");
    let text = (is_string(token.kind, bytes) && is_all).then(|| unescape(bytes, !facts.mode.no_backslash_escapes))?;
    text.iter().all(|byte| byte.is_ascii() && !b"@[\\]^`{|}~".contains(byte)).then_some(text)
}

/// A string's content. Source: MySQL manual, "String Literals".
fn unescape(literal: &[u8], escapes: bool) -> Vec<u8> {
    let quote = literal[0];
    let inner = literal[1..].strip_suffix(&[quote]).unwrap_or(&literal[1..]);
    let mut text = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' if escapes => match rest.next() {
                Some(b'0') => text.push(0),
                Some(b'b') => text.push(0x08),
                Some(b'n') => text.push(b'\n'),
                Some(b'r') => text.push(b'\r'),
                Some(b't') => text.push(b'\t'),
                Some(b'Z') => text.push(0x1a),
                Some(&wildcard @ (b'%' | b'_')) => text.extend_from_slice(&[b'\\', wildcard]),
                Some(&other) => text.push(other),
                None => {}
            },
            _ if byte == quote => {
                rest.next();
                text.push(quote);
            }
            _ => text.push(byte),
        }
    }
    text
}

/// Whether a statement that writes names the schema `towline`, in front of a dot or as a schema itself.
fn writes_own_schema(statement: Cursor<'_>) -> bool {
    // CREATE OR REPLACE DATABASE
    let of_schema = (1..4).any(|ahead| statement.is_at(ahead, "DATABASE") || statement.is_at(ahead, "SCHEMA"));
    let mut before = Kind::End;
    let mut names = statement.names().peekable();
    while let Some((kind, name)) = names.next() {
        let own = name.is_some_and(|name| is_own_schema(&name)) && before != Kind::Dot && before != Kind::At;
        let qualifies = names.peek().is_some_and(|(next, _)| *next == Kind::Dot);
        if own && (qualifies || of_schema) {
            return true;
        }
        before = kind;
    }
    false
}
