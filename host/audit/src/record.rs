//! What is recorded: one line of JSON per event, always the same bytes for the same event.

use casemate_types::{
    CollectionName, CompartmentName, DecisionId, Digest, Generation, LogLevel, Phase, PluginName, Reason,
};
use serde::{Deserialize, Serialize};

use crate::AuditError;

/// The version this code writes and reads.
pub const VERSION: u32 = 1;

/// One record. Fields are written in the order given here, without spaces; there are no floats and no maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub v: u32,
    /// Milliseconds since the Unix epoch, by the site's clock.
    pub time_ms: u64,
    /// The site.
    pub site: String,
    /// Whether this was a rehearsal (staging), not the real thing.
    pub rehearsal: bool,
    /// What happened. Its kind stands in the field `event`, its fields follow on the same level.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The answer left.
    Answer {
        /// The decision it rests on.
        id: DecisionId,
        /// Who asked.
        user: String,
        /// Passages cited.
        citations: u32,
        /// Salted digest of the answer.
        output: Digest,
        /// Salted digest of what the agent asked and was told; kept, sealed, beside the log.
        recording: Option<Digest>,
    },
    /// A bundle was verified, refused or activated.
    Bundle {
        /// `verified`, `refused` or `activated`.
        action: String,
        /// Its name.
        name: String,
        /// Its version.
        version: u64,
        /// Digest of the bundle file.
        digest: Digest,
        /// The people whose keys signed.
        signers: Vec<String>,
        /// Why it was refused.
        reason: Option<String>,
        /// The generation it belongs to.
        generation: Generation,
    },
    /// A policy, or the host in its place, decided.
    Decision {
        /// Names the decision.
        id: DecisionId,
        /// Who asked.
        user: String,
        /// Where in the flow.
        phase: Phase,
        /// `allow`, `deny` or `transform`; `skipped` for a monitored policy for which there was no room.
        verdict: String,
        /// Why it was denied.
        reason: Option<Reason>,
        /// The policy that decided; none when the host did.
        policy: Option<PluginName>,
        /// `enforce` or `monitor`.
        mode: String,
        /// The active generation.
        generation: Generation,
        /// The component that ran.
        component: Option<Digest>,
        /// Kinds of the obligations, without their contents.
        obligations: Vec<String>,
        /// Salted digest of the input.
        input: Digest,
        /// Salted digest of the recording that replays it.
        recording: Option<Digest>,
        /// How often the component called the host.
        host_calls: u32,
        /// What the component noted.
        annotations: Vec<(String, String)>,
        /// How loudly to record.
        log_level: LogLevel,
    },
    /// Personal data was erased: what is kept beside the log, with the salts of its commitments.
    Erasure {
        /// The decision whose recordings are gone; none when a person was erased.
        id: Option<DecisionId>,
        /// How many recordings.
        recordings: u32,
        /// Who asked for it, in the operator's words.
        reason: String,
    },
    /// Documents entered or left a collection.
    Ingest {
        /// `begun` before the store is touched, `done` after; `destroyed` with the key of its compartment.
        action: String,
        /// The collection.
        collection: CollectionName,
        /// Documents added.
        documents: u64,
        /// Documents deleted.
        deleted: u64,
        /// The collection's version: before when begun, afterwards when done.
        generation_of_store: u64,
    },
    /// A key was used, made or destroyed.
    KeyOperation {
        /// For instance `wrap`.
        operation: String,
        /// The key's class.
        class: String,
        /// The key's identifier.
        key_id: String,
        /// The key's check value.
        key_check: String,
        /// Which version of the key, where keys of its kind have versions.
        version: Option<u64>,
        /// For whom.
        user: Option<String>,
        /// Who asked for it, where a person did.
        by: Option<String>,
        /// `ok`, or the token's error.
        result: String,
    },
    /// A signed order of custodians was carried out, or refused.
    Order {
        /// `stopped`, `resumed`, `revoked`, `rollback` or `refused`.
        action: String,
        /// `everything`, `component:NAME`, the digest that is revoked, or `NAME@DIGEST` to come back; empty for a refused order that nobody signed.
        scope: String,
        /// Digest of the order's statement: names it whoever signed.
        order: Digest,
        /// The people whose signatures hold.
        signers: Vec<String>,
        /// Their reason, or why it was refused.
        reason: String,
    },
    /// An agent or a retrieval strategy ran, and was ended if `ended` says why.
    Run {
        /// The decision it belongs to.
        id: DecisionId,
        /// For whom.
        user: String,
        /// Which one.
        plugin: PluginName,
        /// The active generation.
        generation: Generation,
        /// The component that ran.
        component: Digest,
        /// Why it gave no result.
        ended: Option<Reason>,
        /// Salted digest of the input.
        input: Digest,
        /// Salted digest of the recording that replays it.
        recording: Option<Digest>,
        /// How often the component called the host.
        host_calls: u32,
        /// What the component noted.
        annotations: Vec<(String, String)>,
    },
    /// The log's key handed over to the next one, or announced one in reserve.
    LogKey {
        /// `rotated` or `reserve`.
        action: String,
        /// Verifier key of the log's key until then.
        from: String,
        /// Verifier key of the new one, or of the one in reserve.
        to: String,
        /// The hand-over or announcement: a note that both keys signed.
        note: String,
    },
    /// Records were moved out of the log into an archive; their hashes stay.
    Segment {
        /// `sealed`.
        action: String,
        /// The first record.
        from: u64,
        /// One past the last.
        to: u64,
        /// SHA-256 of the archive.
        archive: Digest,
    },
    /// A session was opened, closed or refused.
    Session {
        /// `opened`, `closed` or `refused`.
        action: String,
        /// Whose.
        user: String,
        /// The compartments it holds keys for.
        compartments: Vec<CompartmentName>,
        /// Why it was refused.
        reason: Option<Reason>,
    },
    /// The site itself: started, stopped, locked down.
    Site {
        /// What was done.
        action: String,
        /// In words.
        detail: String,
    },
}

impl Record {
    /// The bytes that are logged: one line of JSON without the line feed.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Cannot fail: strings, integers, lists and options only, no map with keys that are not text.
        #[expect(clippy::expect_used, reason = "serialising these types into memory has no failing path")]
        serde_json::to_vec(self).expect("a record is plain data")
    }

    /// Reads what [`Record::to_bytes`] wrote, and nothing else: other spellings of the same JSON, unknown fields and other
    /// versions are [`AuditError::Record`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuditError> {
        let record: Self =
            serde_json::from_slice(bytes).map_err(|error| AuditError::Record { detail: error.to_string() })?;
        if record.v != VERSION {
            return Err(AuditError::Record { detail: format!("version {} is not known here", record.v) });
        }
        if record.to_bytes() != bytes {
            return Err(AuditError::Record { detail: "not in canonical form".to_owned() });
        }
        Ok(record)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn decision() -> Record {
        Record {
            v: VERSION,
            time_ms: 1_700_000_000_000,
            site: "north".into(),
            rehearsal: false,
            event: Event::Decision {
                id: DecisionId::from_random([7; 16]),
                user: "ada".into(),
                phase: Phase::Request,
                verdict: "deny".into(),
                reason: Some(Reason::deadline()),
                policy: Some("clearance".parse().unwrap()),
                mode: "enforce".into(),
                generation: Generation(3),
                component: Some(Digest::of(b"c")),
                obligations: vec!["mask-spans".into()],
                input: Digest::of(b"i"),
                recording: None,
                host_calls: 2,
                annotations: vec![("b".into(), "2".into()), ("a".into(), "line\nfeed".into())],
                log_level: LogLevel::Alert,
            },
        }
    }

    #[test]
    fn one_line_in_a_fixed_order() {
        let record =
            Record { event: Event::Site { action: "started".into(), detail: "two\nlines".into() }, ..decision() };
        assert_eq!(
            String::from_utf8(record.to_bytes()).unwrap(),
            r#"{"v":1,"time_ms":1700000000000,"site":"north","rehearsal":false,"event":"site","action":"started","detail":"two\nlines"}"#
        );
    }

    #[test]
    fn every_kind_round_trips() {
        let user = || "ada".to_owned();
        let id = DecisionId::from_random([1; 16]);
        let events = [
            decision().event,
            Event::Answer {
                id,
                user: user(),
                citations: 3,
                output: Digest::of(b"o"),
                recording: Some(Digest::of(b"r")),
            },
            Event::Run {
                id,
                user: user(),
                plugin: "nearest".parse().unwrap(),
                generation: Generation(3),
                component: Digest::of(b"c"),
                ended: Some(Reason::deadline()),
                input: Digest::of(b"i"),
                recording: None,
                host_calls: 2,
                annotations: vec![("a".into(), "b".into())],
            },
            Event::KeyOperation {
                operation: "wrap".into(),
                class: "kek".into(),
                key_id: "01".into(),
                key_check: "ABCDEF".into(),
                version: Some(3),
                user: None,
                by: Some("uid 1000".into()),
                result: "ok".into(),
            },
            Event::Bundle {
                action: "activated".into(),
                name: "spring".into(),
                version: u64::MAX,
                digest: Digest::of(b"b"),
                signers: vec!["ada".into(), "grace".into()],
                reason: None,
                generation: Generation(4),
            },
            Event::Session {
                action: "opened".into(),
                user: user(),
                compartments: vec!["red".parse().unwrap()],
                reason: None,
            },
            Event::Ingest {
                action: "done".into(),
                collection: "red".parse().unwrap(),
                documents: 1,
                deleted: 0,
                generation_of_store: 9,
            },
            Event::Site { action: "stopped".into(), detail: String::new() },
            Event::Order {
                action: "stopped".into(),
                scope: "everything".into(),
                order: Digest::of(b"o"),
                signers: vec!["ada".into()],
                reason: "a leak".into(),
            },
            Event::Erasure { id: Some(id), recordings: 2, reason: "request 7".into() },
            Event::LogKey { action: "rotated".into(), from: "a".into(), to: "b".into(), note: "n\n".into() },
            Event::Segment { action: "sealed".into(), from: 0, to: 65_536, archive: Digest::of(b"a") },
        ];
        for event in events {
            let record = Record { event, ..decision() };
            let bytes = record.to_bytes();
            assert!(!bytes.contains(&b'\n'));
            assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn other_spellings_versions_and_unknown_fields_are_refused() {
        let text = String::from_utf8(decision().to_bytes()).unwrap();
        for hostile in [
            text.replace("\"v\":1", "\"v\":2"),
            text.replace("\"v\":1", "\"v\": 1"),
            text.replace("\"rehearsal\":false", "\"rehearsal\":false,\"extra\":1"),
            text.replace("\"rehearsal\":false", "\"rehearsal\":false,\"rehearsal\":true"),
            format!("{text}\n"),
            String::new(),
        ] {
            assert!(matches!(Record::from_bytes(hostile.as_bytes()), Err(AuditError::Record { .. })), "{hostile}");
        }
    }
}
