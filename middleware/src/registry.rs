//! Layers by the name under which a configuration asks for them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::UserLayer;

/// A layer's options, as its block of the configuration has them, without `name`.
pub type LayerOptions = serde_json::Map<String, serde_json::Value>;

/// Whatever a layer says of its options.
pub type OptionsError = Box<dyn std::error::Error + Send + Sync>;

type Factory = Box<dyn Fn(LayerOptions) -> Result<Arc<dyn UserLayer>, OptionsError> + Send + Sync>;

/// The layers that a node can be configured with.
///
/// ```
/// use towline_middleware::{from_fn, Command, Error, Next, Registry, Reply};
///
/// async fn pass(command: Command, next: Next) -> Result<Reply, Error> {
///     next.run(command).await
/// }
///
/// let mut registry = Registry::default();
/// registry.register("pass", |_options| Ok(from_fn(pass)));
/// assert!(registry.build("pass", Default::default()).is_ok());
/// ```
#[derive(Default)]
pub struct Registry(BTreeMap<String, Factory>);

/// Why a layer of the configuration can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Nobody registered the name.
    #[error("no layer is called `{name}`; this program knows {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Unknown {
        /// The name in the configuration.
        name: String,
        /// The names that are registered.
        known: Vec<String>,
    },
    /// The layer does not take its options.
    #[error("the options of layer `{name}` are wrong")]
    Options {
        /// The layer.
        name: String,
        /// What it says.
        #[source]
        source: OptionsError,
    },
}

impl Registry {
    /// Makes a layer known by a name; a second one of the same name takes the first one's place.
    pub fn register<L: UserLayer + 'static>(
        &mut self,
        name: &str,
        factory: impl Fn(LayerOptions) -> Result<L, OptionsError> + Send + Sync + 'static,
    ) {
        let factory: Factory = Box::new(move |options| factory(options).map(|layer| Arc::new(layer) as _));
        self.0.insert(name.to_owned(), factory);
    }

    /// Makes the layer of one block of the configuration.
    ///
    /// # Errors
    /// The name is unknown, or the layer does not take the options.
    pub fn build(&self, name: &str, options: LayerOptions) -> Result<Arc<dyn UserLayer>, LayerError> {
        let unknown = || LayerError::Unknown { name: name.to_owned(), known: self.0.keys().cloned().collect() };
        let factory = self.0.get(name).ok_or_else(unknown)?;
        factory(options).map_err(|source| LayerError::Options { name: name.to_owned(), source })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = Registry::default().build("tenant", LayerOptions::new()).map(|_| ()).expect_err("nothing is known");
        assert_eq!(error.to_string(), "no layer is called `tenant`; this program knows none");
    }
}
