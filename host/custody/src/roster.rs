//! Who the custodians are, and how many of them an operation needs.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicEncryptingKey;
use casemate_hsm::{KeyClass, KeyRef, OaepHash};
use casemate_types::{Digest, UserName};
use serde::{Deserialize, Serialize};

use crate::CustodyError;
use crate::envelope::{Document, Envelope};
use crate::json;
use crate::text::{PersonId, TokenSerial, check_words};

/// More custodians than any site has.
const MAX_CUSTODIANS: usize = 32;

/// NIST SP 800-57 part 1: the strength of AES-128, approved beyond 2030.
const RSA_BITS: usize = 3072;

/// One custodian: a person, the token this person carries, and the two keys in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Custodian {
    /// How the custodian is called in files and on screens.
    pub name: UserName,
    /// Which human being this is.
    pub person: PersonId,
    /// The serial number of the custodian's own token.
    pub token_serial: TokenSerial,
    /// The key for statements.
    pub signing: SigningKey,
    /// The key for shares.
    pub shares: SharesKey,
}

/// An Ed25519 key (RFC 8032) that signs statements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SigningKey {
    /// Where it is in the custodian's token.
    pub key: KeyRef,
    /// The public half, 32 bytes.
    #[serde(with = "json::hex_array")]
    pub public: [u8; 32],
}

impl SigningKey {
    /// The name of the key in an envelope: SHA-256 of the public half.
    pub fn key_id(&self) -> Digest {
        Digest::of(&self.public)
    }
}

/// An RSA key (RFC 8017) of 3,072 bits that shares are encrypted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SharesKey {
    /// Where it is in the custodian's token.
    pub key: KeyRef,
    /// The public half as SubjectPublicKeyInfo (RFC 5280), DER.
    #[serde(with = "json::base64_bytes")]
    pub public: Vec<u8>,
    /// The hash function of OAEP, and of its MGF1.
    pub oaep: OaepHash,
}

impl Custodian {
    /// Whether a requester is this custodian, by person or by name.
    pub fn is_requester(&self, requester: &PersonId) -> bool {
        requester.is(&self.name, &self.person)
    }

    /// Refuses keys that are not what they should be.
    pub(crate) fn check(&self) -> Result<(), CustodyError> {
        let bad = |why| CustodyError::Custodian { name: self.name.clone(), why };
        if self.signing.key.class != KeyClass::CustodianSigning || self.shares.key.class != KeyClass::CustodianShares {
            return Err(bad("its keys are not a custodian's: one signs statements, one opens shares"));
        }
        let rsa = PublicEncryptingKey::from_der(&self.shares.public).map_err(|_| bad("its RSA key cannot be read"))?;
        if rsa.key_size_bits() != RSA_BITS {
            return Err(bad("its RSA key has not 3,072 bits"));
        }
        // One spelling per key, or one key could pass for two.
        let der: PublicKeyX509Der<'_> = rsa.as_der().map_err(|_| bad("its RSA key cannot be read"))?;
        if der.as_ref() == self.shares.public { Ok(()) } else { Err(bad("its RSA key is not in canonical form")) }
    }
}

/// The custodians of one site, checked: distinct names, people, tokens and keys, and a threshold of at least two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    file: RosterFile,
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RosterFile {
    format: RosterFormat,
    site: String,
    epoch: u64,
    threshold: u8,
    custodians: Vec<Custodian>,
    /// Who else may ask for an operation. Their signatures never count as approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requesters: Vec<Custodian>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RosterFormat {
    #[serde(rename = "casemate roster 1")]
    One,
}

impl Roster {
    /// A roster of these custodians. `epoch` counts the rosters of a site from 1 and rises with each change.
    ///
    /// # Errors
    /// As [`Roster::parse`].
    pub fn new(site: &str, epoch: u64, threshold: u8, custodians: Vec<Custodian>) -> Result<Self, CustodyError> {
        Self::with_requesters(site, epoch, threshold, custodians, Vec::new())
    }

    /// As [`Roster::new`], with people who may ask for operations and approve none. They are enrolled like custodians.
    ///
    /// # Errors
    /// As [`Roster::parse`].
    pub fn with_requesters(
        site: &str,
        epoch: u64,
        threshold: u8,
        custodians: Vec<Custodian>,
        requesters: Vec<Custodian>,
    ) -> Result<Self, CustodyError> {
        let format = RosterFormat::One;
        Self::checked(RosterFile { format, site: site.to_owned(), epoch, threshold, custodians, requesters })
    }

    /// Reads a roster. Unknown members are errors.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`]; [`CustodyError::Threshold`] for one below two or above the number of custodians;
    /// [`CustodyError::NotDistinct`] when two of them share a name, a person, a token or a key; [`CustodyError::Custodian`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CustodyError> {
        Self::checked(json::decode("a roster", bytes)?)
    }

    /// The file, for people to read.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`], never for a roster that was parsed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CustodyError> {
        let mut bytes = serde_json::to_vec_pretty(&self.file).map_err(|_| CustodyError::Encoding)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// SHA-256 of the roster's canonical JSON (RFC 8785): what statements and shares are bound to.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The site.
    pub fn site(&self) -> &str {
        &self.file.site
    }

    /// Which of the site's rosters this is.
    pub fn epoch(&self) -> u64 {
        self.file.epoch
    }

    /// How many custodians an operation needs.
    pub fn threshold(&self) -> usize {
        usize::from(self.file.threshold)
    }

    /// The custodians, in the order of the file.
    pub fn custodians(&self) -> &[Custodian] {
        &self.file.custodians
    }

    /// Those who may ask and not approve, in the order of the file.
    pub fn requesters(&self) -> &[Custodian] {
        &self.file.requesters
    }

    /// Whoever of this name may sign: a custodian, or a requester.
    ///
    /// # Errors
    /// [`CustodyError::NoSuchCustodian`].
    pub fn signer(&self, name: &UserName) -> Result<&Custodian, CustodyError> {
        let found = self.everybody().find(|one| one.name == *name);
        found.ok_or_else(|| CustodyError::NoSuchCustodian { name: name.clone() })
    }

    /// Who is meant by a requester, by person or by name.
    pub fn asking(&self, requester: &PersonId) -> Option<&Custodian> {
        self.everybody().find(|one| one.is_requester(requester))
    }

    fn everybody(&self) -> impl Iterator<Item = &Custodian> {
        self.file.custodians.iter().chain(&self.file.requesters)
    }

    /// The custodian of this name.
    ///
    /// # Errors
    /// [`CustodyError::NoSuchCustodian`].
    pub fn custodian(&self, name: &UserName) -> Result<&Custodian, CustodyError> {
        let found = self.file.custodians.iter().find(|custodian| custodian.name == *name);
        found.ok_or_else(|| CustodyError::NoSuchCustodian { name: name.clone() })
    }

    /// The custodian whose token has this serial number.
    pub fn holder_of(&self, serial: &TokenSerial) -> Option<&Custodian> {
        self.file.custodians.iter().find(|custodian| custodian.token_serial.same_device(serial))
    }

    fn checked(file: RosterFile) -> Result<Self, CustodyError> {
        check_words("a site's name (no control characters, at most 128 bytes)", &file.site, 128)?;
        let count = file.custodians.len();
        if usize::from(file.threshold) < 2
            || usize::from(file.threshold) > count
            || count > MAX_CUSTODIANS
            || file.requesters.len() > MAX_CUSTODIANS
        {
            return Err(CustodyError::Threshold { threshold: file.threshold, custodians: count });
        }
        if file.epoch == 0 || file.epoch > json::MAX_INTEGER {
            return Err(CustodyError::malformed("a roster", "its epoch is not 1 or more"));
        }
        let everybody = || file.custodians.iter().chain(&file.requesters);
        for (position, one) in everybody().enumerate() {
            one.check()?;
            for other in everybody().take(position) {
                if let Some(what) = shared(one, other) {
                    let names = [other.name.clone(), one.name.clone()];
                    return Err(CustodyError::NotDistinct { what, names });
                }
            }
        }
        let digest = Digest::of(&json::canonical(&file)?);
        Ok(Self { file, digest })
    }
}

/// What two custodians have in common and must not.
fn shared(one: &Custodian, other: &Custodian) -> Option<&'static str> {
    if one.name == other.name {
        Some("name")
    } else if one.person == other.person {
        Some("person")
    } else if one.token_serial.same_device(&other.token_serial) {
        Some("token")
    } else if one.signing.public == other.signing.public {
        Some("signing key")
    } else if one.shares.public == other.shares.public {
        Some("key for shares")
    } else {
        None
    }
}

/// What a custodian hands in to be put on the roster, signed with the key that it announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Card {
    format: CardFormat,
    custodian: Custodian,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum CardFormat {
    #[serde(rename = "casemate custodian card 1")]
    One,
}

impl Document for Card {
    const PAYLOAD_TYPE: &'static str = "application/vnd.casemate.custodian-card+json";
    const NAME: &'static str = "a custodian's card";

    fn check(&self) -> Result<(), CustodyError> {
        self.custodian.check()
    }
}

impl Card {
    /// A card to be signed by the custodian's own key.
    pub fn new(custodian: Custodian) -> Self {
        Self { format: CardFormat::One, custodian }
    }

    /// Reads a card file and checks that whoever made it holds the signing key.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`], [`CustodyError::CardNotSigned`], [`CustodyError::Custodian`].
    pub fn open(bytes: &[u8]) -> Result<Custodian, CustodyError> {
        let envelope = Envelope::parse(bytes)?;
        let card: Self = envelope.document()?;
        match envelope.signatures() {
            [only] if envelope.verifies(only, &card.custodian.signing) => Ok(card.custodian),
            _ => Err(CustodyError::CardNotSigned { name: card.custodian.name }),
        }
    }
}
