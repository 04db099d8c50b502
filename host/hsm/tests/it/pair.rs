//! A primary and a backup: of different make, and two of one make.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use casemate_hsm::pair::{
    DrillPlan, Manifest, ManifestKey, ManifestSigner, PairState, Role, SignedManifest, TokenSigner, VerifiedManifest,
    drill, drill_with_scratch_key,
};
use casemate_hsm::{
    Claim, Ff1, Ff1Value, HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Module, Pair, PairMember, PairOptions,
    WrappedKek,
};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::Session;

use crate::fixture::{PIN, SO_PIN, by_id, pin};

/// Both tokens, and the chain of manifests they have served.
pub struct Lab {
    pub tokens: [Token; 2],
    signer: Software,
    last: RefCell<Option<VerifiedManifest>>,
    transports: [KeyRef; 2],
}

/// One token of the pair.
pub struct Token {
    pub module: Arc<Module>,
    pub label: &'static str,
    /// Where it keeps its objects.
    pub storage: PathBuf,
    serial: String,
}

type Check = (&'static str, fn(&Lab));

pub const CHECKS: &[Check] = &[
    ("equal_keys_give_equal_answers", equal_keys_give_equal_answers),
    ("a_synchronisation_key_brings_keys_over", a_synchronisation_key_brings_keys_over),
    ("a_pair_is_healthy_and_serves", a_pair_is_healthy_and_serves),
    ("the_backup_takes_over_and_the_primary_comes_back", the_backup_takes_over_and_the_primary_comes_back),
    ("the_watch_notices_and_restores_by_itself", the_watch_notices_and_restores_by_itself),
    ("a_drill_changes_no_bit", a_drill_changes_no_bit),
    ("a_scratch_drill_leaves_nothing_behind", a_scratch_drill_leaves_nothing_behind),
    ("a_bad_blob_takes_no_token_out_of_use", a_bad_blob_takes_no_token_out_of_use),
    ("an_unwrapped_key_follows_to_the_backup", an_unwrapped_key_follows_to_the_backup),
    ("a_users_key_follows_to_the_backup", a_users_key_follows_to_the_backup),
    ("a_key_deleted_in_the_primary_is_noticed", a_key_deleted_in_the_primary_is_noticed),
    ("without_either_token_nothing_is_served", without_either_token_nothing_is_served),
    ("a_rolled_back_manifest_is_refused_by_the_tokens", a_rolled_back_manifest_is_refused_by_the_tokens),
    ("another_token_under_the_label_is_refused", another_token_under_the_label_is_refused),
    ("the_next_manifest_is_adopted", the_next_manifest_is_adopted),
    ("a_key_is_destroyed_in_both_tokens", a_key_is_destroyed_in_both_tokens),
    ("a_kill_inside_a_destruction_neither_revives_the_key_nor_closes_the_pair", a_kill_inside_a_destruction),
    ("a_library_that_is_away_keeps_no_pair_from_starting", a_library_that_is_away_keeps_no_pair_from_starting),
    ("a_token_signs_manifests", a_token_signs_manifests),
    // Last: not every token comes back from this in one process.
    ("storage_that_vanishes_is_noticed_within_one_interval", storage_that_vanishes_is_noticed_within_one_interval),
];

struct Software(Ed25519KeyPair);

impl ManifestSigner for Software {
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], HsmError> {
        Ok(self.0.sign(message).as_ref().try_into().unwrap())
    }
}

impl Token {
    /// Initialises a token; `storage` tells where its objects went, once they are there.
    pub fn new(module: Arc<Module>, label: &'static str, storage: impl FnOnce() -> PathBuf) -> Self {
        let info = module.initialise(label, &pin(SO_PIN), &pin(PIN)).unwrap();
        Self { module, label, storage: storage(), serial: info.serial }
    }

    fn ring(&self) -> Arc<Keyring> {
        Keyring::open(Arc::clone(&self.module), self.label, &pin(PIN)).unwrap()
    }

    fn member(&self) -> PairMember {
        self.member_of(self.module.path())
    }

    fn member_of(&self, module: &Path) -> PairMember {
        PairMember {
            module: module.to_owned(),
            token_label: self.label.to_owned(),
            pin: Box::new(|| Ok(Some(pin(PIN)))),
            native_ff1: None,
        }
    }

    /// An attacker's session; the login is the process's.
    fn session(&self) -> Session {
        let direct = Pkcs11::new(self.module.path()).unwrap();
        let slots = direct.get_slots_with_initialized_token().unwrap();
        let slot =
            slots.into_iter().find(|slot| direct.get_token_info(*slot).unwrap().label().trim_end() == self.label);
        let session = direct.open_rw_session(slot.unwrap()).unwrap();
        // Dropping the context would not finalise the module; keep it so all the same.
        std::mem::forget(direct);
        session
    }
}

impl Lab {
    pub fn new(tokens: [Token; 2]) -> Self {
        let transports =
            [&tokens[0], &tokens[1]].map(|token| token.ring().generate(KeyClass::Transport, "pair").unwrap());
        let signer = Software(Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap());
        Self { tokens, signer, last: RefCell::default(), transports }
    }

    /// Both keyrings at once, with their transport keys.
    fn rings(&self) -> [(Arc<Keyring>, Key); 2] {
        [0, 1].map(|index| {
            let ring = self.tokens[index].ring();
            let transport = ring.find(&self.transports[index]).unwrap();
            (ring, transport)
        })
    }

    fn supports(&self, class: KeyClass) -> bool {
        self.rings().iter().all(|(ring, _)| ring.supports(class).unwrap())
    }

    /// A key in both tokens, born in either.
    fn replicate(&self, class: KeyClass, born_in: usize) -> KeyRef {
        let rings = self.rings();
        let birth = rings[born_in].0.birth(class, "pair").unwrap();
        let admitted = [0, 1].map(|index| {
            let (ring, transport) = &rings[index];
            let address = ring.transport_key(transport).unwrap();
            let package = rings[born_in].0.wrap_for(&birth, &address).unwrap();
            ring.admit(transport, &package).unwrap()
        });
        assert_eq!(admitted[0], admitted[1], "one identifier, one check value");
        assert_eq!(admitted[0], birth.reference());
        admitted[0].clone()
    }

    fn manifest(&self, keys: &[&KeyRef]) -> VerifiedManifest {
        let keys = keys.iter().map(|key| ManifestKey::new(key, 1)).collect();
        let verified = self.verify(&self.sign(keys));
        *self.last.borrow_mut() = Some(verified.clone());
        verified
    }

    fn sign(&self, keys: Vec<ManifestKey>) -> SignedManifest {
        let last = self.last.borrow();
        Manifest::after(last.as_ref(), &self.tokens[0].serial, &self.tokens[1].serial, keys).sign(&self.signer).unwrap()
    }

    fn verify(&self, signed: &SignedManifest) -> VerifiedManifest {
        let seen = self.last.borrow().as_ref().map(VerifiedManifest::seen);
        signed.verify(&[self.signer.public_key()], seen.as_ref()).unwrap()
    }

    fn open(&self, manifest: VerifiedManifest) -> Pair {
        self.open_every(manifest, Duration::from_secs(3600))
    }

    fn open_every(&self, manifest: VerifiedManifest, interval: Duration) -> Pair {
        let options = PairOptions { interval, ..PairOptions::default() };
        Pair::open(self.tokens[0].member(), self.tokens[1].member(), manifest, options).unwrap()
    }

    /// A pair with one key of each of these classes.
    fn pair<const N: usize>(&self, classes: [KeyClass; N]) -> (Pair, [KeyId; N]) {
        let keys = classes.map(|class| self.replicate(class, 0));
        let manifest = self.manifest(&keys.iter().collect::<Vec<_>>());
        (self.open(manifest), keys.map(|key| key.id))
    }
}

fn batch() -> Vec<Ff1Value> {
    (0..200)
        .map(|seed| Ff1Value {
            numerals: (0..6 + seed % 30).map(|place| ((seed * 7 + place * 3) % 10) as u16).collect(),
            tweak: vec![seed as u8; seed % 20],
        })
        .collect()
}

fn equal_keys_give_equal_answers(lab: &Lab) {
    for born_in in [0, 1] {
        let ff1 = lab.replicate(KeyClass::FpeFf1, born_in);
        let token = lab.replicate(KeyClass::Token, born_in);
        let at_rest = lab.replicate(KeyClass::AtRest, born_in);
        let kek = lab.replicate(KeyClass::UserKek, born_in);
        let [(first, _), (second, _)] = lab.rings();
        let encrypted = [&first, &second].map(|ring| {
            let mut batch = batch();
            Ff1::new(Arc::clone(ring), ring.find(&ff1).unwrap(), 10).unwrap().encrypt(&mut batch).unwrap();
            batch
        });
        assert!(encrypted[0] == encrypted[1], "FF1 differs");
        let macs = [&first, &second].map(|ring| ring.mac(&ring.find(&token).unwrap(), b"label").unwrap());
        assert_eq!(macs[0], macs[1]);
        for (seals, opens) in [(&first, &second), (&second, &first)] {
            let sealed = seals.seal(&seals.find(&at_rest).unwrap(), b"place", b"text").unwrap();
            let opened = opens.open_sealed(&opens.find(&at_rest).unwrap(), b"place", &sealed).unwrap();
            assert_eq!(*opened, b"text");
            let compartment = seals.find(&seals.generate(KeyClass::Compartment, "test").unwrap()).unwrap();
            let blob = seals.wrap(&seals.find(&kek).unwrap(), &compartment).unwrap();
            opens.unwrap_known(&opens.find(&kek).unwrap(), compartment.reference(), &blob).unwrap();
            seals.destroy(compartment).unwrap();
        }
    }
    if lab.supports(KeyClass::RbacMaster) {
        let master = lab.replicate(KeyClass::RbacMaster, 0);
        let derived = lab.rings().map(|(ring, _)| {
            let key = ring.derive(&ring.find(&master).unwrap(), b"role", b"auditor").unwrap();
            key.reference().check.clone()
        });
        assert_eq!(derived[0], derived[1]);
    }
}

fn a_synchronisation_key_brings_keys_over(lab: &Lab) {
    let [(source, source_transport), (destination, destination_transport)] = lab.rings();
    let birth = source.birth(KeyClass::SyncKekSource, "sync").unwrap();
    let near = source.wrap_for(&birth, &source.transport_key(&source_transport).unwrap()).unwrap();
    let far = destination.transport_key(&destination_transport).unwrap();
    let far = source.wrap_destination_half(&birth, &far).unwrap();
    let wraps = source.find(&source.admit(&source_transport, &near).unwrap()).unwrap();
    let unwraps = destination.find(&destination.admit(&destination_transport, &far).unwrap()).unwrap();
    drop(birth);
    assert_eq!(wraps.reference().check, unwraps.reference().check);
    assert_eq!((wraps.class(), unwraps.class()), (KeyClass::SyncKekSource, KeyClass::SyncKekDestination));

    let birth = source.birth(KeyClass::Token, "carried").unwrap();
    let package = source.wrap_under(&birth, &wraps, destination.serial()).unwrap();
    let admitted = destination.admit(&unwraps, &package).unwrap();
    assert_eq!(admitted, birth.reference());
    let near = source.wrap_for(&birth, &source.transport_key(&source_transport).unwrap()).unwrap();
    let near = source.find(&source.admit(&source_transport, &near).unwrap()).unwrap();
    let far = destination.find(&admitted).unwrap();
    assert_eq!(source.mac(&near, b"m").unwrap(), destination.mac(&far, b"m").unwrap());
    // Another synchronisation key's half finds nothing in it.
    let mut changed = package.clone();
    changed.id = KeyId::from_random([3; 16]);
    changed.blob[7] ^= 1;
    assert!(matches!(destination.admit(&unwraps, &changed), Err(HsmError::WrapRejected)));
}

fn a_pair_is_healthy_and_serves(lab: &Lab) {
    let (pair, [ff1, token, at_rest]) = lab.pair([KeyClass::FpeFf1, KeyClass::Token, KeyClass::AtRest]);
    assert_eq!(pair.check_now().state, PairState::Healthy);
    let mut values = batch();
    pair.ff1_encrypt(ff1, 10, &mut values).unwrap();
    assert!(values != batch());
    pair.ff1_decrypt(ff1, 10, &mut values).unwrap();
    assert!(values == batch());
    assert_eq!(pair.mac(token, b"m").unwrap(), pair.mac(token, b"m").unwrap());
    let sealed = pair.seal(at_rest, b"place", b"text").unwrap();
    assert_eq!(*pair.open_sealed(at_rest, b"place", &sealed).unwrap(), b"text");
    let unknown = KeyId::from_random([1; 16]);
    assert!(matches!(pair.mac(unknown, b"m"), Err(HsmError::NotInPair { .. })));
    assert!(matches!(pair.mac(at_rest, b"m"), Err(HsmError::WrongClass { .. })));
    assert_eq!((pair.status().state, pair.status().latched), (PairState::Healthy, 0));
}

fn the_backup_takes_over_and_the_primary_comes_back(lab: &Lab) {
    let (pair, [ff1, token, at_rest]) = lab.pair([KeyClass::FpeFf1, KeyClass::Token, KeyClass::AtRest]);
    let mut expected = batch();
    pair.ff1_encrypt(ff1, 10, &mut expected).unwrap();
    let mac = pair.mac(token, b"m").unwrap();
    let sealed = pair.seal(at_rest, b"place", b"text").unwrap();
    for round in 1..=2 {
        pair.cut_off(Role::Primary).unwrap();
        let mut values = batch();
        pair.ff1_encrypt(ff1, 10, &mut values).unwrap();
        assert!(values == expected);
        assert_eq!(pair.mac(token, b"m").unwrap(), mac);
        assert_eq!(*pair.open_sealed(at_rest, b"place", &sealed).unwrap(), b"text");
        let status = pair.status();
        assert_eq!((status.state, status.latched), (PairState::PrimaryDown, round), "{status:?}");
        assert!(status.primary_fault.is_some() && status.backup_fault.is_none());

        // Fail back, with the handles of the new login.
        let status = pair.check_now();
        assert_eq!((status.state, status.restored), (PairState::Healthy, round), "{status:?}");
        let mut values = batch();
        pair.ff1_encrypt(ff1, 10, &mut values).unwrap();
        assert!(values == expected);
    }
    // The backup's fault is noticed by the health check, as no operation goes there.
    pair.cut_off(Role::Backup).unwrap();
    assert_eq!(pair.mac(token, b"m").unwrap(), mac);
    assert_eq!(pair.status().state, PairState::Healthy);
    assert_eq!(pair.check_now().state, PairState::BackupDown);
    assert_eq!(pair.check_now().state, PairState::Healthy);
}

fn wait_until(condition: impl Fn() -> bool) {
    // Bounded, so that a broken watch fails the test rather than hanging it.
    for _ in 0..6_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the watch did not do it");
}

fn the_watch_notices_and_restores_by_itself(lab: &Lab) {
    let key = lab.replicate(KeyClass::Token, 1);
    let pair = lab.open_every(lab.manifest(&[&key]), Duration::from_millis(10));
    for round in 1..=2 {
        pair.cut_off(Role::Primary).unwrap();
        wait_until(|| pair.status().latched == round && pair.status().restored == round);
        wait_until(|| pair.status().state == PairState::Healthy);
        pair.mac(key.id, b"m").unwrap();
    }
}

fn a_drill_changes_no_bit(lab: &Lab) {
    let (pair, [key]) = lab.pair([KeyClass::FpeFf1]);
    let plan = DrillPlan { key, batches: 5, values: 300, kill_in: 2, patience: Duration::from_secs(60) };
    let mut killed = 0;
    let mut kill = || {
        killed += 1;
        pair.cut_off(Role::Primary)
    };
    let report = drill(&pair, &plan, &mut kill, &mut || Ok(())).unwrap();
    assert!(report.passed(), "{report:?}");
    assert_eq!((killed, report.values, report.repeated), (1, 1_500, 1));
    assert!(report.noticed_by_operation && report.fail_back_us.is_some(), "{report:?}");
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("\"fail-back-us\""), "{text}");

    // A drill whose kill does nothing must not pass.
    let error = drill(&pair, &plan, &mut || Ok(()), &mut || Ok(())).unwrap_err();
    assert!(matches!(error, HsmError::OutageUnnoticed), "{error}");
    pair.cut_off(Role::Backup).unwrap();
    let error = drill(&pair, &plan, &mut || Ok(()), &mut || Ok(())).unwrap_err();
    assert!(matches!(error, HsmError::PairIncomplete { role: Role::Backup }), "{error}");
}

fn a_scratch_drill_leaves_nothing_behind(lab: &Lab) {
    let count = || {
        let rings = lab.rings();
        let counts = lab.tokens.each_ref().map(|token| token.session().find_objects(&[]).unwrap().len());
        drop(rings);
        counts
    };
    let before = count();
    {
        // Left by a drill that was killed.
        let [(ring, _), _] = lab.rings();
        ring.generate(KeyClass::FpeFf1, "casemate drill").unwrap();
        ring.generate(KeyClass::Transport, "casemate drill").unwrap();
    }
    let result =
        drill_with_scratch_key(|| lab.tokens[0].member(), || lab.tokens[1].member(), 100, Duration::from_secs(60))
            .unwrap();
    assert!(result.report.passed(), "{result:?}");
    assert_eq!(result.destroyed.len(), 2);
    assert_eq!(count(), before);
}

fn a_bad_blob_takes_no_token_out_of_use(lab: &Lab) {
    let (pair, [at_rest, kek, ff1]) = lab.pair([KeyClass::AtRest, KeyClass::UserKek, KeyClass::FpeFf1]);
    let mut sealed = pair.seal(at_rest, b"place", b"text").unwrap();
    sealed[14] ^= 1;
    assert!(matches!(pair.open_sealed(at_rest, b"place", &sealed), Err(HsmError::SealRejected)));
    let original = KeyRef { class: KeyClass::Compartment, ..pair.manifest().manifest().keys[0].reference() };
    let unwrapped = pair.unwrap_known(kek, &original, &[7; 40]);
    assert!(matches!(unwrapped, Err(HsmError::WrapRejected)), "{unwrapped:?}");
    let mut small = vec![Ff1Value { numerals: vec![1; 5], tweak: Vec::new() }];
    assert!(matches!(pair.ff1_encrypt(ff1, 10, &mut small), Err(HsmError::DomainTooSmall { .. })));
    assert_eq!((pair.status().state, pair.status().latched), (PairState::Healthy, 0), "{:?}", pair.status());
}

fn an_unwrapped_key_follows_to_the_backup(lab: &Lab) {
    let kek = lab.replicate(KeyClass::UserKek, 0);
    let (original, blob) = {
        let [(ring, _), _] = lab.rings();
        let compartment = ring.find(&ring.generate(KeyClass::Compartment, "test").unwrap()).unwrap();
        (compartment.reference().clone(), ring.wrap(&ring.find(&kek).unwrap(), &compartment).unwrap())
    };
    let pair = lab.open(lab.manifest(&[&kek]));
    let key = pair.unwrap_known(kek.id, &original, &blob).unwrap();
    let sealed = key.seal(b"place", b"text").unwrap();
    pair.cut_off(Role::Primary).unwrap();
    assert_eq!(*key.open_sealed(b"place", &sealed).unwrap(), b"text");
    assert_eq!(pair.status().state, PairState::PrimaryDown);
    // The session key of the old login does not keep the primary from coming back.
    assert_eq!(pair.check_now().state, PairState::Healthy);
    assert_eq!(*key.open_sealed(b"place", &sealed).unwrap(), b"text");
    assert_eq!(key.reference(), &original);
}

fn a_users_key_follows_to_the_backup(lab: &Lab) {
    let (pair, [wrapping]) = lab.pair([KeyClass::KekWrapping]);
    let kek = pair.generate_user_kek(wrapping, "user").unwrap();
    let other = pair.generate_user_kek(wrapping, "other").unwrap();
    let target = pair.keyring_at(Role::Primary, |ring| ring.generate(KeyClass::Compartment, "compartment")).unwrap();
    let held = pair.open_user_kek(wrapping, &kek).unwrap();
    let blob = pair.wrap(&held, &target).unwrap();
    let key = held.unwrap_known(&target, &blob).unwrap();
    let sealed = key.seal(b"place", b"text").unwrap();
    // Another user's blob in this user's place holds a good key, and takes no token out of use.
    let swapped = WrappedKek { blob: other.blob, ..kek.clone() };
    assert!(matches!(pair.open_user_kek(wrapping, &swapped), Err(HsmError::KeyCheckMismatch { .. })));
    assert_eq!(pair.status().state, PairState::Healthy);

    pair.cut_off(Role::Primary).unwrap();
    assert_eq!(*key.open_sealed(b"place", &sealed).unwrap(), b"text");
    let again = pair.open_user_kek(wrapping, &kek).unwrap().unwrap_known(&target, &blob).unwrap();
    assert_eq!(*again.open_sealed(b"place", &sealed).unwrap(), b"text");
    let refused = pair.wrap(&held, &target);
    assert!(matches!(refused, Err(HsmError::PairIncomplete { role: Role::Primary })), "{refused:?}");
    assert_eq!(pair.check_now().state, PairState::Healthy);
    assert_eq!(pair.wrap(&held, &target).unwrap(), blob);
    let turns: Vec<_> = pair.take_events().into_iter().map(|event| (event.fault.is_some(), event.state)).collect();
    assert_eq!(turns, [(true, PairState::PrimaryDown), (false, PairState::Healthy)]);
    pair.destroy_at(Role::Primary, &target).unwrap();
}

fn a_key_deleted_in_the_primary_is_noticed(lab: &Lab) {
    let (pair, [token, ff1]) = lab.pair([KeyClass::Token, KeyClass::FpeFf1]);
    let mut expected = batch();
    pair.ff1_encrypt(ff1, 10, &mut expected).unwrap();
    let mac = pair.mac(token, b"m").unwrap();
    let session = lab.tokens[0].session();
    for object in session.find_objects(&by_id(token)).unwrap() {
        session.destroy_object(object).unwrap();
    }
    assert_eq!(pair.mac(token, b"m").unwrap(), mac, "the backup has it");
    assert_eq!(pair.status().state, PairState::PrimaryDown);
    // The primary does not come back by forgetting what it lost.
    drop(session);
    let status = pair.check_now();
    assert_eq!(status.state, PairState::PrimaryDown);
    assert!(status.primary_fault.unwrap().contains(&token.to_string()));
    let mut values = batch();
    pair.ff1_encrypt(ff1, 10, &mut values).unwrap();
    assert!(values == expected);
}

fn without_either_token_nothing_is_served(lab: &Lab) {
    let (pair, [token, ff1]) = lab.pair([KeyClass::Token, KeyClass::FpeFf1]);
    pair.cut_off(Role::Primary).unwrap();
    pair.cut_off(Role::Backup).unwrap();
    let mut values = batch();
    assert!(matches!(pair.ff1_encrypt(ff1, 10, &mut values), Err(HsmError::PairDown)));
    assert!(values == batch(), "no value may change");
    assert!(matches!(pair.mac(token, b"m"), Err(HsmError::PairDown)));
    assert_eq!(pair.status().state, PairState::BothDown);
    assert_eq!(pair.check_now().state, PairState::Healthy);
    pair.mac(token, b"m").unwrap();
}

/// Somebody puts yesterday's files back.
fn a_rolled_back_manifest_is_refused_by_the_tokens(lab: &Lab) {
    let key = lab.replicate(KeyClass::Token, 0);
    let old = lab.manifest(&[&key]);
    drop(lab.open(old.clone()));
    let new = lab.manifest(&[&key]);
    drop(lab.open(new.clone()));
    let open = |manifest| Pair::open(lab.tokens[0].member(), lab.tokens[1].member(), manifest, PairOptions::default());
    let error = open(old.clone()).unwrap_err();
    assert!(matches!(error, HsmError::ManifestRejected { .. }), "{error}");
    assert!(error.to_string().contains("lower"), "{error}");
    // Nor does another manifest of the same number pass for it.
    let fork = Manifest::after(Some(&old), &lab.tokens[0].serial, &lab.tokens[1].serial, Vec::new());
    let fork = fork.sign(&lab.signer).unwrap().verify(&[lab.signer.public_key()], None).unwrap();
    let error = open(fork).unwrap_err();
    assert!(error.to_string().contains("another manifest"), "{error}");
    drop(open(new).unwrap());
}

/// The library of one token lies on a disk that is not mounted at the start.
fn a_library_that_is_away_keeps_no_pair_from_starting(lab: &Lab) {
    let key = lab.replicate(KeyClass::FpeFf1, 0);
    let manifest = lab.manifest(&[&key]);
    let folder = tempfile::tempdir().unwrap();
    for (away, down, back) in
        [(0, PairState::PrimaryDown, PairState::Healthy), (1, PairState::BackupDown, PairState::Healthy)]
    {
        let library = folder.path().join(format!("library{away}.so"));
        let mut members = [0, 1].map(|index| lab.tokens[index].member());
        members[away] = lab.tokens[away].member_of(&library);
        let [primary, backup] = members;
        let options = PairOptions { interval: Duration::from_secs(3600), ..PairOptions::default() };
        let pair = Pair::open(primary, backup, manifest.clone(), options).unwrap();
        let status = pair.check_now();
        assert_eq!(status.state, down);
        let fault = status.primary_fault.or(status.backup_fault).unwrap();
        assert!(fault.contains("load the PKCS#11 module") && fault.contains("library"), "{fault}");
        let mut values = batch();
        pair.ff1_encrypt(key.id, 10, &mut values).unwrap();
        std::os::unix::fs::symlink(lab.tokens[away].module.path(), &library).unwrap();
        assert_eq!(pair.check_now().state, back);
        let mut again = batch();
        pair.ff1_encrypt(key.id, 10, &mut again).unwrap();
        assert!(again == values);
    }
    // With both away nothing starts.
    let nowhere = || lab.tokens[0].member_of(&folder.path().join("nowhere.so"));
    let neither = Pair::open(nowhere(), nowhere(), manifest, PairOptions::default());
    assert!(matches!(neither, Err(HsmError::PairDown)), "{neither:?}");
}

fn another_token_under_the_label_is_refused(lab: &Lab) {
    let key = lab.replicate(KeyClass::Token, 0);
    let manifest = lab.manifest(&[&key]);
    let swapped = Pair::open(lab.tokens[1].member(), lab.tokens[0].member(), manifest.clone(), PairOptions::default());
    assert!(matches!(swapped, Err(HsmError::ManifestRejected { .. })), "{swapped:?}");
    drop(lab.open(manifest));
}

fn the_next_manifest_is_adopted(lab: &Lab) {
    let (first, second) = (lab.replicate(KeyClass::Token, 0), lab.replicate(KeyClass::Token, 0));
    let alone = lab.replicate(KeyClass::Token, 0);
    {
        let [_, (ring, _)] = lab.rings();
        ring.destroy(ring.find(&alone).unwrap()).unwrap();
    }
    let pair = lab.open(lab.manifest(&[&first]));
    assert!(matches!(pair.mac(second.id, b"m"), Err(HsmError::NotInPair { .. })));

    // A list with a key that the backup does not hold changes nothing.
    let keys = [&first, &alone].map(|key| ManifestKey::new(key, 1)).to_vec();
    let lacking = lab.verify(&lab.sign(keys));
    assert!(matches!(pair.adopt(lacking), Err(HsmError::KeyMissing { .. })));
    pair.mac(first.id, b"m").unwrap();

    let next = lab.manifest(&[&first, &second]);
    let after_next = lab.manifest(&[&second]);
    assert!(matches!(pair.adopt(after_next.clone()), Err(HsmError::ManifestRejected { .. })), "one was left out");
    pair.adopt(next).unwrap();
    pair.mac(second.id, b"m").unwrap();
    pair.adopt(after_next).unwrap();
    assert!(matches!(pair.mac(first.id, b"m"), Err(HsmError::NotInPair { .. })));
    assert_eq!(pair.check_now().state, PairState::Healthy);
}

fn a_key_is_destroyed_in_both_tokens(lab: &Lab) {
    let (pair, [token, at_rest]) = lab.pair([KeyClass::Token, KeyClass::AtRest]);
    let sealed = pair.seal(at_rest, b"place", b"text").unwrap();
    // Not while one of them could keep its copy.
    pair.cut_off(Role::Backup).unwrap();
    assert_eq!(pair.check_now().state, PairState::BackupDown);
    assert!(matches!(pair.destroy(at_rest), Err(HsmError::PairIncomplete { role: Role::Backup })));
    assert_eq!(*pair.open_sealed(at_rest, b"place", &sealed).unwrap(), b"text");
    assert_eq!(pair.check_now().state, PairState::Healthy);

    let destroyed = pair.destroy(at_rest).unwrap();
    for (index, destruction) in destroyed.iter().enumerate() {
        assert_eq!(destruction.token, lab.tokens[index].serial);
        for claim in
            [Claim::HandleInvalid, Claim::NothingFound, Claim::StreamDead, Claim::UseRefused, Claim::CiphertextDead]
        {
            assert!(destruction.proofs.iter().any(|proof| proof.claim == claim), "{claim:?}: {destruction:?}");
        }
        assert!(lab.tokens[index].session().find_objects(&by_id(at_rest)).unwrap().is_empty());
    }
    assert!(matches!(pair.open_sealed(at_rest, b"place", &sealed), Err(HsmError::NotInPair { .. })));
    // A destroyed key is not missed, and does not keep a token from coming back.
    assert_eq!(pair.check_now().state, PairState::Healthy);
    pair.cut_off(Role::Primary).unwrap();
    pair.mac(token, b"m").unwrap();
    assert_eq!(pair.check_now().state, PairState::Healthy);
    // Called again after a crash, it says so.
    assert!(pair.destroy(at_rest).unwrap().iter().all(|again| again.proofs.len() == 1));
}

/// Another process is killed after the first deletion: what is in the tokens then is made here, and a new login finds it.
fn a_kill_inside_a_destruction(lab: &Lab) {
    let token = lab.replicate(KeyClass::Token, 0);
    let (at_rest, copy) = {
        let rings = lab.rings();
        let birth = rings[0].0.birth(KeyClass::AtRest, "pair").unwrap();
        let packages = [0, 1].map(|index| {
            let (ring, transport) = &rings[index];
            let package = rings[0].0.wrap_for(&birth, &ring.transport_key(transport).unwrap()).unwrap();
            ring.admit(transport, &package).unwrap();
            package
        });
        let [_, copy] = packages;
        (birth.reference(), copy)
    };
    let manifest = lab.manifest(&[&token, &at_rest]);
    let intents = |token: &Token| {
        let wanted = [Attribute::Class(ObjectClass::DATA), Attribute::Label(b"casemate pair destruction".to_vec())];
        let session = token.session();
        session.find_objects(&wanted).unwrap().len()
    };
    {
        let pair = lab.open(manifest.clone());
        pair.destroy(at_rest.id).unwrap();
        assert_eq!(lab.tokens.each_ref().map(intents), [1, 1], "noted in both");
    }
    {
        // The copy in the backup, which the killed process did not reach.
        let [_, (ring, transport)] = lab.rings();
        ring.admit(&transport, &copy).unwrap();
    }
    let pair = lab.open(manifest);
    assert_eq!(pair.check_now().state, PairState::Healthy);
    pair.mac(token.id, b"m").unwrap();
    assert!(matches!(pair.seal(at_rest.id, b"place", b"text"), Err(HsmError::NotInPair { .. })), "it was revived");
    // Called again, it goes on with the copy that was left.
    let destroyed = pair.destroy(at_rest.id).unwrap();
    assert!(destroyed[1].proofs.len() > 1, "{destroyed:?}");
    for token in &lab.tokens {
        assert!(token.session().find_objects(&by_id(at_rest.id)).unwrap().is_empty());
    }
    // The next manifest ends the matter.
    pair.adopt(lab.manifest(&[&token])).unwrap();
    assert_eq!(lab.tokens.each_ref().map(intents), [0, 0]);
}

fn a_token_signs_manifests(lab: &Lab) {
    let [(ring, transport), _] = lab.rings();
    let key = ring.find(&ring.generate(KeyClass::CustodianSigning, "test").unwrap()).unwrap();
    assert!(matches!(TokenSigner::new(Arc::clone(&ring), transport), Err(HsmError::WrongClass { .. })));
    let signer = TokenSigner::new(Arc::clone(&ring), key).unwrap();
    let signed = Manifest::after(None, "a", "b", Vec::new()).sign(&signer).unwrap();
    signed.verify(&[signer.public_key()], None).unwrap();
    assert!(signed.verify(&[lab.signer.public_key()], None).is_err());
}

fn storage_that_vanishes_is_noticed_within_one_interval(lab: &Lab) {
    let keys = [KeyClass::FpeFf1, KeyClass::Token].map(|class| lab.replicate(class, 0));
    let [ff1, token] = [keys[0].id, keys[1].id];
    let pair = lab.open_every(lab.manifest(&[&keys[0], &keys[1]]), Duration::from_millis(50));
    let mut expected = batch();
    pair.ff1_encrypt(ff1, 10, &mut expected).unwrap();
    let mac = pair.mac(token, b"m").unwrap();

    let storage = &lab.tokens[0].storage;
    let elsewhere = storage.with_extension("gone");
    fs::rename(storage, &elsewhere).unwrap();
    let checks = pair.status().checks;
    // One check may have begun before; the next one begins after.
    wait_until(|| pair.status().checks >= checks + 2);
    let status = pair.status();
    assert_eq!(status.state, PairState::PrimaryDown, "{status:?}");
    let mut values = batch();
    pair.ff1_encrypt(ff1, 10, &mut values).unwrap();
    assert!(values == expected);
    assert_eq!(pair.mac(token, b"m").unwrap(), mac);

    fs::rename(&elsewhere, storage).unwrap();
    let back = pair.check_now();
    // SoftHSM keeps its list of tokens for the life of the process: it sees the one that came back in the next process only.
    let softhsm = lab.tokens[0].module.path().ends_with("libsofthsm2.so");
    let expected = if softhsm { PairState::PrimaryDown } else { PairState::Healthy };
    assert_eq!(back.state, expected, "{back:?}");
    assert_eq!(pair.check_now().state, expected);
    assert_eq!(pair.mac(token, b"m").unwrap(), mac);
}
