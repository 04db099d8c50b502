//! Custodians whose keys are in this process. What they attack needs no token.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_custody::*;
use casemate_hsm::{KeyClass, KeyId, KeyRef, OaepHash, Origin};
use casemate_types::Digest;
use zeroize::Zeroizing;

pub const SITE: &str = "rehearsal-site";
pub const NOW: UnixTime = UnixTime(1_800_000_000);

pub struct Soft {
    pub custodian: Custodian,
    pair: Ed25519KeyPair,
    private: OaepPrivateDecryptingKey,
}

impl Soft {
    fn new(name: &str, number: u8) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        let key = |class| KeyRef {
            id: KeyId::from_random([number; 16]),
            class,
            check: "0011223344556677".to_owned(),
            label: "custodian".to_owned(),
            origin: Origin::Generated,
        };
        let custodian = Custodian {
            name: name.parse().unwrap(),
            person: format!("p-{number}").parse().unwrap(),
            token_serial: format!("TOKEN{number:02}").parse().unwrap(),
            signing: SigningKey {
                key: key(KeyClass::CustodianSigning),
                public: pair.public_key().as_ref().try_into().unwrap(),
            },
            shares: SharesKey {
                key: key(KeyClass::CustodianShares),
                public: der.as_ref().to_vec(),
                oaep: OaepHash::Sha256,
            },
        };
        Self { custodian, pair, private: OaepPrivateDecryptingKey::new(private).unwrap() }
    }

    pub fn signature(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign(message).as_ref().try_into().unwrap()
    }

    pub fn sign(&self, envelope: &mut Envelope) {
        let signature = self.signature(&envelope.signing_bytes());
        envelope.add(&self.custodian, &signature).unwrap();
    }
}

impl CustodianToken for Soft {
    fn serial(&self) -> &TokenSerial {
        &self.custodian.token_serial
    }

    fn sign(&self, _: &SigningKey, message: &[u8]) -> Result<[u8; 64], CustodyError> {
        Ok(self.signature(message))
    }

    fn open(&self, _: &SharesKey, ciphertext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, CustodyError> {
        let mut out = vec![0; self.private.min_output_size()];
        Ok(self
            .private
            .decrypt(&OAEP_SHA256_MGF1SHA256, ciphertext, &mut out, None)
            .ok()
            .map(|x| Zeroizing::new(x.to_vec())))
    }
}

/// Ana, bo, carla, and mallory, who is on no roster. Made once: RSA keys take their time.
pub fn people() -> &'static [Soft; 4] {
    static PEOPLE: OnceLock<[Soft; 4]> = OnceLock::new();
    PEOPLE.get_or_init(|| [Soft::new("ana", 1), Soft::new("bo", 2), Soft::new("carla", 3), Soft::new("mallory", 9)])
}

pub fn custodians() -> Vec<Custodian> {
    people()[..3].iter().map(|soft| soft.custodian.clone()).collect()
}

/// Asks for everything, and approves nothing.
pub fn rita() -> &'static Soft {
    static RITA: OnceLock<Soft> = OnceLock::new();
    RITA.get_or_init(|| Soft::new("rita", 77))
}

pub fn roster() -> Roster {
    Roster::with_requesters(SITE, 1, 2, custodians(), vec![rita().custodian.clone()]).unwrap()
}

/// A log of three records, an hour apart; the last one an hour ago.
pub struct AuditLog;

pub fn root(size: u64) -> [u8; 32] {
    *Digest::of(&size.to_be_bytes()).as_bytes()
}

impl AuditHeads for AuditLog {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        Ok((size <= self.size()).then(|| root(size)))
    }

    fn time_of(&self, index: u64) -> Result<Option<UnixTime>, CustodyError> {
        Ok((index < self.size()).then(|| UnixTime(NOW.0 - 3600 * (self.size() - index))))
    }

    fn size(&self) -> u64 {
        3
    }
}

pub fn statement(roster: &Roster) -> Statement {
    Statement {
        format: StatementFormat::One,
        operation: Operation::Rotate,
        site: roster.site().to_owned(),
        roster: roster.digest(),
        epoch: roster.epoch(),
        key: Some(KeyId::from_random([7; 16])),
        class: Some(KeyClass::FpeFf1),
        name: None,
        version: Some(2),
        tokens: vec!["OPS01".parse().unwrap()],
        template: None,
        subject: None,
        until: None,
        grant: None,
        reason: "yearly rotation".to_owned(),
        requester: "p-77".parse().unwrap(),
        nonce: Nonce::from_random([1; 16]),
        audit_head: AuditHead { size: 3, root: root(3) },
        not_before: UnixTime(NOW.0 - 60),
        expires: UnixTime(NOW.0 + 3600),
    }
}

/// Signed by these, and by rita where she asks.
pub fn signed(statement: &Statement, signers: &[&Soft]) -> Envelope {
    let mut envelope = unproven(statement, signers);
    if statement.requester == rita().custodian.person {
        rita().sign(&mut envelope);
    }
    envelope
}

/// Signed by these alone.
pub fn unproven(statement: &Statement, signers: &[&Soft]) -> Envelope {
    let mut envelope = Envelope::new(statement).unwrap();
    for signer in signers {
        signer.sign(&mut envelope);
    }
    envelope
}
