//! A whole cluster on this machine, in one command: a master and its slaves, each a real `towline` process with a
//! private MariaDB of its own.

mod clients;
mod error;
mod narration;
mod nodes;
mod process;
mod scenario;

use std::{
    num::NonZeroU8,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

pub use self::{
    error::{DemoError, LogEnd},
    process::{NodeProcess, NodeSpec},
};
use self::{narration::Narration, nodes::Nodes};

/// What a demo is to be.
#[derive(Clone, Debug, Args)]
pub struct DemoOptions {
    /// How many slaves.
    #[arg(long, value_name = "N", default_value = "2")]
    pub slaves: NonZeroU8,
    /// The master's HTTP port; the slaves take the next ones. 0 chooses free ones.
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    pub http_port: u16,
    /// The master's port for MySQL clients; the slaves take the next ones. 0 chooses free ones.
    #[arg(long, value_name = "PORT", default_value_t = 4306)]
    pub mysql_port: u16,
    /// Where the data is kept. Without it, in a temporary folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// End when the scenario has been played: exit 0 only if every slave equals the master and every refusal was one.
    #[arg(long)]
    pub once: bool,
}

/// Runs the demo until its end (`once`) or until SIGTERM or Ctrl-C, and stops every process that it started.
///
/// # Errors
/// Which step failed, and why, with the end of the log that tells more.
pub async fn run(options: DemoOptions) -> Result<(), DemoError> {
    let start = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::io("listen for Ctrl-C", "this process"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::io("listen for SIGTERM", "this process"))?;
    let folder = Folder::new(options.data.as_deref())?;
    let mut nodes = Nodes::prepare(&options, folder.path())?;
    let narration = Narration::new();
    let outcome = tokio::select! {
        outcome = play(&options, &mut nodes, &narration, start) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    narration.quiet("stopping");
    nodes.stop().await;
    outcome
}

async fn play(
    options: &DemoOptions,
    nodes: &mut Nodes,
    narration: &Narration,
    start: Instant,
) -> Result<(), DemoError> {
    nodes.start(narration).await?;
    nodes.make_account().await?;
    narration.ready(nodes, start.elapsed());
    scenario::play(nodes, narration).await?;
    if options.once {
        return Ok(());
    }
    narration.staying(nodes);
    Err(nodes.first_to_end().await)
}

/// Where the demo's data is.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(kept: Option<&Path>) -> Result<Self, DemoError> {
        match kept {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(DemoError::io("make the folder", path))?;
                let path = path.canonicalize().map_err(DemoError::io("find", path))?;
                Ok(Self::Kept(path))
            }
            None => {
                let folder = tempfile::Builder::new().prefix("towline-demo-").tempdir();
                Ok(Self::Temporary(folder.map_err(DemoError::io("make a folder in", std::env::temp_dir()))?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
