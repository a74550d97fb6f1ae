//! The form of `tests/matrix/*.sql`:
//!
//! ```text
//! -- row: its name                 a row begins; [mariadb] or [mysql] behind the name: for this family only
//! CREATE TABLE t (a INT)           each line that begins at the margin begins a statement,
//!   ENGINE = InnoDB                which goes on with the lines that are indented
//! 2> INSERT INTO t VALUES (1)      in the row's second session
//! ! INSERT INTO nowhere VALUES (1) must fail
//! ? SELECT * FROM t                is asked of every server at the end: the answers must be equal
//! ```
//!
//! `{schema}` is the row's own schema, which is the default one; `{file}` a file that does not exist yet; `{for}` and
//! `{password}` what the two families spell differently.

use std::path::Path;

/// The two families of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    MariaDb,
    MySql,
}

/// One row of the matrix.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) schema: String,
    pub(crate) steps: Vec<Step>,
    /// What is asked of every server at the end.
    pub(crate) questions: Vec<String>,
}

/// One statement.
#[derive(Debug)]
pub(crate) struct Step {
    /// 0 or 1.
    pub(crate) session: usize,
    pub(crate) fails: bool,
    pub(crate) sql: String,
}

/// All rows for a family; `files` is a folder that its servers can write to.
pub(crate) fn rows(family: Family, files: &Path) -> Vec<Row> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/matrix");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut rows: Vec<Row> = Vec::new();
    let mut wanted = false;
    for path in paths {
        for statement in statements(&std::fs::read_to_string(path).unwrap()) {
            if let Some(title) = statement.strip_prefix("-- row: ") {
                let (name, only) = title.split_once(" [").unwrap_or((title, ""));
                wanted = match only {
                    "" => true,
                    "mariadb]" => family == Family::MariaDb,
                    "mysql]" => family == Family::MySql,
                    other => panic!("{other} is no family"),
                };
                if wanted {
                    let schema = format!("m {}", rows.len());
                    rows.push(Row { name: name.to_owned(), schema, steps: Vec::new(), questions: Vec::new() });
                }
            } else if wanted && !statement.starts_with("-- ") {
                let row = rows.last_mut().expect("a row begins with its name");
                let file = files.join(row.schema.replace(' ', "-"));
                row.add(&spelled(&statement, family, &row.schema, &file));
            }
        }
    }
    rows
}

impl Row {
    fn add(&mut self, statement: &str) {
        if let Some(question) = statement.strip_prefix("? ") {
            self.questions.push(question.to_owned());
            return;
        }
        let (session, rest) = statement.strip_prefix("2> ").map_or((0, statement), |rest| (1, rest));
        let (fails, sql) = rest.strip_prefix("! ").map_or((false, rest), |sql| (true, sql));
        self.steps.push(Step { session, fails, sql: sql.to_owned() });
    }
}

fn spelled(statement: &str, family: Family, schema: &str, file: &Path) -> String {
    let (r#for, password) = match family {
        Family::MariaDb => ("FOR", "PASSWORD('changed')"),
        Family::MySql => ("TO", "'changed'"),
    };
    [("{schema}", schema), ("{file}", &file.to_string_lossy()), ("{for}", r#for), ("{password}", password)]
        .iter()
        .fold(statement.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Cuts a file at the lines that begin at the margin.
fn statements(text: &str) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match statements.last_mut() {
            Some(statement) if line.starts_with(' ') => {
                statement.push('\n');
                statement.push_str(line);
            }
            _ => statements.push(line.to_owned()),
        }
    }
    statements
}
