//! Signed documents in DSSE (Dead Simple Signing Envelope 1.0): any tool that knows DSSE and Ed25519 can verify them.

use casemate_attest::PublicKey;
use casemate_types::{Digest, UserName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::roster::{Custodian, Roster, SigningKey};
use crate::text::{PersonId, TokenSerial};
use crate::{CustodyError, json};

/// Something that custodians sign.
pub trait Document: Serialize + DeserializeOwned {
    /// The payload type of its envelope.
    const PAYLOAD_TYPE: &'static str;
    /// What it is called in messages, with its article.
    const NAME: &'static str;

    /// What its types cannot say: called on everything that is read and before anything is signed.
    ///
    /// # Errors
    /// As the document says.
    fn check(&self) -> Result<(), CustodyError>;

    /// Who asks for what it says, if somebody does. This person's signature is verified and does not count.
    fn requester(&self) -> Option<&PersonId> {
        None
    }
}

/// A payload and the signatures over it. Nothing in it is verified. A key id is SHA-256 of the signer's public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Envelope(casemate_attest::Envelope<Digest>);

/// One signature of an envelope: Ed25519 over the pre-authentication encoding.
pub type Signature = casemate_attest::Signature<Digest>;

impl Envelope {
    /// An envelope without signatures.
    ///
    /// # Errors
    /// As [`Document::check`]; [`CustodyError::Encoding`].
    pub fn new<T: Document>(document: &T) -> Result<Self, CustodyError> {
        document.check()?;
        Ok(Self(casemate_attest::Envelope::new(T::PAYLOAD_TYPE, json::canonical(document)?)))
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CustodyError> {
        let envelope = casemate_attest::Envelope::parse(bytes, json::MAX_FILE);
        envelope.map(Self).map_err(|error| CustodyError::malformed("a signed file", error.to_string()))
    }

    /// The file.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CustodyError> {
        self.0.to_bytes().map_err(|_| CustodyError::Encoding)
    }

    /// What is in it, whoever signed.
    ///
    /// # Errors
    /// [`CustodyError::WrongDocument`] for another payload type; [`CustodyError::Malformed`] unless the payload is canonical;
    /// as [`Document::check`].
    pub fn document<T: Document>(&self) -> Result<T, CustodyError> {
        if self.0.payload_type() != T::PAYLOAD_TYPE {
            return Err(CustodyError::WrongDocument { wanted: T::NAME });
        }
        let document: T = json::decode_canonical(T::NAME, self.0.payload())?;
        document.check()?;
        Ok(document)
    }

    /// SHA-256 of the payload: names the document whoever signed it.
    pub fn digest(&self) -> Digest {
        self.0.digest()
    }

    /// The signatures, unverified.
    pub fn signatures(&self) -> &[Signature] {
        self.0.signatures()
    }

    /// The bytes that a custodian's key signs: DSSE's pre-authentication encoding.
    pub fn signing_bytes(&self) -> Vec<u8> {
        self.0.pae()
    }

    /// Adds a custodian's signature.
    ///
    /// # Errors
    /// [`CustodyError::SignatureInvalid`] when it is not this custodian's over this envelope; [`CustodyError::SignedTwice`].
    pub fn add(&mut self, custodian: &Custodian, sig: &[u8]) -> Result<(), CustodyError> {
        let signature = Signature { keyid: custodian.signing.key_id(), sig: sig.to_vec() };
        if !self.verifies(&signature, &custodian.signing) {
            return Err(CustodyError::SignatureInvalid { name: custodian.name.clone() });
        }
        if self.signatures().iter().any(|other| other.keyid == signature.keyid) {
            return Err(CustodyError::SignedTwice { name: custodian.name.clone() });
        }
        self.0.push(signature.keyid, signature.sig);
        Ok(())
    }

    pub(crate) fn verifies(&self, signature: &Signature, key: &SigningKey) -> bool {
        signature.keyid == key.key_id()
            && PublicKey::Ed25519(key.public).verifies(&self.signing_bytes(), &signature.sig)
    }
}

/// A custodian whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Signer {
    /// The custodian.
    pub name: UserName,
    /// The person.
    pub person: PersonId,
    /// The token whose key signed.
    pub token_serial: TokenSerial,
}

/// A document with the verified signatures of at least the roster's threshold of custodians, who are distinct people with
/// distinct tokens and keys because the roster's are.
///
/// It says who signed, not that the document is fresh: an operation needs [`crate::Approved`].
#[derive(Debug)]
pub struct Signed<T> {
    document: T,
    signers: Vec<Signer>,
    requester: Option<Signer>,
    digest: Digest,
}

impl<T: Document> Signed<T> {
    /// Verifies every signature of an envelope against a roster.
    ///
    /// # Errors
    /// [`CustodyError::Stranger`] for a signature of a key that is not on the roster, [`CustodyError::SignedTwice`],
    /// [`CustodyError::SignatureInvalid`], [`CustodyError::TooFewSignatures`], [`CustodyError::RequesterApproved`], and as
    /// [`Envelope::document`].
    pub fn verify(envelope: &Envelope, roster: &Roster) -> Result<Self, CustodyError> {
        let document: T = envelope.document()?;
        let mut signers: Vec<Signer> = Vec::new();
        let asks = document.requester().and_then(|requester| roster.asking(requester));
        for signature in envelope.signatures() {
            // Of those who only ask, nobody but who asked here has anything to sign.
            let mut expected = roster.custodians().iter().chain(asks);
            let custodian = expected.find(|custodian| custodian.signing.key_id() == signature.keyid);
            let custodian = custodian.ok_or(CustodyError::Stranger { key: signature.keyid })?;
            if signers.iter().any(|signer| signer.name == custodian.name) {
                return Err(CustodyError::SignedTwice { name: custodian.name.clone() });
            }
            if !envelope.verifies(signature, &custodian.signing) {
                return Err(CustodyError::SignatureInvalid { name: custodian.name.clone() });
            }
            let Custodian { name, person, token_serial, .. } = custodian.clone();
            signers.push(Signer { name, person, token_serial });
        }
        // Whoever asks as `bo` is not another one than `bo`, person `p-2`.
        let is_requester =
            |signer: &Signer| document.requester().is_some_and(|requester| requester.is(&signer.name, &signer.person));
        let signed = signers.len();
        let requester = signers.iter().position(is_requester).map(|position| signers.remove(position));
        // A name and a person can be two people.
        signers.retain(|signer| !is_requester(signer));
        let wanted = roster.threshold();
        let custodian_asked = requester.as_ref().is_some_and(|one| roster.custodian(&one.name).is_ok());
        if signers.len() < wanted {
            return Err(if signed >= wanted && custodian_asked {
                CustodyError::RequesterApproved { wanted }
            } else {
                CustodyError::TooFewSignatures { found: signers.len(), wanted }
            });
        }
        Ok(Self { document, signers, requester, digest: envelope.digest() })
    }

    /// What was signed.
    pub fn document(&self) -> &T {
        &self.document
    }

    /// Who signed.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Who asked, if this person signed: the proof that it was this person.
    pub fn requester(&self) -> Option<&Signer> {
        self.requester.as_ref()
    }

    /// SHA-256 of the signed payload.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn into_parts(self) -> (T, Vec<Signer>, Option<Signer>, Digest) {
        (self.document, self.signers, self.requester, self.digest)
    }
}
