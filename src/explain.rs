//! `towline explain` and `towline classify`: what Towline makes of SQL, without a node and without a server.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use towline_middleware::{Classifier, Explanation, RefusedOn, SqlMode};

use crate::classify::SqlClassifier;

/// The exit code of a comparison that found changed decisions.
const CHANGED: u8 = 1;

/// Which server would read the SQL.
#[derive(Debug, Args)]
struct Server {
    /// The version of the server that would read it, as `SELECT VERSION()` says it: the servers know different
    /// functions. Without it, only what holds for MariaDB and MySQL alike.
    #[arg(long, value_name = "VERSION")]
    server: Option<String>,
}

impl Server {
    fn classifier(&self) -> SqlClassifier {
        self.server.as_deref().map_or_else(SqlClassifier::new, SqlClassifier::for_server)
    }
}

/// The arguments of `towline explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The statement.
    sql: String,
    #[command(flatten)]
    server: Server,
}

/// The arguments of `towline classify`.
#[derive(Debug, Args)]
pub(crate) struct ClassifyArgs {
    /// Print only what was decided otherwise in this output of an earlier run, as `-` before and `+` now, and end with
    /// code 1 if anything was.
    #[arg(long, value_name = "FILE")]
    diff: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// Prints what is known of one statement, a line for each thing.
pub(crate) fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let Explanation { plan, functions, .. } = args.server.classifier().explain(args.sql.as_bytes(), SqlMode::default());
    let tables: Vec<String> = plan
        .tables
        .iter()
        .map(|(schema, table)| schema.as_ref().map_or(table.clone(), |schema| format!("{schema}.{table}")))
        .collect();
    let mut out = io::stdout().lock();
    for (name, value) in [
        ("digest", &*format!("{:016x}", plan.digest)),
        ("class", plan.intent.as_str()),
        ("rule", &plan.rule),
        ("refused on", refused_on(&plan)),
        ("refusal", plan.refusal.as_ref().map_or("", |refusal| &refusal.reason)),
        ("functions", &functions.join(", ")),
        ("tables", &tables.join(", ")),
    ] {
        writeln!(out, "{name:<11} {value}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads statements from the standard input and prints a line for each: class, where it is refused, rule and SQL, parted
/// by tabs.
pub(crate) fn classify(args: &ClassifyArgs) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text).context("could not read the statements")?;
    let old = args.diff.as_deref().map(decisions).transpose()?;
    let classifier = args.server.classifier();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut changed = false;
    for sql in classifier.statements(&text) {
        let plan = classifier.classify(sql, SqlMode::default());
        let sql = one_line(sql);
        let decision = format!("{}\t{}\t{}", plan.intent, refused_on(&plan), one_line(plan.rule.as_bytes()));
        let Some(old) = &old else {
            writeln!(out, "{decision}\t{sql}")?;
            continue;
        };
        if let Some(before) = old.get(&sql).filter(|before| !same_decision(before, &decision)) {
            changed = true;
            writeln!(out, "-{before}\t{sql}\n+{decision}\t{sql}")?;
        }
    }
    out.flush()?;
    Ok(if changed { ExitCode::from(CHANGED) } else { ExitCode::SUCCESS })
}

fn refused_on(plan: &towline_middleware::Plan) -> &'static str {
    match plan.refusal.as_ref().map(|refusal| refusal.on) {
        Some(RefusedOn::EveryNode) => "every node",
        Some(RefusedOn::Slave) => "slaves",
        None if plan.intent.may_write() => "slaves",
        None => "-",
    }
}

/// The decisions in an earlier output, by SQL.
fn decisions(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    text.lines()
        .map(|line| {
            let (at, _) = line.match_indices('\t').nth(2).with_context(|| {
                format!("{} has a line that `towline classify` did not print: {line}", path.display())
            })?;
            Ok((line[at + 1..].to_owned(), line[..at].to_owned()))
        })
        .collect()
}

/// The rule is a text for people: a better word for it is no other decision.
fn same_decision(one: &str, other: &str) -> bool {
    let decided = |line: &str| line.rsplit_once('\t').map(|(decided, _)| decided.to_owned());
    decided(one) == decided(other)
}

/// A statement in one line: line breaks and tabs as in a string of SQL, other bytes that are no UTF-8 replaced.
fn one_line(sql: &[u8]) -> String {
    let text = String::from_utf8_lossy(sql.trim_ascii());
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}
