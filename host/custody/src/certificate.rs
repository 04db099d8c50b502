//! What is signed after a key was destroyed.

use std::fmt;

use casemate_hsm::KeyRef;
use casemate_types::Digest;
use serde::{Deserialize, Serialize};

use crate::CustodyError;
use crate::envelope::Document;
use crate::statement::AuditHead;
use crate::text::{TokenSerial, UnixTime, check_words};

/// A key was destroyed: what was tried afterwards and failed, what was deleted, and what is out of the site's reach. The custodians
/// sign that they destroyed the latter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DestructionCertificate {
    /// The format's version.
    pub format: CertificateFormat,
    /// The site.
    pub site: String,
    /// Made by one person, without custodians.
    pub rehearsal: bool,
    /// What the key was called at the site.
    pub name: String,
    /// The key.
    pub key: KeyRef,
    /// The tokens that held it, by serial number.
    pub tokens: Vec<TokenSerial>,
    /// The approval that it was destroyed on; none in a rehearsal.
    pub statement: Option<Digest>,
    /// Stored passages that nobody can read any more, decoys included.
    pub passages: u64,
    /// Users whose keys ended because they held this key.
    pub users: Vec<String>,
    /// What was tried and failed, with the answer.
    pub proofs: Vec<String>,
    /// Files that were deleted, below the site's folder.
    pub deleted: Vec<String>,
    /// What the site cannot reach, which each custodian destroys.
    pub elsewhere: Vec<String>,
    /// A state of the audit log that holds the record of it.
    pub audit_head: AuditHead,
    /// When it was finished.
    pub at: UnixTime,
}

/// The version of the certificate's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertificateFormat {
    /// The first.
    #[serde(rename = "casemate destruction 1")]
    One,
}

impl Document for DestructionCertificate {
    const PAYLOAD_TYPE: &'static str = "application/vnd.casemate.destruction+json";
    const NAME: &'static str = "a destruction certificate";

    fn check(&self) -> Result<(), CustodyError> {
        let bad = |why| CustodyError::malformed("a destruction certificate", why);
        check_words("a site's name (no control characters, at most 128 bytes)", &self.site, 128)?;
        check_words("a key's name (one line of visible text, at most 128 bytes)", &self.name, 128)?;
        if self.tokens.is_empty() || self.proofs.is_empty() {
            return Err(bad("it names no token or no proof"));
        }
        for line in self.proofs.iter().chain(&self.deleted).chain(&self.elsewhere).chain(&self.users) {
            check_words("a line of a certificate (visible text, at most 4,000 bytes)", line, 4000)?;
        }
        Ok(())
    }
}

impl fmt::Display for DestructionCertificate {
    /// Everything that is signed, for paper.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens: Vec<&str> = self.tokens.iter().map(TokenSerial::as_str).collect();
        writeln!(f, "CERTIFICATE OF DESTRUCTION{}", if self.rehearsal { " (REHEARSAL)" } else { "" })?;
        writeln!(f, "site          {}", self.site)?;
        writeln!(f, "key           {}, {} {}, check {}", self.name, self.key.class, self.key.id, self.key.check)?;
        writeln!(f, "label         {}, {:?}", self.key.label, self.key.origin)?;
        writeln!(f, "tokens        {}", tokens.join(", "))?;
        match &self.statement {
            Some(statement) => writeln!(f, "approved      statement {statement}")?,
            None => writeln!(f, "approved      by nobody: one person's site")?,
        }
        writeln!(f, "unreadable    {} passages", self.passages)?;
        writeln!(f, "finished      {}", self.at)?;
        writeln!(f, "audit head    {} records, root {}", self.audit_head.size, hex::encode(self.audit_head.root))?;
        for (title, lines) in [
            ("Keys of users that ended:", &self.users),
            ("What was tried and failed:", &self.proofs),
            ("Deleted:", &self.deleted),
            (
                "Out of the site's reach; each custodian who signs has destroyed what he or she holds of it:",
                &self.elsewhere,
            ),
        ] {
            writeln!(f, "\n{title}")?;
            if lines.is_empty() {
                writeln!(f, "  nothing")?;
            }
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}
