//! Custodians with tokens: statements, and packages that only the destination opens.

use std::path::Path;
use std::sync::Arc;

use casemate_custody::*;
use casemate_hsm::{Ff1Value, HsmError, KeyClass, KeyRef, Keyring, Module, Pin, WrappedPackage};
use casemate_types::Profile;

use crate::harness::{Ground, play_own_role};
use crate::soft::{AuditLog, NOW, SITE, statement};

pub fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned()).unwrap()
}

fn pin_of(name: &str) -> Pin {
    pin(&format!("the pin of {name}"))
}

pub const NAMES: [&str; 3] = ["ana", "bo", "carla"];

/// What every role works with: the module, the roster, and the custodians' tokens it logs in to.
pub struct World {
    pub folder: std::path::PathBuf,
    pub module: Arc<Module>,
    pub roster: Roster,
}

impl World {
    /// Makes and enrols three custodians' tokens.
    pub fn create(module: &Path, folder: &Path) -> Self {
        let module = Module::load(module).unwrap();
        let cards = NAMES.map(|name| {
            module.initialise(name, &pin("an officer pin of theirs"), &pin_of(name)).unwrap();
            let token = HsmToken::open(Arc::clone(&module), name, &pin_of(name)).unwrap();
            let (_, card) = token.enrol(name.parse().unwrap(), format!("p-{name}").parse().unwrap()).unwrap();
            Card::open(&card.to_bytes().unwrap()).unwrap()
        });
        let roster = Roster::new(SITE, 1, 2, cards.to_vec()).unwrap();
        files::write_new(&folder.join("roster.json"), &roster.to_bytes().unwrap()).unwrap();
        NonceFile::create(&folder.join("nonces")).unwrap();
        Self { folder: folder.to_owned(), module, roster }
    }

    pub fn load(module: &Path, folder: &Path) -> Self {
        let roster = Roster::parse(&files::read(&folder.join("roster.json")).unwrap()).unwrap();
        Self { folder: folder.to_owned(), module: Module::load(module).unwrap(), roster }
    }

    pub fn token(&self, name: &str) -> HsmToken {
        HsmToken::open(Arc::clone(&self.module), name, &pin_of(name)).unwrap()
    }

    pub fn custodian(&self, name: &str) -> &Custodian {
        self.roster.custodian(&name.parse().unwrap()).unwrap()
    }

    pub fn verifier(&self) -> Verifier<'_> {
        Verifier {
            site: SITE,
            roster: &self.roster,
            tier: QuorumBackend::SplitPackageAndPin,
            profile: Profile::Government,
            max_head_age: Verifier::MAX_HEAD_AGE,
        }
    }

    /// A statement that ana and bo sign in their tokens, and carla, who asks for it.
    pub fn approve(&self, operation: Operation, token: &TokenSerial) -> Approved<Statement> {
        self.approve_with(operation, token, |_| {})
    }

    fn approve_with(
        &self,
        operation: Operation,
        token: &TokenSerial,
        more: impl FnOnce(&mut Statement),
    ) -> Approved<Statement> {
        let mut wanted = statement(&self.roster);
        wanted.operation = operation;
        wanted.requester = "p-carla".parse().unwrap();
        wanted.tokens = vec![token.clone()];
        more(&mut wanted);
        let mut nonce = [0; 16];
        SystemEntropy.fill(&mut nonce).unwrap();
        wanted.nonce = Nonce::from_random(nonce);
        let mut envelope = Envelope::new(&wanted).unwrap();
        for name in ["ana", "bo", "carla"] {
            self.token(name).sign_envelope(self.custodian(name), &mut envelope).unwrap();
        }
        let mut ledger = NonceFile::open(&self.folder.join("nonces")).unwrap();
        self.verifier().approve(&envelope, NOW, &AuditLog, &mut ledger).unwrap()
    }
}

const ON_SOFTWARE: &str = "tokens::custodians_hold_on_the_software_token";
const ON_SOFTHSM: &str = "tokens::custodians_hold_on_softhsm";

#[test]
fn custodians_hold_on_the_software_token() {
    if !play_own_role(play) {
        Ground::software_token(ON_SOFTWARE).play("custodians");
    }
}

#[test]
fn custodians_hold_on_softhsm() {
    if play_own_role(play) {
        return;
    }
    if let Some(ground) = Ground::softhsm(ON_SOFTHSM) {
        ground.play("custodians");
    }
}

fn play(_: &str, module: &Path, folder: &Path) {
    let world = World::create(module, folder);
    two_tokens_approve_and_one_does_not(&world);
    a_custodian_cannot_sign_with_another_ones_token(&world);
    the_reconstructed_package_opens_in_the_destination_only(&world);
    an_approval_opens_one_legacy_key_in_one_token(&world);
}

fn two_tokens_approve_and_one_does_not(world: &World) {
    let approved = world.approve(Operation::Rotate, &"OPS01".parse().unwrap());
    assert_eq!(approved.approvers().len(), 2);
    assert_ne!(approved.approvers()[0].token_serial, approved.approvers()[1].token_serial);
    let mut envelope = Envelope::new(&statement(&world.roster)).unwrap();
    let ana = world.token("ana");
    ana.sign_envelope(world.custodian("ana"), &mut envelope).unwrap();
    let twice = ana.sign_envelope(world.custodian("ana"), &mut envelope);
    assert!(matches!(twice, Err(CustodyError::SignedTwice { .. })));
    let alone = world.verifier().inspect(&envelope, NOW, &AuditLog);
    assert!(matches!(alone, Err(CustodyError::TooFewSignatures { found: 1, wanted: 2 })));
}

fn a_custodian_cannot_sign_with_another_ones_token(world: &World) {
    let mut envelope = Envelope::new(&statement(&world.roster)).unwrap();
    let refused = world.token("ana").sign_envelope(world.custodian("bo"), &mut envelope);
    assert!(matches!(refused, Err(CustodyError::TokenOfAnother { .. })));
    // Bo's key is not in ana's token, whatever the roster says about serial numbers.
    let mut forged = world.custodian("bo").clone();
    forged.token_serial = world.custodian("ana").token_serial.clone();
    assert!(matches!(world.token("ana").sign_envelope(&forged, &mut envelope), Err(CustodyError::Token(_))));
}

fn the_reconstructed_package_opens_in_the_destination_only(world: &World) {
    let ring = |label: &str| {
        world.module.initialise(label, &pin("an officer pin of theirs"), &pin_of(label)).unwrap();
        Keyring::open(Arc::clone(&world.module), label, &pin_of(label)).unwrap()
    };
    let (source, destination, another) = (ring("source"), ring("destination"), ring("another"));
    let transport = |ring: &Arc<Keyring>| ring.find(&ring.generate(KeyClass::Transport, "transport").unwrap()).unwrap();
    let (door, other_door) = (transport(&destination), transport(&another));

    // Wrapped in the source for the destination, split among the custodians.
    let birth = source.birth(KeyClass::FpeFf1, "names").unwrap();
    let package = source.wrap_for(&birth, &destination.transport_key(&door).unwrap()).unwrap();
    drop(birth);
    let about = package.reference().id.to_string();
    let of = SplitOf { kind: SecretKind::Package, about: &about, epoch: 1 };
    let (set, shares) = split(&package.to_bytes(), of, &world.roster, &mut TokenEntropy(Arc::clone(&source))).unwrap();

    // Bo and carla open their shares in their tokens, from files.
    let mut collector = Collector::new(&set, &world.roster, 1).unwrap();
    for name in ["bo", "carla"] {
        let share = shares.iter().find(|share| share.custodian().as_str() == name).unwrap();
        let share = SealedShare::parse(&share.to_bytes().unwrap()).unwrap();
        collector.enter(share.open(world.custodian(name), &world.token(name)).unwrap()).unwrap();
        let stolen = share.open(world.custodian(name), &world.token("ana"));
        assert!(matches!(stolen, Err(CustodyError::ShareOfAnother { .. })));
    }
    let whole = collector.combine().unwrap();
    assert_eq!(whole[..], package.to_bytes());

    // What the ceremony machine has now is no key: not in clear at any place, not for the custodians, not for another HSM.
    assert!(!contains_key(&whole, &package.reference().check));
    assert!(!contains_key(&package.blob, &package.reference().check));
    let package = WrappedPackage::from_bytes(&whole).unwrap();
    for name in NAMES {
        let opened = world.token(name).open(&world.custodian(name).shares, &package.blob).unwrap();
        assert!(opened.is_none(), "{name} opens the package");
    }
    another.admit(&other_door, &package).unwrap_err();
    let mut readdressed = package.clone();
    readdressed.destination = another.serial().to_owned();
    another.admit(&other_door, &readdressed).unwrap_err();
    source.find(&package.reference()).unwrap_err();

    // In the destination it is the key.
    let admitted = destination.admit(&door, &package).unwrap();
    assert_eq!(destination.find(&admitted).unwrap().reference().check, package.reference().check);
}

fn an_approval_opens_one_legacy_key_in_one_token(world: &World) {
    world.module.initialise("legacy", &pin("an officer pin of theirs"), &pin_of("legacy")).unwrap();
    let ring = Keyring::open(Arc::clone(&world.module), "legacy", &pin_of("legacy")).unwrap();
    let [key, other] = ["approved", "another"].map(|label| ring.generate(KeyClass::FpeFf3, label).unwrap());
    let (here, there) = (serial_of(&world.module, "legacy").unwrap(), "OPS01".parse().unwrap());
    let approve = |token| {
        world.approve_with(Operation::EnableLegacy, token, |wanted| {
            (wanted.key, wanted.class) = (Some(key.id), Some(KeyClass::FpeFf3));
            wanted.until = Some(UnixTime(NOW.0 + 60));
        })
    };
    let used = |permit: &LegacyPermit, key: &KeyRef, profile, now| {
        let mut batch = [Ff1Value { numerals: (0..16).map(|place| place % 10).collect(), tweak: vec![1; 7] }];
        let before = batch.clone();
        let (held, now) = (ring.find(key).unwrap(), UnixTime(now));
        let done = permit.encrypt((&ring, &held), 10, &mut batch, profile, now);
        assert_eq!(batch != before, done.is_ok());
        done.map(|_| {
            permit.decrypt((&ring, &held), 10, &mut batch, profile, now).unwrap();
            assert!(batch == before);
        })
    };
    let refused = |result: Result<(), HsmError>, why: &str| match result {
        Err(HsmError::LegacyPermit { reason }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{why}: {other:?}"),
    };
    let permit = approve(&here).legacy_permit().unwrap();
    for profile in [Profile::Rehearsal, Profile::Enterprise] {
        used(&permit, &key, profile, NOW.0).unwrap();
    }
    assert_eq!(permit.custodians().len(), 2);
    refused(used(&permit, &other, Profile::Enterprise, NOW.0), "another key");
    refused(used(&approve(&there).legacy_permit().unwrap(), &key, Profile::Enterprise, NOW.0), "another token");
    // A permit that ends while the key is in use ends the use; and whatever two custodians say, not in this profile.
    refused(used(&permit, &key, Profile::Enterprise, NOW.0 + 60), "expired");
    refused(used(&permit, &key, Profile::Government, NOW.0), "government");
    let another = world.approve(Operation::Rotate, &here).legacy_permit();
    assert!(matches!(another, Err(CustodyError::NotApproved { what: "operation", .. })), "{another:?}");
    let for_ever = world.approve_with(Operation::EnableLegacy, &here, |wanted| {
        (wanted.key, wanted.class) = (Some(key.id), Some(KeyClass::FpeFf3));
        wanted.until = Some(UnixTime(NOW.0 + MAX_LEGACY_SECONDS + 1));
    });
    assert!(matches!(for_ever.legacy_permit(), Err(CustodyError::NotApproved { .. })));
}

/// Whether any 32 bytes in a row are the AES-256 key with this check value: AES of a fixed block, as the keyring computes it.
fn contains_key(bytes: &[u8], check: &str) -> bool {
    use aes::cipher::{BlockCipherEncrypt, KeyInit};
    let opens = |key: &[u8]| {
        let mut block = (*b"\xffcasemate-check1").into();
        aes::Aes256::new_from_slice(key).unwrap().encrypt_block(&mut block);
        hex::encode(&block[..8]) == check
    };
    assert!(!opens(&[0; 32]));
    bytes.windows(32).any(opens)
}
