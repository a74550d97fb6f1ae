//! Layers by the name under which a configuration asks for them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    LayerProblem, LayerSetup, UserLayer,
    layers::user::{Generation, PlacedLayer},
    nearest::meant,
};

type Factory = Box<dyn Fn(&mut LayerSetup) -> Result<Arc<dyn UserLayer>, LayerProblem> + Send + Sync>;

/// The layers that every stack has, outermost first, and what each is for. The user's stand behind `classify`.
pub const CORE: [(&str, &str); 5] = [
    ("trace", "counts and times every command"),
    ("admission", "refuses commands while the node stops"),
    ("classify", "tells reads from writes"),
    ("guard", "refuses what this node must not run"),
    ("fan_out", "puts positions on commits and waits for slaves"),
];

/// How many of [`CORE`] stand outside the user's layers.
pub const CORE_OUTSIDE: usize = 3;

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
/// registry.register("pass", |_setup| Ok(from_fn(pass)));
/// ```
#[derive(Default)]
pub struct Registry {
    factories: BTreeMap<String, Factory>,
    orders: Vec<Order>,
}

/// One layer must stand outside another.
#[derive(Clone, Debug)]
struct Order {
    outer: &'static str,
    inner: &'static str,
    reason: &'static str,
}

/// Why the layers of a configuration can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Nobody registered the name.
    #[error(
        "no layer is called `{name}`{}; this program knows {}",
        meant(name, known),
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    )]
    Unknown {
        /// The name in the configuration.
        name: String,
        /// The names that are registered.
        known: Vec<String>,
    },
    /// It is part of every stack.
    #[error(
        "`{name}` is part of every stack and stays where it is, so that nothing which another layer makes of a command \
         escapes it: remove the block"
    )]
    Core {
        /// The name in the configuration.
        name: String,
    },
    /// Its figures could not be called by it.
    #[error("`{name}` is no name for a layer, after which its figures are called: letters, digits and `_` only")]
    Name {
        /// The name in the configuration.
        name: String,
    },
    /// It is there twice.
    #[error("layer `{name}` is there twice: a layer's name is the label of its figures, so join the two blocks")]
    Twice {
        /// The name in the configuration.
        name: String,
    },
    /// Two layers stand the wrong way round.
    #[error("layer `{outer}` must stand before `{inner}`: {reason}")]
    Order {
        /// Which comes first.
        outer: &'static str,
        /// Which comes later.
        inner: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The layer does not take its options.
    #[error("layer `{name}`: {source}")]
    Options {
        /// The layer.
        name: String,
        /// What it says.
        source: LayerProblem,
    },
    /// The layer could not start.
    #[error("layer `{name}` does not start: {source}")]
    Start {
        /// The layer.
        name: String,
        /// What it says.
        source: LayerProblem,
    },
}

impl Registry {
    /// Makes a layer known by a name, of letters, digits and `_`; a second one of the same name takes the first one's place.
    pub fn register<L: UserLayer + 'static>(
        &mut self,
        name: &str,
        factory: impl Fn(&mut LayerSetup) -> Result<L, LayerProblem> + Send + Sync + 'static,
    ) -> &mut Self {
        let factory: Factory = Box::new(move |setup| factory(setup).map(|layer| Arc::new(layer) as _));
        self.factories.insert(name.to_owned(), factory);
        self
    }

    /// Asks that where both are configured `outer` comes before `inner`.
    pub fn order(&mut self, outer: &'static str, inner: &'static str, reason: &'static str) -> &mut Self {
        self.orders.push(Order { outer, inner, reason });
        self
    }

    /// Makes the layers of a configuration, in their order. None of them has been started.
    ///
    /// # Errors
    /// A name is unknown or stands in the wrong place, or a layer does not take its options.
    pub fn build(&self, setups: Vec<LayerSetup>) -> Result<Generation, LayerError> {
        self.check(&setups)?;
        let placed = setups.into_iter().map(|mut setup| {
            let name = setup.name().to_owned();
            let made = self.factories[&name](&mut setup);
            let layer = made.map_err(|source| LayerError::Options { name: name.clone(), source })?;
            Ok(PlacedLayer { name, layer, hooks: setup.hooks })
        });
        Ok(Generation::new(placed.collect::<Result<_, LayerError>>()?))
    }

    fn check(&self, setups: &[LayerSetup]) -> Result<(), LayerError> {
        let place = |name: &str| setups.iter().position(|setup| setup.name() == name);
        for (index, setup) in setups.iter().enumerate() {
            let name = setup.name().to_owned();
            if CORE.iter().any(|(core, _)| *core == name) {
                return Err(LayerError::Core { name });
            }
            if !self.factories.contains_key(&name) {
                return Err(LayerError::Unknown { name, known: self.factories.keys().cloned().collect() });
            }
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(LayerError::Name { name });
            }
            if place(&name) != Some(index) {
                return Err(LayerError::Twice { name });
            }
        }
        for Order { outer, inner, reason } in &self.orders {
            if let (Some(outside), Some(inside)) = (place(outer), place(inner))
                && outside > inside
            {
                return Err(LayerError::Order { outer, inner, reason });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.factories.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, LayerHome, Next, Role, from_fn};

    fn refusal(names: &[&str]) -> String {
        let mut registry = Registry::default();
        for name in ["rules", "cache", "my-own"] {
            registry.register(name, |_| Ok(from_fn(async |command: Command, next: Next| next.run(command).await)));
        }
        registry.order("rules", "cache", "what it denies must not be answered from memory");
        let setup = |name| LayerSetup::new(name, Default::default(), LayerHome::new(Role::Master));
        match registry.build(names.iter().copied().map(setup).collect()) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_and_places_are_checked() {
        assert_eq!(refusal(&["rules", "cache"]), "");
        assert!(refusal(&["cache", "rules"]).contains("`rules` must stand before `cache`"));
        assert!(refusal(&["ruels"]).contains("did you mean `rules`?"));
        assert!(refusal(&["guard"]).contains("part of every stack"));
        assert!(refusal(&["rules", "rules"]).contains("twice"));
        assert!(refusal(&["my-own"]).contains("letters, digits and `_`"));
    }
}
