use std::fmt;

use casemate_types::{CollectionName, Digest};
use serde::{Deserialize, Serialize};

use crate::VectorsError;

/// Names a document: 16 bytes, random or taken from a digest by the owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId([u8; 16]);

impl DocumentId {
    /// An identifier from its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a document's vector lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Number of the group in its collection.
    pub group: u32,
    /// Slot in the group.
    pub slot: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} of group {}", self.slot, self.group)
    }
}

/// One group of encrypted vectors.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// The collection version in which it was encrypted.
    pub version: u64,
    /// Documents in it, at most P.
    pub count: u32,
    /// The encrypted group's byte form.
    pub ciphertext: Vec<u8>,
}

impl GroupRecord {
    /// Binds the ciphertext to its place: collection, group number, version and count.
    pub fn digest(&self, collection: &CollectionName, group: u32) -> Digest {
        let name = collection.as_str().as_bytes();
        Digest::of_parts(&[
            b"casemate group 1\0",
            &(name.len() as u64).to_be_bytes(),
            name,
            &group.to_be_bytes(),
            &self.version.to_be_bytes(),
            &self.count.to_be_bytes(),
            &self.ciphertext,
        ])
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.ciphertext.len());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.ciphertext);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, VectorsError> {
        let mut fields = Fields { what: "a group record", rest: bytes };
        Ok(Self {
            version: u64::from_be_bytes(fields.array()?),
            count: u32::from_be_bytes(fields.array()?),
            ciphertext: fields.rest.to_vec(),
        })
    }
}

impl fmt::Debug for GroupRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupRecord(version {}, {} documents, {} bytes)", self.version, self.count, self.ciphertext.len())
    }
}

/// One sealed passage.
#[derive(Clone, PartialEq, Eq)]
pub struct PassageRecord {
    /// Where its vector lies.
    pub position: Position,
    /// Field and value tokens to filter by, each encrypted or keyed by the owner. At most 65,535 bytes each.
    pub metadata: Vec<(String, String)>,
    /// The passage, sealed by the owner.
    pub sealed: Vec<u8>,
}

impl PassageRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.sealed.len());
        out.extend_from_slice(&self.position.group.to_be_bytes());
        out.extend_from_slice(&self.position.slot.to_be_bytes());
        out.extend_from_slice(&(self.metadata.len() as u32).to_be_bytes());
        for text in self.metadata.iter().flat_map(|(field, value)| [field, value]) {
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.sealed);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, VectorsError> {
        let mut fields = Fields { what: "a passage record", rest: bytes };
        let position =
            Position { group: u32::from_be_bytes(fields.array()?), slot: u32::from_be_bytes(fields.array()?) };
        let pairs = u32::from_be_bytes(fields.array()?);
        let mut metadata = Vec::new();
        for _ in 0..pairs {
            metadata.push((fields.text()?, fields.text()?));
        }
        Ok(Self { position, metadata, sealed: fields.rest.to_vec() })
    }
}

impl fmt::Debug for PassageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PassageRecord({}, {} bytes)", self.position, self.sealed.len())
    }
}

struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], VectorsError> {
        let (head, rest) = self.rest.split_first_chunk::<LEN>().ok_or(VectorsError::Malformed { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    fn text(&mut self) -> Result<String, VectorsError> {
        let malformed = VectorsError::Malformed { what: self.what };
        let len = u32::from_be_bytes(self.array()?) as usize;
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(malformed);
        };
        self.rest = rest;
        String::from_utf8(head.to_vec()).map_err(|_| malformed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_truncation_is_named() {
        let passage = PassageRecord {
            position: Position { group: 3, slot: 9 },
            metadata: vec![("a".into(), "".into()), ("b".into(), "ü".into())],
            sealed: vec![1, 2, 3],
        };
        let bytes = passage.encode();
        assert_eq!(PassageRecord::decode(&bytes).unwrap(), passage);
        for cut in 0..bytes.len() - passage.sealed.len() {
            assert!(matches!(PassageRecord::decode(&bytes[..cut]), Err(VectorsError::Malformed { .. })), "{cut}");
        }
        assert!(GroupRecord::decode(&[0; 11]).is_err());
    }

    #[test]
    fn digest_binds_collection_group_version_and_count() {
        let (alpha, beta): (CollectionName, CollectionName) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let record = GroupRecord { version: 1, count: 2, ciphertext: vec![5; 40] };
        let digest = record.digest(&alpha, 0);
        assert_ne!(digest, record.digest(&beta, 0));
        assert_ne!(digest, record.digest(&alpha, 1));
        assert_ne!(digest, GroupRecord { version: 2, ..record.clone() }.digest(&alpha, 0));
        assert_ne!(digest, GroupRecord { count: 3, ..record.clone() }.digest(&alpha, 0));
        assert_ne!(digest, GroupRecord { ciphertext: vec![6; 40], ..record }.digest(&alpha, 0));
    }
}
