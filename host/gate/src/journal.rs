//! The gate's pen: every decision, key operation, bundle event and session goes through here into the audit log, and what a replay
//! needs goes, sealed, into an erasable store beside it.

use std::path::Path;
use std::sync::Arc;

use casemate_audit::{AuditError, CheckpointSigner, Event, Log, Receipt, Record, RecordClock, Segment, SignError};
use casemate_engine::{Answer, Exchange, Plugin, Refusal, wit};
use casemate_fhe_owner::DataKey;
use casemate_hsm::KeyRef;
use casemate_types::{Decision, DecisionId, Digest, Phase, PluginName, Reason};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::people::People;
use crate::recorder::Recorder;
use crate::vault::{Vault, VaultKey};

/// A system clock so far behind the log is worth a record.
const CLOCK_BEHIND_MS: u64 = 60_000;

/// Signs checkpoints with the audit key in the HSM.
pub(crate) struct HsmSigner {
    pub(crate) keyring: Arc<Vault>,
    pub(crate) key: VaultKey,
    pub(crate) public: [u8; 32],
}

impl CheckpointSigner for HsmSigner {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.keyring.sign(&self.key, message)?)
    }
}

/// The audit log and the store of recordings.
pub struct Journal {
    log: Log,
    site: String,
    rehearsal: bool,
    recordings: sled::Tree,
    recorder: Recorder,
    key: Arc<DataKey>,
    clock: RecordClock,
    people: Option<People>,
}

/// What an exact replay of one decision needs. Lies sealed beside the log; the log holds only a salted digest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recording {
    /// The salt of both digests in the log, hexadecimal; erasing the recording erases it.
    pub salt: String,
    /// Which phase.
    pub phase: Phase,
    /// When the request was accepted, as components see it, in milliseconds since 1970 UTC.
    pub now_ms: u64,
    /// Who asked, as components see it.
    pub claims: wit::Claims,
    /// What the components were asked.
    pub input: serde_json::Value,
    /// What each of them did.
    pub runs: Vec<RecordedRun>,
}

/// One run of a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedRun {
    /// The plugin.
    pub plugin: PluginName,
    /// Its component.
    pub component: Digest,
    /// The settings that it ran with ([`Plugin::settings_digest`]).
    pub settings: Digest,
    /// What it said, before anybody acted on it.
    pub said: Said,
    /// Every host call and its answer.
    pub exchanges: Vec<Exchange>,
}

/// What a component said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// A policy's decision.
    Decision(Decision),
    /// A strategy's references.
    References(Vec<wit::Reference>),
    /// An agent's answer.
    Answer {
        /// The text.
        text: String,
        /// What it rests on.
        citations: Vec<wit::Reference>,
    },
    /// A strategy's or an agent's error.
    Error(String),
    /// The host ended it.
    Ended(Reason),
}

impl RecordedRun {
    pub(crate) fn of(plugin: &Plugin, said: Said, exchanges: Vec<Exchange>) -> Self {
        let name = plugin.manifest().name.clone();
        Self { plugin: name, component: plugin.component_digest(), settings: plugin.settings_digest(), said, exchanges }
    }
}

impl From<&Result<Decision, Refusal>> for Said {
    fn from(outcome: &Result<Decision, Refusal>) -> Self {
        match outcome {
            Ok(decision) => Self::Decision(decision.clone()),
            Err(refusal) => Self::Ended(refusal.reason()),
        }
    }
}

impl From<&Result<Result<Vec<wit::Reference>, String>, Refusal>> for Said {
    fn from(outcome: &Result<Result<Vec<wit::Reference>, String>, Refusal>) -> Self {
        match outcome {
            Ok(Ok(references)) => Self::References(references.clone()),
            Ok(Err(message)) => Self::Error(message.clone()),
            Err(refusal) => Self::Ended(refusal.reason()),
        }
    }
}

impl From<&Result<Result<Answer, String>, Refusal>> for Said {
    fn from(outcome: &Result<Result<Answer, String>, Refusal>) -> Self {
        match outcome {
            Ok(Ok(answer)) => Self::Answer { text: answer.text.clone(), citations: answer.citations.clone() },
            Ok(Err(message)) => Self::Error(message.clone()),
            Err(refusal) => Self::Ended(refusal.reason()),
        }
    }
}

/// [`Recording`] as it is written, without copies.
#[derive(Serialize)]
struct Kept<'a, T> {
    salt: String,
    phase: Phase,
    now_ms: u64,
    claims: &'a wit::Claims,
    input: &'a T,
    runs: &'a [RecordedRun],
}

/// A recording with where it lies and what the log has of it.
pub(crate) struct Found {
    /// `DECISION/PHASE/SALT`.
    pub(crate) key: String,
    /// The salted digest.
    pub(crate) commitment: Digest,
    pub(crate) recording: Recording,
}

/// The record of a use of a key.
pub(crate) fn key_operation(
    key: &KeyRef,
    version: Option<u32>,
    operation: &str,
    user: Option<String>,
    result: &str,
) -> Event {
    Event::KeyOperation {
        operation: operation.to_owned(),
        class: key.class.to_string(),
        key_id: key.id.to_string(),
        key_check: key.check.clone(),
        version: version.map(u64::from),
        user,
        by: None,
        result: result.to_owned(),
    }
}

/// The record of a use of a user's key.
pub(crate) fn user_key_operation(
    key: &KeyRef,
    operation: &str,
    version: u64,
    user: &casemate_types::UserName,
    result: &str,
) -> Event {
    Event::KeyOperation {
        operation: operation.to_owned(),
        class: key.class.to_string(),
        key_id: key.id.to_string(),
        key_check: key.check.clone(),
        version: Some(version),
        user: Some(user.to_string()),
        by: None,
        result: result.to_owned(),
    }
}

/// The record of what an officer does with a key.
pub(crate) fn officer_operation(
    key: &KeyRef,
    operation: &str,
    version: Option<u64>,
    user: Option<String>,
    by: &str,
    result: &str,
) -> Event {
    Event::KeyOperation {
        operation: operation.to_owned(),
        class: key.class.to_string(),
        key_id: key.id.to_string(),
        key_check: key.check.clone(),
        version,
        user,
        by: Some(by.to_owned()),
        result: result.to_owned(),
    }
}

/// Salted commitments to one recording.
pub(crate) struct Commitment {
    pub(crate) input: Digest,
    pub(crate) recording: Option<Digest>,
}

impl Journal {
    pub(crate) fn new(
        log: Log,
        site: &str,
        rehearsal: bool,
        recordings: sled::Tree,
        key: Arc<DataKey>,
        people: Option<People>,
    ) -> Result<Self, GateError> {
        let clock = RecordClock::of(&log)?;
        let journal = Self {
            log,
            site: site.to_owned(),
            rehearsal,
            recorder: Recorder::start(recordings.clone())?,
            recordings,
            key,
            clock,
            people,
        };
        let behind = journal.clock.was_behind_ms();
        if behind > CLOCK_BEHIND_MS {
            journal.record_blocking(Event::Site {
                action: "clock-set-back".to_owned(),
                detail: format!("the system's clock is {behind} ms behind the log; records keep the log's time"),
            })?;
        }
        Ok(journal)
    }

    /// Milliseconds since 1970 UTC; never before the latest record of the log.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Appends an event and waits until it is durable. The answer it belongs to must not leave before this returns.
    pub async fn record(&self, event: Event) -> Result<u64, GateError> {
        let (done, durable) = tokio::sync::oneshot::channel();
        self.log.submit(self.bytes(event)?, move |result| {
            // The receiver is gone when the request was dropped; the record stays.
            let _ = done.send(result);
        });
        match durable.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(GateError::Audit(AuditError::Closed)),
        }
    }

    /// As [`Journal::record`], for callers outside the async runtime.
    pub fn record_blocking(&self, event: Event) -> Result<u64, GateError> {
        Ok(self.log.append(self.bytes(event)?)?)
    }

    /// Commits to the inputs of a run and keeps them, sealed, for replay.
    pub(crate) async fn keep(
        &self,
        id: DecisionId,
        salt: [u8; 32],
        phase: Phase,
        asked: (&wit::Claims, u64),
        input: &(impl Serialize + Sync),
        runs: &[RecordedRun],
    ) -> Result<Commitment, GateError> {
        let fault = |error: &dyn std::fmt::Display| GateError::Store(format!("cannot keep a recording: {error}"));
        let input_bytes = serde_json::to_vec(input).map_err(|e| fault(&e))?;
        let (claims, now_ms) = asked;
        let kept = Kept { salt: hex::encode(salt), phase, now_ms, claims, input, runs };
        let bytes = serde_json::to_vec(&kept).map_err(|e| fault(&e))?;
        let key = format!("{id}/{phase}/{}", hex::encode(salt.get(..8).unwrap_or_default()));
        let sealed = self.key.seal("a recording", &[b"recording", key.as_bytes()], &bytes).map_err(|e| fault(&e))?;
        self.recorder.put(key, sealed).await?;
        Ok(Commitment { input: Digest::salted(&salt, &input_bytes), recording: Some(Digest::salted(&salt, &bytes)) })
    }

    /// The recordings of a decision, opened. Each is checked against its seal.
    pub fn recordings(&self, id: DecisionId) -> Result<Vec<Recording>, GateError> {
        self.recordings
            .scan_prefix(format!("{id}/"))
            .map(|entry| {
                let (key, sealed) = entry.map_err(|e| GateError::Store(e.to_string()))?;
                let bytes = self
                    .key
                    .open("a recording", &[b"recording", &key], &sealed)
                    .map_err(|e| GateError::Store(format!("recording {}: {e}", String::from_utf8_lossy(&key))))?;
                serde_json::from_slice(&bytes).map_err(|e| GateError::Store(e.to_string()))
            })
            .collect()
    }

    /// Every recording, opened and checked against its seal, in the order of their decisions' ids. One that was written in an older
    /// form is an error of its own, and so is one whose seal is broken; with each goes where it lies.
    pub(crate) fn all_recordings(&self) -> impl Iterator<Item = Result<Found, (String, String)>> + '_ {
        self.recordings.iter().map(|entry| {
            let (key, sealed) = entry.map_err(|error| (String::new(), error.to_string()))?;
            let name = String::from_utf8_lossy(&key).into_owned();
            let fault = |error: String| (name.clone(), error);
            let bytes = self
                .key
                .open("a recording", &[b"recording", &key], &sealed)
                .map_err(|error| fault(error.to_string()))?;
            let recording: Recording = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
            let salt = hex::decode(&recording.salt).map_err(|error| fault(error.to_string()))?;
            let salt: [u8; 32] = salt.try_into().map_err(|_| fault("its salt is none".to_owned()))?;
            Ok(Found { key: name, commitment: Digest::salted(&salt, &bytes), recording })
        })
    }

    /// The record at `index` with a proof that it is in the log.
    pub fn receipt(&self, index: u64) -> Result<Receipt, GateError> {
        Ok(self.log.receipt(index)?)
    }

    /// Signs a checkpoint over everything recorded so far.
    pub fn checkpoint(&self) -> Result<String, GateError> {
        Ok(self.log.checkpoint()?)
    }

    /// The public key that verifies the log, in signed-note form.
    pub fn verifier_key(&self) -> String {
        self.log.verifier_key()
    }

    /// Whether the site was made without two custodians.
    pub fn rehearsal(&self) -> bool {
        self.rehearsal
    }

    /// Erases the recordings of a decision: inputs, host answers, and the salts of the commitments to them. The records stay, and
    /// nobody can tell any more what was committed to. Returns how many recordings there were.
    pub fn erase(&self, id: DecisionId, reason: &str) -> Result<u32, GateError> {
        let fault = |error: sled::Error| GateError::Store(format!("cannot erase recordings: {error}"));
        let prefix = format!("{id}/");
        let keys = self.recordings.scan_prefix(&prefix).keys().collect::<Result<Vec<_>, _>>().map_err(fault)?;
        let recordings = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        // Recorded first: an erasure that was cut off stands in the log as begun, and can be asked for again.
        self.record_blocking(Event::Erasure { id: Some(id), recordings, reason: reason.to_owned() })?;
        for key in keys {
            self.recordings.remove(key).map_err(fault)?;
        }
        self.recordings.flush().map_err(fault)?;
        Ok(recordings)
    }

    /// Erases the salt behind a user's pseudonym. Returns whether there was one.
    pub fn erase_person(&self, user: &str, reason: &str) -> Result<bool, GateError> {
        let Some(people) = &self.people else { return Ok(false) };
        self.record_blocking(Event::Erasure { id: None, recordings: 0, reason: reason.to_owned() })?;
        people.erase(user)
    }

    /// Moves whole segments of records before `before` into an archive: see [`Log::seal`].
    pub(crate) fn seal(&self, before: u64, archive: &Path) -> Result<Segment, GateError> {
        Ok(self.log.seal(before, archive, |event| self.plain(event).to_bytes())?)
    }

    fn bytes(&self, mut event: Event) -> Result<Vec<u8>, GateError> {
        if let Some(people) = &self.people {
            people.disguise(&mut event)?;
        }
        Ok(self.plain(event).to_bytes())
    }

    fn plain(&self, event: Event) -> Record {
        Record {
            v: casemate_audit::record::VERSION,
            time_ms: self.now_ms(),
            site: self.site.clone(),
            rehearsal: self.rehearsal,
            event,
        }
    }
}
