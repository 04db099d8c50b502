//! What a policy team depends on: typed bindings of the contract (`casemate:plugin`), three traits and a test host.
//!
//! ```
//! use casemate_sdk::{Decision, Description, Phase, Policy, Request, SettingKind, Settings};
//!
//! struct NoSecretTools;
//!
//! impl Policy for NoSecretTools {
//!     fn describe() -> Description {
//!         Description::new("Refuses the tools the site names.").optional("tools", SettingKind::Texts, "Refused tools.")
//!     }
//!
//!     fn evaluate(request: &Request, settings: &Settings) -> Decision {
//!         let refused = settings.texts("tools").unwrap_or_default();
//!         match request.attribute("tool") {
//!             Some(tool) if request.phase == Phase::Request && refused.iter().any(|name| name == tool) => {
//!                 Decision::deny("tool-refused", "This tool is not allowed here.")
//!             }
//!             _ => Decision::Allow,
//!         }
//!     }
//! }
//!
//! casemate_sdk::export_policy!(NoSecretTools);
//! ```
//!
//! Capabilities are the modules [`audit`], [`clock`], [`fpe`] and so on. On `wasm32` they are the component's imports, and
//! a component imports only those it calls. Natively they ask the scripted host of [`testing`], so that `cargo test`
//! needs neither a Wasm runtime nor an HSM.
#![deny(unsafe_code)]

#[doc(hidden)]
pub mod bindings;
mod contract;
mod settings;
pub mod strategy;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

#[cfg(target_arch = "wasm32")]
pub use bindings::casemate::plugin::{
    audit, clock, clusters, fpe, hsm, inference, keywords, kv, log, random, records, retrieval, session, similarity,
    vectors,
};
#[cfg(not(target_arch = "wasm32"))]
pub use testing::capabilities::{
    audit, clock, clusters, fpe, hsm, inference, keywords, kv, log, random, records, retrieval, session, similarity,
    vectors,
};

pub use bindings::agent::Answer;
pub use bindings::casemate::plugin::types::{
    CapabilityError, Claims, Decision, Denial, Description, Field, Level, LogLevel, Obligation, Passage, PassageInfo,
    Phase, Reference, Request, Setting, SettingKind, SettingSpec, SettingValue, Span,
};
pub use settings::Settings;

/// Decides on requests, passages, capability calls and answers. Export it with [`export_policy!`].
pub trait Policy {
    /// What this policy is and which settings it takes. Pure: it calls no capability.
    fn describe() -> Description;

    /// Decides. A panic, a deadline passed or a malformed answer is a denial with the host's own reason.
    fn evaluate(request: &Request, settings: &Settings) -> Decision;
}

/// Finds passages for a question. Export it with [`export_strategy!`].
pub trait Strategy {
    /// What this strategy is and which settings it takes. Pure: it calls no capability.
    fn describe() -> Description;

    /// Up to `k` (1 to 64) references, best first, without duplicates. The error is for the operator.
    fn retrieve(question: &str, filter: &[Field], k: u32, settings: &Settings) -> Result<Vec<Reference>, String>;
}

/// Answers a question with the passages it may read. Export it with [`export_agent!`].
pub trait Agent {
    /// What this agent is and which settings it takes. Pure: it calls no capability.
    fn describe() -> Description;

    /// Answers. Every citation must have been opened in this request. The error is for the operator.
    fn handle(question: &str, filter: &[Field], settings: &Settings) -> Result<Answer, String>;
}

/// Makes the crate a component of world `policy`, implemented by a type that is a [`Policy`]. Once a crate.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        const _: () = {
            #[allow(dead_code, reason = "used by the component's exports")]
            struct Component;

            impl $crate::bindings::policy::Guest for Component {
                fn describe() -> $crate::Description {
                    <$policy as $crate::Policy>::describe()
                }

                fn evaluate(request: $crate::Request, settings: Vec<$crate::Setting>) -> $crate::Decision {
                    <$policy as $crate::Policy>::evaluate(&request, &$crate::Settings::new(settings))
                }
            }

            #[cfg(target_arch = "wasm32")]
            $crate::__casemate_export!(policy, Component);
        };
    };
}

/// Makes the crate a component of world `retrieval-strategy`, implemented by a type that is a [`Strategy`]. Once a crate.
#[macro_export]
macro_rules! export_strategy {
    ($strategy:ty) => {
        const _: () = {
            #[allow(dead_code, reason = "used by the component's exports")]
            struct Component;

            impl $crate::bindings::strategy::Guest for Component {
                fn describe() -> $crate::Description {
                    <$strategy as $crate::Strategy>::describe()
                }

                fn retrieve(
                    question: String,
                    filter: Vec<$crate::Field>,
                    k: u32,
                    settings: Vec<$crate::Setting>,
                ) -> Result<Vec<$crate::Reference>, String> {
                    let settings = $crate::Settings::new(settings);
                    <$strategy as $crate::Strategy>::retrieve(&question, &filter, k, &settings)
                }
            }

            #[cfg(target_arch = "wasm32")]
            $crate::__casemate_export!(strategy, Component);
        };
    };
}

/// Makes the crate a component of world `agent-handler`, implemented by a type that is an [`Agent`]. Once a crate.
#[macro_export]
macro_rules! export_agent {
    ($agent:ty) => {
        const _: () = {
            #[allow(dead_code, reason = "used by the component's exports")]
            struct Component;

            impl $crate::bindings::agent::Guest for Component {
                fn describe() -> $crate::Description {
                    <$agent as $crate::Agent>::describe()
                }

                fn handle(
                    question: String,
                    filter: Vec<$crate::Field>,
                    settings: Vec<$crate::Setting>,
                ) -> Result<$crate::Answer, String> {
                    <$agent as $crate::Agent>::handle(&question, &filter, &$crate::Settings::new(settings))
                }
            }

            #[cfg(target_arch = "wasm32")]
            $crate::__casemate_export!(agent, Component);
        };
    };
}

/// The generated export functions sit in a module of their own, because they need `unsafe`.
#[doc(hidden)]
#[macro_export]
macro_rules! __casemate_export {
    ($world:ident, $component:ident) => {
        #[allow(unsafe_code, missing_docs, reason = "generated by wit-bindgen")]
        const _: () = {
    $crate::bindings::$world::export!($component with_types_in $crate::bindings::$world);
        };
    };
}
