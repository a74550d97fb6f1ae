//! Taking over a changed configuration and a changed certificate while clients are served.

use std::sync::Arc;

use tokio::sync::Mutex;
use towline_middleware::{Generation, LayerError, LayerHome, Registry, layers::user::UserLayers};

use crate::{
    config::{Config, ConfigError},
    tls::{Acceptor, TlsError},
};

/// Reads the configuration again and takes over what may change while the node runs: its layers, and the
/// certificate for clients. Clones share it.
#[derive(Clone, Debug)]
pub struct Reload(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    registry: Registry,
    home: LayerHome,
    user: UserLayers,
    tls: Option<Acceptor>,
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
    /// The certificate for clients can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Reload {
    /// What reloads the layers and the certificate of a node that was started with this configuration.
    pub fn new(config: Config, registry: Registry, home: LayerHome, tls: Option<Acceptor>) -> Self {
        let (user, turn) = (UserLayers::default(), Mutex::default());
        Self(Arc::new(Shared { config, registry, home, user, tls, turn }))
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

    /// Reads the file and the certificate again. New commands go through the new layers, new clients get the new
    /// certificate; no session ends. All other keys are only checked: they take a restart.
    ///
    /// # Errors
    /// The file or the certificate is wrong, or a layer does not start. All is as it was then.
    ///
    /// # Cancel safety
    /// Safe: what has begun is done to its end, also when nobody waits for it any more.
    pub async fn run(&self) -> Result<Vec<String>, ReloadError> {
        let own = self.clone();
        match tokio::spawn(async move { own.run_to_its_end().await }).await {
            Ok(done) => done,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn run_to_its_end(&self) -> Result<Vec<String>, ReloadError> {
        let _turn = self.0.turn.lock().await;
        let file = self.0.config.file.as_deref().ok_or(ReloadError::NoFile)?;
        let config = Config::load(Some(file), self.0.home.role)?;
        let layers = self.build(&config)?;
        let certificate = self.0.tls.as_ref().map(Acceptor::read_again).transpose()?;
        self.0.user.replace(layers).await?;
        // Last, since nothing can go wrong with it any more.
        if let (Some(tls), Some(certificate)) = (&self.0.tls, certificate) {
            tls.put_to_use(certificate);
        }
        let names = self.0.user.names();
        tracing::info!(layers = ?names, "the configuration was reloaded");
        Ok(names)
    }

    fn build(&self, config: &Config) -> Result<Generation, LayerError> {
        let setups = config.layer.iter().map(|layer| layer.setup(&self.0.home)).collect();
        self.0.registry.build(setups)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;
    use towline_middleware::{Command, LayerSetup, Next, Role, from_fn};

    use super::*;

    #[tokio::test]
    async fn a_reload_goes_on_when_nobody_waits_for_it_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, "[[master.layer]]\nname = 'slow'").unwrap();
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (of_start, of_go_on) = (begun.clone(), go_on.clone());
        let mut registry = Registry::default();
        registry.register("slow", move |setup: &mut LayerSetup| {
            let (begun, go_on) = (of_start.clone(), of_go_on.clone());
            setup.on_start(async move {
                begun.notify_one();
                go_on.notified().await;
                Ok(())
            });
            Ok(from_fn(async |command: Command, next: Next| next.run(command).await))
        });
        let config = Config::load(Some(&file), Role::Master).unwrap();
        let reload = Reload::new(config, registry, LayerHome::new(Role::Master), None);
        tokio::select! {
            done = reload.run() => panic!("{done:?}"),
            () = begun.notified() => {}
        }
        go_on.notify_one();
        let mut turns = 0;
        while reload.user().names() != ["slow"] {
            turns += 1;
            assert!(turns < 1000, "it has ended with whoever asked for it");
            tokio::task::yield_now().await;
        }
    }
}
