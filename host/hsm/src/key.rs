use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cryptoki::object::ObjectHandle;
use serde::{Deserialize, Serialize};

use crate::sessions::Sessions;
use crate::{HsmError, KeyClass, Origin};

/// Names one key: its `CKA_ID`, 16 random bytes, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// An identifier from 16 random bytes.
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The `CKA_ID`.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for KeyId {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// What a site file stores about a key: nothing secret, and enough to notice that the key was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRef {
    /// The key's `CKA_ID`.
    pub id: KeyId,
    /// What the key is for.
    pub class: KeyClass,
    /// The check value: 8 bytes, hexadecimal, from a fixed operation with the key itself. Of a synchronisation key it is the
    /// whole 40 bytes of a known key wrapped under it, because the half that only unwraps has to check it too.
    pub check: String,
    /// For people only; never used for look-up.
    pub label: String,
    /// How the key came into its token. A replicated key says of itself that it was not generated there.
    #[serde(default, skip_serializing_if = "Origin::is_generated")]
    pub origin: Origin,
}

impl KeyRef {
    /// A key that is about to be made: its identifier is drawn, and it has no check value yet. Written down before the token is asked, it
    /// lets whoever comes after a process that was killed find what that one made.
    pub fn announced(id: KeyId, class: KeyClass, label: &str) -> Self {
        Self { id, class, check: String::new(), label: label.to_owned(), origin: Origin::Generated }
    }

    /// Whether this announces a key, which may have been made or not.
    pub fn is_announced(&self) -> bool {
        self.check.is_empty()
    }
}

/// The public half of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PublicHalf {
    /// The 32 bytes of RFC 8032 section 5.1.5.
    Ed25519([u8; 32]),
    /// The uncompressed point of SEC 1 section 2.3.3.
    P256([u8; 65]),
    /// The modulus, big-endian without leading zeroes; the exponent is always 65,537.
    Rsa(Vec<u8>),
}

/// A key in the token: a handle, usable through the keyring it came from.
///
/// A key that was unwrapped is destroyed in the token when this is dropped.
pub struct Key {
    pub(crate) handle: ObjectHandle,
    pub(crate) public: Option<PublicHalf>,
    pub(crate) reference: KeyRef,
    pub(crate) session_object: bool,
    pub(crate) sessions: Arc<Sessions>,
}

impl Key {
    /// What a site file stores about this key.
    pub fn reference(&self) -> &KeyRef {
        &self.reference
    }

    /// The key's identifier.
    pub fn id(&self) -> KeyId {
        self.reference.id
    }

    /// What the key is for.
    pub fn class(&self) -> KeyClass {
        self.reference.class
    }

    /// The handle, if the key belongs to these sessions and its class is among `classes`.
    pub(crate) fn handle_for(
        &self,
        sessions: &Arc<Sessions>,
        action: &'static str,
        classes: &[KeyClass],
    ) -> Result<ObjectHandle, HsmError> {
        if !Arc::ptr_eq(&self.sessions, sessions) {
            return Err(HsmError::ForeignKey { id: self.id() });
        }
        if !classes.contains(&self.class()) {
            return Err(HsmError::WrongClass { action, class: self.class() });
        }
        Ok(self.handle)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id()).field("class", &self.class()).finish_non_exhaustive()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if self.session_object {
            let destroyed =
                self.sessions.with_anchor("destroy an unwrapped key", |session| session.destroy_object(self.handle));
            if let Err(error) = destroyed {
                // The object still dies with its session; only its lifetime is longer than promised.
                tracing::warn!(key = %self.id(), %error, "an unwrapped key outlives its handle");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_its_file() {
        let key = KeyRef {
            id: KeyId::from_random([7; 16]),
            class: KeyClass::FpeFf1,
            check: "0011223344556677".to_owned(),
            label: "names".to_owned(),
            origin: Origin::Generated,
        };
        let text = serde_json::to_string(&key).unwrap();
        assert!(text.contains(r#""class":"fpe-ff1""#), "{text}");
        assert!(text.contains("07070707070707070707070707070707"), "{text}");
        assert!(!text.contains("origin"), "a file of before must not change: {text}");
        assert_eq!(serde_json::from_str::<KeyRef>(&text).unwrap(), key);
        let replicated = KeyRef { origin: Origin::Replicated, ..key };
        let text = serde_json::to_string(&replicated).unwrap();
        assert!(text.contains(r#""origin":"replicated""#), "{text}");
        assert_eq!(serde_json::from_str::<KeyRef>(&text).unwrap(), replicated);
    }

    #[test]
    fn hostile_identifiers_are_refused() {
        for text in ["", "07", "zz070707070707070707070707070707", "0707070707070707070707070707070707"] {
            assert!(text.parse::<KeyId>().is_err(), "{text:?}");
        }
    }
}
