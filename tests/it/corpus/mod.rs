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
    /// The same, through a view that calls a function or draws from a sequence, which no text shows.
    behind_views: Vec<String>,
    queries: usize,
    /// Queries that read, and what Towline calls them instead.
    queries_called: BTreeMap<Called, usize>,
}

/// What a query is called that reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Called {
    /// A write, for a function that the server has stored: what is in that, no text shows.
    WriteForStoredFunction,
    /// A write, for this reason: without need.
    Write(String),
    /// A read that a slave refuses by name all the same, for this reason.
    RefusedOnSlave(String),
}

/// What the server has to say on a statement that was not called what it was.
#[derive(Debug, Default)]
struct Proof {
    /// The view through which it does more than its text shows.
    view: Option<String>,
    /// Whether the function that decided is a stored one.
    is_stored: bool,
}

impl Findings {
    fn take(&mut self, sql: &[u8], plan: &Plan, truth: Truth, is_query: bool, proof: Proof) {
        let writes = matches!(truth, Truth::Writes | Truth::Refused);
        match truth {
            Truth::Failed => {
                self.failed.insert(sql.to_vec());
                return;
            }
            Truth::Reads => self.reads += 1,
            _ if plan.intent.may_write() => self.writes += 1,
            _ => {
                let text = String::from_utf8_lossy(sql).split_whitespace().collect::<Vec<_>>().join(" ");
                match proof.view {
                    Some(view) => {
                        let fence = if truth == Truth::Refused { "refused" } else { "not refused" };
                        self.behind_views.push(format!("| `{view}` | {fence} | `{text}` |"));
                    }
                    None => self.missed.push(format!("{} ({}), {truth:?}: {text}", plan.intent, plan.rule)),
                }
            }
        }
        self.failed.remove(sql);
        self.judged += 1;
        if is_query && !writes {
            self.queries += 1;
            let called = match &plan.refusal {
                _ if plan.intent.may_write() && proof.is_stored => Called::WriteForStoredFunction,
                _ if plan.intent.may_write() => Called::Write(reason(&plan.rule)),
                Some(refusal) => Called::RefusedOnSlave(refusal.reason.to_string()),
                None => return,
            };
            *self.queries_called.entry(called).or_default() += 1;
        }
    }

    /// The run as a page, in a form that [`Counts`] reads.
    fn page(&self, server: &str) -> String {
        let Self { judged, reads, writes, missed, behind_views, not_run, queries, .. } = self;
        let (failed, missed, behind) = (self.failed.len(), missed.len(), behind_views.len());
        let mut page = format!(
            "# What a server says to the statements of its own test suites\n\n\
             Written by `make corpus`, on MariaDB {server}. Each statement is counted once. The server is asked by a \
             read-only session, which refuses a write, and by the end of its binlog.\n\n\
             | statements | count |\n|---|---:|\n\
             | judged by the server | {judged} |\n\
             | … which read | {reads} |\n\
             | … which write, and are called writes | {writes} |\n\
             | … which write, and are called reads | {missed} |\n\
             | … which write through a view, and are called reads (below) | {behind} |\n\
             | failed there | {failed} |\n\
             | not run: they would take the server away, or change it for those behind | {not_run} |\n\n\
             | queries that read | count |\n|---|---:|\n\
             | all (SELECT, WITH, VALUES) | {queries} |\n"
        );
        for (called, count) in &self.queries_called {
            let called = match called {
                Called::WriteForStoredFunction => STORED.to_owned(),
                Called::Write(reason) => format!("{WITHOUT_NEED}{reason}"),
                Called::RefusedOnSlave(reason) => format!("called reads, refused on a slave: {reason}"),
            };
            writeln!(page, "| {called} | {count} |").expect("a String takes everything");
        }
        page.push_str(
            "\n## Writes through views\n\n\
             The text names a view; the server says that the view, or one in it, calls a stored function or draws from a \
             sequence. On a slave the session's own fence refuses it; on a master its OK carries a GTID, and from then on \
             its like is a write.\n\n| view | by a read-only session | statement |\n|---|---|---|\n",
        );
        page.extend(behind_views.iter().map(|line| format!("{line}\n")));
        page
    }
}

const STORED: &str = "called writes, with need: they call a function that the server has stored";
const WITHOUT_NEED: &str = "called writes, without need: ";

/// The numbers of a page.
struct Counts<'a>(&'a str);

impl Counts<'_> {
    /// Of the lines that begin so, together.
    fn of(&self, start: &str) -> usize {
        let start = format!("| {start}");
        let lines = self.0.lines().filter(|line| line.starts_with(&start));
        lines.map(|line| line.rsplit('|').nth(1).and_then(|count| count.trim().parse().ok()).unwrap_or(0)).sum()
    }

    /// What must hold of them.
    fn check(&self) {
        let Self(page) = self;
        assert_eq!(self.of("… which write, and are called reads "), 0, "{page}");
        assert!(self.of("judged") >= JUDGED_MIN, "{page}");
        assert_eq!(self.of("…"), self.of("judged"), "{page}");
        let (queries, needless) = (self.of("all"), self.of(WITHOUT_NEED));
        assert!(needless * 100 < queries, "{needless} of {queries} called writes without need:\n{page}");
        assert!(!page.contains("| not refused |"), "a write that a slave's fence does not stop:\n{page}");
    }
}

/// The rule without the names in it.
fn reason(rule: &str) -> String {
    called(rule).map_or_else(|| rule.to_owned(), |name| format!("{name} before a parenthesis"))
}

/// The function that decided.
fn called(rule: &str) -> Option<String> {
    Some(rule.strip_prefix("function ")?.strip_suffix(" may be a stored one")?.trim_matches(['`', '"']).to_uppercase())
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
            let proof = match (truth, called(&plan.rule)) {
                (Truth::Writes | Truth::Refused, _) if !plan.intent.may_write() => {
                    Proof { view: judge.view_that_calls(&sql).await, ..Proof::default() }
                }
                (Truth::Reads, Some(function)) if plan.intent.may_write() => {
                    Proof { is_stored: judge.is_stored(&function).await, ..Proof::default() }
                }
                _ => Proof::default(),
            };
            let mut findings = findings.lock().unwrap();
            let is_first = match truth {
                Truth::Failed => !findings.seen.contains(&sql),
                _ => findings.seen.insert(sql.clone()),
            };
            if is_first {
                findings.take(&sql, &plan, truth, is_query, proof);
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
    let missed = &findings.missed;
    assert!(missed.is_empty(), "{} called reads that write:\n{}", missed.len(), missed.join("\n"));
    let page = findings.page(&version());
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/corpus/counts.md"), &page).unwrap();
    Counts(&page).check();
}

/// The server's version, without what the distribution adds.
fn version() -> String {
    let output = std::process::Command::new("mariadbd").arg("--version").output().expect("mariadbd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    version.and_then(|version| version.split('-').next()).expect("a version").to_owned()
}

/// The counts of the last run, as they are kept in the repository.
#[test]
fn the_last_run_has_found_no_read_that_writes() {
    Counts(include_str!("counts.md")).check();
}
