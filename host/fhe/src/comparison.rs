//! One comparison on ciphertext: is an encrypted clearance at least an encrypted label (feature `comparison`)?
//!
//! This is TFHE proper, by programmable bootstrapping in the `integer` part of tfhe: exact, and some hundred milliseconds a
//! comparison. Whoever compares holds an evaluation key, which decrypts nothing.

use std::fmt;

use tfhe::conformance::ParameterSetConformant;
use tfhe::prelude::FheOrd;
use tfhe::safe_serialization::{safe_deserialize, safe_deserialize_conformant, safe_serialize};
use tfhe::{FheBool, FheUint2, ServerKey, with_server_key_as_context};

use crate::FheError;

/// Bytes of a ciphertext at most; one of today's parameters takes 17 kB.
const MAX_CIPHERTEXT: u64 = 1 << 20;
/// Bytes of an evaluation key at most; one of today's parameters takes 120 MB.
const MAX_KEY: u64 = 1 << 28;

const LEVEL: &str = "an encrypted level";
const OUTCOME: &str = "an encrypted outcome";
const KEY: &str = "an evaluation key";

/// What the comparing side holds: tfhe's evaluation key. It is no secret, and large.
#[derive(Clone)]
pub struct ComparisonKey(ServerKey);

impl ComparisonKey {
    /// From tfhe's own.
    pub fn new(key: ServerKey) -> Self {
        Self(key)
    }

    /// Whether the clearance is at least the label, encrypted. Both were encrypted under the key that this one belongs to: under
    /// another the outcome means nothing, and cannot be told from one that does.
    pub fn at_least(&self, clearance: &EncryptedLevel, label: &EncryptedLevel) -> EncryptedOutcome {
        EncryptedOutcome(with_server_key_as_context(self.0.clone(), || clearance.0.ge(&label.0)))
    }

    /// The byte form.
    ///
    /// # Errors
    /// [`FheError::Range`] for a key beyond 256 MiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FheError> {
        let mut out = Vec::new();
        safe_serialize(&self.0, &mut out, MAX_KEY).map_err(|_| FheError::Range { what: KEY })?;
        Ok(out)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`FheError::Range`] for any other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FheError> {
        let mut rest = bytes;
        let key = safe_deserialize(&mut rest, MAX_KEY).map_err(|_| FheError::Range { what: KEY })?;
        whole(KEY, bytes, rest)?;
        Ok(Self(key))
    }

    /// Reads a ciphertext and insists on this key's parameters.
    fn read<T>(&self, what: &'static str, bytes: &[u8]) -> Result<T, FheError>
    where
        T: serde::de::DeserializeOwned + tfhe::Unversionize + tfhe::named::Named + ParameterSetConformant,
        T::ParameterSet: for<'a> From<&'a ServerKey>,
    {
        let mut rest = bytes;
        let read = safe_deserialize_conformant(&mut rest, MAX_CIPHERTEXT, &T::ParameterSet::from(&self.0));
        let read = read.map_err(|_| FheError::Range { what })?;
        whole(what, bytes, rest)?;
        Ok(read)
    }
}

impl fmt::Debug for ComparisonKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ComparisonKey")
    }
}

/// One of four levels, encrypted.
#[derive(Clone)]
pub struct EncryptedLevel(FheUint2);

impl EncryptedLevel {
    /// From tfhe's own.
    pub fn new(level: FheUint2) -> Self {
        Self(level)
    }

    /// The byte form.
    ///
    /// # Errors
    /// [`FheError::Range`] for a ciphertext beyond 1 MiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FheError> {
        let mut out = Vec::new();
        safe_serialize(&self.0, &mut out, MAX_CIPHERTEXT).map_err(|_| FheError::Range { what: LEVEL })?;
        Ok(out)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, for a comparison with `key`.
    ///
    /// # Errors
    /// [`FheError::Range`] for damaged bytes or other parameters than the key's; [`FheError::Length`] for trailing bytes.
    pub fn from_bytes(bytes: &[u8], key: &ComparisonKey) -> Result<Self, FheError> {
        key.read(LEVEL, bytes).map(Self)
    }
}

/// Whether it was at least, encrypted.
#[derive(Clone)]
pub struct EncryptedOutcome(FheBool);

impl EncryptedOutcome {
    /// As tfhe has it.
    pub fn as_tfhe(&self) -> &FheBool {
        &self.0
    }

    /// The byte form.
    ///
    /// # Errors
    /// [`FheError::Range`] for a ciphertext beyond 1 MiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FheError> {
        let mut out = Vec::new();
        safe_serialize(&self.0, &mut out, MAX_CIPHERTEXT).map_err(|_| FheError::Range { what: OUTCOME })?;
        Ok(out)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, of a comparison with `key`.
    ///
    /// # Errors
    /// As [`EncryptedLevel::from_bytes`].
    pub fn from_bytes(bytes: &[u8], key: &ComparisonKey) -> Result<Self, FheError> {
        key.read(OUTCOME, bytes).map(Self)
    }
}

fn whole(what: &'static str, bytes: &[u8], rest: &[u8]) -> Result<(), FheError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(FheError::Length { what, expected: bytes.len() - rest.len(), actual: bytes.len() })
}
