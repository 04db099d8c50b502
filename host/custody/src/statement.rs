//! What custodians approve: one operation on one key, on named tokens, within a time, at a state of the audit log.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use casemate_hsm::{KeyClass, KeyId};
use casemate_types::{CompartmentName, Digest, Level, UserName};
use serde::{Deserialize, Serialize};

use crate::envelope::Document;
use crate::text::{PersonId, TokenSerial, UnixTime, check_words};
use crate::{CustodyError, json};

/// An approval is for now, not for some day: 30 days cover the 48 hours' notice of a rotation and a journey.
pub const MAX_VALIDITY_SECONDS: u64 = 30 * 24 * 3600;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $needs_key:literal;)*) => {
        /// What is approved.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// Every operation, in alphabetical order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Whether a statement about it has to name a key.
            pub fn needs_key(self) -> bool {
                match self { $(Self::$variant => $needs_key),* }
            }
        }
    };
}

operations! {
    /// Run the plan whose digest is the statement's `subject`.
    Ceremony = "ceremony", false;
    /// Replace the roster; `subject` is the new roster's digest.
    ChangeRoster = "change-roster", false;
    /// Destroy a key on every HSM, with its blobs and shares.
    Destroy = "destroy", true;
    /// Let a legacy FF3-1 key be used until `until`.
    EnableLegacy = "enable-legacy", true;
    /// Wrap a key for a backup HSM and split the package.
    Escrow = "escrow", true;
    /// Give a custodian's share another form or place.
    ExportShare = "export-share", true;
    /// Make a site with the keys that its `site.toml` asks for; `subject` is that file's digest.
    Found = "found", false;
    /// Make a key.
    Generate = "generate", false;
    /// Wrap a key for a user.
    Issue = "issue", true;
    /// Issue keys to users, as far and as often as the statement's `grant` reaches.
    IssueUser = "issue-user", false;
    /// Open the custody token once, and give it new PINs.
    OpenCustody = "open-custody", false;
    /// Use a key or an HSM again that was stopped.
    ReEnable = "re-enable", false;
    /// Put a split package together and unwrap it.
    Recover = "recover", true;
    /// Copy a key to the other HSM of a pair.
    Replicate = "replicate", true;
    /// Take a user's key away.
    Revoke = "revoke", true;
    /// Replace a key by its next version, after notice.
    Rotate = "rotate", true;
    /// Replace a key at once.
    RotateEmergency = "rotate-emergency", true;
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = CustodyError;
    fn from_str(text: &str) -> Result<Self, CustodyError> {
        let found = Self::ALL.iter().find(|operation| operation.name() == text);
        found
            .copied()
            .ok_or(CustodyError::Text { what: "an operation (`casemate custodian request --help` lists them)" })
    }
}

/// A random number that makes one approval good for one operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(#[serde(with = "json::hex_array")] [u8; 16]);

impl Nonce {
    /// A nonce from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Nonce {
    type Err = CustodyError;
    fn from_str(text: &str) -> Result<Self, CustodyError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| CustodyError::Text { what: "a nonce (32 digits)" })?;
        Ok(Self(bytes))
    }
}

/// A state of the audit log: its size and its RFC 6962 root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    /// Records.
    pub size: u64,
    /// The Merkle tree hash over them (RFC 6962 section 2.1).
    #[serde(with = "json::hex_array")]
    pub root: [u8; 32],
}

/// The whole of what custodians sign. Its canonical JSON (RFC 8785) is the payload of the envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Statement {
    /// The format's version.
    pub format: StatementFormat,
    /// What is to be done.
    pub operation: Operation,
    /// The site.
    pub site: String,
    /// The roster whose custodians decide.
    pub roster: Digest,
    /// The roster's epoch.
    pub epoch: u64,
    /// The key, where the operation is about one.
    pub key: Option<KeyId>,
    /// The class of that key, or of the key to be made.
    pub class: Option<KeyClass>,
    /// What the key is called at the site, such as `compartment/legal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version of that key, counted from 1.
    pub version: Option<u32>,
    /// The tokens on which it is to be done, by serial number.
    pub tokens: Vec<TokenSerial>,
    /// Digest of the attribute template that the key must have.
    pub template: Option<Digest>,
    /// Digest of what else the operation is about: a plan, a new roster, a package, a reason's document.
    pub subject: Option<Digest>,
    /// Until when what is enabled stays enabled.
    pub until: Option<UnixTime>,
    /// How far an approval to issue users' keys reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// Why, in words.
    pub reason: String,
    /// Who asks for it. This person's signature shows that it was this person, and does not count as approval.
    pub requester: PersonId,
    /// Makes this approval good for once.
    pub nonce: Nonce,
    /// The state of the audit log that the requester saw.
    pub audit_head: AuditHead,
    /// Not good before this time.
    pub not_before: UnixTime,
    /// Not good from this time on.
    pub expires: UnixTime,
}

/// A standing approval is for a batch of users, not for everybody for ever.
pub const MAX_USES: u32 = 10_000;

/// How far an approval to issue users' keys reaches: at most these attributes and compartments, for so many keys. With a
/// user and one use it is the approval of one key; otherwise it stands until it expires or is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grant {
    /// For this user alone.
    pub user: Option<UserName>,
    /// The highest clearance.
    pub clearance: Level,
    /// Roles that a user may have.
    pub roles: BTreeSet<String>,
    /// Groups that a user may be in.
    pub groups: BTreeSet<String>,
    /// Departments that a user may be in.
    pub departments: BTreeSet<String>,
    /// Compartments that a key may open.
    pub compartments: BTreeSet<CompartmentName>,
    /// How many keys may be issued on it.
    pub uses: u32,
}

impl Grant {
    /// What of `wanted` goes beyond this grant; `None` if nothing does. `uses` is not compared.
    pub fn exceeded_by(&self, wanted: &Self) -> Option<&'static str> {
        if self.user.is_some() && self.user != wanted.user {
            Some("user")
        } else if wanted.clearance > self.clearance {
            Some("clearance")
        } else if !wanted.roles.is_subset(&self.roles) {
            Some("role")
        } else if !wanted.groups.is_subset(&self.groups) {
            Some("group")
        } else if !wanted.departments.is_subset(&self.departments) {
            Some("department")
        } else if !wanted.compartments.is_subset(&self.compartments) {
            Some("compartment")
        } else {
            None
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let words = |names: &BTreeSet<String>| list(names.iter().map(String::as_str).collect());
        let user = self.user.as_ref().map_or("any user", UserName::as_str);
        write!(
            f,
            "{} keys at most, {user}; clearance up to {}; roles {}; groups {}; departments {}; compartments {}",
            self.uses,
            self.clearance,
            words(&self.roles),
            words(&self.groups),
            words(&self.departments),
            list(self.compartments.iter().map(CompartmentName::as_str).collect()),
        )
    }
}

/// The version of the statement's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementFormat {
    /// The first.
    #[serde(rename = "casemate statement 1")]
    One,
}

impl Document for Statement {
    const PAYLOAD_TYPE: &'static str = "application/vnd.casemate.custody-statement+json";
    const NAME: &'static str = "a statement";

    fn check(&self) -> Result<(), CustodyError> {
        let bad = |why| CustodyError::malformed("a statement", why);
        check_words("a reason (one line of visible text, at most 500 bytes)", &self.reason, 500)?;
        check_words("a site's name (no control characters, at most 128 bytes)", &self.site, 128)?;
        if self.operation.needs_key() && (self.key.is_none() || self.class.is_none()) {
            return Err(bad("this operation has to name a key and its class"));
        }
        if self.operation == Operation::Generate && self.class.is_none() {
            return Err(bad("it has to name the class of the key to be made"));
        }
        let about = matches!(self.operation, Operation::Ceremony | Operation::ChangeRoster | Operation::Found);
        if about && self.subject.is_none() {
            return Err(bad("it has to name the digest of the plan, the new roster or site.toml as its subject"));
        }
        if (self.operation == Operation::EnableLegacy) != self.until.is_some() {
            return Err(bad("`until` belongs to enable-legacy, and to it alone"));
        }
        if (self.operation == Operation::IssueUser) != self.grant.is_some() {
            return Err(bad("`grant` belongs to issue-user, and to it alone"));
        }
        if self.grant.as_ref().is_some_and(|grant| !(1..=MAX_USES).contains(&grant.uses)) {
            return Err(bad("a grant is good for 1 to 10,000 uses"));
        }
        if let Some(grant) = &self.grant {
            for name in grant.roles.iter().chain(&grant.groups).chain(&grant.departments) {
                check_words("a role, group or department (one line of visible text, at most 128 bytes)", name, 128)?;
            }
        }
        if let Some(name) = &self.name {
            check_words("a key's name (one line of visible text, at most 128 bytes)", name, 128)?;
        }
        let on_tokens = !matches!(self.operation, Operation::ChangeRoster | Operation::Found);
        if (on_tokens && self.tokens.is_empty()) || self.tokens.len() > 16 {
            return Err(bad("it has to name 1 to 16 tokens"));
        }
        let twins = |serial: &TokenSerial| self.tokens.iter().filter(|other| other.same_device(serial)).count() > 1;
        if self.tokens.iter().any(twins) {
            return Err(bad("it names a token twice"));
        }
        let validity = self.expires.0.checked_sub(self.not_before.0).filter(|seconds| *seconds > 0);
        match validity {
            Some(seconds) if seconds <= MAX_VALIDITY_SECONDS => Ok(()),
            Some(_) => Err(bad("it is good for more than 30 days")),
            None => Err(bad("it expires before it begins")),
        }
    }

    fn requester(&self) -> Option<&PersonId> {
        Some(&self.requester)
    }
}

impl fmt::Display for Statement {
    /// Everything that is signed, a line each: what a custodian reads before signing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens: Vec<&str> = self.tokens.iter().map(TokenSerial::as_str).collect();
        writeln!(f, "operation     {}", self.operation)?;
        writeln!(f, "site          {}", self.site)?;
        if let Some(key) = self.key {
            writeln!(f, "key           {key}")?;
        }
        if let Some(class) = self.class {
            writeln!(f, "class         {class}")?;
        }
        if let Some(name) = &self.name {
            writeln!(f, "name          {name}")?;
        }
        if let Some(version) = self.version {
            writeln!(f, "version       {version}")?;
        }
        writeln!(f, "tokens        {}", tokens.join(", "))?;
        if let Some(template) = self.template {
            writeln!(f, "template      {template}")?;
        }
        if let Some(subject) = self.subject {
            writeln!(f, "subject       {subject}")?;
        }
        if let Some(until) = self.until {
            writeln!(f, "until         {until}")?;
        }
        if let Some(grant) = &self.grant {
            writeln!(f, "grant         {grant}")?;
        }
        writeln!(f, "reason        {}", self.reason)?;
        writeln!(f, "requester     {} (does not count as approver)", self.requester)?;
        writeln!(f, "not before    {}", self.not_before)?;
        writeln!(f, "expires       {}", self.expires)?;
        writeln!(f, "audit head    {} records, root {}", self.audit_head.size, hex::encode(self.audit_head.root))?;
        writeln!(f, "roster        {} (epoch {})", self.roster, self.epoch)?;
        write!(f, "nonce         {}", self.nonce)
    }
}
