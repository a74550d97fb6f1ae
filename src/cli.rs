//! The command line.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use axum::body::Body;
use clap::{Args, Parser, Subcommand};
use towline_middleware::{LayerError, Role};
use tracing_subscriber::EnvFilter;

use crate::{
    check::{self, CheckError, Target},
    config::{Config, ConfigError, Log, LogFormat, MysqlServer},
    demo::{self, DemoOptions},
    explain::{self, ClassifyArgs, ExplainArgs},
    layers::Layers,
    managed::{self, ManagedError, ManagedServer},
    node::{Node, NodeError},
    replication::{
        json_lines::Lines,
        verify::{Difference, Verified},
    },
    tls::TlsError,
};

/// The exit code of a node that did not do what it was asked.
const FAILED: u8 = 1;
/// The exit code of a wrong command line, a wrong configuration, and a server that lacks what replication needs.
const MISCONFIGURED: u8 = 2;

/// A proxy in front of MySQL and MariaDB: middleware for every command, and exact row replication to any number of
/// slaves over HTTP.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or Ctrl-C.
    Run(RunArgs),
    /// Check the configuration and the server behind the node, and print what mends each fault.
    Check(NodeArgs),
    /// Print the layers as a command passes them, with their options.
    Layers(NodeArgs),
    /// Print a node's status.
    Status(StatusArgs),
    /// Tell what Towline makes of a statement, and why.
    Explain(ExplainArgs),
    /// Read statements from the standard input and print what Towline makes of each, one a line.
    Classify(ClassifyArgs),
    /// Compare every slave with its master, table by table, while clients go on writing. Exits with 1 if one differs.
    Verify(VerifyArgs),
    /// Run a master and its slaves on this machine, each with a private MariaDB, and show them at work.
    Demo(DemoOptions),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The configuration file. Without it, the defaults and TOWLINE_… variables hold.
    #[arg(long, value_name = "FILE", env = "TOWLINE_CONFIG")]
    config: Option<PathBuf>,
    /// What the node is: master or slave.
    #[arg(long, env = "TOWLINE_ROLE")]
    role: Role,
}

impl NodeArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), self.role)
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Lets a slave that is of no cluster yet replace ALL data and accounts on its server by its master's.
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The node's administration: where its /status is.
    #[arg(long, default_value = "http://127.0.0.1:5000")]
    url: String,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The master's configuration file, for its address and the cluster's secret. Without it, the defaults and
    /// TOWLINE_… variables hold.
    #[arg(long, value_name = "FILE", env = "TOWLINE_CONFIG")]
    config: Option<PathBuf>,
    /// The master's administration. Without it, where the configuration says.
    #[arg(long)]
    url: Option<String>,
}

/// Carries out the command line and says how the process is to end.
pub fn main() -> ExitCode {
    main_with(Layers::default())
}

/// The same for a program with layers of its own.
pub fn main_with(layers: Layers) -> ExitCode {
    let command = Cli::parse().command;
    match execute(command, layers) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("towline: {}", told(&error));
            ExitCode::from(if is_misconfigured(&error) { MISCONFIGURED } else { FAILED })
        }
    }
}

fn execute(command: Command, layers: Layers) -> anyhow::Result<ExitCode> {
    let runtime = |threads: usize| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().context("could not start the runtime")
    };
    match command {
        Command::Run(args) => {
            let config = args.node.load()?;
            log_to_stderr(&config.log)?;
            let runtime = runtime(config.limits.worker_threads_or_default())?;
            let node = Node::builder(config, args.node.role).layers(layers).replace_data(args.replace);
            runtime.block_on(node.run())?;
        }
        Command::Check(args) => {
            let config = args.load()?;
            layers.describe(&config, args.role)?;
            return runtime(1)?.block_on(check_server(&config, args.role));
        }
        Command::Layers(args) => print!("{}", layers.describe(&args.load()?, args.role)?),
        Command::Explain(args) => return explain::explain(&args),
        Command::Classify(args) => return explain::classify(&args),
        Command::Status(args) => runtime(1)?.block_on(print_status(&args.url))?,
        Command::Verify(args) => return runtime(1)?.block_on(verify(&args)),
        Command::Demo(options) => runtime(1)?.block_on(demo::run(options))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks the server behind the node. A private one is started for it, unless its node runs just now.
async fn check_server(config: &Config, role: Role) -> anyhow::Result<ExitCode> {
    let mut started = None;
    let opts = match config.mysql_server(role) {
        MysqlServer::Existing(opts) => opts,
        MysqlServer::Private(options) => match ManagedServer::start(options.clone()).await {
            Ok(server) => started.insert(server).opts(),
            Err(ManagedError::Locked { .. }) => managed::login(&options.data_dir)?,
            Err(error) => return Err(error.into()),
        },
    };
    let tls = config.tls.connector()?;
    let target = Target {
        opts: &opts,
        tls: tls.as_ref(),
        proxy_protocol: config.mysql.proxy_protocol,
        handshake_timeout: config.limits.handshake_timeout,
        keeps_keys: config.layer.iter().any(|layer| layer.name == "idempotency"),
        cluster: Some(&config.cluster),
    };
    let report = check::run(role, target).await;
    if let Some(server) = started {
        server.stop().await;
    }
    let (_, report) = report?;
    print!("{} as a {role}'s server\n{report}", report.version);
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(MISCONFIGURED) })
}

/// Whether the configuration must be changed before another try can go better.
fn is_misconfigured(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>()
        || error.is::<LayerError>()
        || error.downcast_ref::<NodeError>().is_some_and(NodeError::is_misconfiguration)
        || error.is::<TlsError>()
        || matches!(error.downcast_ref(), Some(CheckError::Refused { .. } | CheckError::Tls { .. }))
}

/// The error with its causes, each told once: some messages repeat their cause.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn log_to_stderr(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).context("`log.level`")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

async fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref(), Role::Master)?;
    let listens = config.admin_listen().unwrap_or(config.http.listen);
    let url = args.url.clone().unwrap_or_else(|| format!("http://{listens}"));
    let mut request = reqwest::Client::new().post(format!("{}/admin/verify", url.trim_end_matches('/')));
    if let Some(secret) = &config.cluster.secret {
        request = request.bearer_auth(secret.reveal());
    }
    let answer = request.send().await.with_context(|| format!("no node answers at {url}"))?;
    if !answer.status().is_success() {
        anyhow::bail!("the node at {url} answers {}: {}", answer.status(), answer.text().await.unwrap_or_default());
    }
    let mut lines = Lines::new(Body::from_stream(answer.bytes_stream()));
    while let Some(line) = lines.next().await.context("the node went away")? {
        if let Some(code) = print_verified(serde_json::from_slice(&line).context("an answer of another program")?) {
            return Ok(code);
        }
    }
    anyhow::bail!("the node at {url} went away before all tables were compared")
}

/// Prints what was found; the exit code if that was the last.
fn print_verified(verified: Verified) -> Option<ExitCode> {
    match verified {
        Verified::Table(table) => {
            let word = if table.differences.is_empty() { "equal  " } else { "DIFFERS" };
            println!("{word}  {}: {} rows", table.table, table.rows);
            for Difference { slave, position, what, keys } in &table.differences {
                println!("  {slave} at {position}: {what}");
                keys.iter().for_each(|key| println!("    key {key}"));
            }
            None
        }
        Verified::Done(summary) => {
            for (slave, why) in &summary.not_compared {
                println!("NOT COMPARED  {slave}: {why}");
            }
            for (slave, tables) in &summary.differing_tables {
                println!("{slave}: {tables} of {} tables differ", summary.tables);
            }
            Some(if summary.is_equal() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
        Verified::Failed { error } => {
            eprintln!("towline: {error}");
            Some(ExitCode::from(FAILED))
        }
    }
}

async fn print_status(url: &str) -> anyhow::Result<()> {
    let url = format!("{}/status", url.trim_end_matches('/'));
    let answer = reqwest::get(&url).await.with_context(|| format!("no node answers at {url}"))?;
    let answer = answer.error_for_status().context("the node refused")?;
    let status: serde_json::Value = answer.json().await.with_context(|| format!("{url} is not a node's status"))?;
    println!("{status:#}");
    Ok(())
}
