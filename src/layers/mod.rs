//! The layers that come with a node, and the place to add others.
//!
//! Each is one file or folder, named as in the configuration. They are here and not in `towline_middleware` since they need the
//! database or the files of the node; what they are made of is what any other crate has, too.

mod audit;
mod cache;
mod finals;
mod idempotency;
mod limit;
mod line_file;
mod locks;
mod mask;
mod mirror;
mod rules;
mod slow_log;
mod tenant;
mod timeout;

use std::{
    fmt::Write,
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
};

use mysql_async::Opts;
use serde_json::Value;
use towline_middleware::{
    CORE, CORE_OUTSIDE, LayerError, LayerOptions, LayerProblem, LayerSetup, Registry, Role, UserLayer,
};

use crate::config::Config;

/// The layers that a node may be configured with: those that come with it, and those that are added.
#[derive(Debug)]
pub struct Layers {
    pub(crate) registry: Registry,
    pub(crate) server: OwnServer,
}

/// The names of those that come with a node.
pub const SHIPPED: [&str; 10] =
    ["rules", "limit", "timeout", "slow_log", "audit", "cache", "mask", "tenant", "idempotency", "mirror"];

/// How the node itself logs in to its MySQL; known once that is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnServer(Arc<OnceLock<Opts>>);

impl OwnServer {
    /// None before the node has started.
    pub(crate) fn get(&self) -> Option<Opts> {
        self.0.get().cloned()
    }

    pub(crate) fn set(&self, opts: Opts) {
        // A node has one server all its life.
        let _ = self.0.set(opts);
    }
}

impl Default for Layers {
    /// Those that come with a node.
    fn default() -> Self {
        let (mut registry, server) = (Registry::default(), OwnServer::default());
        let (of_timeout, of_cache, of_idempotency) = (server.clone(), server.clone(), server.clone());
        registry
            .register("rules", rules::layer)
            .register("limit", limit::layer)
            .register("timeout", move |setup| timeout::layer(setup, of_timeout.clone()))
            .register("slow_log", slow_log::layer)
            .register("audit", audit::layer)
            .register("mask", mask::layer)
            .register("tenant", tenant::layer)
            .register("mirror", mirror::layer)
            .register("idempotency", move |setup| idempotency::layer(setup, of_idempotency.clone()))
            .register("cache", move |setup| cache::layer(setup, of_cache.clone()))
            .order("rules", "cache", "what a rule denies must not be answered from memory")
            .order("limit", "timeout", "the time that a command waits for its turn is not MySQL's")
            .order("rules", "mask", "a rule that rewrites could name what is masked")
            .order("rules", "tenant", "a rule that rewrites could undo what keeps tenants apart")
            .order("mask", "tenant", "what tenants are kept apart by would be taken for the client's own text")
            .order("tenant", "cache", "results are kept by the text that was run")
            .order("tenant", "mirror", "the second server would be asked for every tenant's rows")
            .order("rules", "mirror", "the second server would be asked what a rule has changed or denied")
            .order("mask", "mirror", "masked values would count as differences")
            .order("cache", "mirror", "what is answered from memory would be asked again")
            .order("mirror", "idempotency", "what a key needs at the server would end the copying of its session")
            .order("limit", "idempotency", "within the transaction of a key a write passes every limit")
            .order("rules", "idempotency", "a write is known again by the text that was run")
            .order("tenant", "idempotency", "a write is known again by the text that was run")
            .order("cache", "idempotency", "what a key needs at the server would keep the cache from its session")
            .order("audit", "cache", "what is answered from memory would not be written down")
            .order("cache", "timeout", "what is answered from memory takes no time of MySQL's");
        Self { registry, server }
    }
}

impl Layers {
    /// Makes a layer known under a name, for the configuration's `[[layer]]` blocks.
    #[must_use]
    pub fn register<L: UserLayer + 'static>(
        mut self,
        name: &str,
        factory: impl Fn(&mut LayerSetup) -> Result<L, LayerProblem> + Send + Sync + 'static,
    ) -> Self {
        self.registry.register(name, factory);
        self
    }

    /// The layers as a command passes them, one a line: their place, name and options.
    ///
    /// # Errors
    /// See [`Registry::build`].
    pub fn describe(&self, config: &Config, role: Role) -> Result<String, LayerError> {
        let home = config.layer_home(role);
        let setups = config.layer.iter().map(|layer| layer.setup(&home)).collect();
        // Made and dropped: a wrong option is told here, too.
        self.registry.build(setups)?;
        let mut text = String::new();
        let mut line = |place: &str, name: &str, what: &str| {
            writeln!(text, "{place:>4}  {name:<12}  {what}").expect("a String takes everything");
        };
        let (outside, inside) = CORE.split_at(CORE_OUTSIDE);
        outside.iter().for_each(|(name, what)| line("core", name, what));
        for (index, layer) in config.layer.iter().enumerate() {
            line(&(index + 1).to_string(), &layer.name, &shown(&layer.options));
        }
        inside.iter().for_each(|(name, what)| line("core", name, what));
        Ok(text)
    }

    /// Asks that where both are configured `outer` comes before `inner`.
    #[must_use]
    pub fn order(mut self, outer: &'static str, inner: &'static str, reason: &'static str) -> Self {
        self.registry.order(outer, inner, reason);
        self
    }
}

/// A digest as people write it: 16 hexadecimal digits.
fn parse_digest(text: &str) -> Option<u64> {
    let is_whole = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| is_whole)
}

/// Whether a name is of letters, digits and these signs alone, and there is one.
fn is_plain(text: &str, signs: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

/// An option's number is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is from {} to {}", range.start(), range.end())]
pub(crate) struct OutOfRange {
    key: &'static str,
    range: RangeInclusive<u64>,
}

/// Checks the numbers of a layer's options, by their keys.
fn check_ranges<const N: usize>(numbers: [(&'static str, u64, RangeInclusive<u64>); N]) -> Result<(), OutOfRange> {
    match numbers.into_iter().find(|(_, number, range)| !range.contains(number)) {
        Some((key, _, range)) => Err(OutOfRange { key, range }),
        None => Ok(()),
    }
}

/// Options as JSON, without what must not be seen over a shoulder.
fn shown(options: &LayerOptions) -> String {
    fn without_secrets(value: &Value) -> Value {
        match value {
            Value::Object(options) => options.iter().map(|(key, value)| (key.clone(), shown(key, value))).collect(),
            Value::Array(values) => values.iter().map(without_secrets).collect(),
            other => other.clone(),
        }
    }
    fn shown(key: &str, value: &Value) -> Value {
        let is_secret = ["password", "secret", "url", "token"].iter().any(|word| key.contains(word));
        if is_secret { Value::from("…") } else { without_secrets(value) }
    }
    without_secrets(&Value::Object(options.clone())).to_string()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use serde_json::Value;
    use towline_middleware::{LayerHome, LayerSetup, Role};

    /// The setup of a layer with these options.
    pub(crate) fn setup(name: &str, options: Value) -> LayerSetup {
        let Value::Object(options) = options else { panic!("options are an object") };
        LayerSetup::new(name, options, LayerHome::new(Role::Master))
    }

    #[test]
    fn secrets_are_hidden_at_any_depth() {
        let setup = setup(
            "own",
            serde_json::json!({"a": [{"password": "p1"}, {"b": {"api_url": "p2", "c": 3}}], "secret": ["p4"]}),
        );
        assert_eq!(
            super::shown(setup.raw_options()),
            r#"{"a":[{"password":"…"},{"b":{"api_url":"…","c":3}}],"secret":"…"}"#
        );
    }

    /// The lines of a file, once there are any.
    pub(crate) async fn lines(file: &Path) -> Vec<String> {
        for _ in 0..1000 {
            match std::fs::read_to_string(file) {
                Ok(text) if text.ends_with('\n') => return text.lines().map(str::to_owned).collect(),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("{} has no line", file.display());
    }
}
