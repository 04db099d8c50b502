//! FF3-1 with the key in the token: for data that exists, off unless two custodians say until when.

use std::sync::Arc;
use std::time::SystemTime;

use casemate_types::Profile;
use cryptoki::object::ObjectHandle;

use super::ff3::Ff3Work;
use super::shape::check_radix;
use super::stream::Stream;
use super::words::Direction;
use super::{Backend, BatchReport, Ff1Value};
use crate::sessions::Sessions;
use crate::{HsmError, Key, KeyClass, Keyring};

const ACTION: &str = "use FF3-1";

/// Leave to use FF3-1 until a date, given by two custodians.
///
/// The caller answers for the approvals: it must be the code that verified both custodians' signatures over this use and this
/// date, and nothing else. A name typed by an operator is not an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyPermit {
    custodians: [String; 2],
    expires: SystemTime,
}

impl LegacyPermit {
    /// A permit from two verified approvals.
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`] for an empty name or one person twice.
    pub fn from_verified_approvals(custodians: [String; 2], expires: SystemTime) -> Result<Self, HsmError> {
        let [first, second] = custodians.each_ref().map(|name| name.trim());
        if first.is_empty() || second.is_empty() {
            return Err(HsmError::LegacyPermit { reason: "a custodian has no name" });
        }
        if first.to_lowercase() == second.to_lowercase() {
            return Err(HsmError::LegacyPermit { reason: "one custodian stands for both" });
        }
        Ok(Self { custodians, expires })
    }

    /// Who gave it.
    pub fn custodians(&self) -> &[String; 2] {
        &self.custodians
    }

    /// When it ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    fn check(&self, now: SystemTime) -> Result<(), HsmError> {
        if now < self.expires { Ok(()) } else { Err(HsmError::LegacyPermit { reason: "the permit has expired" }) }
    }
}

/// FF3-1 under one key of the token, for one radix (SP 800-38G r1, draft of 2019; not approved by NIST since 2025).
///
/// The token's AES runs under REVB(K), the byte-reversed key. A key that is generated here simply *is* REVB(K). To read data
/// that another product made under K, the *reversed* bytes of K have to be brought into the token: no token reverses a key.
pub struct Ff3 {
    keyring: Arc<Keyring>,
    key: Key,
    radix: u32,
    permit: LegacyPermit,
}

impl Ff3 {
    /// FF3-1 with a key of class [`KeyClass::FpeFf3`].
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`] in profile `government`, whatever the permit says, and after its end;
    /// [`HsmError::WrongClass`], [`HsmError::ForeignKey`], [`HsmError::UnsupportedRadix`].
    pub fn new(
        keyring: Arc<Keyring>,
        key: Key,
        radix: u32,
        permit: LegacyPermit,
        profile: Profile,
        now: SystemTime,
    ) -> Result<Self, HsmError> {
        if profile == Profile::Government {
            return Err(HsmError::LegacyPermit { reason: "profile `government` has no FF3-1" });
        }
        permit.check(now)?;
        key.handle_for(&keyring.sessions, ACTION, &[KeyClass::FpeFf3])?;
        check_radix(radix)?;
        Ok(Self { keyring, key, radix, permit })
    }

    /// Encrypts every value in place; each tweak has 7 bytes. On any error no value is changed.
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`] after the permit's end; [`HsmError::DomainTooSmall`], [`HsmError::TooLong`],
    /// [`HsmError::NumeralOutOfRange`], [`HsmError::Ff3Tweak`], or as the module answers.
    pub fn encrypt(&self, batch: &mut [Ff1Value], now: SystemTime) -> Result<BatchReport, HsmError> {
        self.run(batch, Direction::Encrypt, now)
    }

    /// Decrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As [`Ff3::encrypt`].
    pub fn decrypt(&self, batch: &mut [Ff1Value], now: SystemTime) -> Result<BatchReport, HsmError> {
        self.run(batch, Direction::Decrypt, now)
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Who permits this, and until when.
    pub fn permit(&self) -> &LegacyPermit {
        &self.permit
    }

    fn run(&self, batch: &mut [Ff1Value], direction: Direction, now: SystemTime) -> Result<BatchReport, HsmError> {
        self.permit.check(now)?;
        let handle = self.key.handle_for(&self.keyring.sessions, ACTION, &[KeyClass::FpeFf3])?;
        run(&self.keyring.sessions, handle, self.radix, batch, direction)
    }
}

/// FF3-1 with AES under any key handle, which holds the reversed key.
pub(super) fn run(
    sessions: &Sessions,
    key: ObjectHandle,
    radix: u32,
    batch: &mut [Ff1Value],
    direction: Direction,
) -> Result<BatchReport, HsmError> {
    let work = Ff3Work::prepare(radix, batch, direction)?;
    if batch.is_empty() {
        return Ok(BatchReport { hsm_calls: 0, values: 0, backend: Backend::HostFeistel });
    }
    let stream = Stream::open(sessions, key, ACTION)?;
    let (outputs, report) = work.run(&stream)?;
    stream.close()?;
    outputs.write(batch);
    Ok(report)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn permit(first: &str, second: &str) -> Result<LegacyPermit, HsmError> {
        LegacyPermit::from_verified_approvals(
            [first.to_owned(), second.to_owned()],
            UNIX_EPOCH + Duration::from_secs(100),
        )
    }

    #[test]
    fn one_custodian_twice_is_no_permit() {
        for (first, second) in [("ana", "ana"), ("ana", "Ana "), ("", "bo"), ("ana", " ")] {
            assert!(matches!(permit(first, second), Err(HsmError::LegacyPermit { .. })), "{first:?}, {second:?}");
        }
        assert_eq!(permit("ana", "bo").unwrap().custodians(), &["ana", "bo"]);
    }

    #[test]
    fn a_permit_ends() {
        let permit = permit("ana", "bo").unwrap();
        permit.check(UNIX_EPOCH + Duration::from_secs(99)).unwrap();
        for seconds in [100, 101, 1_000_000] {
            assert!(permit.check(UNIX_EPOCH + Duration::from_secs(seconds)).is_err());
        }
    }
}
