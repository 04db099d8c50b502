use serde::Serialize;

/// What a token and its library say about themselves, before anybody logs in.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TokenFacts {
    /// `CK_TOKEN_INFO.manufacturerID`, padding taken away.
    pub manufacturer: String,
    /// `CK_TOKEN_INFO.model`.
    pub model: String,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub serial: String,
    /// `CK_TOKEN_INFO.hardwareVersion`, `major.minor`.
    pub hardware: String,
    /// `CK_TOKEN_INFO.firmwareVersion`, `major.minor`.
    pub firmware: String,
    /// `CK_INFO.manufacturerID` and `libraryDescription` of the library.
    pub library: String,
    /// The library's file name.
    pub file: String,
    /// `CKF_HW_SLOT` of the slot.
    pub hardware_slot: bool,
    /// Whether it says that it runs in its approved mode.
    pub approved_mode: ApprovedMode,
    /// What it claims about its own validation: `CKO_VALIDATION` objects (PKCS#11 3.2). Claims are no evidence.
    pub claims: Vec<Claim>,
}

/// What a token says about its mode: `C_GetSessionValidationFlags` (PKCS#11 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovedMode {
    /// Its interface has no way to say it (PKCS#11 before 3.2). Unknown is not approved.
    CannotSay,
    /// It could say so and does not, or fails when it is asked.
    No,
    /// It says so.
    Yes,
}

/// A validation that a token claims for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Claim {
    /// `CKA_VALIDATION_CERTIFICATE_IDENTIFIER`.
    pub certificate: String,
    /// `CKA_VALIDATION_LEVEL`.
    pub level: u64,
}

impl TokenFacts {
    /// Why this is a software token, if anything about it says so.
    pub fn software(&self) -> Option<String> {
        let names = [&self.manufacturer, &self.model, &self.library, &self.file];
        for name in names {
            let lower = name.to_ascii_lowercase();
            if let Some(known) = SOFTWARE.iter().find(|known| lower.contains(*known)) {
                return Some(format!("`{name}` names the software token `{known}`"));
            }
        }
        None
    }
}

/// Names of software tokens, as they appear in makers', models', libraries' and files' names. An unknown software token is
/// caught by its slot, which is no hardware slot, or by the kind of its certificate.
const SOFTWARE: &[&str] = &[
    "casemate",
    "kryoptic",
    "libsofthsm",
    "mozilla",
    "opencryptoki",
    "softhsm",
    "softokn",
    "softoken",
    "softtoken",
    "soft token",
    "swtpm",
    "tpm2-pkcs11",
];
