//! Small data objects in a token: the proof that its storage takes a write, the mark of the newest manifest, and the keys that a
//! pair has begun to destroy.

use std::collections::BTreeSet;

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::pair::Seen;
use crate::{HsmError, KeyId, Keyring};

const CHECK: &str = "write to the token's storage";
const CHECK_LABEL: &[u8] = b"casemate storage check";

const MARK: &str = "keep the pair's mark in the token";
const MARK_LABEL: &[u8] = b"casemate pair manifest";

const RETIRED: &str = "note a destruction in the token";
const RETIRED_LABEL: &[u8] = b"casemate pair destruction";

impl Keyring {
    /// Writes a data object to the token's storage, reads it back and removes it.
    ///
    /// A token whose storage has gone may go on for long with what it holds in memory or in an open file: only a write tells.
    ///
    /// # Errors
    /// As the module answers; [`HsmError::StrangeAnswer`] when something else is read back.
    pub fn check_storage(&self) -> Result<(), HsmError> {
        let nonce = self.random(16)?.to_vec();
        let read = self.sessions.with_anchor(CHECK, |session| {
            // Left by a process that died in between.
            for left in find(session, CHECK_LABEL)? {
                session.destroy_object(left)?;
            }
            let object = session.create_object(&data(CHECK_LABEL, &nonce))?;
            let read = session.get_attributes(object, &[AttributeType::Value])?;
            session.destroy_object(object)?;
            Ok(read)
        })?;
        if read == [Attribute::Value(nonce)] { Ok(()) } else { Err(HsmError::StrangeAnswer { action: CHECK }) }
    }

    /// The newest manifest this token has served.
    pub(crate) fn manifest_mark(&self) -> Result<Option<Seen>, HsmError> {
        let values = self.sessions.with_anchor(MARK, |session| {
            find(session, MARK_LABEL)?
                .into_iter()
                .map(|object| session.get_attributes(object, &[AttributeType::Value]))
                .collect::<Result<Vec<_>, _>>()
        })?;
        // A crash may leave two: the higher one counts.
        let mut newest = None;
        for value in values {
            let [Attribute::Value(bytes)] = value.as_slice() else {
                return Err(HsmError::StrangeAnswer { action: MARK });
            };
            newest = newest.max(Some(from_bytes(bytes).ok_or(HsmError::StrangeAnswer { action: MARK })?));
        }
        Ok(newest)
    }

    pub(crate) fn set_manifest_mark(&self, seen: &Seen) -> Result<(), HsmError> {
        let value = [seen.sequence.to_be_bytes().as_slice(), &seen.digest].concat();
        self.sessions.with_anchor(MARK, |session| {
            let old = find(session, MARK_LABEL)?;
            session.create_object(&data(MARK_LABEL, &value))?;
            old.into_iter().try_for_each(|object| session.destroy_object(object))
        })
    }

    /// The keys whose destruction in both tokens of a pair was begun.
    pub(crate) fn retired(&self) -> Result<BTreeSet<KeyId>, HsmError> {
        Ok(self.retired_objects()?.into_iter().map(|(_, id)| id).collect())
    }

    /// Notes that a key's destruction begins, so that a process that dies in between cannot make it undone.
    pub(crate) fn retire(&self, id: KeyId) -> Result<(), HsmError> {
        if self.retired()?.contains(&id) {
            return Ok(());
        }
        self.sessions
            .with_anchor(RETIRED, |session| session.create_object(&data(RETIRED_LABEL, id.as_bytes())))
            .map(drop)
    }

    /// Forgets the destructions of keys that the manifest in force no longer lists.
    pub(crate) fn forget_retired(&self, listed: impl Fn(KeyId) -> bool) -> Result<(), HsmError> {
        for (object, id) in self.retired_objects()? {
            if !listed(id) {
                self.sessions.with_anchor(RETIRED, |session| session.destroy_object(object))?;
            }
        }
        Ok(())
    }

    fn retired_objects(&self) -> Result<Vec<(ObjectHandle, KeyId)>, HsmError> {
        let strange = || HsmError::StrangeAnswer { action: RETIRED };
        let found = self.sessions.with_anchor(RETIRED, |session| {
            find(session, RETIRED_LABEL)?
                .into_iter()
                .map(|object| Ok((object, session.get_attributes(object, &[AttributeType::Value])?)))
                .collect::<Result<Vec<_>, cryptoki::error::Error>>()
        })?;
        let read = |(object, value): (ObjectHandle, Vec<Attribute>)| match value.as_slice() {
            [Attribute::Value(bytes)] => {
                let id = bytes.as_slice().try_into().map_err(|_| strange())?;
                Ok((object, KeyId::from_random(id)))
            }
            _ => Err(strange()),
        };
        found.into_iter().map(read).collect()
    }
}

fn data(label: &[u8], value: &[u8]) -> [Attribute; 6] {
    [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Application(b"casemate".to_vec()),
        Attribute::Label(label.to_vec()),
        Attribute::Value(value.to_vec()),
    ]
}

fn find(session: &Session, label: &[u8]) -> Result<Vec<ObjectHandle>, cryptoki::error::Error> {
    session.find_objects(&[Attribute::Class(ObjectClass::DATA), Attribute::Label(label.to_vec())])
}

fn from_bytes(bytes: &[u8]) -> Option<Seen> {
    let (sequence, digest) = bytes.split_first_chunk::<8>()?;
    Some(Seen { sequence: u64::from_be_bytes(*sequence), digest: digest.try_into().ok()? })
}
