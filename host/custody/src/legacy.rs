//! FF3-1, which is off unless custodians say until when.

use casemate_hsm::fpe::danger;
use casemate_hsm::{BatchReport, Ff1Value, HsmError, Key, KeyId, Keyring};
use casemate_types::{Digest, Profile};

use crate::CustodyError;
use crate::approval::{Approved, Verifier};
use crate::envelope::{Envelope, Signer};
use crate::ledger::NonceFile;
use crate::statement::{Operation, Statement};
use crate::text::{TokenSerial, UnixTime};

/// The longest time for which FF3-1 is enabled at once, in seconds: 366 days.
pub const MAX_LEGACY_SECONDS: u64 = 366 * 24 * 3600;

/// Leave to use one FF3-1 key in the named tokens until a moment, given by custodians.
///
/// Made by [`Approved::legacy_permit`] and [`Verifier::legacy_permit`] alone, which verified their signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyPermit {
    statement: Digest,
    key: KeyId,
    tokens: Vec<TokenSerial>,
    custodians: Vec<Signer>,
    until: UnixTime,
}

impl Approved<Statement> {
    /// The permit that was approved.
    ///
    /// # Errors
    /// [`CustodyError::NotApproved`] for another operation, and for one that is to last longer than [`MAX_LEGACY_SECONDS`].
    pub fn legacy_permit(&self) -> Result<LegacyPermit, CustodyError> {
        LegacyPermit::of(self.statement(), self.approvers(), self.digest(), self.at())
    }
}

impl Verifier<'_> {
    /// The permit of a statement that was approved before, here: enough custodians of the roster in force signed it, and the ledger knows
    /// that it was used. Its own time is over by then, so only `until` counts.
    ///
    /// # Errors
    /// As [`Verifier::was_approved`] and [`Approved::legacy_permit`].
    pub fn legacy_permit(&self, envelope: &Envelope, ledger: &NonceFile) -> Result<LegacyPermit, CustodyError> {
        let signed = self.was_approved(envelope, ledger)?;
        LegacyPermit::of(signed.document(), signed.signers(), signed.digest(), signed.document().not_before)
    }
}

impl LegacyPermit {
    fn of(statement: &Statement, custodians: &[Signer], digest: Digest, from: UnixTime) -> Result<Self, CustodyError> {
        let refused = |what| CustodyError::NotApproved { what, approved: statement.operation };
        if statement.operation != Operation::EnableLegacy {
            return Err(refused("operation"));
        }
        let key = statement.key.ok_or_else(|| refused("key"))?;
        let until = statement.until.ok_or_else(|| refused("time"))?;
        if until.0.saturating_sub(from.0) > MAX_LEGACY_SECONDS {
            return Err(refused("time (366 days at most)"));
        }
        let (tokens, custodians) = (statement.tokens.clone(), custodians.to_vec());
        Ok(Self { statement: digest, key, tokens, custodians, until })
    }

    /// SHA-256 of the statement's payload.
    pub fn statement(&self) -> Digest {
        self.statement
    }

    /// The key.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// Who gave it: two people at least.
    pub fn custodians(&self) -> &[Signer] {
        &self.custodians
    }

    /// When it ends.
    pub fn until(&self) -> UnixTime {
        self.until
    }

    /// Refuses profile `government`, whatever custodians say, and the time after the permit's end.
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`].
    pub fn check(&self, profile: Profile, now: UnixTime) -> Result<(), HsmError> {
        let refused = |reason| Err(HsmError::LegacyPermit { reason });
        if profile == Profile::Government {
            return refused("profile `government` has no FF3-1");
        }
        if now >= self.until { refused("the permit has expired") } else { Ok(()) }
    }

    /// Encrypts every value in place with FF3-1; each tweak has 7 bytes. On any error no value is changed.
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`] for another key or token, and as [`LegacyPermit::check`]; as [`danger::ff3_encrypt`].
    pub fn encrypt(
        &self,
        (keyring, key): (&Keyring, &Key),
        radix: u32,
        batch: &mut [Ff1Value],
        profile: Profile,
        now: UnixTime,
    ) -> Result<BatchReport, HsmError> {
        self.admits(keyring, key, profile, now)?;
        danger::ff3_encrypt(keyring, key, radix, batch)
    }

    /// Decrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As [`LegacyPermit::encrypt`].
    pub fn decrypt(
        &self,
        (keyring, key): (&Keyring, &Key),
        radix: u32,
        batch: &mut [Ff1Value],
        profile: Profile,
        now: UnixTime,
    ) -> Result<BatchReport, HsmError> {
        self.admits(keyring, key, profile, now)?;
        danger::ff3_decrypt(keyring, key, radix, batch)
    }

    fn admits(&self, keyring: &Keyring, key: &Key, profile: Profile, now: UnixTime) -> Result<(), HsmError> {
        self.check(profile, now)?;
        if key.id() != self.key {
            return Err(HsmError::LegacyPermit { reason: "the permit is for another key" });
        }
        let here = keyring.serial().trim().parse::<TokenSerial>();
        if here.is_ok_and(|here| self.tokens.iter().any(|token| token.same_device(&here))) {
            return Ok(());
        }
        Err(HsmError::LegacyPermit { reason: "the permit is for another token" })
    }
}
