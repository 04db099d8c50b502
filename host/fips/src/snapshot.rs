//! What CMVP published on one day, as far as a site needs it. The format is described in `docs/fips-snapshot.md`.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::FipsError;
use crate::dsse::{Approver, PAYLOAD_TYPE, THRESHOLD, signers};

/// The version of the format.
pub const FORMAT: u32 = 1;

/// The largest snapshot, in bytes: CMVP lists a few thousand modules.
const MAX_SNAPSHOT: usize = 16 << 20;

/// The list. No field has a default: what is left out is an error, above all `sample`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Snapshot {
    /// [`FORMAT`].
    pub format: u32,
    /// Made up to show the format: no profile but `rehearsal` takes it.
    pub sample: bool,
    /// The day on which the list was taken from its source.
    pub date: Date,
    /// Where it was taken from.
    pub source: String,
    /// The modules.
    pub certificates: Vec<Certificate>,
}

/// One certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Certificate {
    /// CMVP's number.
    pub number: u32,
    /// The standard it was validated against.
    pub standard: Standard,
    /// The status on the snapshot's day.
    pub status: Status,
    /// The overall level, 1 to 4.
    pub level: u8,
    /// The module's name on the certificate.
    pub module_name: String,
    /// The vendor on the certificate.
    pub vendor: String,
    /// What kind of module it is.
    pub kind: ModuleKind,
    /// The day of the (last) validation.
    pub validated: Date,
    /// The first day on which it is no longer active.
    pub sunset: Date,
    /// How the module names itself over PKCS#11.
    pub token: TokenIdentity,
    /// The tested pairs of hardware and firmware.
    pub configurations: Vec<Configuration>,
    /// Algorithms of the approved services, as CAVP names them.
    pub approved: BTreeSet<String>,
}

/// The standard of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standard {
    /// FIPS 140-2, whose certificates are historical since 2026-09-21.
    #[serde(rename = "FIPS 140-2")]
    Fips140_2,
    /// FIPS 140-3.
    #[serde(rename = "FIPS 140-3")]
    Fips140_3,
}

/// The status of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Valid for new procurement.
    Active,
    /// No longer.
    Historical,
    /// Not validated yet: on the list of modules in process.
    Pending,
    /// Withdrawn.
    Revoked,
}

/// What kind of module a certificate is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// A device.
    Hardware,
    /// The firmware of a device.
    Firmware,
    /// A device with software.
    Hybrid,
    /// Software alone.
    Software,
}

/// `CK_TOKEN_INFO` of the module, space padding taken away.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TokenIdentity {
    /// `manufacturerID`.
    pub manufacturer: String,
    /// `model`, any of these.
    pub models: BTreeSet<String>,
}

/// One tested pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Configuration {
    /// Hardware version, as on the certificate.
    pub hardware: String,
    /// Firmware version, as on the certificate.
    pub firmware: String,
    /// What the token reports as its hardware version where that is not the certificate's spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_hardware: Option<String>,
    /// What the token reports as its firmware version where that is not the certificate's spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_firmware: Option<String>,
}

impl Configuration {
    /// Whether a token that reports these versions is this configuration, exactly.
    pub fn is(&self, hardware: &str, firmware: &str) -> bool {
        self.reported_hardware.as_ref().unwrap_or(&self.hardware) == hardware
            && self.reported_firmware.as_ref().unwrap_or(&self.firmware) == firmware
    }
}

impl Snapshot {
    /// Reads a snapshot. Checks no signature: [`VerifiedSnapshot::verify`] does.
    ///
    /// # Errors
    /// [`FipsError::Malformed`], [`FipsError::DuplicateCertificate`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FipsError> {
        let malformed = |why: String| FipsError::Malformed { why };
        if bytes.len() > MAX_SNAPSHOT {
            return Err(malformed(format!("it has more than {MAX_SNAPSHOT} bytes")));
        }
        let snapshot: Self = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if snapshot.format != FORMAT {
            return Err(malformed(format!("`format` is {}; this version reads {FORMAT}", snapshot.format)));
        }
        let mut numbers = BTreeSet::new();
        for certificate in &snapshot.certificates {
            let number = certificate.number;
            if !numbers.insert(number) {
                return Err(FipsError::DuplicateCertificate { number });
            }
            if !(1..=4).contains(&certificate.level) {
                return Err(malformed(format!("certificate {number}: level {} does not exist", certificate.level)));
            }
            let identity = &certificate.token;
            if identity.manufacturer.is_empty() || identity.models.iter().any(String::is_empty) {
                return Err(malformed(format!("certificate {number}: an empty name would match a nameless token")));
            }
        }
        Ok(snapshot)
    }
}

/// A snapshot that two approvers of the site vouch for. Only [`VerifiedSnapshot::verify`] makes one.
#[derive(Debug, Clone)]
pub struct VerifiedSnapshot {
    snapshot: Snapshot,
    signers: BTreeSet<String>,
}

impl VerifiedSnapshot {
    /// Checks the signatures over the file's bytes, then reads them.
    ///
    /// # Errors
    /// As [`signers`] and [`Snapshot::parse`]; [`FipsError::NotEnoughSignatures`].
    pub fn verify(snapshot: &[u8], signatures: &[u8], approvers: &[Approver]) -> Result<Self, FipsError> {
        let signers = signers(PAYLOAD_TYPE, snapshot, signatures, approvers)?;
        if signers.len() < THRESHOLD {
            return Err(FipsError::NotEnoughSignatures { found: signers.len() });
        }
        Ok(Self { snapshot: Snapshot::parse(snapshot)?, signers })
    }

    /// The list.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Who signed.
    pub fn signers(&self) -> &BTreeSet<String> {
        &self.signers
    }
}
