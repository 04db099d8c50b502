//! What a custodian's own token does: sign statements, open shares. The one seam between the cores and PKCS#11.

use std::sync::Arc;

use casemate_hsm::{HsmError, KeyClass, Keyring, Login, Module, Pin, encrypt_share};
use casemate_types::UserName;
use zeroize::Zeroizing;

use crate::CustodyError;
use crate::envelope::Envelope;
use crate::roster::{Card, Custodian, SharesKey, SigningKey};
use crate::text::{PersonId, TokenSerial};

/// A custodian's token, logged in.
pub trait CustodianToken {
    /// Its serial number.
    fn serial(&self) -> &TokenSerial;

    /// Signs with the custodian's statement key (Ed25519).
    ///
    /// # Errors
    /// As the token answers.
    fn sign(&self, key: &SigningKey, message: &[u8]) -> Result<[u8; 64], CustodyError>;

    /// Decrypts with the custodian's key for shares (RSA-OAEP); `None` for a ciphertext that is not for this key.
    ///
    /// # Errors
    /// As the token answers.
    fn open(&self, key: &SharesKey, ciphertext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, CustodyError>;
}

/// A token behind a PKCS#11 module.
pub struct HsmToken {
    ring: Arc<Keyring>,
    serial: TokenSerial,
}

impl HsmToken {
    /// Logs in to the token of this label.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn open(module: Arc<Module>, label: &str, pin: &Pin) -> Result<Self, CustodyError> {
        Self::open_with(module, label, Some(pin))
    }

    /// As [`HsmToken::open`]; without a PIN for a token that takes it by a way of its own.
    ///
    /// # Errors
    /// As [`Keyring::open_with`].
    pub fn open_with(module: Arc<Module>, label: &str, pin: Option<&Pin>) -> Result<Self, CustodyError> {
        let serial = serial_of(&module, label)?;
        Ok(Self { ring: Keyring::open_with(module, label, &Login { pin, native_ff1: None })?, serial })
    }

    /// Its keys.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.ring
    }

    /// Makes a custodian's two keys in this token, tries both, and signs the card that announces them.
    ///
    /// # Errors
    /// As the token answers; [`CustodyError::Custodian`].
    pub fn enrol(&self, name: UserName, person: PersonId) -> Result<(Custodian, Envelope), CustodyError> {
        let signing = self.ring.generate(KeyClass::CustodianSigning, "custodian: statements")?;
        let shares = self.ring.generate(KeyClass::CustodianShares, "custodian: shares")?;
        let signing_public = self.ring.public_key(&self.ring.find(&signing)?)?;
        let shares_key = self.ring.find(&shares)?;
        let shares_public = self.ring.public_key_der(&shares_key)?;
        let oaep = self.ring.oaep_hash(&shares_key)?;
        let custodian = Custodian {
            name,
            person,
            token_serial: self.serial.clone(),
            signing: SigningKey { key: signing, public: signing_public },
            shares: SharesKey { key: shares, public: shares_public, oaep },
        };
        custodian.check()?;
        let mut card = Envelope::new(&Card::new(custodian.clone()))?;
        card.add(&custodian, &self.sign(&custodian.signing, &card.signing_bytes())?)?;
        self.try_shares_key(&custodian)?;
        Ok((custodian, card))
    }

    /// Refuses to act for a custodian whose token this is not.
    ///
    /// # Errors
    /// [`CustodyError::TokenOfAnother`].
    pub fn check_holder(&self, custodian: &Custodian) -> Result<(), CustodyError> {
        if custodian.token_serial.same_device(&self.serial) {
            return Ok(());
        }
        Err(CustodyError::TokenOfAnother {
            name: custodian.name.clone(),
            expected: custodian.token_serial.to_string(),
            found: self.serial.to_string(),
        })
    }

    /// Adds this custodian's signature to an envelope. What it says must have been shown before.
    ///
    /// # Errors
    /// [`CustodyError::TokenOfAnother`], as [`Envelope::add`], or as the token answers.
    pub fn sign_envelope(&self, custodian: &Custodian, envelope: &mut Envelope) -> Result<(), CustodyError> {
        self.check_holder(custodian)?;
        envelope.add(custodian, &self.sign(&custodian.signing, &envelope.signing_bytes())?)
    }

    /// A key that cannot open what is encrypted to it would make shares that are lost at birth.
    fn try_shares_key(&self, custodian: &Custodian) -> Result<(), CustodyError> {
        let probe = Zeroizing::new([0x5a; 32]);
        let ciphertext = encrypt_share(&custodian.shares.public, custodian.shares.oaep, &probe[..])?;
        match self.open(&custodian.shares, &ciphertext)? {
            Some(opened) if opened[..] == probe[..] => Ok(()),
            _ => Err(CustodyError::Custodian {
                name: custodian.name.clone(),
                why: "its token does not open what is encrypted to its RSA key",
            }),
        }
    }
}

impl CustodianToken for HsmToken {
    fn serial(&self) -> &TokenSerial {
        &self.serial
    }

    fn sign(&self, key: &SigningKey, message: &[u8]) -> Result<[u8; 64], CustodyError> {
        Ok(self.ring.sign(&self.ring.find(&key.key)?, message)?)
    }

    fn open(&self, key: &SharesKey, ciphertext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, CustodyError> {
        let found = self.ring.find(&key.key)?;
        match self.ring.decrypt_share(&found, ciphertext) {
            Ok(opened) => Ok(Some(opened)),
            Err(HsmError::ShareRejected) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }
}

/// The serial number of the one token with this label.
///
/// # Errors
/// [`HsmError::TokenMissing`] and the like; [`CustodyError::Text`] for a serial number that is none.
pub fn serial_of(module: &Module, label: &str) -> Result<TokenSerial, CustodyError> {
    module.token(label)?.serial.parse()
}
