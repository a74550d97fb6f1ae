//! The words and layers of a Towline node: what a third party depends on to put logic in front of MySQL.
//!
//! - [`Command`] is what a client asked, [`Intent`] what it means to do, [`Reply`] the answer: a head and a stream of
//!   parts that is never collected.
//! - A layer is a tower [`Layer`](tower::Layer) over services of `Command → Reply`. A refusal is a reply
//!   ([`Reply::err`]); an [`Error`] ends the session.
//! - [`Stack`] is the one definition of the order in which layers run, used by both fronts. [`from_fn()`] makes a
//!   layer of one asynchronous function.
//!
//! State shared by all sessions lives in the layer, one session's state in the service that it makes.

mod changes;
mod command;
mod error;
mod from_fn;
mod intent;
pub mod layers;
mod metrics;
pub mod nearest;
mod position;
mod prepared;
mod registry;
mod replication;
mod reply;
mod role;
pub mod rows;
mod session;
mod setup;
mod stack;
pub mod testing;
mod token;
pub mod wire;

pub use changes::{ChangeFeed, Changed, Listening, Step};
pub use command::{Command, CommandKind};
pub use error::{Error, ServerError};
pub use from_fn::{FnLayer, Next, from_fn};
pub use intent::{Classifier, Explanation, Intent, Named, Plan, Refusal, RefusedOn, SqlMode};
pub use layers::user::Generation;
pub use metrics::{Counters, Figure, FigureKind, Metrics, Sample};
pub use position::{Epoch, InvalidPosition, Position, Sequence};
pub use prepared::Prepared;
pub use registry::{CORE, CORE_OUTSIDE, LayerError, Registry};
pub use replication::{Acknowledgement, Replication};
pub use reply::{BoxFuture, Completion, Details, Final, Head, Part, Parts, Reply};
pub use role::{Role, UnknownRole};
pub use session::{Front, RequestKey, Session, status};
pub use setup::{InvalidOptions, LayerHome, LayerOptions, LayerProblem, LayerSetup};
pub use stack::{BoxSessionService, Router, SessionStack, Stack, UserLayer};
pub use token::{Token, TokenKind};

/// The README's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
