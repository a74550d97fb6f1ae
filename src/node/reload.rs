//! Taking over a changed configuration while clients are served.

use std::sync::Arc;

use tokio::sync::Mutex;
use towline_middleware::{Generation, LayerError, LayerHome, Registry, layers::user::UserLayers};

use crate::config::{Config, ConfigError};

/// Reads the configuration again and takes over what may change while the node runs: its layers. Clones share it.
#[derive(Clone, Debug)]
pub struct Reload(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    registry: Registry,
    home: LayerHome,
    user: UserLayers,
    /// One reload at a time.
    turn: Mutex<()>,
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The node was started without a file.
    #[error("this node was started without a configuration file: there is nothing to read again")]
    NoFile,
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer is.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl Reload {
    /// What reloads the layers of a node that was started with this configuration.
    pub fn new(config: Config, registry: Registry, home: LayerHome) -> Self {
        Self(Arc::new(Shared { config, registry, home, user: UserLayers::default(), turn: Mutex::default() }))
    }

    /// The layers that are exchanged.
    pub fn user(&self) -> &UserLayers {
        &self.0.user
    }

    /// What they have of the node.
    pub fn home(&self) -> &LayerHome {
        &self.0.home
    }

    /// The layers that the configuration asked for at the start, not started yet.
    ///
    /// # Errors
    /// See [`Registry::build`].
    pub(super) fn first(&self) -> Result<Generation, LayerError> {
        self.build(&self.0.config)
    }

    /// Reads the file again. New commands go through the new layers; no session ends. All other keys are only checked:
    /// they take a restart.
    ///
    /// # Errors
    /// The file is wrong, or a layer does not start. Nothing is changed then.
    pub async fn run(&self) -> Result<Vec<String>, ReloadError> {
        let _turn = self.0.turn.lock().await;
        let file = self.0.config.file.as_deref().ok_or(ReloadError::NoFile)?;
        let config = Config::load(Some(file), self.0.home.role)?;
        self.0.user.replace(self.build(&config)?).await?;
        let names = self.0.user.names();
        tracing::info!(layers = ?names, "the configuration was reloaded");
        Ok(names)
    }

    fn build(&self, config: &Config) -> Result<Generation, LayerError> {
        let setups = config.layer.iter().map(|layer| layer.setup(&self.0.home)).collect();
        self.0.registry.build(setups)
    }
}
