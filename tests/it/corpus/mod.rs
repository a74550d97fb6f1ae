//! MariaDB's own test suites as a corpus: whatever is called a read must be one to the server.

mod extract;
mod judge;

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use towline::classify::SqlClassifier;
use towline_middleware::{Classifier, Intent, Plan, RefusedOn};

use self::judge::{Judge, Truth};

/// Where Debian's package `mariadb-test-data` puts the suites.
const SUITES: &str = "/usr/share/mysql/mysql-test";
/// Scratch servers at work at the same time.
const JUDGES: usize = 4;
/// So many statements the server must really have judged.
const JUDGED_MIN: usize = 60_000;

/// Statements that would take the scratch server away, stop it or change it for the scripts behind.
const NOT_RUN: [&str; 14] = [
    "SHUTDOWN",
    "KILL",
    "RESET",
    "CHANGE",
    "START SLAVE",
    "START ALL",
    "STOP",
    "INSTALL",
    "UNINSTALL",
    "PURGE",
    "BACKUP",
    "FLUSH",
    "SET PASSWORD",
    "RESTART",
];

#[derive(Debug, Default)]
struct Findings {
    seen: HashSet<Vec<u8>>,
    judged: usize,
    reads: usize,
    writes: usize,
    failed: HashSet<Vec<u8>>,
    not_run: usize,
    /// Called a read, shown to be a write.
    missed: Vec<String>,
    /// The same, through a view that calls a function: no text shows it.
    behind_views: usize,
    queries: usize,
    /// Queries that were called writes and are none, by what decided it.
    needless: BTreeMap<String, usize>,
}

impl Findings {
    fn take(&mut self, sql: &[u8], plan: &Plan, truth: Truth, is_query: bool, is_behind: bool) {
        match truth {
            Truth::Failed => {
                self.failed.insert(sql.to_vec());
                return;
            }
            Truth::Writes if plan.intent.may_write() => self.writes += 1,
            Truth::Writes if is_behind => self.behind_views += 1,
            Truth::Writes => {
                let text = String::from_utf8_lossy(sql);
                self.missed.push(format!("{} ({}): {text}", plan.intent, plan.rule));
            }
            Truth::Reads => self.reads += 1,
        }
        self.failed.remove(sql);
        self.judged += 1;
        if is_query && truth == Truth::Reads {
            self.queries += 1;
            if plan.intent.may_write() {
                *self.needless.entry(reason(&plan.rule, is_behind)).or_default() += 1;
            }
        }
    }

    /// Queries that were called writes although nothing in them is what only the server can judge.
    fn without_need(&self) -> usize {
        self.needless.iter().filter(|(reason, _)| *reason != STORED_FUNCTION).map(|(_, count)| count).sum()
    }

    fn report(&self) -> String {
        let Self { judged, reads, writes, behind_views, not_run, queries, .. } = self;
        let failed = self.failed.len();
        let mut report = format!(
            "judged\t{judged}\nread\t{reads}\nwrite\t{writes}\nwrite, through a view that the text does not show\t{behind_views}\n\
             failed\t{failed}\nnot run\t{not_run}\nqueries that read\t{queries}\n"
        );
        for (reason, count) in &self.needless {
            writeln!(report, "queries that read, called writes: {reason}\t{count}").expect("a String takes everything");
        }
        report
    }
}

/// A call of a function that is stored in the server: only the server knows what is in it.
const STORED_FUNCTION: &str = "a stored function";

/// The rule without the names in it.
fn reason(rule: &str, is_stored: bool) -> String {
    match called(rule) {
        Some(_) if is_stored => STORED_FUNCTION.to_owned(),
        Some(name) => format!("function {name}"),
        None => rule.to_owned(),
    }
}

/// The function that decided.
fn called(rule: &str) -> Option<String> {
    Some(rule.strip_prefix("function ")?.strip_suffix(" may be a stored one")?.trim_matches('`').to_uppercase())
}

fn is_not_run(sql: &[u8], plan: &Plan) -> bool {
    let begins = |words: &str| sql.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words.as_bytes()));
    plan.refusal.as_ref().is_some_and(|refusal| refusal.on == RefusedOn::EveryNode)
        || plan.rule == "SET for the whole server"
        || (plan.intent.may_write() && NOT_RUN.iter().any(|words| begins(words)))
        || (plan.intent.may_write() && memchr::memmem::find(&sql.to_ascii_lowercase(), b"mysql.").is_some())
}

fn is_query(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii_start();
    let sql = sql.iter().position(|byte| *byte != b'(').map_or(sql, |at| &sql[at..]).trim_ascii_start();
    ["SELECT", "WITH", "VALUES"]
        .iter()
        .any(|word| sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes())))
}

async fn judge_scripts(scripts: Arc<Vec<PathBuf>>, next: Arc<AtomicUsize>, findings: Arc<Mutex<Findings>>) {
    let root = Path::new(SUITES);
    let mut judge = Judge::new().await;
    let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
    while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
        judge.begin().await;
        for sql in extract::statements(root, script) {
            let plan = classifier.classify(&sql, judge.mode());
            if is_not_run(&sql, &plan) || (plan.intent.may_write() && judge.stands_in("mysql")) {
                findings.lock().unwrap().not_run += 1;
                continue;
            }
            // What only reads changes nothing for the statements behind it, so once is enough.
            if plan.intent == Intent::Read && findings.lock().unwrap().seen.contains(&sql) {
                continue;
            }
            let is_query = is_query(&sql);
            let truth = judge.judge(&sql, &plan, is_query).await;
            let unclear = (truth == Truth::Writes) != plan.intent.may_write();
            let is_behind = unclear && judge.is_behind(&sql, called(&plan.rule).as_deref()).await;
            let mut findings = findings.lock().unwrap();
            if truth == Truth::Failed {
                if !findings.seen.contains(&sql) {
                    findings.take(&sql, &plan, truth, is_query, is_behind);
                }
            } else if findings.seen.insert(sql.clone()) {
                findings.take(&sql, &plan, truth, is_query, is_behind);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and the package mariadb-test-data: make corpus"]
async fn what_is_called_a_read_reads() {
    let scripts = Arc::new(extract::scripts(Path::new(SUITES)));
    assert!(!scripts.is_empty(), "no suites in {SUITES}: install mariadb-test-data");
    let (next, findings) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Findings::default())));
    let judges: Vec<_> =
        (0..JUDGES).map(|_| tokio::spawn(judge_scripts(scripts.clone(), next.clone(), findings.clone()))).collect();
    for judge in judges {
        judge.await.unwrap();
    }
    let findings = findings.lock().unwrap();
    let report = findings.report();
    print!("{report}");
    if let Some(path) = std::env::var_os("TOWLINE_CORPUS_REPORT") {
        std::fs::write(path, &report).unwrap();
    }
    let missed = &findings.missed;
    assert!(missed.is_empty(), "{} called reads that write:\n{}", missed.len(), missed.join("\n"));
    assert!(findings.judged >= JUDGED_MIN, "{report}");
    assert!(findings.without_need() * 100 < findings.queries, "{report}");
}
