use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use casemate_audit::VerifyError;
use casemate_gate::GateError;
use casemate_hsm::HsmError;

/// The documented exit codes.
pub mod code {
    pub const FAILED: u8 = 1;
    pub const DENIED: u8 = 3;
    pub const VERIFICATION: u8 = 4;
    pub const UNAUTHENTICATED: u8 = 5;
}

/// Why a command failed: what failed, its causes, what to do, and the exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: code::FAILED, message: message.into(), causes: Vec::new(), hint: None }
    }

    pub fn caused_by(message: impl Into<String>, error: &dyn Error) -> Self {
        let mut failure = Self::new(message);
        failure.causes.push(error.to_string());
        failure.causes.extend(causes(error));
        failure
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a cause.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says which file it is about.
    pub fn about(mut self, path: &Path) -> Self {
        self.message = format!("{}: {}", path.display(), self.message);
        self
    }

    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let value = serde_json::json!({ "error": self.message, "causes": self.causes, "hint": self.hint });
            println!("{value}");
        } else {
            eprintln!("error: {}", self.message);
            for cause in &self.causes {
                eprintln!("  because: {cause}");
            }
            if let Some(hint) = &self.hint {
                eprintln!("  try: {hint}");
            }
        }
        ExitCode::from(self.code)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn causes(error: &dyn Error) -> Vec<String> {
    let mut out = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if out.last() != Some(&text) {
            out.push(text);
        }
        source = cause.source();
    }
    out
}

impl From<GateError> for Failure {
    fn from(error: GateError) -> Self {
        let causes = causes(&error).into_iter().filter(|cause| !error.to_string().contains(cause.as_str())).collect();
        let (code, hint) = match &error {
            GateError::Unauthenticated => {
                (code::UNAUTHENTICATED, Some("use a user of site.toml whose token is in the site's folder"))
            }
            GateError::Ceremony { .. } => (
                code::VERIFICATION,
                Some("docs/keys.md, \"A site with the keys of a ceremony\", has the names that a plan needs"),
            ),
            GateError::NotValidated { .. } => (code::VERIFICATION, Some("casemate fips status")),
            GateError::FipsSnapshot(_) | GateError::SnapshotRolledBack { .. } | GateError::UserKey { .. } => {
                (code::VERIFICATION, None)
            }
            GateError::SessionEnded => (code::UNAUTHENTICATED, None),
            GateError::Bundle(_) | GateError::Change(_) | GateError::Store(_) => (code::VERIFICATION, None),
            GateError::Audit(_) => (code::VERIFICATION, Some("`casemate audit verify` names the first bad record")),
            GateError::Undestroyed { .. } | GateError::Consent(_) | GateError::Custody(_) => (code::VERIFICATION, None),
            GateError::NoSite { .. } => (code::FAILED, Some("casemate init")),
            GateError::InUse { .. } => (code::FAILED, Some("stop `casemate serve` or wait for the other command")),
            GateError::Order(_)
            | GateError::Refused(_)
            | GateError::Approval(_)
            | GateError::Document { .. }
            | GateError::NotStaged { .. } => (code::VERIFICATION, None),
            GateError::Replay { .. } => {
                (code::VERIFICATION, Some("docs/operating.md, \"Changes\", says what a set of recordings must be"))
            }
            GateError::KeyOffice(_) | GateError::Question(_) => (2, None),
            GateError::Hsm(HsmError::TokenRefused { .. }) => {
                (code::VERIFICATION, Some("`probe.json` of the site holds the evidence; `casemate hsm probe --help`"))
            }
            GateError::Hsm(HsmError::TokenChanged { .. } | HsmError::TokenUnprobed { .. }) => {
                (code::VERIFICATION, Some("casemate hsm probe"))
            }
            GateError::Hsm(_) => {
                (code::FAILED, Some("was the site's folder moved? token/token.conf names the token's storage"))
            }
            _ => (code::FAILED, None),
        };
        Self { code, message: error.to_string(), causes, hint: hint.map(str::to_owned) }
    }
}

impl From<casemate_change::ApprovalError> for Failure {
    fn from(error: casemate_change::ApprovalError) -> Self {
        Self::from(GateError::from(error))
    }
}

impl From<casemate_change::OrderError> for Failure {
    fn from(error: casemate_change::OrderError) -> Self {
        Self::from(GateError::from(error))
    }
}

impl From<HsmError> for Failure {
    fn from(error: HsmError) -> Self {
        Self::from(GateError::from(error))
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self { code: code::VERIFICATION, message: error.to_string(), causes: causes(&error), hint: None }
    }
}

impl From<casemate_fips::FipsError> for Failure {
    fn from(error: casemate_fips::FipsError) -> Self {
        Self { code: code::VERIFICATION, message: error.to_string(), causes: causes(&error), hint: None }
    }
}

impl From<casemate_custody::CustodyError> for Failure {
    fn from(error: casemate_custody::CustodyError) -> Self {
        use casemate_custody::CustodyError as E;
        let code = match &error {
            E::Io { .. } | E::InUse { .. } | E::Token(_) | E::Random | E::Sealing => code::FAILED,
            E::Text { .. } | E::NoSuchCustodian { .. } => 2,
            _ => code::VERIFICATION,
        };
        Self { code, message: error.to_string(), causes: causes(&error), hint: None }
    }
}

impl From<casemate_tier::TierError> for Failure {
    fn from(error: casemate_tier::TierError) -> Self {
        Self::caused_by("the inference tier", &error)
    }
}

impl From<casemate_bundle::BundleError> for Failure {
    fn from(error: casemate_bundle::BundleError) -> Self {
        Self { code: code::VERIFICATION, message: error.to_string(), causes: causes(&error), hint: None }
    }
}
