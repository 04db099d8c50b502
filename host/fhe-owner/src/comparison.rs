use casemate_fhe::comparison::{ComparisonKey, EncryptedLevel, EncryptedOutcome};
use casemate_types::Level;
use tfhe::prelude::{FheDecrypt, FheTryEncrypt};
use tfhe::{ClientKey, ConfigBuilder, FheUint2, generate_keys};

use crate::OwnerError;

/// Encrypts levels and reads what a comparison found (feature `comparison`). tfhe's default parameters: 128 bits, a wrong outcome
/// in one of 2^128. tfhe does not wipe its key. No `Debug`, no `Clone`.
pub struct LevelKey(ClientKey);

impl LevelKey {
    /// A new key, and the key for whoever compares. Takes seconds.
    pub fn generate() -> (Self, ComparisonKey) {
        let (client, server) = generate_keys(ConfigBuilder::default().build());
        (Self(client), ComparisonKey::new(server))
    }

    /// Encrypts a level.
    ///
    /// # Errors
    /// [`OwnerError::Entropy`].
    pub fn encrypt(&self, level: Level) -> Result<EncryptedLevel, OwnerError> {
        let number: u8 = match level {
            Level::Public => 0,
            Level::Internal => 1,
            Level::Confidential => 2,
            Level::Secret => 3,
        };
        FheUint2::try_encrypt(number, &self.0).map(EncryptedLevel::new).map_err(|_| OwnerError::Entropy)
    }

    /// Whether the clearance was at least the label.
    pub fn decrypt(&self, outcome: &EncryptedOutcome) -> bool {
        outcome.as_tfhe().decrypt(&self.0)
    }
}
