use std::fmt;
use std::str::FromStr;

use casemate_attest::Envelope;
use casemate_bundle::{ApproverKey, TrustRoot};
use casemate_types::{Digest, PluginName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::OrderError;

/// An order of custodians about what runs at a site. It takes effect when it is carried out and recorded, and once only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Denies at once. One custodian may.
    Stop {
        /// What is denied.
        scope: Scope,
        /// Why, for the log.
        reason: String,
        /// When it was given. Makes two orders of the same words two orders.
        at: Timestamp,
    },
    /// Lifts one stop. Takes two.
    Resume {
        /// What was stopped.
        scope: Scope,
        /// Digest of the order that stopped it: another, later stop stays.
        stop: Digest,
        /// Why, for the log.
        reason: String,
        /// When the order lapses.
        expires: Timestamp,
    },
    /// Brings back a bundle that was active before, as a new generation. Takes two.
    Rollback {
        /// Which plugin.
        name: PluginName,
        /// The bundle that is active now: if it is another by then, the order is void.
        from: Digest,
        /// The bundle to come back.
        to: Digest,
        /// Why, for the log.
        reason: String,
        /// When the order lapses.
        expires: Timestamp,
    },
    /// Takes a bundle out of use for ever. One custodian may.
    Revoke {
        /// The bundle.
        bundle: Digest,
        /// Why, for the log.
        reason: String,
        /// When it was given.
        at: Timestamp,
    },
}

/// What a stop denies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Scope {
    /// Every request.
    Everything,
    /// Whatever needs this plugin. A chain without one of its policies is no chain, so a stopped policy denies everything too.
    Component(PluginName),
}

/// An order whose signatures were checked against a site's root: the only thing a gate carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOrder {
    order: Order,
    digest: Digest,
    signers: Vec<String>,
}

/// An order on its way: an in-toto Statement v1 in a DSSE v1 envelope, JSON. Nothing in it is verified.
#[derive(Debug, Clone)]
pub struct OrderFile(Envelope);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate: Order,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: [Subject; 1],
}

/// The site: its name, and the digest of the root that says who may give orders.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    digest: RootDigest,
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootDigest {
    sha256: String,
}

/// Longest reason, in characters.
pub const MAX_REASON: usize = 200;
/// Largest file of an order, in bytes.
pub const MAX_ORDER: usize = 16 << 10;

impl Order {
    /// How many distinct people must sign: one to close, two to open.
    pub fn threshold(&self) -> usize {
        match self {
            Self::Stop { .. } | Self::Revoke { .. } => 1,
            Self::Resume { .. } | Self::Rollback { .. } => 2,
        }
    }

    /// Why it was given.
    pub fn reason(&self) -> &str {
        match self {
            Self::Stop { reason, .. }
            | Self::Resume { reason, .. }
            | Self::Rollback { reason, .. }
            | Self::Revoke { reason, .. } => reason,
        }
    }

    fn expires(&self) -> Option<Timestamp> {
        match self {
            Self::Stop { .. } | Self::Revoke { .. } => None,
            Self::Resume { expires, .. } | Self::Rollback { expires, .. } => Some(*expires),
        }
    }
}

impl OrderFile {
    /// An order for a site that nobody has signed.
    ///
    /// Errors: [`OrderError::Reason`].
    pub fn new(order: Order, site: &str, trust: &TrustRoot) -> Result<Self, OrderError> {
        let reason = order.reason();
        if reason.trim().is_empty() || reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(OrderError::Reason);
        }
        let subject = Subject { digest: RootDigest { sha256: trust.digest().hex() }, name: site.to_owned() };
        let statement = Statement {
            kind: STATEMENT.to_owned(),
            predicate: order,
            predicate_type: PREDICATE.to_owned(),
            subject: [subject],
        };
        let payload = serde_json::to_vec(&statement).map_err(|error| OrderError::Malformed(error.to_string()))?;
        Ok(Self(Envelope::new(PAYLOAD_TYPE, payload)))
    }

    /// Reads a file of at most [`MAX_ORDER`] bytes.
    ///
    /// Errors: [`OrderError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, OrderError> {
        Envelope::parse(bytes, MAX_ORDER).map(Self).map_err(|error| OrderError::Malformed(error.to_string()))
    }

    /// The file.
    ///
    /// Errors: [`OrderError::Malformed`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, OrderError> {
        self.0.to_bytes().map_err(|error| OrderError::Malformed(error.to_string()))
    }

    /// What it orders, whoever signed: for the eyes of the next signer.
    ///
    /// Errors: [`OrderError::Malformed`].
    pub fn order(&self) -> Result<Order, OrderError> {
        Ok(self.statement()?.predicate)
    }

    /// Adds a signature.
    ///
    /// Errors: [`OrderError::SamePerson`], [`OrderError::Key`].
    pub fn sign(&mut self, key: &ApproverKey) -> Result<(), OrderError> {
        let keyid = key.public().key_id().map_err(OrderError::Key)?;
        if self.0.signatures().iter().any(|signature| signature.keyid == keyid) {
            return Err(OrderError::SamePerson { name: key.public().name.clone() });
        }
        let signature = key.sign_dsse(&self.0.pae()).map_err(OrderError::Key)?;
        self.0.push(keyid, signature);
        Ok(())
    }

    /// Checks everything but whether it was carried out already: signatures by enough different people of `trust`, for this site, in date.
    ///
    /// Errors: each attack has a variant of its own in [`OrderError`].
    pub fn verify(&self, site: &str, trust: &TrustRoot, now: Timestamp) -> Result<SignedOrder, OrderError> {
        if self.0.payload_type() != PAYLOAD_TYPE {
            return Err(OrderError::Malformed(format!("its payload is not {PAYLOAD_TYPE}")));
        }
        if now > trust.expires() {
            return Err(OrderError::RootExpired { at: trust.expires() });
        }
        let message = self.0.pae();
        let mut signers: Vec<String> = Vec::new();
        for signature in self.0.signatures() {
            let keyid: String = signature.keyid.chars().take(80).collect();
            let Some(name) = trust.dsse_signer(&keyid, &message, &signature.sig) else {
                return Err(OrderError::BadSignature { key_id: keyid });
            };
            // A person has one key in a root, and a key one person.
            if signers.iter().any(|signer| signer == name) {
                return Err(OrderError::SamePerson { name: name.to_owned() });
            }
            signers.push(name.to_owned());
        }
        let Statement { kind, predicate: order, predicate_type, subject: [subject] } = self.statement()?;
        if kind != STATEMENT || predicate_type != PREDICATE {
            return Err(OrderError::Malformed("it is a statement of another kind".to_owned()));
        }
        if subject.name != site || subject.digest.sha256 != trust.digest().hex() {
            return Err(OrderError::OtherSite { site: subject.name.chars().take(64).collect() });
        }
        let needed = order.threshold();
        if signers.len() < needed {
            return Err(OrderError::TooFew { found: signers.len(), needed });
        }
        if let Some(at) = order.expires().filter(|expires| now > *expires) {
            return Err(OrderError::Expired { at });
        }
        Ok(SignedOrder { order, digest: self.digest(), signers })
    }

    /// Digest of the statement: names the order whoever signed.
    pub fn digest(&self) -> Digest {
        self.0.digest()
    }

    fn statement(&self) -> Result<Statement, OrderError> {
        serde_json::from_slice(self.0.payload()).map_err(|error| OrderError::Malformed(error.to_string()))
    }
}

impl SignedOrder {
    /// What is ordered.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Digest of the statement.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed; distinct people.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Component(name) => write!(f, "component:{name}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("component:") {
            None if text == "everything" => Ok(Self::Everything),
            None => Err("`everything` or `component:NAME` is expected".to_owned()),
            Some(name) => name.parse().map(Self::Component).map_err(|error| format!("{error}")),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "urn:casemate:order:v1";
