//! What a Query event is: a closed list.

use std::borrow::Cow;

use super::{
    context::Invoker,
    tokens::{Token, Tokens},
};

/// The schema that is each node's own and never travels.
const OWN_SCHEMA: &[u8] = b"towline";
const SYSTEM_SCHEMA: &[u8] = b"mysql";
/// What an error shows of a statement at most, in bytes.
const EXCERPT: usize = 200;

/// What a logged statement is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement<'a> {
    /// `BEGIN`
    Begin,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
    /// `SAVEPOINT x`
    Savepoint(Cow<'a, [u8]>),
    /// `ROLLBACK TO x`
    RollbackTo(Cow<'a, [u8]>),
    /// `RELEASE SAVEPOINT x`
    ReleaseSavepoint,
    /// `XA START …`
    XaStart,
    /// `XA END …`
    XaEnd,
    /// Any other `XA …`: [`Completion`](super::xa::Completion) reads it
    Xa,
    /// `ANALYZE TABLE` and the like: changes no data.
    Maintenance,
    /// A temporary table made or changed: only sessions that do not log rows log this.
    Temporary,
    /// A temporary table dropped; where rows are logged it never was anywhere else.
    DropTemporary,
    /// Changes only what each server has of its own: the schema `towline`, logs and whatever is made in `mysql`.
    OfServer,
    /// Changes what each server has of its own together with what it has not.
    OfServerAndOthers,
    /// Changes by DDL what the schema `mysql` holds for all servers.
    System,
    /// Changes schemas, tables, routines and so on.
    Schema,
    /// Drops several tables or the like at once.
    DropSeveral,
    /// Changes accounts or rights, or may hold a password.
    Account,
    /// Changes or reads data.
    Data,
    /// None of these.
    Unknown,
}

/// Tells what `sql` is, run under `sql_mode` with the default schema `schema`.
pub(super) fn classify<'a>(sql: &'a [u8], sql_mode: u64, schema: &[u8]) -> Statement<'a> {
    let mut tokens = Tokens::new(sql, sql_mode);
    loop {
        let Some(verb) = tokens.next() else { return Statement::Unknown };
        if !(verb.is("SET") && tokens.accept("STATEMENT")) {
            return by_verb(&verb, tokens, schema);
        }
        // MariaDB's `SET STATEMENT a = 1 FOR …`; FOR is reserved, so no unquoted name is taken for it.
        while !tokens.next().is_none_or(|token| token.is("FOR")) {}
    }
}

/// The beginning of a statement for an error, which anybody may read: without values and comments, and not at all if it
/// may hold a password.
pub(super) fn excerpt(sql: &[u8], sql_mode: u64) -> String {
    let secret = |token: Token<'_>| {
        token.is_any(&["IDENTIFIED", "PASSWORD", "USER", "ROLE", "SERVER", "GRANT", "REVOKE", "MASTER", "SOURCE"])
    };
    if Tokens::new(sql, sql_mode).any(secret) {
        return "(not shown, since it may hold a password)".into();
    }
    let (mut text, mut end) = (String::new(), 0);
    let mut tokens = Tokens::new(sql, sql_mode);
    while let Some((place, token)) = tokens.next_at() {
        if place.start > end && end > 0 {
            text.push(' ');
        }
        end = place.end;
        match token {
            Token::Text => text.push('?'),
            Token::Word([first, ..]) if first.is_ascii_digit() => text.push('?'),
            _ => text.push_str(&String::from_utf8_lossy(&sql[place])),
        }
        if let Some((cut, _)) = text.char_indices().nth(EXCERPT) {
            text.truncate(cut);
            text.push('…');
            break;
        }
    }
    text
}

/// A statement on accounts with `CURRENT_USER` replaced by the account that ran it, and `CURRENT_ROLE` by its role: the
/// account that applies it is another. None if it names whoever runs it and the binlog does not say who that was.
pub(super) fn with_invoker<'a>(sql: &'a [u8], sql_mode: u64, invoker: Option<&Invoker<'_>>) -> Option<Cow<'a, [u8]>> {
    let mut replaced = Vec::new();
    let mut copied = 0;
    let mut tokens = Tokens::new(sql, sql_mode);
    while let Some((mut place, token)) = tokens.next_at() {
        let is_role = token.is("CURRENT_ROLE");
        if !is_role && !token.is("CURRENT_USER") {
            continue;
        }
        let invoker = invoker.filter(|invoker| invoker.host.is_empty() == is_role)?;
        let mut after = tokens.clone();
        if after.next() == Some(Token::Symbol(b'(')) {
            place.end = after.next_at().filter(|(_, token)| *token == Token::Symbol(b')'))?.0.end;
            tokens = after;
        }
        replaced.extend_from_slice(&sql[copied..place.start]);
        let user = quote(invoker.user);
        let name = if is_role { user } else { format!("{user}@{}", quote(invoker.host)) };
        replaced.extend_from_slice(name.as_bytes());
        copied = place.end;
    }
    if copied == 0 {
        return Some(Cow::Borrowed(sql));
    }
    replaced.extend_from_slice(&sql[copied..]);
    Some(Cow::Owned(replaced))
}

/// Whether a statement on accounts names one that no snapshot holds, since each server has it of its own: `node` is that
/// of the master's node. MySQL does all of a statement or nothing, so there it must name no other.
pub(super) fn names_own_account(sql: &[u8], sql_mode: u64, node: &str, is_mariadb: bool) -> bool {
    let is_own = |name: &[u8]| {
        name == node.as_bytes()
            || matches!(name, b"root" | b"mariadb.sys" | b"mysql" | b"")
            || name.starts_with(b"mysql.")
    };
    let (mut names_own, mut hosts, mut before) = (false, 0, None::<Token<'_>>);
    let mut tokens = Tokens::new(sql, sql_mode);
    while let Some((place, token)) = tokens.next_at() {
        // What makes a role names who may grant it, and must make it.
        if token.is("ROLE") && before.as_ref().is_some_and(|before| before.is_any(&["CREATE", "REPLACE"])) {
            return false;
        }
        let is_account = tokens.peek() == Some(Token::Symbol(b'@'))
            || before.as_ref().is_some_and(|before| {
                before.is_any(&["USER", "TO", "FROM", "FOR", "EXISTS"]) || *before == Token::Symbol(b',')
            });
        names_own |= is_account
            && match &token {
                Token::Word(word) => is_own(word),
                Token::Name(name) => is_own(name),
                Token::Text => is_own(&sql[place.start + 1..place.end - 1]),
                Token::Symbol(_) => false,
            };
        hosts += u32::from(token == Token::Symbol(b'@'));
        before = Some(token);
    }
    names_own && (is_mariadb || hosts == 1)
}

/// A statement on an event that names no definer, or CURRENT_USER, with the account that ran it as its definer: it would
/// become that of whoever applies it. Any other statement as it is; the servers name the definers of all other objects themselves.
pub(super) fn with_definer<'a>(sql: &'a [u8], sql_mode: u64, invoker: Option<&Invoker<'_>>) -> Cow<'a, [u8]> {
    let mut tokens = Tokens::new(sql, sql_mode);
    let Some(invoker) = invoker.filter(|invoker| !invoker.host.is_empty()) else { return Cow::Borrowed(sql) };
    if !tokens.next().is_some_and(|verb| verb.is_any(&["CREATE", "ALTER"])) {
        return Cow::Borrowed(sql);
    }
    if tokens.accept("OR") {
        tokens.accept("REPLACE");
    }
    let account = format!("{}@{}", quote(invoker.user), quote(invoker.host));
    match tokens.next_at() {
        Some((place, object)) if object.is("EVENT") => {
            let (before, after) = sql.split_at(place.start);
            Cow::Owned([before, b"DEFINER=", account.as_bytes(), b" ", after].concat())
        }
        Some((_, clause)) if clause.is("DEFINER") && tokens.next() == Some(Token::Symbol(b'=')) => {
            let Some((place, _)) = tokens.next_at().filter(|(_, definer)| definer.is("CURRENT_USER")) else {
                return Cow::Borrowed(sql);
            };
            let mut end = place.end;
            if tokens.next() == Some(Token::Symbol(b'(')) {
                end = tokens.next_at().map_or(end, |(closing, _)| closing.end);
            }
            Cow::Owned([&sql[..place.start], account.as_bytes(), &sql[end..]].concat())
        }
        _ => Cow::Borrowed(sql),
    }
}

fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn by_verb<'a>(verb: &Token<'a>, mut tokens: Tokens<'a>, schema: &[u8]) -> Statement<'a> {
    const DATA: [&str; 15] = [
        "INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "CALL", "DO", "SELECT", "WITH", "HANDLER", "VALUES", "TABLE",
        "EXECUTE", "EXPLAIN", "IMPORT",
    ];
    let Token::Word(word) = verb else {
        return if *verb == Token::Symbol(b'(') { Statement::Data } else { Statement::Unknown };
    };
    match word.to_ascii_uppercase().as_slice() {
        b"BEGIN" => alone(tokens, Statement::Begin),
        b"START" if tokens.accept("TRANSACTION") => alone(tokens, Statement::Begin),
        b"COMMIT" => alone(tokens, Statement::Commit),
        b"ROLLBACK" => rollback(tokens),
        b"SAVEPOINT" => name(&mut tokens).map_or(Statement::Unknown, Statement::Savepoint),
        b"RELEASE" => Statement::ReleaseSavepoint,
        b"XA" if tokens.accept("START") => Statement::XaStart,
        b"XA" if tokens.accept("END") => Statement::XaEnd,
        b"XA" => Statement::Xa,
        b"ANALYZE" | b"OPTIMIZE" | b"REPAIR" | b"CHECK" => maintenance(tokens),
        b"FLUSH" => Statement::Maintenance,
        b"GRANT" | b"REVOKE" => Statement::Account,
        b"SET" if tokens.accept("PASSWORD") || tokens.accept("DEFAULT") => Statement::Account,
        b"CREATE" | b"ALTER" | b"DROP" | b"RENAME" | b"TRUNCATE" => definition(verb, tokens, schema),
        _ if verb.is_any(&DATA) => Statement::Data,
        _ => Statement::Unknown,
    }
}

fn alone<'a>(mut tokens: Tokens<'a>, statement: Statement<'a>) -> Statement<'a> {
    tokens.accept("WORK");
    if tokens.next().is_none() { statement } else { Statement::Unknown }
}

fn rollback(mut tokens: Tokens<'_>) -> Statement<'_> {
    tokens.accept("WORK");
    if !tokens.accept("TO") {
        return alone(tokens, Statement::Rollback);
    }
    tokens.accept("SAVEPOINT");
    name(&mut tokens).map_or(Statement::Unknown, Statement::RollbackTo)
}

fn maintenance(mut tokens: Tokens<'_>) -> Statement<'_> {
    let _ = tokens.accept("LOCAL") || tokens.accept("NO_WRITE_TO_BINLOG");
    // MariaDB's `ANALYZE UPDATE …` runs the update.
    match tokens.next() {
        Some(token) if token.is_any(&["TABLE", "TABLES", "VIEW"]) => Statement::Maintenance,
        _ => Statement::Data,
    }
}

/// `CREATE`, `ALTER`, `DROP`, `RENAME`, `TRUNCATE`.
fn definition<'a>(verb: &Token<'a>, mut tokens: Tokens<'a>, schema: &[u8]) -> Statement<'a> {
    let mut temporary = false;
    let object = if verb.is("TRUNCATE") {
        tokens.accept("TABLE");
        Token::Word(b"TABLE")
    } else {
        loop {
            match tokens.next() {
                None => return Statement::Unknown,
                Some(token) if token.is("TEMPORARY") => temporary = true,
                Some(token) if token.is("DEFINER") => skip_definer(&mut tokens),
                Some(token) if token.is_any(&OBJECTS) => break token,
                Some(_) => {}
            }
        }
    };
    if object.is_any(&["USER", "ROLE", "SERVER"]) {
        return Statement::Account;
    }
    if temporary {
        return if verb.is("DROP") { Statement::DropTemporary } else { Statement::Temporary };
    }
    if object.is_any(&["TABLESPACE", "LOGFILE", "REFERENCE", "LIBRARY"]) {
        return Statement::Schema;
    }
    let Some(concerned) = concerned(verb, &object, tokens, schema) else { return Statement::Unknown };
    let is_table = object.is_any(&["TABLE", "TABLES"]);
    let is_own = |(schema, name): &&Object<'_>| match &**schema {
        OWN_SCHEMA => true,
        SYSTEM_SCHEMA => is_table && !is_for_all_servers(name),
        _ => false,
    };
    match concerned.iter().filter(is_own).count() {
        0 if concerned.iter().any(|(schema, _)| **schema == *SYSTEM_SCHEMA) => Statement::System,
        0 if verb.is("DROP") && concerned.len() > 1 => Statement::DropSeveral,
        0 => Statement::Schema,
        n if n == concerned.len() => Statement::OfServer,
        _ => Statement::OfServerAndOthers,
    }
}

/// Whether a table of the schema `mysql` says something that must be equal everywhere: accounts, time zones, routines.
/// Others are logs, statistics, and what is made of them, as when logs are rotated.
fn is_for_all_servers(table: &[u8]) -> bool {
    const TABLES: [&str; 23] = [
        "columns_priv",
        "component",
        "db",
        "default_roles",
        "event",
        "func",
        "global_grants",
        "global_priv",
        "password_history",
        "plugin",
        "proc",
        "procs_priv",
        "proxies_priv",
        "role_edges",
        "roles_mapping",
        "servers",
        "tables_priv",
        "time_zone",
        "time_zone_leap_second",
        "time_zone_name",
        "time_zone_transition",
        "time_zone_transition_type",
        "user",
    ];
    TABLES.iter().any(|known| table.eq_ignore_ascii_case(known.as_bytes()))
}

const OBJECTS: [&str; 19] = [
    "TABLE",
    "TABLES",
    "VIEW",
    "SEQUENCE",
    "INDEX",
    "DATABASE",
    "SCHEMA",
    "TRIGGER",
    "PROCEDURE",
    "FUNCTION",
    "PACKAGE",
    "EVENT",
    "USER",
    "ROLE",
    "SERVER",
    "TABLESPACE",
    "LOGFILE",
    "REFERENCE",
    "LIBRARY",
];

fn skip_definer(tokens: &mut Tokens<'_>) {
    if tokens.peek() != Some(Token::Symbol(b'=')) {
        return; // SQL SECURITY DEFINER
    }
    tokens.next();
    tokens.next(); // the user
    if tokens.peek() == Some(Token::Symbol(b'@')) {
        tokens.next();
        tokens.next(); // the host
    }
}

/// A schema, and what it holds by this name.
type Object<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// The objects that a statement names, each with its schema before it; none if it can't be told.
fn concerned<'a>(
    verb: &Token<'_>,
    object: &Token<'_>,
    mut tokens: Tokens<'a>,
    default: &[u8],
) -> Option<Vec<Object<'a>>> {
    if object.is("INDEX") {
        while !tokens.next()?.is("ON") {}
    }
    if object.is("PACKAGE") {
        tokens.accept("BODY");
    }
    if tokens.accept("IF") {
        tokens.accept("NOT");
        tokens.accept("EXISTS");
    }
    if object.is_any(&["DATABASE", "SCHEMA"]) {
        // `ALTER DATABASE` may leave the name out.
        let option = |token: &Token<'_>| {
            token.is_any(&["CHARACTER", "CHARSET", "COLLATE", "DEFAULT", "COMMENT", "ENCRYPTION", "READ"])
        };
        let nameless = verb.is("ALTER") && tokens.peek().as_ref().is_some_and(option);
        let schema = if nameless { Cow::Owned(default.to_vec()) } else { name(&mut tokens)? };
        return Some(vec![(schema, Cow::default())]);
    }
    let several = verb.is_any(&["DROP", "RENAME"]);
    let mut objects = Vec::new();
    loop {
        let first = name(&mut tokens)?;
        objects.push(if tokens.peek() == Some(Token::Symbol(b'.')) {
            tokens.next();
            (first, name(&mut tokens)?)
        } else {
            (Cow::Owned(default.to_vec()), first)
        });
        if !several {
            return Some(objects);
        }
        loop {
            match tokens.next() {
                None => return Some(objects),
                Some(token) if token.is("TO") || token == Token::Symbol(b',') => break,
                Some(_) => {} // RESTRICT, WAIT 5 and the like
            }
        }
    }
}

fn name<'a>(tokens: &mut Tokens<'a>) -> Option<Cow<'a, [u8]>> {
    match tokens.next()? {
        Token::Word(word) => Some(Cow::Borrowed(word)),
        Token::Name(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(sql: &str) -> Statement<'_> {
        classify(sql.as_bytes(), 0, b"shop")
    }

    #[test]
    fn an_event_belongs_to_whoever_made_it() {
        let invoker = Invoker { user: "a`b", host: "%" };
        let cases = [
            ("ALTER EVENT e DISABLE", "ALTER DEFINER=`a``b`@`%` EVENT e DISABLE"),
            ("CREATE OR REPLACE /* x */ EVENT e", "CREATE OR REPLACE /* x */ DEFINER=`a``b`@`%` EVENT e"),
            ("CREATE DEFINER=c@d EVENT e", "CREATE DEFINER=c@d EVENT e"),
            ("ALTER TABLE event ADD a INT", "ALTER TABLE event ADD a INT"),
            ("DROP EVENT e", "DROP EVENT e"),
        ];
        for (sql, expected) in cases {
            assert_eq!(with_definer(sql.as_bytes(), 0, Some(&invoker)), expected.as_bytes());
            assert_eq!(with_definer(sql.as_bytes(), 0, None), sql.as_bytes());
        }
    }

    #[test]
    fn the_list_is_closed() {
        use Statement::*;
        let cases = [
            ("BEGIN", Begin),
            ("COMMIT", Commit),
            ("ROLLBACK", Rollback),
            ("SAVEPOINT `a b`", Savepoint(Cow::Borrowed(b"a b"))),
            ("ROLLBACK TO `a b`", RollbackTo(Cow::Borrowed(b"a b"))),
            ("BEGIN NOT ATOMIC DELETE FROM t; END", Unknown),
            ("XA START 'x'", XaStart),
            ("XA PREPARE 'x'", Xa),
            ("analyze local table t", Maintenance),
            ("ANALYZE UPDATE t SET a = 1", Data),
            ("FLUSH TABLES", Maintenance),
            ("/* DROP */ insert into t values (1)", Data),
            ("(SELECT 1)", Data),
            ("CREATE TEMPORARY TABLE t (a int)", Temporary),
            ("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `t`", DropTemporary),
            ("SET STATEMENT max_statement_time = 10 FOR CREATE TABLE t (a int)", Schema),
            ("SET STATEMENT max_statement_time = 10 FOR DELETE FROM t", Data),
            ("SET PASSWORD FOR 'u'@'%' = '*74'", Account),
            ("SET GLOBAL x = 1", Unknown),
            ("CREATE OR REPLACE USER u", Account),
            ("grant select on towline.* to u", Account),
            ("CREATE DEFINER=`user`@`index` SQL SECURITY DEFINER VIEW `v` AS select 1", Schema),
            ("CREATE UNIQUE INDEX i ON t (a)", Schema),
            ("DROP TABLE `a`,`b` /* generated by server */", DropSeveral),
            ("RENAME TABLE a TO b, c TO d", Schema),
            ("INSTALL SONAME 'x'", Unknown),
            ("", Unknown),
        ];
        for (sql, expected) in cases {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }

    #[test]
    fn the_own_schema_never_travels_and_others_always_do() {
        use Statement::*;
        let cases = [
            ("CREATE DATABASE IF NOT EXISTS towline", OfServer),
            ("DROP SCHEMA `towline`", OfServer),
            ("ALTER TABLE towline.position ADD x int", OfServer),
            ("DROP TABLE IF EXISTS towline.a, towline.b", OfServer),
            ("DROP TABLE towline.a, b", OfServerAndOthers),
            ("RENAME TABLE a TO towline.b", OfServerAndOthers),
            ("CREATE INDEX i ON towline.position (seq)", OfServer),
            ("CREATE TABLE towline (a int)", Schema),
            ("CREATE TABLE t AS SELECT * FROM towline.slaves", Schema),
            ("TRUNCATE towline.slaves", OfServer),
            ("TRUNCATE TABLE mysql.time_zone", System),
            ("CREATE VIEW mysql.v AS SELECT 1", System),
            ("TRUNCATE mysql.slow_log", OfServer),
            ("CREATE TABLE IF NOT EXISTS `mysql`.`next` LIKE mysql.general_log", OfServer),
            ("RENAME TABLE mysql.slow_log TO mysql.old, mysql.next TO mysql.slow_log", OfServer),
            ("RENAME TABLE mysql.old TO logs.old", OfServerAndOthers),
            ("RENAME TABLE mysql.user TO mysql.user2", OfServerAndOthers),
            ("ALTER DATABASE CHARACTER SET utf8mb4", Schema),
        ];
        for (sql, expected) in cases {
            assert_eq!(kind(sql), expected, "{sql}");
        }
        assert_eq!(classify(b"DROP TABLE position", 0, b"towline"), OfServer);
        assert_eq!(classify(b"DROP TABLE shop.t", 0, b"towline"), Schema);
        assert_eq!(classify(b"ALTER DATABASE COLLATE utf8mb4_bin", 0, b"towline"), OfServer);
        assert_eq!(classify(b"CREATE TABLE \"towline\".x (a int)", 1 << 2, b"shop"), OfServer);
    }

    #[test]
    fn passwords_are_not_shown() {
        for sql in
            ["CREATE USER u IDENTIFIED BY 'secret'", "SET PASSWORD = 'secret'", "/* x */ ALTER /* y */ USER u 'secret'"]
        {
            assert!(!excerpt(sql.as_bytes(), 0).contains("secret"), "{sql}");
        }
        let sql = b"INSERT INTO t1 /* secret */ VALUES (17, 'secret', x'1f') -- secret";
        assert_eq!(excerpt(sql, 0), "INSERT INTO t1 VALUES (?, ?, x?)");
        assert!(excerpt(&[b'x'; 1000], 0).len() < 210);
    }

    #[test]
    fn who_runs_a_statement_on_events_is_named() {
        let invoker = Invoker { user: "app", host: "%" };
        let text = |sql: Cow<'_, [u8]>| String::from_utf8(sql.into_owned()).unwrap();
        for (sql, expected) in [
            ("CREATE EVENT e DO DO 1", "CREATE DEFINER=`app`@`%` EVENT e DO DO 1"),
            ("ALTER DEFINER = current_user ( ) EVENT e ENABLE", "ALTER DEFINER = `app`@`%` EVENT e ENABLE"),
            ("ALTER DEFINER=CURRENT_USER EVENT e ENABLE", "ALTER DEFINER=`app`@`%` EVENT e ENABLE"),
            ("ALTER DEFINER=root@localhost EVENT e ENABLE", "ALTER DEFINER=root@localhost EVENT e ENABLE"),
            ("ALTER TABLE t FORCE", "ALTER TABLE t FORCE"),
        ] {
            assert_eq!(text(with_definer(sql.as_bytes(), 0, Some(&invoker))), expected);
        }
    }

    #[test]
    fn accounts_of_the_server_are_known() {
        let cases = [
            ("ALTER USER 'root'@'localhost' IDENTIFIED BY 'x'", true),
            ("SET PASSWORD FOR `node`@`%` = 'x'", true),
            ("GRANT SELECT ON *.* TO node", true),
            ("DROP USER IF EXISTS a, node@localhost", true),
            ("ALTER USER teller@'%' IDENTIFIED BY 'root'", false),
            ("GRANT SELECT ON root.* TO teller", false),
            ("CREATE USER noder", false),
            ("CREATE ROLE r WITH ADMIN root@localhost", false),
        ];
        for (sql, expected) in cases {
            assert_eq!(names_own_account(sql.as_bytes(), 0, "node", true), expected, "{sql}");
        }
        assert!(!names_own_account(b"DROP USER 'a'@'%', 'node'@'%'", 0, "node", false));
        assert!(names_own_account(b"DROP USER 'node'@'%'", 0, "node", false));
    }

    #[test]
    fn current_user_becomes_the_account_that_ran_it() {
        let invoker = Invoker { user: "o`k", host: "%" };
        let replaced = |sql: &'static str| {
            with_invoker(sql.as_bytes(), 0, Some(&invoker)).map(|sql| String::from_utf8(sql.into_owned()).unwrap())
        };
        assert_eq!(replaced("GRANT r TO CURRENT_USER ( ), current_user").unwrap(), "GRANT r TO `o``k`@`%`, `o``k`@`%`");
        assert_eq!(replaced("ALTER USER u COMMENT 'current_user'").unwrap(), "ALTER USER u COMMENT 'current_user'");
        assert_eq!(replaced("GRANT r TO CURRENT_ROLE"), None);
        let role = Invoker { user: "r", host: "" };
        let with_role = with_invoker(b"CREATE ROLE s WITH ADMIN current_role()", 0, Some(&role));
        assert_eq!(with_role.unwrap(), &b"CREATE ROLE s WITH ADMIN `r`"[..]);
        assert_eq!(with_invoker(b"GRANT CURRENT_ROLE TO CURRENT_USER", 0, Some(&role)), None);
        assert_eq!(with_invoker(b"DROP USER current_user", 0, None), None);
    }
}
