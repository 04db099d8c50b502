//! Two people state that a token runs in its approved mode: what a certificate cannot say, and most tokens cannot say either.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::dsse::{Approver, MODE_TYPE, THRESHOLD, signers};
use crate::{FipsError, TokenFacts};

/// The version of the format.
pub const MODE_FORMAT: u32 = 1;

/// The longest time for which a statement is good, in days: somebody looks again.
pub const MAX_MODE_DAYS: i32 = 366;

/// What approvers sign after they looked at the device. No field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModeStatement {
    /// [`MODE_FORMAT`].
    pub format: u32,
    /// The site whose token it is.
    pub site: String,
    /// The certificate under whose security policy the mode is approved.
    pub certificate: u32,
    /// The token, as it names itself: serial number, maker, model, versions of hardware and firmware.
    pub serial: String,
    /// `CK_TOKEN_INFO.manufacturerID`.
    pub manufacturer: String,
    /// `CK_TOKEN_INFO.model`.
    pub model: String,
    /// `major.minor`.
    pub hardware: String,
    /// `major.minor`.
    pub firmware: String,
    /// The mode that was seen.
    pub mode: Mode,
    /// How it was seen, in one line: which menu, which command of the maker's.
    pub seen: String,
    /// The day on which it was seen.
    pub checked: Date,
    /// The first day on which the statement is no longer good.
    pub expires: Date,
}

/// A mode of operation. There is one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The mode in which the module was validated ("FIPS mode").
    Approved,
}

impl ModeStatement {
    /// Reads a statement. Checks no signature: [`VerifiedMode::verify`] does.
    ///
    /// # Errors
    /// [`FipsError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FipsError> {
        let malformed = |why: String| FipsError::Malformed { why };
        let statement: Self = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if statement.format != MODE_FORMAT {
            return Err(malformed(format!("`format` is {}; this version reads {MODE_FORMAT}", statement.format)));
        }
        let named = [&statement.site, &statement.serial, &statement.manufacturer, &statement.model, &statement.seen];
        if named.iter().any(|text| text.trim().is_empty() || text.chars().any(char::is_control)) {
            return Err(malformed("a name or `seen` is empty, or is no single line of text".to_owned()));
        }
        let days = (statement.expires - statement.checked).get_days();
        if !(1..=MAX_MODE_DAYS).contains(&days) {
            return Err(malformed(format!("it is good for {days} days; 1 to {MAX_MODE_DAYS} are taken")));
        }
        Ok(statement)
    }

    /// Why it is not about this token under this certificate today; nothing if it is.
    pub(crate) fn misses(&self, token: &TokenFacts, certificate: Option<u32>, today: Date) -> Option<String> {
        let TokenFacts { serial, manufacturer, model, hardware, firmware, .. } = token;
        let fields = [
            ("serial number", &self.serial, serial),
            ("maker", &self.manufacturer, manufacturer),
            ("model", &self.model, model),
            ("hardware version", &self.hardware, hardware),
            ("firmware version", &self.firmware, firmware),
        ];
        if let Some((what, stated, found)) = fields.into_iter().find(|(_, stated, found)| stated != found) {
            return Some(format!("it is about {what} `{stated}`, and the token says `{found}`"));
        }
        if certificate != Some(self.certificate) {
            let found = certificate.map_or("none".to_owned(), |number| number.to_string());
            return Some(format!("it is about certificate {}, and the token's is {found}", self.certificate));
        }
        if today < self.checked || today >= self.expires {
            return Some(format!(
                "it is good from {} and no longer on {}; today is {today}",
                self.checked, self.expires
            ));
        }
        None
    }
}

/// A statement that two approvers of the site signed. Only [`VerifiedMode::verify`] makes one.
#[derive(Debug, Clone)]
pub struct VerifiedMode {
    statement: ModeStatement,
    signers: BTreeSet<String>,
}

impl VerifiedMode {
    /// Checks the signatures over the file's bytes, then reads them.
    ///
    /// # Errors
    /// As [`signers`] and [`ModeStatement::parse`]; [`FipsError::NotEnoughSignatures`]; [`FipsError::OtherSite`].
    pub fn verify(bytes: &[u8], signatures: &[u8], approvers: &[Approver], site: &str) -> Result<Self, FipsError> {
        let signers = signers(MODE_TYPE, bytes, signatures, approvers)?;
        if signers.len() < THRESHOLD {
            return Err(FipsError::NotEnoughSignatures { found: signers.len() });
        }
        let statement = ModeStatement::parse(bytes)?;
        if statement.site != site {
            return Err(FipsError::OtherSite { site: statement.site });
        }
        Ok(Self { statement, signers })
    }

    /// What was stated.
    pub fn statement(&self) -> &ModeStatement {
        &self.statement
    }

    /// Who signed.
    pub fn signers(&self) -> &BTreeSet<String> {
        &self.signers
    }
}
