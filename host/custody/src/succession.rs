//! Proof that a generation of PINs was written by a session that had those of the one before.
//!
//! Everybody who can write the custody folder can encrypt shares to the custodians: their keys are public. So a change of PINs is
//! finished only with shares that carry a MAC under the PINs in force, which nobody has outside a session.

use aws_lc_rs::{hkdf, hmac};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::folder::Generation;
use crate::session::Pins;
use crate::shares::ShareSet;
use crate::{CustodyError, json};

/// HMAC-SHA-256 (FIPS 198-1) over both sets of a generation. Its key comes from both PINs before by HKDF (RFC 5869).
///
/// The journal's phase is not in it, and need not be: with genuine shares each phase leads to PINs that the custodians hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Succession {
    format: SuccessionFormat,
    #[serde(with = "json::hex_array")]
    mac: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SuccessionFormat {
    #[serde(rename = "casemate custody succession 1")]
    One,
}

impl Succession {
    /// The proof for `generation`, made by the session that has the PINs before it.
    pub(crate) fn prove(before: &Pins, generation: Generation, sets: [&ShareSet; 2]) -> Result<Self, CustodyError> {
        let tag = hmac::sign(&key(before)?, &said(generation, sets)?);
        let mac = tag.as_ref().try_into().map_err(|_| CustodyError::Encoding)?;
        Ok(Self { format: SuccessionFormat::One, mac })
    }

    /// Refuses shares that no holder of the PINs before wrote.
    pub(crate) fn check(
        &self,
        before: &Pins,
        generation: Generation,
        sets: [&ShareSet; 2],
    ) -> Result<(), CustodyError> {
        hmac::verify(&key(before)?, &said(generation, sets)?, &self.mac)
            .map_err(|_| CustodyError::ForgedGeneration { generation: generation.0 })
    }
}

fn key(before: &Pins) -> Result<hmac::Key, CustodyError> {
    let pins = Zeroizing::new([&before.user[..], &before.so[..]].concat());
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"casemate custody succession 1").extract(&pins);
    let key = key.expand(&[b"hmac"], hmac::HMAC_SHA256).map_err(|_| CustodyError::Encoding)?;
    Ok(hmac::Key::from(key))
}

/// A set names site, token, roster, threshold and commitments; both digests have 32 bytes.
fn said(generation: Generation, [user, so]: [&ShareSet; 2]) -> Result<Vec<u8>, CustodyError> {
    let (user, so) = (user.digest()?, so.digest()?);
    Ok([&generation.0.to_be_bytes()[..], user.as_bytes(), so.as_bytes()].concat())
}
