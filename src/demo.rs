//! A whole cluster on this machine, in one command.

use std::{num::NonZeroU8, path::PathBuf};

use clap::Args;

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

/// Runs the demo.
///
/// # Errors
/// Which step failed, and why.
pub async fn run(options: DemoOptions) -> anyhow::Result<()> {
    anyhow::bail!("the demo of {} slaves needs an assembled node", options.slaves)
}
