//! Two tokens with the same keys: a primary, and a backup that takes over.
//!
//! FF1 and MACs are deterministic, and a sealed value opens under an equal key, so either token gives the same answers. Which one
//! served is nobody's concern but the operator's. Key management has a single writer: keys come in by a signed [`Manifest`].
//!
//! An operation that fails because a token is out of order is done again on the other, from its beginning; a bad input is not.
//! A token that failed is latched: it serves again only after a health check of every key has passed in a new login.

mod drill;
mod manifest;
mod member;
mod scratch;
mod session_key;
mod site;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use cryptoki::error::{Error as Pkcs11Error, RvError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use drill::{DrillPlan, DrillReport, drill};
pub use manifest::{Manifest, ManifestKey, ManifestSigner, Seen, SignedManifest, TokenSigner, VerifiedManifest};
pub use scratch::{ScratchDrill, drill_with_scratch_key};
pub use session_key::{PairKek, PairKey};
pub use site::replicate;

use crate::{BatchReport, Claim, Destruction, Ff1Value, HsmError, KeyId, KeyRef, NativeFf1, Pin, Proof};
use member::{Live, Member};

/// Which token of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The one that serves while it can.
    Primary,
    /// The one that takes over.
    Backup,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

/// Where one token of a pair is, and how to log in again after it has failed.
pub struct PairMember {
    /// The token's module; both members may share one. Loaded at the first login that can: a library or a configuration that is
    /// away is an outage.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// Reads the PIN at each login, so that it is not kept in between.
    pub pin: PinSource,
    /// The HSM's own FF1, where it has one.
    pub native_ff1: Option<NativeFf1>,
}

/// Gives the PIN of one token; nothing for a token that takes it by a way of its own.
pub type PinSource = Box<dyn Fn() -> Result<Option<Pin>, HsmError> + Send + Sync>;

/// How a pair watches its tokens.
#[derive(Debug, Clone, Copy)]
pub struct PairOptions {
    /// Time between two health checks.
    pub interval: Duration,
    /// Whether a health check writes to the token's storage. Without, storage that vanished can go unnoticed as long as the
    /// token lives on its memory; with it, each check costs the token's storage two writes.
    pub writes: bool,
    /// Whether each token keeps a mark of the newest manifest it has served, and refuses older ones.
    pub marks: bool,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), writes: true, marks: true }
    }
}

/// Which tokens serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairState {
    /// Nothing is served.
    BothDown,
    /// The primary serves, and nothing would take over.
    BackupDown,
    /// The primary serves.
    Healthy,
    /// The backup serves.
    PrimaryDown,
}

/// A pair's state, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PairStatus {
    /// Which tokens serve.
    pub state: PairState,
    /// Why the primary does not.
    pub primary_fault: Option<String>,
    /// Why the backup does not.
    pub backup_fault: Option<String>,
    /// Health checks so far.
    pub checks: u64,
    /// Times a token was taken out of use.
    pub latched: u64,
    /// Times a token came back into use after that.
    pub restored: u64,
}

/// A token went out of use or came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PairEvent {
    /// Which one.
    pub role: Role,
    /// Its serial number.
    pub serial: String,
    /// Why it went out of use; nothing when it came back.
    pub fault: Option<String>,
    /// Which tokens serve since.
    pub state: PairState,
}

/// A primary and a backup token with the keys of one manifest. Shared between threads.
pub struct Pair {
    inner: Arc<Inner>,
    watch: Option<JoinHandle<()>>,
}

struct Inner {
    members: [Member; 2],
    manifest: RwLock<Arc<VerifiedManifest>>,
    /// Keys that are being destroyed: not served, not missed.
    retired: RwLock<BTreeSet<KeyId>>,
    options: PairOptions,
    /// One health check at a time.
    checking: Mutex<()>,
    checks: AtomicU64,
    latched: AtomicU64,
    restored: AtomicU64,
    unwrapped: AtomicU64,
    events: Mutex<Vec<PairEvent>>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

impl Pair {
    /// Logs in to both tokens, looks every key of the manifest up, and begins to watch.
    ///
    /// One token may be out of order: the pair then starts without it. A token that is well but holds the wrong keys, another
    /// serial number or a newer manifest is an error.
    ///
    /// # Errors
    /// [`HsmError::PairDown`]; [`HsmError::ManifestRejected`]; as [`crate::Keyring::open`] and [`crate::Keyring::find`].
    pub fn open(
        primary: PairMember,
        backup: PairMember,
        manifest: VerifiedManifest,
        options: PairOptions,
    ) -> Result<Self, HsmError> {
        let serials = manifest.manifest();
        let members =
            [Member::new(Role::Primary, &serials.primary, primary), Member::new(Role::Backup, &serials.backup, backup)];
        let mut reachable = false;
        let retired = RwLock::default();
        let mut down = Vec::new();
        for member in &members {
            match member.connect(&manifest, &retired, options) {
                Ok(()) => reachable = true,
                Err(error) if is_away(&error) => {
                    tracing::error!(role = %member.role, %error, "a token of the pair is down from the start");
                    down.push((member.role, member.serial.clone(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        if !reachable {
            return Err(HsmError::PairDown);
        }
        let inner = Arc::new(Inner {
            members,
            manifest: RwLock::new(Arc::new(manifest)),
            retired,
            options,
            checking: Mutex::default(),
            checks: AtomicU64::new(0),
            latched: AtomicU64::new(0),
            restored: AtomicU64::new(0),
            unwrapped: AtomicU64::new(0),
            events: Mutex::default(),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
        });
        for (role, serial, fault) in down {
            inner.note(role, serial, Some(fault));
        }
        let watched = Arc::clone(&inner);
        let watch = std::thread::Builder::new()
            .name("hsm-pair".to_owned())
            .spawn(move || watched.watch())
            .map_err(|_| HsmError::Watch)?;
        Ok(Self { inner, watch: Some(watch) })
    }

    /// What the operator should know.
    pub fn status(&self) -> PairStatus {
        self.inner.status()
    }

    /// Checks both tokens now, as the watch does at each interval.
    pub fn check_now(&self) -> PairStatus {
        self.inner.check();
        self.inner.status()
    }

    /// The manifest in force.
    pub fn manifest(&self) -> Arc<VerifiedManifest> {
        self.inner.manifest()
    }

    /// Puts the next manifest in force. Keys that are new to it are looked up in both tokens first.
    ///
    /// # Errors
    /// [`HsmError::ManifestRejected`] when it does not follow the one in force or names other tokens; as
    /// [`crate::Keyring::find`] when a token that is up lacks a key.
    pub fn adopt(&self, next: VerifiedManifest) -> Result<(), HsmError> {
        let inner = &*self.inner;
        let _one = inner.checking.lock().unwrap_or_else(PoisonError::into_inner);
        let current = inner.manifest();
        next.follows(&current.seen())?;
        let (old, new) = (current.manifest(), next.manifest());
        if (&old.primary, &old.backup) != (&new.primary, &new.backup) {
            return Err(HsmError::ManifestRejected { reason: "it names other tokens than the pair's" });
        }
        let up: Vec<_> = inner.members.iter().filter_map(Member::live).collect();
        // All look-ups before the first change.
        for live in &up {
            live.check(&references(&next), false)?;
        }
        for live in &up {
            live.refresh(&references(&next))?;
            if inner.options.marks {
                live.keyring.set_manifest_mark(&next.seen())?;
                live.keyring.forget_retired(|id| next.lists(id))?;
            }
        }
        *inner.manifest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }

    /// Encrypts every value in place with FF1. On any error no value is changed.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Ff1::encrypt`].
    pub fn ff1_encrypt(&self, key: KeyId, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.inner.run(key, |live, key| live.ff1(key, radix)?.encrypt(batch))
    }

    /// Decrypts every value in place with FF1. On any error no value is changed.
    ///
    /// # Errors
    /// As [`Pair::ff1_encrypt`].
    pub fn ff1_decrypt(&self, key: KeyId, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.inner.run(key, |live, key| live.ff1(key, radix)?.decrypt(batch))
    }

    /// HMAC-SHA-256.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::mac`].
    pub fn mac(&self, key: KeyId, message: &[u8]) -> Result<[u8; 32], HsmError> {
        self.inner.run(key, |live, key| live.keyring.mac(&*live.wanted(key)?, message))
    }

    /// Seals with AES-256-GCM. Either token opens the result.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::seal`].
    pub fn seal(&self, key: KeyId, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, HsmError> {
        self.inner.run(key, |live, key| live.keyring.seal(&*live.wanted(key)?, aad, plaintext))
    }

    /// Opens what [`Pair::seal`] made.
    ///
    /// # Errors
    /// [`HsmError::PairDown`], or as [`crate::Keyring::open_sealed`].
    pub fn open_sealed(&self, key: KeyId, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.inner.run(key, |live, key| live.keyring.open_sealed(&*live.wanted(key)?, aad, sealed))
    }

    /// Destroys a key in both tokens and proves it in each; both have to be up. The key is served no more from the first moment,
    /// also if this breaks off, and (with [`PairOptions::marks`]) in later processes too, since both tokens note the intent before
    /// the first deletion; called again, it goes on. The next manifest leaves the key out.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`]; as [`crate::Keyring::destroy`].
    pub fn destroy(&self, key: KeyId) -> Result<[Destruction; 2], HsmError> {
        let inner = &*self.inner;
        let _one = inner.checking.lock().unwrap_or_else(PoisonError::into_inner);
        let reference = inner.reference(key)?;
        let mut up = Vec::new();
        for member in &inner.members {
            up.push(member.live().ok_or(HsmError::PairIncomplete { role: member.role })?);
        }
        inner.retired.write().unwrap_or_else(PoisonError::into_inner).insert(key);
        if inner.options.marks {
            up.iter().try_for_each(|live| live.keyring.retire(key))?;
        }
        let destroy = |live: &Live| {
            live.release(key);
            match live.keyring.find(&reference) {
                Ok(found) => live.keyring.destroy(found),
                // An attempt before this one came as far as here.
                Err(HsmError::KeyMissing { .. }) => Ok(Destruction {
                    key: reference.clone(),
                    token: live.keyring.serial().to_owned(),
                    proofs: vec![Proof { claim: Claim::NothingFound, evidence: "0 objects".to_owned() }],
                }),
                Err(error) => Err(error),
            }
        };
        Ok([destroy(&up[0])?, destroy(&up[1])?])
    }

    /// Cuts this process off from one token, as if it were unplugged: for drills and tests. The next health check connects
    /// again.
    ///
    /// # Errors
    /// [`HsmError::PairIncomplete`] when it is down already, or as the module answers.
    pub fn cut_off(&self, role: Role) -> Result<(), HsmError> {
        let live = self.inner.member(role).live().ok_or(HsmError::PairIncomplete { role })?;
        live.keyring.sessions.sever()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        *self.inner.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.stopped.notify_all();
        if let Some(watch) = self.watch.take()
            && watch.join().is_err()
        {
            tracing::error!("the watch over the HSM pair had died");
        }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Inner {
    /// Runs an operation on the primary, and on the backup if the primary is or turns out to be out of order.
    fn run<T>(
        &self,
        id: KeyId,
        mut operation: impl FnMut(&Arc<Live>, &KeyRef) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let reference = self.reference(id)?;
        if self.is_retired(id) {
            return Err(HsmError::NotInPair { id });
        }
        for member in &self.members {
            let Some(live) = member.live() else { continue };
            match operation(&live, &reference) {
                // A key that is destroyed underneath is no fault of the token's.
                Err(error) if !self.is_retired(id) && is_fault(&live, &reference, &error) => {
                    self.latch(member, &live, &error);
                }
                outcome => return outcome,
            }
        }
        Err(HsmError::PairDown)
    }

    fn latch(&self, member: &Member, live: &Arc<Live>, error: &HsmError) {
        if member.latch(live, error) {
            self.latched.fetch_add(1, Ordering::Relaxed);
            self.note(member.role, member.serial.clone(), Some(error.to_string()));
        }
    }

    /// Keeps an event until somebody takes it; of a pair that flaps unattended only the first ones.
    fn note(&self, role: Role, serial: String, fault: Option<String>) {
        const KEPT: usize = 1024;
        let state = self.status().state;
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() < KEPT {
            events.push(PairEvent { role, serial, fault, state });
        }
    }

    /// One health check of both tokens.
    fn check(&self) {
        let _one = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_alone();
    }

    /// As [`Inner::check`], for whoever keeps other checks away.
    fn check_alone(&self) {
        let manifest = self.manifest();
        let keys: Vec<_> = references(&manifest).into_iter().filter(|key| !self.is_retired(key.id)).collect();
        for member in &self.members {
            match member.live() {
                Some(live) => {
                    if let Err(error) = live.check(&keys, self.options.writes) {
                        self.latch(member, &live, &error);
                    }
                }
                None => match member.connect(&manifest, &self.retired, self.options) {
                    Ok(()) => {
                        tracing::info!(role = %member.role, token = %member.serial, "a token of the pair is back");
                        self.restored.fetch_add(1, Ordering::Relaxed);
                        self.note(member.role, member.serial.clone(), None);
                    }
                    Err(error) => tracing::warn!(role = %member.role, %error, "a token of the pair stays down"),
                },
            }
        }
        self.checks.fetch_add(1, Ordering::Relaxed);
    }

    fn watch(&self) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stop {
            let (next, waited) =
                self.stopped.wait_timeout(stop, self.options.interval).unwrap_or_else(PoisonError::into_inner);
            stop = next;
            if waited.timed_out() && !*stop {
                drop(stop);
                self.check();
                stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn status(&self) -> PairStatus {
        let [primary, backup] = &self.members;
        let (primary_fault, backup_fault) = (primary.fault(), backup.fault());
        let state = match (&primary_fault, &backup_fault) {
            (None, None) => PairState::Healthy,
            (None, Some(_)) => PairState::BackupDown,
            (Some(_), None) => PairState::PrimaryDown,
            (Some(_), Some(_)) => PairState::BothDown,
        };
        PairStatus {
            state,
            primary_fault,
            backup_fault,
            checks: self.checks.load(Ordering::Relaxed),
            latched: self.latched.load(Ordering::Relaxed),
            restored: self.restored.load(Ordering::Relaxed),
        }
    }

    fn manifest(&self) -> Arc<VerifiedManifest> {
        Arc::clone(&self.manifest.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn member(&self, role: Role) -> &Member {
        let [primary, backup] = &self.members;
        if role == Role::Primary { primary } else { backup }
    }

    fn is_retired(&self, id: KeyId) -> bool {
        self.retired.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// The key, if the manifest has it.
    fn reference(&self, id: KeyId) -> Result<KeyRef, HsmError> {
        let manifest = self.manifest();
        let key = manifest.manifest().keys.iter().find(|key| key.id == id).ok_or(HsmError::NotInPair { id })?;
        Ok(key.reference())
    }
}

impl Live {
    fn wanted(&self, key: &KeyRef) -> Result<Arc<crate::Key>, HsmError> {
        self.key(key.id).ok_or(HsmError::KeyMissing { class: key.class, id: key.id })
    }
}

/// Whether a token is out of order or not there, its library included.
fn is_away(error: &HsmError) -> bool {
    error.is_outage() || matches!(error, HsmError::TokenMissing { .. } | HsmError::ModuleUnusable { .. })
}

fn references(manifest: &VerifiedManifest) -> Vec<KeyRef> {
    manifest.manifest().keys.iter().map(ManifestKey::reference).collect()
}

/// Whether an operation failed for the token's sake. A bad input has been told apart already, by the operation itself.
fn is_fault(live: &Live, key: &KeyRef, error: &HsmError) -> bool {
    if error.is_outage() {
        return true;
    }
    match error {
        // A handle of before some event in the token, or a key that is in the manifest and no longer there.
        HsmError::Refused { source: Pkcs11Error::Pkcs11(code, _), .. } => {
            matches!(code, RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid | RvError::OperationNotInitialized)
                || live.keyring.find(key).is_err()
        }
        // Of the pair's own key. What comes out of a blob may be another key than the caller expects: that is the blob's fault.
        HsmError::KeyMissing { id, .. } | HsmError::KeyTwin { id, .. } | HsmError::KeyCheckMismatch { id } => {
            *id == key.id
        }
        _ => false,
    }
}
