//! Verification of a whole directory, without the HSM and without a lock.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::snapshot::Snapshot;
use crate::store;
use crate::tree::{Edge, WIDTH, first_index, hash_at, leaf_hash, partial_number, partial_width};
use crate::{AuditError, VerifyError};

/// What [`verify_dir`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Records the checkpoint covers; all of them were hashed.
    pub size: u64,
    /// The signed root (RFC 6962 section 2.1).
    pub root: [u8; 32],
    /// Records after them that are durable and not yet signed.
    pub unsigned_tail: u64,
}

/// Rebuilds the whole tree from the entries and compares every stored hash, the root and the signature with it.
///
/// `vkey` is the verifier key ([`crate::Log::verifier_key`]). `progress` is told the number of records checked so far, after each
/// bundle of 256. Reads only, and works on a log that is in use. The error names the first bad index.
pub fn verify_dir(dir: &Path, vkey: &str, mut progress: impl FnMut(u64)) -> Result<Verified, VerifyError> {
    let snapshot = Snapshot::take(dir, Some(vkey))?;
    let size = snapshot.head.size;
    let mut upper = UpperTiles { dir, snapshot: &snapshot, cached: HashMap::new() };
    let mut edge = Edge::default();
    for number in 0..size / WIDTH {
        let bundle = store::read_bundle(dir, number, WIDTH)?;
        let tile = store::read_tile(dir, 0, number, WIDTH)?;
        let mut filled = Vec::new();
        snapshot.compare_leaves(dir, number, &bundle, &tile, |leaf| edge.push(leaf, |full| filled.push(full)))?;
        for full in filled {
            upper.compare(full.level + 1, full.tile, full.hash)?;
        }
        progress(edge.size());
    }
    if let Some(bundle) = &snapshot.bundle {
        let bundle = bundle.as_ref().map_err(Clone::clone)?;
        let tile = match snapshot.partials.first() {
            Some(tile) => tile.as_ref().map_err(Clone::clone)?,
            None => {
                return Err(VerifyError::MissingTile { level: 0, tile: 0, first_index: 0 });
            }
        };
        let number = partial_number(size, 0);
        snapshot.compare_leaves(dir, number, bundle, tile, |leaf| edge.push(leaf, |_| {}))?;
        progress(edge.size());
    }
    if edge.size() != size || edge.root() != snapshot.head.root {
        return Err(VerifyError::RootMismatch { size });
    }
    let tail = snapshot.wal?.ok_or(VerifyError::MissingWal)?.after(size)?;
    Ok(Verified { size, root: snapshot.head.root.0, unsigned_tail: tail.count() as u64 })
}

/// All records in order: the signed ones, then the durable tail. For showing: nothing is verified here.
pub fn entries(dir: &Path) -> Result<impl Iterator<Item = Result<Vec<u8>, AuditError>> + use<>, AuditError> {
    let snapshot = Snapshot::take(dir, None)?;
    let size = snapshot.head.size;
    let tail = snapshot.wal?.ok_or(AuditError::MissingWal)?.after(size)?;
    let dir: PathBuf = dir.to_owned();
    let full = (0..size / WIDTH).map(move |number| store::read_bundle(&dir, number, WIDTH));
    let signed = full.chain(snapshot.bundle).flat_map(|bundle| match bundle {
        Ok(bundle) => bundle.entries().map(|entry| Ok(entry?.to_vec())).collect(),
        Err(error) => vec![Err(error.into())],
    });
    Ok(signed.chain(tail.map(Ok)))
}

/// The root (RFC 6962 section 2.1) that the log had at `size` records, rebuilt from its entries; `None` if it has fewer.
///
/// Whoever was given a head some time ago finds out whether it was one of this log. The entries are those that [`verify_dir`] checks:
/// call that first.
pub fn root_at(dir: &Path, size: u64) -> Result<Option<[u8; 32]>, AuditError> {
    let mut edge = Edge::default();
    let mut entries = entries(dir)?;
    while edge.size() < size {
        match entries.next() {
            Some(entry) => edge.push(leaf_hash(&entry?), |_| {}),
            None => return Ok(None),
        }
    }
    Ok(Some(edge.root().0))
}

/// The stored tiles above level 0, the last one of each level at hand.
struct UpperTiles<'a> {
    dir: &'a Path,
    snapshot: &'a Snapshot,
    cached: HashMap<u8, (u64, Vec<u8>)>,
}

impl UpperTiles<'_> {
    /// Compares the hash of full tile `child` of the level below with what `level` stores for it.
    fn compare(&mut self, level: u8, child: u64, hash: tlog_tiles::Hash) -> Result<(), VerifyError> {
        let (tile, position) = (child / WIDTH, child % WIDTH);
        let stored = match self.cached.get(&level) {
            Some((cached, bytes)) if *cached == tile => hash_at(bytes, position as usize),
            _ => {
                let bytes = self.read(level, tile)?;
                let stored = hash_at(&bytes, position as usize);
                self.cached.insert(level, (tile, bytes));
                stored
            }
        };
        if stored == Some(hash) {
            return Ok(());
        }
        Err(VerifyError::BadTile { level, tile, first_index: first_index(level, tile, position) })
    }

    fn read(&self, level: u8, tile: u64) -> Result<Vec<u8>, VerifyError> {
        let size = self.snapshot.head.size;
        if tile == partial_number(size, level) && partial_width(size, level) > 0 {
            let missing = VerifyError::MissingTile { level, tile, first_index: first_index(level, tile, 0) };
            return self.snapshot.partials.get(usize::from(level)).cloned().unwrap_or(Err(missing));
        }
        store::read_tile(self.dir, level, tile, WIDTH)
    }
}
