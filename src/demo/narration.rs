//! What the demo says: results to standard output, progress to standard error.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::nodes::{ACCOUNT, Nodes};
use crate::node::Ready;

/// How often a sign of life moves.
const TICK: Duration = Duration::from_millis(100);
/// How wide a node's name is set.
const NAME_WIDTH: usize = 8;

/// Tells the demo's story.
pub(super) struct Narration {
    progress: MultiProgress,
}

/// A step that takes its time.
pub(super) struct Step {
    bar: ProgressBar,
    name: String,
    start: Instant,
}

impl Narration {
    pub(super) fn new() -> Self {
        Self { progress: MultiProgress::new() }
    }

    /// A node is being started.
    pub(super) fn starting(&self, name: &str) -> Step {
        let bar = self.progress.add(ProgressBar::new_spinner());
        let style =
            ProgressStyle::with_template("  {spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(style);
        bar.set_message(format!("{name:NAME_WIDTH$} starting MariaDB and the node"));
        bar.enable_steady_tick(TICK);
        Step { bar, name: name.to_owned(), start: Instant::now() }
    }

    /// All nodes serve.
    pub(super) fn ready(&self, nodes: &Nodes, after: Duration) {
        println!("\nReady {:.2} s after the start of the program.\n", after.as_secs_f64());
        for node in nodes.all() {
            let (name, port) = (node.name(), node.ready().mysql_front.port());
            println!("  {name:NAME_WIDTH$} mariadb -h 127.0.0.1 -P {port} -u {ACCOUNT} -p{ACCOUNT}    {}", node.url());
        }
    }

    /// A chapter begins.
    pub(super) fn chapter(&self, title: &str) {
        println!("\n── {title}");
    }

    /// A request over HTTP and its answer.
    pub(super) fn http(&self, url: &str, body: &str, answer: &str) {
        println!("   curl --json '{body}' {url}");
        println!("      {answer}");
    }

    /// A statement and its answer.
    pub(super) fn mysql(&self, node: &str, statement: &str, answer: &str) {
        println!("   {node}> {statement}");
        if !answer.is_empty() {
            println!("      {answer}");
        }
    }

    /// A node shows what the master has.
    pub(super) fn arrived(&self, node: &str, after: Duration, position: &str) {
        let milliseconds = after.as_secs_f64() * 1e3;
        println!("   {node:NAME_WIDTH$} shows it {milliseconds:.1} ms after the master's OK, at {position}");
    }

    /// What is in the table.
    pub(super) fn rows(&self, rows: &[String]) {
        for row in rows {
            println!("      {row}");
        }
    }

    /// A result.
    pub(super) fn result(&self, text: &str) {
        println!("   {text}");
    }

    /// The demo stays up.
    pub(super) fn staying(&self, nodes: &Nodes) {
        let folder = nodes.master().process().spec().folder.parent().unwrap_or_else(|| "".as_ref());
        println!("\nThe cluster stays up until Ctrl-C. Its logs and data are in {}.", folder.display());
    }

    /// Something happens that is of little interest.
    pub(super) fn quiet(&self, text: &str) {
        // A closed terminal is no reason not to go on.
        let _ = self.progress.println(text);
    }
}

impl Step {
    /// The node serves.
    pub(super) fn done(self, ready: &Ready) {
        let Self { bar, name, start } = self;
        let seconds = start.elapsed().as_secs_f64();
        let text =
            format!("{name:NAME_WIDTH$} ready after {seconds:.2} s, HTTP {}, MySQL {}", ready.http, ready.mysql_front);
        if bar.is_hidden() {
            eprintln!("  {text}");
        } else {
            bar.finish_with_message(text);
        }
    }
}
