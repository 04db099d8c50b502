//! One consistent look at a log directory, taken without a lock while the log may be growing.

use std::path::Path;

use tlog_tiles::{Hash, Tile};

use crate::note::{self, LogKeys, TreeHead};
use crate::pinned::Pinned;
use crate::store::{self, Bundle};
use crate::tree::{Edge, WIDTH, hash_at, leaf_hash, levels, partial_number, partial_width};
use crate::{VerifyError, wal};

/// How often to look again when a new checkpoint arrives in the middle.
const ATTEMPTS: usize = 16;

/// Everything that a later checkpoint may replace. Full tiles and bundles never change and are read when needed.
///
/// Parts are kept as results, so that a verifier can first look for an earlier fault.
pub(crate) struct Snapshot {
    pub(crate) head: TreeHead,
    /// The stored partial tile per level, empty where there is none.
    pub(crate) partials: Vec<Result<Vec<u8>, VerifyError>>,
    pub(crate) bundle: Option<Result<Bundle, VerifyError>>,
    pub(crate) wal: Result<Option<wal::Scan>, VerifyError>,
    pub(crate) pinned: Pinned,
    /// The keys that may sign, if a key was given.
    pub(crate) keys: Option<LogKeys>,
}

impl Snapshot {
    /// Reads the directory. With a key the checkpoint's signature is checked first; without, it is only parsed.
    pub(crate) fn take(dir: &Path, vkey: Option<&str>) -> Result<Self, VerifyError> {
        for _ in 0..ATTEMPTS {
            let text = store::read_checkpoint(dir)?.ok_or(VerifyError::MissingCheckpoint)?;
            let pinned = Pinned::read(dir)?;
            let keys = vkey.map(|vkey| pinned.keys(vkey)).transpose()?;
            let head = match &keys {
                Some(keys) => keys.open(&text)?,
                None => note::parse_unverified(&text)?,
            };
            let size = head.size;
            let partials = levels(size)
                .map(|level| match partial_width(size, level) {
                    0 => Ok(Vec::new()),
                    width => store::read_tile(dir, level, partial_number(size, level), width),
                })
                .collect();
            let bundle = match partial_width(size, 0) {
                0 => None,
                width => Some(store::read_bundle(dir, partial_number(size, 0), width)),
            };
            let wal = wal::read(dir);
            if store::read_checkpoint(dir)?.as_deref() == Some(text.as_slice()) {
                return Ok(Self { head, partials, bundle, wal, pinned, keys });
            }
        }
        Err(VerifyError::TooBusy)
    }

    /// The edge the stored partial tiles describe, if it gives the signed root.
    pub(crate) fn edge(&self) -> Result<Edge, VerifyError> {
        let partials = self.partials.iter().cloned().collect::<Result<Vec<_>, _>>()?;
        let edge = Edge::from_partials(self.head.size, partials);
        if edge.root() == self.head.root { Ok(edge) } else { Err(VerifyError::RootMismatch { size: self.head.size }) }
    }

    /// Compares a bundle with the level 0 tile above it, and hands over index, record and leaf hash of each entry.
    ///
    /// Where they differ, the judge is the hash above the tile, or for the partial tile the signed root: if the entries give it, the
    /// tile was changed; else the entry is the one to name.
    pub(crate) fn compare_leaves(
        &self,
        dir: &Path,
        number: u64,
        bundle: &Bundle,
        tile: &[u8],
        mut leaf: impl FnMut(u64, &[u8], Hash) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        for (position, entry) in bundle.entries().enumerate() {
            let index = number * WIDTH + position as u64;
            let entry = entry?;
            let hash = leaf_hash(entry);
            if hash_at(tile, position) != Some(hash) {
                return Err(if self.entries_are_signed(dir, number, bundle) {
                    VerifyError::BadTile { level: 0, tile: number, first_index: index }
                } else {
                    VerifyError::BadEntry { index }
                });
            }
            leaf(index, entry, hash)?;
        }
        Ok(())
    }

    fn entries_are_signed(&self, dir: &Path, number: u64, bundle: &Bundle) -> bool {
        let size = self.head.size;
        let leaves = bundle.entries().map(|entry| entry.map(|entry| leaf_hash(entry).0));
        let Ok(leaves) = leaves.collect::<Result<Vec<_>, _>>().map(|leaves| leaves.concat()) else {
            return false;
        };
        if number == partial_number(size, 0) {
            let others = self.partials.iter().skip(1).cloned();
            let Ok(partials) = std::iter::once(Ok(leaves)).chain(others).collect() else {
                return false;
            };
            return Edge::from_partials(size, partials).root() == self.head.root;
        }
        let (parent, position) = (number / WIDTH, (number % WIDTH) as usize);
        let stored = match self.partials.get(1) {
            Some(Ok(partial)) if parent == partial_number(size, 1) => hash_at(partial, position),
            _ => store::read_tile(dir, 1, parent, WIDTH).ok().and_then(|tile| hash_at(&tile, position)),
        };
        stored == Some(Tile::subtree_hash(&leaves))
    }
}
