//! Runs signed components with exactly the capabilities their manifest grants.
//!
//! ```text
//! VerifiedBundle --Plugin::load--> Plugin --evaluate | retrieve | handle--> Evaluated { outcome, trace }
//!                  imports checked          fresh instance, limits,
//!                  linker per grant set     deadline, recorded host calls
//! ```
//!
//! This is the only crate that sees wasmtime. What a capability does is behind [`Services`]; the engine counts, bounds and
//! records every call. Whatever a guest does wrong comes back as a [`Refusal`] of its own kind, decided by type.

#![deny(unsafe_code)]

mod bindings;
mod cache;
mod capabilities;
mod convert;
mod limiter;
mod plugin;
mod refusal;
mod runtime;
mod services;
mod state;

pub use bindings::fpe::{Alphabet, Item as FpeItem};
pub use bindings::hsm::KeyInfo;
pub use bindings::types as wit;
pub use cache::CacheKey;
pub use plugin::{Answer, Evaluated, LoadError, Plugin, Trace};
pub use refusal::Refusal;
pub use runtime::{Engine, EngineError, EngineOptions};
pub use services::{Exchange, HostAnswer, HostCall, Invocation, NoServices, Services};
