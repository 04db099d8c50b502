//! FF1 inside an HSM. PKCS#11 has no mechanism for it, so it is a vendor's, and is believed only after it was compared.

use std::sync::{Mutex, PoisonError};

use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki_sys::{CK_MECHANISM_TYPE, CK_ULONG};
use serde::{Deserialize, Serialize};

use super::lockstep::check_values;
use super::words::Direction;
use super::{Backend, BatchReport, Ff1Value, minimum_length, token};
use crate::HsmError;
use crate::sessions::Sessions;

/// A vendor's FF1 mechanism, as configuration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NativeFf1 {
    /// The mechanism's number: `CKM_VENDOR_DEFINED` (0x80000000) or above.
    pub mechanism: u64,
    /// How the mechanism takes its parameter and its data.
    pub layout: NativeLayout,
}

impl NativeFf1 {
    /// The mechanism.
    pub(crate) fn number(self) -> Result<MechanismType, HsmError> {
        let number = CK_MECHANISM_TYPE::try_from(self.mechanism).ok();
        let mechanism = number.and_then(|number| MechanismType::new_vendor_defined(number).ok());
        mechanism.ok_or(HsmError::NativeFf1 { reason: "its number is no vendor's (0x80000000 or above)" })
    }
}

/// Layouts of a vendor's FF1 parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NativeLayout {
    /// `struct { CK_ULONG radix; CK_ULONG tweak_length; CK_BYTE_PTR tweak; }`; a numeral is two bytes, big-endian.
    RadixTweak,
}

/// The parameter of [`NativeLayout::RadixTweak`].
#[repr(C)]
struct RadixTweak {
    radix: CK_ULONG,
    tweak_length: CK_ULONG,
    tweak: *const u8,
}

const ACTION: &str = "encrypt with the HSM's own FF1";

/// Calls a value costs: `C_EncryptInit`, and `C_Encrypt` for the size and for the result.
const CALLS: u32 = 3;

/// The mechanism, and whether it was found to compute FF1.
pub(super) struct Native {
    mechanism: MechanismType,
    layout: NativeLayout,
    /// `None` until compared.
    agrees: Mutex<Option<bool>>,
}

impl Native {
    pub(super) fn new(native: NativeFf1) -> Result<Self, HsmError> {
        Ok(Self { mechanism: native.number()?, layout: native.layout, agrees: Mutex::new(None) })
    }

    /// Encrypts every value in place, after the first use has compared the mechanism with FF1 here. On any error no value is
    /// changed.
    pub(super) fn encrypt(
        &self,
        sessions: &Sessions,
        key: ObjectHandle,
        radix: u32,
        batch: &mut [Ff1Value],
    ) -> Result<BatchReport, HsmError> {
        check_values(radix, batch)?;
        self.compare(sessions, key, radix)?;
        let outputs = self.run(sessions, key, radix, batch)?;
        for (value, numerals) in batch.iter_mut().zip(outputs) {
            value.numerals = numerals;
        }
        let hsm_calls = CALLS.saturating_mul(batch.len() as u32);
        Ok(BatchReport { hsm_calls, values: batch.len(), backend: Backend::Native })
    }

    /// Whether the token lists the mechanism and the key allows it.
    pub(super) fn is_offered(&self, sessions: &Sessions, key: ObjectHandle) -> Result<bool, HsmError> {
        if !sessions.has_mechanism(self.mechanism)? {
            return Ok(false);
        }
        let raw = &sessions.module.raw;
        let told = sessions.with("read a key's attributes", |session| raw.allowed_mechanisms(session, key))?;
        Ok(told.is_none_or(|allowed| allowed.contains(&self.mechanism.into())))
    }

    /// Refuses a mechanism that is not FF1. An error of the token decides nothing: the next use compares again.
    pub(super) fn compare(&self, sessions: &Sessions, key: ObjectHandle, radix: u32) -> Result<(), HsmError> {
        let mut agrees = self.agrees.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = match *agrees {
            Some(verdict) => verdict,
            None => {
                let shortest = minimum_length(radix);
                let mut values: Vec<Ff1Value> = [(0, 0), (1, 7), (9, 40)]
                    .into_iter()
                    .map(|(longer, tweak)| Ff1Value {
                        numerals: (0..shortest + longer).map(|place| (place as u32 % radix) as u16).collect(),
                        tweak: vec![0x5a; tweak],
                    })
                    .collect();
                let native = self.run(sessions, key, radix, &values)?;
                token::run(sessions, key, radix, &mut values, Direction::Encrypt)?;
                let verdict = values.iter().map(|value| &value.numerals).eq(&native);
                *agrees = Some(verdict);
                verdict
            }
        };
        if verdict { Ok(()) } else { Err(HsmError::NativeFf1 { reason: "its results are not FF1's" }) }
    }

    fn run(
        &self,
        sessions: &Sessions,
        key: ObjectHandle,
        radix: u32,
        values: &[Ff1Value],
    ) -> Result<Vec<Vec<u16>>, HsmError> {
        values
            .iter()
            .map(|value| {
                let input: Vec<u8> = value.numerals.iter().flat_map(|numeral| numeral.to_be_bytes()).collect();
                let output = sessions.with(ACTION, |session| match self.layout {
                    NativeLayout::RadixTweak => {
                        let parameter = RadixTweak {
                            radix: CK_ULONG::from(radix),
                            tweak_length: CK_ULONG::try_from(value.tweak.len()).map_err(Pkcs11Error::TryFromInt)?,
                            tweak: value.tweak.as_ptr(),
                        };
                        let mechanism = VendorDefinedMechanism::new(self.mechanism, Some(&parameter));
                        session.encrypt(&Mechanism::VendorDefined(mechanism), key, &input)
                    }
                })?;
                let numerals: Vec<u16> =
                    output.as_chunks::<2>().0.iter().map(|numeral| u16::from_be_bytes(*numeral)).collect();
                let sound = output.len() == input.len() && numerals.iter().all(|numeral| u32::from(*numeral) < radix);
                if sound { Ok(numerals) } else { Err(HsmError::StrangeAnswer { action: ACTION }) }
            })
            .collect()
    }
}
