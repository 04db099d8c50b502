//! A scripted host for `cargo test`, and a runner for `cases.json`.
//!
//! A capability that the script does not grant panics with its name, so that a test sees an ungranted call.
//!
//! ```
//! use casemate_sdk::testing::{Host, with_host};
//!
//! let (now, seen) = with_host(Host::new().now(1_000), casemate_sdk::clock::now);
//! assert_eq!((now, seen.calls), (1_000, vec!["clock.now".to_owned()]));
//! ```
#![allow(clippy::panic, reason = "a test host reports by panicking")]

pub(crate) mod capabilities;
mod cases;

use std::cell::RefCell;
use std::collections::BTreeMap;

pub use cases::{check_decision, run_policy_cases, run_policy_cases_with, settings};

use crate::{CapabilityError, Claims, Field, LogLevel, Passage, Reference};

/// What a scripted key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPurpose {
    /// For `fpe`.
    Fpe,
    /// For `hsm.mac`.
    Mac,
    /// For `hsm.sign`.
    Signing,
}

/// The script: what is granted, and what the host answers. Nothing is granted by default.
#[derive(Default)]
pub struct Host {
    claims: Option<Claims>,
    now: Option<u64>,
    random: Option<Vec<u8>>,
    log: bool,
    audit: bool,
    kv: Option<BTreeMap<String, Vec<u8>>>,
    keys: BTreeMap<String, KeyPurpose>,
    collections: Option<Vec<(String, Found)>>,
    clusters: Option<Vec<(String, Found)>>,
    keywords: Option<Vec<(String, Found)>>,
    similarity: Option<Similar>,
    retrieved: Option<Found>,
    passages: Option<Vec<(Reference, Result<Passage, CapabilityError>)>>,
    closeness: Option<Measure>,
    seen: Recording,
}

type Similar = Box<dyn Fn(&Reference, &Reference) -> u16>;
type Measure = Box<dyn Fn(&str, &str) -> u16>;
type Found = Result<Vec<Reference>, CapabilityError>;

/// What the code under test did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Every capability call in order, as `interface.function`.
    pub calls: Vec<String>,
    /// Lines written by `log.write`.
    pub log: Vec<(LogLevel, String)>,
    /// Remarks added by `audit.annotate`.
    pub annotations: Vec<Field>,
    /// What `kv` holds at the end.
    pub state: BTreeMap<String, Vec<u8>>,
}

impl Host {
    /// A host that grants nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants `session`.
    #[must_use]
    pub fn claims(self, claims: Claims) -> Self {
        Self { claims: Some(claims), ..self }
    }

    /// Grants `clock`, standing at this many milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now(self, milliseconds: u64) -> Self {
        Self { now: Some(milliseconds), ..self }
    }

    /// Grants `random`; the bytes repeat and must not be empty.
    #[must_use]
    pub fn random(self, bytes: &[u8]) -> Self {
        assert!(!bytes.is_empty(), "random needs at least one byte to repeat");
        Self { random: Some(bytes.to_vec()), ..self }
    }

    /// Grants `log`.
    #[must_use]
    pub fn log(self) -> Self {
        Self { log: true, ..self }
    }

    /// Grants `audit`.
    #[must_use]
    pub fn audit(self) -> Self {
        Self { audit: true, ..self }
    }

    /// Grants `kv`, with this state.
    #[must_use]
    pub fn state(self, state: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self { kv: Some(state.into_iter().collect()), ..self }
    }

    /// Grants `fpe` or `hsm` with a key of this name. The stand-ins keep lengths, alphabets and errors, and are not
    /// cryptography.
    #[must_use]
    pub fn key(mut self, name: &str, purpose: KeyPurpose) -> Self {
        self.keys.insert(name.to_owned(), purpose);
        self
    }

    /// Grants `vectors` with a collection, and what a search of it finds. Without a collection, `vectors` is not granted.
    #[must_use]
    pub fn collection(mut self, name: &str, found: Found) -> Self {
        self.collections.get_or_insert_default().push((name.to_owned(), found));
        self
    }

    /// Grants `clusters` with a collection, and what a search of its closest clusters finds.
    #[must_use]
    pub fn clustered(mut self, collection: &str, found: Found) -> Self {
        self.clusters.get_or_insert_default().push((collection.to_owned(), found));
        self
    }

    /// Grants `keywords` with a collection, and what a search by words finds.
    #[must_use]
    pub fn keywords(mut self, collection: &str, found: Found) -> Self {
        self.keywords.get_or_insert_default().push((collection.to_owned(), found));
        self
    }

    /// Grants `similarity`: closeness of two passages, 0 to 1023.
    #[must_use]
    pub fn similarity(self, measure: impl Fn(&Reference, &Reference) -> u16 + 'static) -> Self {
        Self { similarity: Some(Box::new(measure)), ..self }
    }

    /// Grants `retrieval`, and what it answers.
    #[must_use]
    pub fn retrieved(self, found: Found) -> Self {
        Self { retrieved: Some(found), ..self }
    }

    /// Grants `records`, and what opening this reference answers.
    #[must_use]
    pub fn passage(mut self, reference: Reference, answer: Result<Passage, CapabilityError>) -> Self {
        self.passages.get_or_insert_default().push((reference, answer));
        self
    }

    /// Grants `inference`: closeness of (question, text), 0 to 1023.
    #[must_use]
    pub fn closeness(self, measure: impl Fn(&str, &str) -> u16 + 'static) -> Self {
        Self { closeness: Some(Box::new(measure)), ..self }
    }
}

/// Runs `body` with this host behind the capabilities of the current thread. Returns its value and what it did.
pub fn with_host<R>(host: Host, body: impl FnOnce() -> R) -> (R, Recording) {
    let guard = Installed(HOST.with(|slot| slot.replace(Some(host))));
    let value = body();
    let host = HOST.with(|slot| slot.borrow_mut().take());
    drop(guard);
    let mut seen = Recording::default();
    if let Some(host) = host {
        seen = host.seen;
        seen.state = host.kv.unwrap_or_default();
    }
    (value, seen)
}

/// Puts the previous host back, also when the body panics.
struct Installed(Option<Host>);

impl Drop for Installed {
    fn drop(&mut self) {
        let previous = self.0.take();
        HOST.with(|slot| *slot.borrow_mut() = previous);
    }
}

/// Records a call and answers it from the script; `None` means that the script does not grant it.
fn call<R>(function: &str, answer: impl FnOnce(&mut Host) -> Option<R>) -> R {
    let answered = HOST.with(|slot| {
        let mut slot = slot.borrow_mut();
        let host = slot.as_mut()?;
        host.seen.calls.push(function.to_owned());
        answer(host)
    });
    answered.unwrap_or_else(|| panic!("`{function}` was called, and the test host does not grant it"))
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}
