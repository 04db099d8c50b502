use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use casemate_types::Digest;

/// Authenticates precompiled components. Machine code is loaded only under this host's own key, which the gate derives in the
/// HSM; it is never accepted from a bundle.
pub struct CacheKey(hmac::Key);

impl CacheKey {
    /// A key from 32 secret bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }
}

/// Precompiled components on disk: `<component digest>-<engine hash>.cwasm`, an HMAC-SHA-256 tag, then the code.
pub(crate) struct Cache {
    dir: PathBuf,
    key: CacheKey,
}

const TAG: usize = 32;

impl Cache {
    pub(crate) fn new(dir: &Path, key: CacheKey) -> Self {
        Self { dir: dir.to_owned(), key }
    }

    /// The authenticated code, or `None` when there is none or it is not ours: then it is compiled anew.
    pub(crate) fn get(&self, component: &Digest, engine_hash: u64) -> Option<Vec<u8>> {
        let file = fs::read(self.path(component, engine_hash)).ok()?;
        let (tag, code) = file.split_at_checked(TAG)?;
        match hmac::verify(&self.key.0, &tagged(component, engine_hash, code), tag) {
            Ok(()) => Some(code.to_vec()),
            Err(_) => {
                tracing::warn!(%component, "a precompiled component was altered; compiling anew");
                None
            }
        }
    }

    /// Stores code. A failure only costs the next start a compilation, so it is logged and otherwise ignored.
    pub(crate) fn put(&self, component: &Digest, engine_hash: u64, code: &[u8]) {
        let tag = hmac::sign(&self.key.0, &tagged(component, engine_hash, code));
        let path = self.path(component, engine_hash);
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let stored = fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&temporary, [tag.as_ref(), code].concat()))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = stored {
            tracing::warn!(%component, %error, "could not store a precompiled component");
        }
    }

    fn path(&self, component: &Digest, engine_hash: u64) -> PathBuf {
        self.dir.join(format!("{}-{engine_hash:016x}.cwasm", component.hex()))
    }
}

/// The bytes under the tag: what the code was made from, by which engine, and the code.
fn tagged(component: &Digest, engine_hash: u64, code: &[u8]) -> Vec<u8> {
    [component.as_bytes().as_slice(), &engine_hash.to_be_bytes(), code].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn altered_or_foreign_machine_code_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let component = Digest::of(b"component");
        let cache = Cache::new(dir.path(), CacheKey::new(&[1; 32]));
        cache.put(&component, 7, b"machine code");
        assert_eq!(cache.get(&component, 7).as_deref(), Some(b"machine code".as_slice()));
        assert_eq!(cache.get(&component, 8), None);

        let foreign = Cache::new(dir.path(), CacheKey::new(&[2; 32]));
        assert_eq!(foreign.get(&component, 7), None);

        let path = cache.path(&component, 7);
        let mut file = fs::read(&path).unwrap();
        *file.last_mut().unwrap() ^= 1;
        fs::write(&path, &file).unwrap();
        assert_eq!(cache.get(&component, 7), None);
        fs::write(&path, b"short").unwrap();
        assert_eq!(cache.get(&component, 7), None);
        // Code of another component under this one's name.
        let other = Digest::of(b"other");
        cache.put(&other, 7, b"other code");
        fs::copy(cache.path(&other, 7), &path).unwrap();
        assert_eq!(cache.get(&component, 7), None);
    }
}
