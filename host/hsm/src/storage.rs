//! Small data objects in a token: the proof that its storage takes a write, and the mark of the newest manifest.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::pair::Seen;
use crate::{HsmError, Keyring};

const CHECK: &str = "write to the token's storage";
const CHECK_LABEL: &[u8] = b"casemate storage check";

const MARK: &str = "keep the pair's mark in the token";
const MARK_LABEL: &[u8] = b"casemate pair manifest";

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
