//! What a layer gets to set itself up with.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{BoxFuture, ChangeFeed, Counters, Figure, FigureKind, Metrics, Role, Session, nearest::meant};

/// A layer's options, as its block of the configuration has them, without `name`.
pub type LayerOptions = serde_json::Map<String, Value>;

/// Whatever a layer says of its options, or of its start.
pub type LayerProblem = Box<dyn std::error::Error + Send + Sync>;

type Start = Pin<Box<dyn Future<Output = Result<(), LayerProblem>> + Send>>;
type Stop = BoxFuture<'static, ()>;
type Status = Box<dyn Fn() -> Value + Send + Sync>;
type Missed = Box<dyn Fn(&Session) + Send + Sync>;

/// What a layer gets to set itself up with: its options, its node's role, figures, and what is to be done when it
/// starts and stops. A reload of the configuration sets each layer up anew.
pub struct LayerSetup {
    name: String,
    options: LayerOptions,
    home: LayerHome,
    pub(crate) hooks: Hooks,
}

/// What a node has for all of its layers.
#[derive(Clone, Debug)]
pub struct LayerHome {
    /// The node's role.
    pub role: Role,
    /// The configuration file's folder.
    pub folder: PathBuf,
    /// The figures of its layers.
    pub metrics: Metrics,
    /// What changes in its data.
    pub changes: ChangeFeed,
    /// What layers keep over a reload.
    kept: Kept,
}

/// The state that layers keep over a reload, by their names and its types.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashMap<(String, TypeId), Anything>>>);

type Anything = Arc<dyn Any + Send + Sync>;

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl LayerHome {
    /// A home without anything in it, in the working folder.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            folder: PathBuf::from("."),
            metrics: Metrics::default(),
            changes: ChangeFeed::default(),
            kept: Kept::default(),
        }
    }
}

/// What a layer has asked to be called for.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) starts: Vec<Start>,
    pub(crate) stops: Vec<Stop>,
    pub(crate) status: Option<Status>,
    pub(crate) missed: Option<Missed>,
}

impl LayerSetup {
    /// The setup of a layer under this name.
    pub fn new(name: &str, options: LayerOptions, home: LayerHome) -> Self {
        Self { name: name.to_owned(), options, home, hooks: Hooks::default() }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's role.
    pub fn role(&self) -> Role {
        self.home.role
    }

    /// The configuration file's folder, for paths that are relative to it.
    pub fn folder(&self) -> &Path {
        &self.home.folder
    }

    /// What changes in the node's data.
    pub fn changes(&self) -> &ChangeFeed {
        &self.home.changes
    }

    /// Its options as they were written.
    pub fn raw_options(&self) -> &LayerOptions {
        &self.options
    }

    /// Its options as a type of the layer's own, which should have `#[serde(deny_unknown_fields)]`: a slip of the
    /// keyboard is then an error that names the key and the nearest one.
    ///
    /// # Errors
    /// A key or a value that is wrong.
    pub fn options<T: DeserializeOwned>(&self) -> Result<T, InvalidOptions> {
        serde_path_to_error::deserialize(Value::Object(self.options.clone())).map_err(|error| {
            let path = error.path().to_string();
            InvalidOptions { path: if path == "." { String::new() } else { path }, what: explained(error.inner()) }
        })
    }

    /// State that a reload hands on to the layer of the same name, made by `Default` when it is first asked for; one per
    /// type.
    pub fn kept<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        // Valid at every moment, so a panic elsewhere can't have left it half done.
        let mut kept = self.home.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state =
            kept.entry((self.name.clone(), TypeId::of::<T>())).or_insert_with(|| Arc::new(T::default())).clone();
        state.downcast().expect("it is kept under its own type")
    }

    /// A figure that only rises: `towline_layer_<layer>_<name>_total`.
    pub fn counter(&self, name: &str, help: &'static str, labels: &[(&'static str, &str)]) -> Figure {
        let name = format!("towline_layer_{}_{name}_total", self.name);
        self.home.metrics.figure(name, FigureKind::Counter, help, labels)
    }

    /// Counters of one name, one for each value of a label that only shows when the layer runs, as a user.
    pub fn counters(&self, name: &str, help: &'static str, label: &'static str) -> Counters {
        let name = format!("towline_layer_{}_{name}_total", self.name);
        Counters::new(self.home.metrics.clone(), name, help, label)
    }

    /// A figure that goes up and down: `towline_layer_<layer>_<name>`.
    pub fn gauge(&self, name: &str, help: &'static str, labels: &[(&'static str, &str)]) -> Figure {
        self.home.metrics.figure(format!("towline_layer_{}_{name}", self.name), FigureKind::Gauge, help, labels)
    }

    /// Has something done before the layer serves its first command. If it fails, the node does not start, or the
    /// reload changes nothing.
    pub fn on_start(&mut self, start: impl Future<Output = Result<(), LayerProblem>> + Send + 'static) {
        self.hooks.starts.push(Box::pin(start));
    }

    /// Has something done after the layer's last command: when the node stops, or when the last session has gone over
    /// to what a reload put in the layer's place. Also when the layer never gets a command, since it does not start or
    /// another one does not: whatever of [`on_start`](Self::on_start) has been done, or has not.
    pub fn on_stop(&mut self, stop: impl Future<Output = ()> + Send + 'static) {
        self.hooks.stops.push(Box::pin(stop));
    }

    /// Hears of each session whose earlier commands have not passed this layer: a reload has put it into the stack while
    /// the session was there, or has taken it out and later put it back. Called before the session's next command does
    /// pass it. What the layer knows of the session by its commands ([`Session::state`]) must be taken as unknown then,
    /// until a [`ResetConnection`](crate::CommandKind::ResetConnection) or [`ChangeUser`](crate::CommandKind::ChangeUser)
    /// begins it anew.
    ///
    /// A reload that keeps a layer of this name misses nothing, and calls nothing.
    pub fn on_missed(&mut self, missed: impl Fn(&Session) + Send + Sync + 'static) {
        self.hooks.missed = Some(Box::new(missed));
    }

    /// What `/status` shows of the layer.
    pub fn on_status(&mut self, status: impl Fn() -> Value + Send + Sync + 'static) {
        self.hooks.status = Some(Box::new(status));
    }
}

impl fmt::Debug for LayerSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the options, which may hold secrets.
        f.debug_struct("LayerSetup").field("name", &self.name).field("role", &self.home.role).finish_non_exhaustive()
    }
}

/// An option that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", if path.is_empty() { String::new() } else { format!("`{path}`: ") })]
pub struct InvalidOptions {
    /// Where: `rule[2].action`. Empty for the block itself.
    pub path: String,
    /// What is wrong, and what was perhaps meant.
    pub what: String,
}

/// serde's message, with the nearest known word when it is about an unknown one.
fn explained(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let mut quoted = text.split('`').skip(1).step_by(2);
    let nearest = match quoted.next() {
        Some(word) if text.starts_with("unknown ") => meant(word, &quoted.collect::<Vec<_>>()),
        _ => String::new(),
    };
    text + &nearest
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[allow(dead_code, reason = "only the names of the keys matter here")]
        rule: Vec<Rule>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the names of the keys matter here")]
    struct Rule {
        action: String,
        message: Option<String>,
    }

    #[test]
    fn a_wrong_key_is_named_with_its_place_and_the_nearest_one() {
        let options = serde_json::json!({"rule": [{"action": "deny"}, {"acton": "deny"}]});
        let options = options.as_object().expect("an object").clone();
        let setup = LayerSetup::new("rules", options, LayerHome::new(Role::Master));
        let text = setup.options::<Options>().expect_err("a wrong key").to_string();
        assert!(text.contains("rule[1]") && text.contains("(did you mean `action`?)"), "{text}");
    }
}
