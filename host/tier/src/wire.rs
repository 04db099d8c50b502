//! What a gate and a tier say to each other, in postcard, each message behind its length.
//!
//! Nothing here is trusted by either side: a tier checks what it is asked before it touches its store, a gate checks every answer.

use casemate_inference::{ExpectedGroup, InferenceError};
use casemate_types::{CollectionName, Digest};
use casemate_vectors::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorsError};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Rises with every change of a message.
pub(crate) const PROTOCOL: u32 = 2;

/// The most a gate takes as one message: a million documents with their positions take 24 MB.
pub(crate) const REPLY_LIMIT: u32 = 1 << 30;

/// Groups scored before their replies are sent: 131,072 documents at 256 a group.
pub(crate) const SCORED_AT_A_TIME: usize = 512;

/// Bytes of an export or import in one message.
pub(crate) const CHUNK: usize = 256 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Hello {
        protocol: u32,
    },
    Score {
        collection: CollectionName,
        query: ByteBuf,
        expected: Vec<Expected>,
    },
    ReserveVersion(CollectionName),
    Apply(CollectionName, Step),
    Version(CollectionName),
    Manifest(CollectionName),
    Group(CollectionName, u32),
    Groups(CollectionName),
    Passage(CollectionName, [u8; 16]),
    DocumentAt(CollectionName, Position),
    Documents(CollectionName),
    Matching(CollectionName, Vec<(String, String)>),
    Nearest(CollectionName, Vec<f32>, u32),
    Collections,
    DeleteCollection(CollectionName),
    Export,
    Import,
    /// A part of what is imported.
    Chunk(ByteBuf),
    /// The end of what is imported.
    End,
    /// A model, to be kept under the digest of these bytes.
    Model(ByteBuf),
    /// A query to a model that was sent before.
    Classify {
        model: [u8; 32],
        query: ByteBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Version(u64),
    Manifest(Option<ByteBuf>),
    Group(Option<Group>),
    Groups(Vec<u32>),
    Passage(Option<Passage>),
    Document(Option<[u8; 16]>),
    Documents(Vec<(Position, [u8; 16])>),
    Positions(Vec<Position>),
    Collections(Vec<CollectionName>),
    /// The scores of the next groups, in the byte form of `EncryptedScores`.
    Scores(ByteBuf),
    /// A part of what is exported.
    Chunk(ByteBuf),
    /// The end of scores or of an export.
    End,
    Failed(Failed),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Expected {
    group: u32,
    version: u64,
    digest: [u8; 32],
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    version: u64,
    count: u32,
    ciphertext: ByteBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Passage {
    position: Position,
    metadata: Vec<(String, String)>,
    sealed: ByteBuf,
}

/// A [`Change`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    version: u64,
    put_groups: Vec<(u32, Group)>,
    delete_groups: Vec<u32>,
    put_passages: Vec<([u8; 16], Passage)>,
    delete_passages: Vec<[u8; 16]>,
    hints: Vec<(u32, Vec<Vec<f32>>)>,
    manifest: ByteBuf,
}

/// A refusal. Those on which a caller acts are told apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Failed {
    Busy(String),
    Refused(String),
    StaleVersion { version: u64, applied: u64 },
    PositionTaken { position: Position, document: [u8; 16] },
    Duplicate(String),
    TooLong,
    Import,
    NotEmpty,
    NoIndex,
    VersionsExhausted,
    GroupAltered(u32),
    GroupMissing(u32),
    GroupVersion { group: u32, expected: u64, actual: u64 },
    ModelMissing,
}

impl From<&ExpectedGroup> for Expected {
    fn from(group: &ExpectedGroup) -> Self {
        Self { group: group.group, version: group.version, digest: *group.digest.as_bytes() }
    }
}

impl From<Expected> for ExpectedGroup {
    fn from(group: Expected) -> Self {
        Self { group: group.group, version: group.version, digest: Digest::from_bytes(group.digest) }
    }
}

impl From<GroupRecord> for Group {
    fn from(record: GroupRecord) -> Self {
        let GroupRecord { version, count, ciphertext } = record;
        Self { version, count, ciphertext: ByteBuf::from(ciphertext) }
    }
}

impl From<Group> for GroupRecord {
    fn from(group: Group) -> Self {
        let Group { version, count, ciphertext } = group;
        Self { version, count, ciphertext: ciphertext.into_vec() }
    }
}

impl From<PassageRecord> for Passage {
    fn from(record: PassageRecord) -> Self {
        let PassageRecord { position, metadata, sealed } = record;
        Self { position, metadata, sealed: ByteBuf::from(sealed) }
    }
}

impl From<Passage> for PassageRecord {
    fn from(passage: Passage) -> Self {
        let Passage { position, metadata, sealed } = passage;
        Self { position, metadata, sealed: sealed.into_vec() }
    }
}

impl From<Change> for Step {
    fn from(change: Change) -> Self {
        let passages = change.put_passages.into_iter();
        Self {
            version: change.version,
            put_groups: change.put_groups.into_iter().map(|(group, record)| (group, record.into())).collect(),
            delete_groups: change.delete_groups,
            put_passages: passages.map(|(document, record)| (*document.as_bytes(), record.into())).collect(),
            delete_passages: change.delete_passages.iter().map(|document| *document.as_bytes()).collect(),
            hints: change.hints,
            manifest: ByteBuf::from(change.manifest),
        }
    }
}

impl From<Step> for Change {
    fn from(step: Step) -> Self {
        let passages = step.put_passages.into_iter();
        Self {
            version: step.version,
            put_groups: step.put_groups.into_iter().map(|(group, record)| (group, record.into())).collect(),
            delete_groups: step.delete_groups,
            put_passages: passages.map(|(id, passage)| (DocumentId::from_bytes(id), passage.into())).collect(),
            delete_passages: step.delete_passages.into_iter().map(DocumentId::from_bytes).collect(),
            hints: step.hints,
            manifest: step.manifest.into_vec(),
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}")).chars().take(1024).collect()
}

impl From<VectorsError> for Failed {
    fn from(error: VectorsError) -> Self {
        match error {
            VectorsError::StaleVersion { version, applied, .. } => Self::StaleVersion { version, applied },
            VectorsError::PositionTaken { position, document, .. } => {
                Self::PositionTaken { position, document: *document.as_bytes() }
            }
            VectorsError::Duplicate { what, .. } => Self::Duplicate(what),
            VectorsError::TooLong { .. } => Self::TooLong,
            VectorsError::Import { .. } => Self::Import,
            VectorsError::NoIndex { .. } => Self::NoIndex,
            VectorsError::NotEmpty => Self::NotEmpty,
            VectorsError::VersionsExhausted { .. } => Self::VersionsExhausted,
            other => Self::Refused(words(&other)),
        }
    }
}

impl From<InferenceError> for Failed {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::GroupAltered { group, .. } => Self::GroupAltered(group),
            InferenceError::GroupMissing { group, .. } => Self::GroupMissing(group),
            InferenceError::GroupVersion { group, expected, actual, .. } => {
                Self::GroupVersion { group, expected, actual }
            }
            InferenceError::ModelMissing { .. } => Self::ModelMissing,
            other => Self::Refused(words(&other)),
        }
    }
}
