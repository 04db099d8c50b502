//! The site's keys: in one token, or in the two of a pair. What uses keys does not know which.
//!
//! In a pair, `pair.json` names what the two tokens hold: the signed manifest of the keys that both have, and the keys that belong to
//! one of them. Compartment keys, the log's key and the key that signs manifests are the primary's; the log's key in reserve is the
//! backup's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_hsm::pair::{Manifest, ManifestKey, ManifestSigner, SignedManifest};
use casemate_hsm::{
    BatchReport, Destruction, Ff1, Ff1Value, HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Login, Module, Origin,
    OverlapFf1, Pair, PairEvent, PairKek, PairKey, PairMember, PairOptions, PairStatus, Role, WrappedKek,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::SiteConfig;
use crate::state::{SiteState, write_private};
use crate::{fips, pins, probing};

/// `pair.json`. Not secret and not trusted: the manifest is signed, the tokens remember the newest one, and every key is checked.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct PairFile {
    /// The keys that both tokens hold.
    pub(crate) manifest: SignedManifest,
    /// Signs manifests; in the primary.
    pub(crate) signing: KeyRef,
    /// What packages for the primary and for the backup open with.
    pub(crate) transports: [KeyRef; 2],
    /// The audit log's key in reserve; in the backup.
    pub(crate) reserve: KeyRef,
    /// Its public half.
    #[serde(with = "hex::serde")]
    pub(crate) reserve_public: [u8; 32],
}

impl PairFile {
    const NAME: &str = "pair.json";

    pub(crate) fn write(&self, dir: &Path) -> Result<(), GateError> {
        let path = dir.join(Self::NAME);
        let problem = |error: serde_json::Error| GateError::Config { path: path.clone(), problem: error.to_string() };
        write_private(&path, &serde_json::to_vec_pretty(self).map_err(problem)?)
    }

    fn read(dir: &Path) -> Result<Self, GateError> {
        let path = dir.join(Self::NAME);
        let bytes = fs::read(&path).map_err(|source| GateError::Io { action: "read", path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|error| GateError::Config { path, problem: error.to_string() })
    }
}

/// The site's keys, after login. Shared between threads.
pub struct Vault(Tokens);

enum Tokens {
    One(Arc<Keyring>),
    Two(Box<Two>),
}

struct Two {
    pair: Arc<Pair>,
    dir: PathBuf,
    /// As on disk; at most one manifest ahead of the pair, if a token failed in between.
    file: Mutex<PairFile>,
    signer: [u8; 32],
}

/// A key of a [`Vault`].
pub struct VaultKey(Held);

enum Held {
    One(Key),
    /// In both tokens.
    Both(KeyRef),
    /// In one token alone.
    At(Role, KeyRef),
    /// A user's key-encryption key, in whichever token serves.
    Kek(PairKek),
    /// A compartment key, in whichever token serves.
    Session(PairKey),
}

/// FF1 under a key of the vault, for one radix. Requests that overlap share batches.
pub struct VaultFf1(OverlapFf1);

impl Vault {
    /// The keys of a site with one token.
    pub(crate) fn one(keyring: Arc<Keyring>) -> Arc<Self> {
        Arc::new(Self(Tokens::One(keyring)))
    }

    /// Logs in to the site's token, or to those of its pair that answer. A token of a pair gets its PIN only after it was found to be
    /// the probed one and, with `judged`, to be validated as the site's profile demands; at each login anew.
    pub(crate) fn open(
        dir: &Path,
        config: &SiteConfig,
        state: &SiteState,
        judged: bool,
    ) -> Result<Arc<Self>, GateError> {
        pins::require(dir, config)?;
        let Some(signer) = state.manifest_signer else {
            let module = Module::load(&dir.join(&config.hsm.module))?;
            let label = &config.hsm.token_label;
            let token = module.token(label)?;
            let pin = pins::pin_for(dir, config, Role::Primary, &token)?;
            let login = Login { pin: pin.as_ref(), native_ff1: config.hsm.native_ff1(Role::Primary) };
            return Ok(Self::one(Keyring::open_with(module, label, &login)?));
        };
        let Some(backup) = &config.hsm.backup else {
            let problem = "the site's keys are in two tokens, and [hsm.backup] is missing".to_owned();
            return Err(GateError::Config { path: dir.join("site.toml"), problem });
        };
        let file = PairFile::read(dir)?;
        let manifest = file.manifest.verify(&[signer], None)?;
        let options =
            PairOptions { interval: Duration::from_secs(backup.check_every.get().into()), ..PairOptions::default() };
        let shared = Arc::new((dir.to_owned(), config.clone(), state.clone()));
        let pair = Pair::open(
            member(&shared, Role::Primary, judged)?,
            member(&shared, Role::Backup, judged)?,
            manifest,
            options,
        )?;
        let two = Two { pair: Arc::new(pair), dir: dir.to_owned(), file: Mutex::new(file), signer };
        Ok(Arc::new(Self(Tokens::Two(Box::new(two)))))
    }

    /// The stored keys of a class and label, for finding leftovers, never for using keys. Of a pair none: its manifest is the list.
    ///
    /// # Errors
    /// As the module answers.
    pub(crate) fn labelled(&self, class: KeyClass, label: &str) -> Result<Vec<KeyRef>, HsmError> {
        match &self.0 {
            Tokens::One(ring) => ring.labelled(class, label),
            Tokens::Two(_) => Ok(Vec::new()),
        }
    }

    /// Finds a key of `state.json`. One that a token of the pair alone holds is looked up when it is used, because that token may be
    /// down.
    ///
    /// # Errors
    /// As [`Keyring::find`]; [`HsmError::PairIncomplete`] for a key that the manifest does not list, while a token is down.
    pub fn find(&self, key: &KeyRef) -> Result<VaultKey, HsmError> {
        let two = match &self.0 {
            Tokens::One(ring) => return Ok(VaultKey(Held::One(ring.find(key)?))),
            Tokens::Two(two) => two,
        };
        if key.origin != Origin::Replicated {
            let role = if key.id == two.file().reserve.id { Role::Backup } else { Role::Primary };
            return match two.pair.at(role, key, |_, _| Ok(())) {
                Err(error) if !is_down(&error) => Err(error),
                _ => Ok(VaultKey(Held::At(role, key.clone()))),
            };
        }
        if !two.pair.lists(key.id) {
            // Doomed, and perhaps still in one of the tokens.
            two.pair.complete()?;
            let found = [Role::Primary, Role::Backup].map(|role| two.pair.at(role, key, |_, _| Ok(())));
            if found.iter().all(|found| matches!(found, Err(HsmError::KeyMissing { .. }))) {
                return Err(HsmError::KeyMissing { class: key.class, id: key.id });
            }
        }
        Ok(VaultKey(Held::Both(key.clone())))
    }

    /// Makes a key. In a pair it is made for both tokens, unless it belongs to the primary by its class.
    ///
    /// # Errors
    /// As [`Keyring::generate`]; [`HsmError::PairIncomplete`] while a token that would hold the key is down.
    pub fn generate(&self, class: KeyClass, label: &str) -> Result<KeyRef, GateError> {
        self.make(&self.announce(class, label)?, 1)
    }

    /// Draws the identifier of a key that is to be made. Written down before [`Vault::make`], it lets [`Vault::clear`] find what a process
    /// that was killed in between has made.
    ///
    /// # Errors
    /// As [`Keyring::random`].
    pub fn announce(&self, class: KeyClass, label: &str) -> Result<KeyRef, GateError> {
        let mut id = [0; 16];
        id.copy_from_slice(&self.random(16)?);
        Ok(KeyRef::announced(KeyId::from_random(id), class, label))
    }

    /// As [`Vault::generate`], for the given version of a key that was announced.
    ///
    /// # Errors
    /// As [`Vault::generate`].
    pub fn make(&self, announced: &KeyRef, version: u32) -> Result<KeyRef, GateError> {
        let KeyRef { id, class, label, .. } = announced;
        let (id, class) = (*id, *class);
        let two = match &self.0 {
            Tokens::One(ring) => return Ok(ring.generate_announced(id, class, label)?),
            Tokens::Two(two) => two,
        };
        if !class.is_replicable() {
            return Ok(two.pair.keyring_at(Role::Primary, |ring| ring.generate_announced(id, class, label))?);
        }
        let transports = two.file().transports.clone();
        let key = two.pair.replicate(&transports, id, class, label)?;
        two.next_manifest(|keys| keys.push(ManifestKey::new(&key, version)))?;
        Ok(key)
    }

    /// Destroys whatever was made of a key that was announced and never taken up. Returns how many objects there were.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] while a token that may hold it is down, or as the tokens answer.
    pub fn clear(&self, announced: &KeyRef) -> Result<usize, GateError> {
        let id = announced.id;
        let two = match &self.0 {
            Tokens::One(ring) => return Ok(ring.clear(id)?),
            Tokens::Two(two) => two,
        };
        if !announced.class.is_replicable() {
            return Ok(two.pair.keyring_at(Role::Primary, |ring| ring.clear(id))?);
        }
        two.pair.complete()?;
        if two.pair.lists(id) {
            two.next_manifest(|keys| keys.retain(|held| held.id != id))?;
        }
        Ok(two.pair.clear_unlisted(id)?)
    }

    /// Destroys a key wherever it is, with the proofs in one line.
    ///
    /// # Errors
    /// As [`Keyring::destroy`]; [`HsmError::PairIncomplete`] while a token that may hold it is down.
    pub fn destroy(&self, key: VaultKey) -> Result<String, GateError> {
        match (&self.0, key.0) {
            (Tokens::One(ring), Held::One(key)) => Ok(ring.destroy(key)?.summary()),
            (Tokens::Two(two), Held::At(role, key)) => Ok(two.pair.destroy_at(role, &key)?.summary()),
            (Tokens::Two(two), Held::Both(key)) => {
                two.pair.complete()?;
                if two.pair.lists(key.id) {
                    two.next_manifest(|keys| keys.retain(|held| held.id != key.id))?;
                }
                let destroyed = two.pair.destroy_unlisted(&key)?;
                let line = |done: &Destruction| format!("in {}: {}", done.token, done.summary());
                Ok(destroyed.iter().map(line).collect::<Vec<_>>().join("; "))
            }
            (_, other) => Err(other.unfit("destroy a key").into()),
        }
    }

    /// Uses a stored key in a token that has it; in a pair in the primary, and in the backup while that one is down.
    ///
    /// # Errors
    /// As the operation; [`HsmError::PairIncomplete`] while no token that has the key is up.
    pub(crate) fn with_key<T>(
        &self,
        key: &KeyRef,
        mut operation: impl FnMut(&Keyring, &Key) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let two = match &self.0 {
            Tokens::One(ring) => return operation(ring, &ring.find(key)?),
            Tokens::Two(two) => two,
        };
        match two.pair.at(Role::Primary, key, |ring, key| operation(ring, key)) {
            Err(error) if is_down(&error) => two.pair.at(Role::Backup, key, |ring, key| operation(ring, key)),
            done => done,
        }
    }

    /// Serial numbers of the tokens, the primary's first.
    pub fn serials(&self) -> Vec<String> {
        match &self.0 {
            Tokens::One(ring) => vec![ring.serial().to_owned()],
            Tokens::Two(two) => {
                let manifest = two.pair.manifest();
                vec![manifest.manifest().primary.clone(), manifest.manifest().backup.clone()]
            }
        }
    }

    /// Shows that a key does its work in every token that has to hold it, with the same result in each: FF1 there and back, or a value
    /// sealed in one and opened in the other. Returns the tokens.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] while a token is down, [`HsmError::KeyMissing`] where one does not hold the key,
    /// [`HsmError::SelfTest`] when results differ.
    pub fn prove(&self, key: &KeyRef) -> Result<Vec<String>, HsmError> {
        let on: Vec<Proof> = match &self.0 {
            Tokens::One(ring) => vec![proof(ring, key, None)?],
            Tokens::Two(two) => {
                two.pair.complete()?;
                let first = two.pair.at(Role::Primary, key, |ring, _| proof(ring, key, None))?;
                let second = two.pair.at(Role::Backup, key, |ring, _| proof(ring, key, Some(&first)))?;
                vec![first, second]
            }
        };
        Ok(on.into_iter().map(|proof| proof.token).collect())
    }

    /// Random bytes from a token.
    ///
    /// # Errors
    /// As [`Keyring::random`]; [`HsmError::PairDown`].
    pub fn random(&self, n: usize) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        match &self.0 {
            Tokens::One(ring) => ring.random(n),
            Tokens::Two(two) => two.pair.random(n),
        }
    }

    /// HMAC-SHA-256.
    ///
    /// # Errors
    /// As [`Keyring::mac`]; [`HsmError::PairDown`].
    pub fn mac(&self, key: &VaultKey, message: &[u8]) -> Result<[u8; 32], HsmError> {
        match (&self.0, &key.0) {
            (Tokens::One(ring), Held::One(key)) => ring.mac(key, message),
            (Tokens::Two(two), Held::Both(key)) => two.pair.mac(key.id, message),
            (_, other) => Err(other.unfit("compute a MAC")),
        }
    }

    /// Seals with AES-256-GCM.
    ///
    /// # Errors
    /// As [`Keyring::seal`]; [`HsmError::PairDown`], and [`HsmError::PairIncomplete`] for a key of a token that is down.
    pub fn seal(&self, key: &VaultKey, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, HsmError> {
        match (&self.0, &key.0) {
            (Tokens::One(ring), Held::One(key)) => ring.seal(key, aad, plaintext),
            (Tokens::Two(two), Held::Both(key)) => two.pair.seal(key.id, aad, plaintext),
            (Tokens::Two(two), Held::At(role, key)) => {
                two.pair.at(*role, key, |ring, key| ring.seal(key, aad, plaintext))
            }
            (Tokens::Two(_), Held::Session(key)) => key.seal(aad, plaintext),
            (_, other) => Err(other.unfit("seal")),
        }
    }

    /// Opens what [`Vault::seal`] made.
    ///
    /// # Errors
    /// As [`Keyring::open_sealed`]; [`HsmError::PairDown`], and [`HsmError::PairIncomplete`] for a key of a token that is down.
    pub fn open_sealed(&self, key: &VaultKey, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        match (&self.0, &key.0) {
            (Tokens::One(ring), Held::One(key)) => ring.open_sealed(key, aad, sealed),
            (Tokens::Two(two), Held::Both(key)) => two.pair.open_sealed(key.id, aad, sealed),
            (Tokens::Two(two), Held::At(role, key)) => {
                two.pair.at(*role, key, |ring, key| ring.open_sealed(key, aad, sealed))
            }
            (Tokens::Two(_), Held::Session(key)) => key.open_sealed(aad, sealed),
            (_, other) => Err(other.unfit("open a sealed value")),
        }
    }

    /// Signs with Ed25519, with this key and no other.
    ///
    /// # Errors
    /// As [`Keyring::sign`]; [`HsmError::PairIncomplete`] while the key's token is down.
    pub fn sign(&self, key: &VaultKey, message: &[u8]) -> Result<[u8; 64], HsmError> {
        match (&self.0, &key.0) {
            (Tokens::One(ring), Held::One(key)) => ring.sign(key, message),
            (Tokens::Two(two), Held::At(role, key)) => two.pair.at(*role, key, |ring, key| ring.sign(key, message)),
            (_, other) => Err(other.unfit("sign")),
        }
    }

    /// As [`Vault::sign`]; while the primary is down, the log's key in reserve signs.
    ///
    /// # Errors
    /// As [`Vault::sign`].
    pub fn sign_or_reserve(&self, key: &VaultKey, message: &[u8]) -> Result<[u8; 64], HsmError> {
        match (self.sign(key, message), self.reserve()) {
            (Err(error), Some((reserve, _))) if is_down(&error) => self.sign(&reserve, message),
            (signed, _) => signed,
        }
    }

    /// The public half of a signing key.
    ///
    /// # Errors
    /// As [`Keyring::public_key`]; [`HsmError::PairIncomplete`] while the key's token is down.
    pub fn public_key(&self, key: &VaultKey) -> Result<[u8; 32], HsmError> {
        match (&self.0, &key.0) {
            (Tokens::One(ring), Held::One(key)) => ring.public_key(key),
            (Tokens::Two(two), Held::At(role, key)) => two.pair.at(*role, key, |ring, key| ring.public_key(key)),
            (_, other) => Err(other.unfit("read a public key")),
        }
    }

    /// The audit log's key in reserve with its public half, in a pair.
    pub fn reserve(&self) -> Option<(VaultKey, [u8; 32])> {
        let Tokens::Two(two) = &self.0 else { return None };
        let file = two.file();
        Some((VaultKey(Held::At(Role::Backup, file.reserve.clone())), file.reserve_public))
    }

    /// Wraps a compartment key under a user's.
    ///
    /// # Errors
    /// As [`Keyring::wrap`]; [`HsmError::PairIncomplete`] while the primary is down.
    pub fn wrap(&self, kek: &VaultKey, target: &VaultKey) -> Result<Vec<u8>, HsmError> {
        match (&self.0, &kek.0, &target.0) {
            (Tokens::One(ring), Held::One(kek), Held::One(target)) => ring.wrap(kek, target),
            (Tokens::Two(two), Held::Kek(kek), Held::At(Role::Primary, target)) => two.pair.wrap(kek, target),
            (_, _, other) => Err(other.unfit("wrap a key")),
        }
    }

    /// Unwraps a compartment key under a user's and checks that it is the one the site recorded.
    ///
    /// # Errors
    /// As [`Keyring::unwrap_known`]; [`HsmError::PairDown`].
    pub fn unwrap_known(&self, kek: &VaultKey, original: &KeyRef, blob: &[u8]) -> Result<VaultKey, HsmError> {
        match (&self.0, &kek.0) {
            (Tokens::One(ring), Held::One(kek)) => Ok(VaultKey(Held::One(ring.unwrap_known(kek, original, blob)?))),
            (Tokens::Two(_), Held::Kek(kek)) => Ok(VaultKey(Held::Session(kek.unwrap_known(original, blob)?))),
            (_, other) => Err(other.unfit("unwrap a key")),
        }
    }

    /// Makes a user's key-encryption key. Nothing of it stays in a token.
    ///
    /// # Errors
    /// As [`Keyring::generate_user_kek`]; [`HsmError::PairDown`].
    pub fn generate_user_kek(&self, wrapping: &VaultKey, label: &str) -> Result<WrappedKek, HsmError> {
        match (&self.0, &wrapping.0) {
            (Tokens::One(ring), Held::One(wrapping)) => ring.generate_user_kek(wrapping, label),
            (Tokens::Two(two), Held::Both(wrapping)) => two.pair.generate_user_kek(wrapping.id, label),
            (_, other) => Err(other.unfit("generate a user's key")),
        }
    }

    /// Brings a user's key-encryption key back, for as long as what is returned lives.
    ///
    /// # Errors
    /// As [`Keyring::open_user_kek`]; [`HsmError::PairDown`].
    pub fn open_user_kek(&self, wrapping: &VaultKey, kek: &WrappedKek) -> Result<VaultKey, HsmError> {
        match (&self.0, &wrapping.0) {
            (Tokens::One(ring), Held::One(wrapping)) => Ok(VaultKey(Held::One(ring.open_user_kek(wrapping, kek)?))),
            (Tokens::Two(two), Held::Both(wrapping)) => {
                Ok(VaultKey(Held::Kek(two.pair.open_user_kek(wrapping.id, kek)?)))
            }
            (_, other) => Err(other.unfit("unwrap a user's key")),
        }
    }

    /// The same key-encryption key under another wrapping key.
    ///
    /// # Errors
    /// As [`Keyring::rewrap_user_kek`]; [`HsmError::PairDown`].
    pub fn rewrap_user_kek(&self, old: &VaultKey, new: &VaultKey, kek: &WrappedKek) -> Result<WrappedKek, HsmError> {
        match (&self.0, &old.0, &new.0) {
            (Tokens::One(ring), Held::One(old), Held::One(new)) => ring.rewrap_user_kek(old, new, kek),
            (Tokens::Two(two), Held::Both(old), Held::Both(new)) => two.pair.rewrap_user_kek(old.id, new.id, kek),
            (_, other, _) => Err(other.unfit("wrap a user's key")),
        }
    }

    /// FF1 with a key of class `fpe-ff1`.
    ///
    /// # Errors
    /// As [`Ff1::new`]; [`HsmError::NotInPair`].
    pub fn ff1(&self, key: VaultKey, radix: u32) -> Result<VaultFf1, HsmError> {
        match (&self.0, key.0) {
            (Tokens::One(ring), Held::One(key)) => {
                let ff1 = Arc::new(Ff1::best(Arc::clone(ring), key, radix)?);
                let other = Arc::clone(&ff1);
                let (encrypt, decrypt) = (
                    move |batch: &mut [Ff1Value]| ff1.encrypt(batch),
                    move |batch: &mut [Ff1Value]| other.decrypt(batch),
                );
                Ok(VaultFf1(OverlapFf1::with_defaults(radix, encrypt, decrypt)))
            }
            // In whichever token serves; a batch that met an outage is done again on the other.
            (Tokens::Two(two), Held::Both(key)) => {
                let (pair, other, id) = (Arc::clone(&two.pair), Arc::clone(&two.pair), key.id);
                let encrypt = move |batch: &mut [Ff1Value]| pair.ff1_encrypt(id, radix, batch);
                let decrypt = move |batch: &mut [Ff1Value]| other.ff1_decrypt(id, radix, batch);
                Ok(VaultFf1(OverlapFf1::with_defaults(radix, encrypt, decrypt)))
            }
            (_, other) => Err(other.unfit("encrypt with FF1")),
        }
    }

    /// Key objects in the token; in that of the pair which serves.
    ///
    /// # Errors
    /// As [`Keyring::key_count`].
    pub fn key_count(&self) -> Result<usize, HsmError> {
        match &self.0 {
            Tokens::One(ring) => ring.key_count(),
            Tokens::Two(two) => match two.pair.keyring_at(Role::Primary, |ring| ring.key_count()) {
                Err(error) if is_down(&error) => two.pair.keyring_at(Role::Backup, |ring| ring.key_count()),
                counted => counted,
            },
        }
    }

    /// Searches every token for a key that must be in none. Returns the tokens' serial numbers.
    ///
    /// # Errors
    /// [`HsmError::DestructionUnproven`] for a key that is found; [`HsmError::PairIncomplete`] while a token is down.
    pub fn gone(&self, key: &KeyRef) -> Result<Vec<String>, HsmError> {
        let missing = |ring: &Arc<Keyring>| match ring.find(key) {
            Err(HsmError::KeyMissing { .. }) => Ok(ring.serial().to_owned()),
            Err(error) => Err(error),
            Ok(_) => Err(HsmError::DestructionUnproven { id: key.id, proof: "a search still finds it" }),
        };
        match &self.0 {
            Tokens::One(ring) => Ok(vec![missing(ring)?]),
            Tokens::Two(two) => {
                two.pair.complete()?;
                let both = [Role::Primary, Role::Backup].map(|role| two.pair.keyring_at(role, missing));
                both.into_iter().collect()
            }
        }
    }

    /// Whether the token answers and has its keys, or one of the pair's does.
    ///
    /// # Errors
    /// As [`Keyring::health`]; [`HsmError::PairDown`].
    pub fn health(&self) -> Result<(), HsmError> {
        match &self.0 {
            Tokens::One(ring) => ring.health(),
            Tokens::Two(two) => two.pair.serves(),
        }
    }

    /// Nothing, unless both tokens of a pair are known to be down. Asks no token.
    ///
    /// # Errors
    /// [`HsmError::PairDown`].
    pub fn serves(&self) -> Result<(), HsmError> {
        match &self.0 {
            Tokens::One(_) => Ok(()),
            Tokens::Two(two) => two.pair.serves(),
        }
    }

    /// Nothing, unless a token of a pair is down.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`].
    pub fn complete(&self) -> Result<(), HsmError> {
        match &self.0 {
            Tokens::One(_) => Ok(()),
            Tokens::Two(two) => two.pair.complete(),
        }
    }

    /// The state of a pair.
    pub fn status(&self) -> Option<PairStatus> {
        match &self.0 {
            Tokens::One(_) => None,
            Tokens::Two(two) => Some(two.pair.status()),
        }
    }

    /// What happened to the tokens of a pair since the last call.
    pub fn take_events(&self) -> Vec<PairEvent> {
        match &self.0 {
            Tokens::One(_) => Vec::new(),
            Tokens::Two(two) => two.pair.take_events(),
        }
    }
}

impl VaultFf1 {
    /// Encrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As [`Ff1::encrypt`]; [`HsmError::PairDown`].
    pub fn encrypt(&self, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.0.encrypt(batch)
    }

    /// Decrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As [`VaultFf1::encrypt`].
    pub fn decrypt(&self, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.0.decrypt(batch)
    }
}

impl Two {
    fn file(&self) -> MutexGuard<'_, PairFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs the next manifest, writes it, and puts it in force in both tokens. Written first: a token that has served a manifest
    /// refuses what is older, so the file must never be behind.
    fn next_manifest(&self, change: impl FnOnce(&mut Vec<ManifestKey>)) -> Result<(), GateError> {
        let mut file = self.file();
        self.pair.complete()?;
        let written = file.manifest.verify(&[self.signer], None)?;
        if written.seen() != self.pair.manifest().seen() {
            self.pair.adopt(written.clone())?;
        }
        let held = written.manifest();
        let mut keys = held.keys.clone();
        change(&mut keys);
        let next = Manifest::after(Some(&written), &held.primary, &held.backup, keys);
        let signed = next.sign(&Signer { two: self, key: &file.signing })?;
        let verified = signed.verify(&[self.signer], Some(&written.seen()))?;
        file.manifest = signed;
        file.write(&self.dir)?;
        Ok(self.pair.adopt(verified)?)
    }
}

/// The key of the primary that signs manifests.
struct Signer<'a> {
    two: &'a Two,
    key: &'a KeyRef,
}

impl ManifestSigner for Signer<'_> {
    fn public_key(&self) -> [u8; 32] {
        self.two.signer
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], HsmError> {
        self.two.pair.at(Role::Primary, self.key, |ring, key| ring.sign(key, message))
    }
}

impl Held {
    fn unfit(&self, action: &'static str) -> HsmError {
        let class = match self {
            Self::One(key) => key.class(),
            Self::Both(key) | Self::At(_, key) => key.class,
            Self::Kek(key) => key.reference().class,
            Self::Session(key) => key.reference().class,
        };
        HsmError::WrongClass { action, class }
    }
}

/// What a key did in one token.
struct Proof {
    token: String,
    made: Vec<u8>,
}

const PROOF: &[u8] = b"casemate/proof-of-a-key";

/// Uses a key in a token. With another token's proof, what that one made has to come out the same here.
fn proof(ring: &Arc<Keyring>, reference: &KeyRef, other: Option<&Proof>) -> Result<Proof, HsmError> {
    let differs = || HsmError::SelfTest { label: reference.label.clone() };
    let key = ring.find(reference)?;
    let made = if reference.class == KeyClass::FpeFf1 {
        let ff1 = Ff1::new(Arc::clone(ring), key, 10)?;
        let plain: Vec<u16> = (0..16).map(|place| place * 7 % 10).collect();
        let mut batch = [Ff1Value { numerals: plain.clone(), tweak: PROOF.to_vec() }];
        ff1.encrypt(&mut batch)?;
        let made: Vec<u8> = batch[0].numerals.iter().flat_map(|numeral| numeral.to_be_bytes()).collect();
        if batch[0].numerals == plain || other.is_some_and(|other| other.made != made) {
            return Err(differs());
        }
        ff1.decrypt(&mut batch)?;
        if batch[0].numerals != plain {
            return Err(differs());
        }
        made
    } else {
        let made = ring.seal(&key, PROOF, PROOF)?;
        let sealed = other.map_or(&made, |other| &other.made);
        if ring.open_sealed(&key, PROOF, sealed)?.as_slice() != PROOF {
            return Err(differs());
        }
        made
    };
    Ok(Proof { token: ring.serial().to_owned(), made })
}

/// Whether a token of the pair could not be asked, or failed while it was.
pub(crate) fn is_down(error: &HsmError) -> bool {
    error.is_outage() || matches!(error, HsmError::PairIncomplete { .. })
}

fn member(shared: &Arc<(PathBuf, SiteConfig, SiteState)>, role: Role, judged: bool) -> Result<PairMember, GateError> {
    let (dir, config, _) = &**shared;
    let (module, label) = config.hsm.place(role).ok_or(HsmError::PairIncomplete { role })?;
    let (module, label) = (dir.join(module), label.to_owned());
    let native_ff1 = config.hsm.native_ff1(role);
    let (asked, shared, token_label) = (module.clone(), Arc::clone(shared), label.clone());
    let check_and_read = move || {
        let (dir, config, state) = &*shared;
        let module = Module::load(&asked)?;
        let token = probing::check_serial(&module, &label, config.profile, state)?;
        if judged {
            fips::require_of(dir, config, state, role)
                .map_err(|error| HsmError::TokenRefused { lines: error.to_string(), profile: config.profile })?;
        }
        match pins::pin_for(dir, config, role, &token) {
            Ok(pin) => Ok(pin),
            Err(GateError::Hsm(error)) => Err(error),
            Err(_) => Err(HsmError::PinInvalid),
        }
    };
    Ok(PairMember { module, token_label, pin: Box::new(check_and_read), native_ff1 })
}
