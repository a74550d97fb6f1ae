//! SET, in all its forms.

use towline_middleware::Intent;

use super::{
    cursor::Cursor,
    lexer::Kind,
    protected::{self, Variable},
    rules::{self, Facts},
    verdict::Verdict,
};

/// The verdict on what follows SET.
pub(super) fn set(mut rest: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let assigns = rest.is_assignment_at(1);
    if rest.is("STATEMENT") && !assigns {
        rest.take();
        return set_statement(rest, facts);
    }
    if rest.is("PASSWORD") || (rest.is("DEFAULT") && rest.is_at(1, "ROLE")) || (rest.is("RESOURCE") && !assigns) {
        return Verdict::new(Intent::Write, "SET of an account or of the server");
    }
    if rest.is("ROLE") && !assigns {
        return Verdict::new(Intent::SessionState, "keyword SET ROLE");
    }
    let mut verdict = Verdict::new(Intent::SessionState, "keyword SET");
    let mut scope = Scope::Session;
    loop {
        match assignment(&mut rest, &mut scope, None) {
            Some(next) => verdict = verdict.and(next),
            None => return verdict.at_least(Intent::Unknown, "SET with more than is known"),
        }
        if rest.at_end() {
            return verdict;
        }
        if !rest.eat_kind(Kind::Comma) {
            return verdict.at_least(Intent::Unknown, "SET with more than is known");
        }
    }
}

/// Whose value is set. Named once, it holds for the assignments that follow too.
///
/// Source: MySQL manual, "SET Syntax for Variable Assignment".
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Session,
    Server,
}

/// `SET STATEMENT a = b, … FOR statement` (MariaDB).
fn set_statement(mut rest: Cursor<'_>, facts: Facts<'_>) -> Verdict {
    let mut verdict = Verdict::new(Intent::Read, "keyword SET STATEMENT");
    let mut scope = Scope::Session;
    loop {
        match assignment(&mut rest, &mut scope, Some("FOR")) {
            Some(next) => verdict = verdict.and(Verdict { intent: Intent::Read, ..next }),
            None => return verdict.at_least(Intent::Unknown, "SET STATEMENT with more than is known"),
        }
        if rest.eat("FOR") {
            break;
        }
        if !rest.eat_kind(Kind::Comma) {
            return verdict.at_least(Intent::Unknown, "SET STATEMENT with more than is known");
        }
    }
    verdict.changes_lexing = false;
    if rest.is("SET") && rest.is_at(1, "STATEMENT") {
        // Nobody needs one in another, and a text could hold so many that the stack ends.
        return verdict.at_least(Intent::Unknown, "SET STATEMENT for another one");
    }
    let verdict = verdict.and(rules::statement(rest, facts));
    // A text inside of it would be read under the variables that are being set.
    if rest.is("PREPARE") || rest.is("EXECUTE") {
        return verdict.at_least(Intent::Unknown, "SET STATEMENT for a text that it changes the reading of");
    }
    verdict
}

/// One element of a list of assignments; none if it is of no known form.
fn assignment(rest: &mut Cursor<'_>, scope: &mut Scope, until: Option<&str>) -> Option<Verdict> {
    if rest.eat_kind(Kind::At) {
        if rest.eat_kind(Kind::At) {
            return system_variable(rest, scope, until);
        }
        // A user variable: `@a`, `@a.b`, `@'a'`.
        while !rest.is_assignment_at(0) {
            let part = matches!(rest.kind(), Kind::Word | Kind::Name | Kind::Quoted | Kind::Text | Kind::Dot);
            rest.take().filter(|_| part)?;
        }
        return value(rest, until).then(|| Verdict::new(Intent::SessionState, "SET of a user variable"));
    }
    let named = rest.is_assignment_at(1) || rest.kind_at(1) == Kind::Dot;
    if !named && rest.eat_any(&["GLOBAL", "PERSIST", "PERSIST_ONLY"]) {
        *scope = Scope::Server;
    } else if !named && rest.eat_any(&["SESSION", "LOCAL"]) {
        *scope = Scope::Session;
    }
    if rest.is("TRANSACTION") && !rest.is_assignment_at(1) {
        rest.take();
        return transaction(rest, *scope);
    }
    let charset = rest.eat_any(&["NAMES", "CHARSET"]) || (rest.is("CHARACTER") && rest.is_at(1, "SET"));
    if charset && !rest.is_assignment_at(0) {
        rest.skip_expression(until);
        let verdict = Verdict::new(Intent::SessionState, "SET of a character set");
        return Some(Verdict { changes_lexing: true, ..verdict });
    }
    system_variable(rest, scope, until)
}

/// `name = value`, with what may stand in front of the name.
fn system_variable(rest: &mut Cursor<'_>, scope: &mut Scope, until: Option<&str>) -> Option<Verdict> {
    if rest.kind() == Kind::Text {
        // Only where the server takes double quotes for names is this more than an error.
        let verdict = Verdict::new(Intent::Unknown, "SET of a name in string quotes");
        rest.skip_expression(until);
        return Some(
            verdict.refused_everywhere("a variable's name in string quotes can't be checked; write it plainly"),
        );
    }
    let mut name = rest.eat_name()?;
    let mut own_scope = *scope;
    while rest.eat_kind(Kind::Dot) {
        // What stands in front of the dot is a scope, or the instance of a structured variable.
        match name.to_ascii_lowercase().as_slice() {
            b"global" | b"persist" | b"persist_only" => own_scope = Scope::Server,
            b"session" | b"local" => own_scope = Scope::Session,
            _ => {}
        }
        name = rest.eat_name()?;
    }
    if !value(rest, until) {
        return None;
    }
    let verdict = variable(&name);
    Some(match own_scope {
        Scope::Session => verdict,
        Scope::Server => on_server(verdict),
    })
}

fn variable(name: &[u8]) -> Verdict {
    let shown = String::from_utf8_lossy(name);
    let verdict = Verdict::new(Intent::SessionState, format!("SET {shown}"));
    match Variable::of(name) {
        Variable::Logging => verdict.refused_everywhere(protected::logging_reason(name)),
        Variable::ReadOnly => verdict.refused_on_slave(format!(
            "client sessions on a slave are read-only, and SET {shown} could switch that off"
        )),
        Variable::Isolation => verdict.refused_on_slave(format!(
            "SET {shown} could choose SERIALIZABLE, under which reads hold up the applier; \
             use SET TRANSACTION ISOLATION LEVEL with a lower one"
        )),
        Variable::Autocommit => verdict.at_least(Intent::Transaction, "SET autocommit"),
        Variable::Lexing => Verdict { changes_lexing: true, ..verdict },
        Variable::Other => verdict,
        Variable::Doubtful => verdict
            .at_least(Intent::Unknown, "SET of a name with other letters than a variable's")
            .refused_everywhere(format!(
                "SET {shown} may mean another variable to the server; write its name with a-z, 0-9 and _ alone"
            )),
    }
}

fn on_server(verdict: Verdict) -> Verdict {
    verdict
        .at_least(Intent::Write, "SET for the whole server")
        .refused_on_slave("SET GLOBAL and SET PERSIST change the server for its applier too")
}

/// `TRANSACTION characteristic, …`: the rest of the statement.
fn transaction(rest: &mut Cursor<'_>, scope: Scope) -> Option<Verdict> {
    let mut verdict = Verdict::new(Intent::SessionState, "keyword SET TRANSACTION");
    loop {
        if rest.eat("READ") {
            if rest.eat("WRITE") {
                verdict = verdict.refused_on_slave(protected::READ_WRITE);
            } else if !rest.eat("ONLY") {
                return None;
            }
        } else if rest.eat("ISOLATION") && rest.eat("LEVEL") {
            if rest.eat("SERIALIZABLE") {
                verdict = verdict.refused_on_slave(protected::SERIALIZABLE);
            } else {
                let repeatable = rest.eat("REPEATABLE");
                let known = rest.eat("READ") && (repeatable || rest.eat_any(&["COMMITTED", "UNCOMMITTED"]));
                if !known {
                    return None;
                }
            }
        } else {
            return None;
        }
        if !rest.eat_kind(Kind::Comma) {
            break;
        }
    }
    Some(if scope == Scope::Server { on_server(verdict) } else { verdict })
}

/// Steps over `= value`; false if there is none.
fn value(rest: &mut Cursor<'_>, until: Option<&str>) -> bool {
    let assigned = rest.eat_assignment();
    let before = rest.len();
    rest.skip_expression(until);
    assigned && rest.len() < before
}
