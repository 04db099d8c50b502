use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use casemate_bundle::{TrustRoot, VerifiedBundle, verify};
use casemate_types::{Digest, Generation, PluginName};
use jiff::Timestamp;

use crate::received::read_capped;
use crate::{ActiveEntry, ActiveSet, ChangeError};

/// The site's bundles on disk: `active.json`, `bundles/<hex digest>.casemate`, and `lock` while something changes.
///
/// A bundle is on stable storage before `active.json` names it, and `active.json` is replaced by one rename, so a crash at
/// any point leaves the old set or the new one. Nothing read from disk is trusted: see [`SiteStore::load_all`].
#[derive(Debug)]
pub struct SiteStore {
    dir: PathBuf,
    active: ActiveSet,
}

impl SiteStore {
    /// Opens the store in `dir`, or sets up an empty one.
    ///
    /// Errors: [`ChangeError::StateMissing`] when there are bundles but no state, [`ChangeError::StateDamaged`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ChangeError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|source| io("create the store", &dir, source))?;
        if let Some(active) = read_state(&dir)? {
            return Ok(Self { dir, active });
        }
        let _lock = lock(&dir)?;
        // Another process may have set it up in the meantime.
        if let Some(active) = read_state(&dir)? {
            return Ok(Self { dir, active });
        }
        // The state comes before the folder, so a folder without state means that the state was taken away.
        let bundles = dir.join(BUNDLES);
        if bundles.exists() {
            return Err(ChangeError::StateMissing { path: dir.join(STATE) });
        }
        let store = Self { active: ActiveSet::default(), dir };
        store.write_state(&store.active)?;
        Ok(store)
    }

    /// What is active, as of the last time this store read or wrote it.
    pub fn active(&self) -> &ActiveSet {
        &self.active
    }

    /// Reads the state again, for a process that serves while another one changes it.
    pub fn reload(&mut self) -> Result<&ActiveSet, ChangeError> {
        self.active = self.current()?;
        Ok(&self.active)
    }

    /// Makes `bundle`, whose bytes are `raw`, the active one of its name. Returns the new generation, or the present one if
    /// this very bundle is active already.
    ///
    /// Errors: [`ChangeError::Rollback`], [`ChangeError::SameVersion`], [`ChangeError::NotTheVerifiedBytes`],
    /// [`ChangeError::Locked`].
    pub fn activate(&mut self, bundle: &VerifiedBundle, raw: &[u8]) -> Result<Generation, ChangeError> {
        let (verified, offered) = (bundle.bundle_digest(), Digest::of(raw));
        if verified != offered {
            return Err(ChangeError::NotTheVerifiedBytes { verified, offered });
        }
        let _lock = lock(&self.dir)?;
        let next = self.current()?.with(bundle)?;
        // Written even if it is active already: that is how an altered or lost file is put back.
        if let Some(entry) = next.entries.get(&bundle.manifest().name) {
            let bundles = self.dir.join(BUNDLES);
            fs::create_dir_all(&bundles).map_err(|source| io("create", &bundles, source))?;
            sync_dir(&self.dir)?;
            replace(&self.dir.join(&entry.file), raw)?;
        }
        self.commit(next)
    }

    /// Takes the plugin `name` back to a bundle that was active before and that two people ordered. Returns the new generation.
    ///
    /// Errors: [`ChangeError::NotActive`], [`ChangeError::Locked`].
    pub fn roll_back(&mut self, name: &PluginName, version: u64, bundle: Digest) -> Result<Generation, ChangeError> {
        let _lock = lock(&self.dir)?;
        let next = self.current()?.back_to(name, version, bundle)?;
        self.commit(next)
    }

    /// Writes the state anew from what the audit log says, where it is gone.
    pub fn restore(dir: impl Into<PathBuf>, active: &ActiveSet) -> Result<(), ChangeError> {
        let store = Self { dir: dir.into(), active: active.clone() };
        let _lock = lock(&store.dir)?;
        store.write_state(active)
    }

    /// Whether the state is there.
    pub fn has_state(dir: &Path) -> bool {
        dir.join(STATE).exists()
    }

    /// One stored bundle, verified again from the root on.
    ///
    /// Errors: as [`SiteStore::load_all`].
    pub fn load_one(
        &self,
        name: &PluginName,
        version: u64,
        bundle: Digest,
        trust: &TrustRoot,
        now: Timestamp,
    ) -> Result<VerifiedBundle, ChangeError> {
        self.read_entry(name, &ActiveEntry::new(version, bundle), trust, now)
    }

    /// Takes the plugin `name` out. Its version floor stays. Returns the new generation.
    pub fn deactivate(&mut self, name: &PluginName) -> Result<Generation, ChangeError> {
        let _lock = lock(&self.dir)?;
        let next = self.current()?.without(name)?;
        self.commit(next)
    }

    /// Reads every active bundle from disk and verifies it again, from the root on, sorted by name.
    ///
    /// Errors: the first bundle that is missing, altered or no longer verifies, by name. All or nothing: a site does not run
    /// with some of its policies.
    pub fn load_all(&self, trust: &TrustRoot, now: Timestamp) -> Result<Vec<VerifiedBundle>, ChangeError> {
        self.active.entries.iter().map(|(name, entry)| self.read_entry(name, entry, trust, now)).collect()
    }

    fn read_entry(
        &self,
        name: &PluginName,
        entry: &ActiveEntry,
        trust: &TrustRoot,
        now: Timestamp,
    ) -> Result<VerifiedBundle, ChangeError> {
        let altered = || ChangeError::BundleAltered { name: name.clone(), file: entry.file.clone() };
        let path = self.dir.join(&entry.file);
        let file = File::open(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ChangeError::BundleMissing { name: name.clone(), file: entry.file.clone() },
            _ => io("open the bundle", &path, source),
        })?;
        let raw = read_capped(file).map_err(|source| io("read the bundle", &path, source))?.ok_or_else(altered)?;
        if Digest::of(&raw) != entry.bundle_digest {
            return Err(altered());
        }
        let bundle =
            verify(&raw, trust, now).map_err(|source| ChangeError::BundleRefused { name: name.clone(), source })?;
        // The state file is not signed: it cannot make one bundle pass for another, or for another version.
        if bundle.manifest().name != *name || bundle.version() != entry.version {
            let why = format!("it says `{name}` version {}, the bundle says otherwise", entry.version);
            return Err(ChangeError::StateDamaged { path: self.dir.join(STATE), why });
        }
        Ok(bundle)
    }

    fn current(&self) -> Result<ActiveSet, ChangeError> {
        let missing = || ChangeError::StateMissing { path: self.dir.join(STATE) };
        let current = read_state(&self.dir)?.ok_or_else(missing)?;
        if current.generation < self.active.generation {
            let why = format!("its generation {} is below {}", current.generation, self.active.generation);
            return Err(ChangeError::StateDamaged { path: self.dir.join(STATE), why });
        }
        Ok(current)
    }

    fn commit(&mut self, next: ActiveSet) -> Result<Generation, ChangeError> {
        if next != self.current()? {
            self.write_state(&next)?;
        }
        self.active = next;
        Ok(self.active.generation)
    }

    fn write_state(&self, state: &ActiveSet) -> Result<(), ChangeError> {
        let path = self.dir.join(STATE);
        let text = serde_json::to_vec_pretty(state)
            .map_err(|error| ChangeError::StateDamaged { path: path.clone(), why: error.to_string() })?;
        replace(&path, &text)
    }
}

fn read_state(dir: &Path) -> Result<Option<ActiveSet>, ChangeError> {
    let path = dir.join(STATE);
    let damaged = |why: String| ChangeError::StateDamaged { path: path.clone(), why };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io("open", &path, source)),
    };
    let text = read_capped(file).map_err(|source| io("read", &path, source))?;
    let text = text.ok_or_else(|| damaged("it is too large".to_owned()))?;
    let state: ActiveSet = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    state.check().map_err(damaged)?;
    Ok(Some(state))
}

/// Held until dropped; the operating system lets go of it when the process dies.
fn lock(dir: &Path) -> Result<File, ChangeError> {
    let path = dir.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(|source| io("open", &path, source))?;
    // A change takes milliseconds, and a process that is just being started may hold a copy of the lock until it runs: wait a little.
    let mut patience = 50;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if patience > 0 => {
                patience -= 1;
                thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(ChangeError::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock", &path, source)),
        }
    }
}

/// Replaces the file at `path` as a whole: write beside it, sync, rename, sync the folder. The caller holds the lock.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), ChangeError> {
    let failed = |source| io("write", path, source);
    let beside = path.with_extension("new");
    let mut file = File::create(&beside).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), ChangeError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| io("sync", dir, source))
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> ChangeError {
    ChangeError::Io { action, path: path.to_owned(), source }
}

const STATE: &str = "active.json";
const BUNDLES: &str = "bundles";
