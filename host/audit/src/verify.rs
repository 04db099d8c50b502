//! Verification of a whole directory, without the HSM and without a lock.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tlog_tiles::{Hash, check_record};

use crate::clock::ClockCheck;
use crate::log::Head;
use crate::note;
use crate::proof::{HeadHashes, is_consistent};
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
    /// Records whose hashes were checked and whose entries are in archives ([`crate::Segment`]).
    pub sealed: u64,
}

/// Rebuilds the whole tree from the entries and compares every stored hash, the root and the signature with it.
///
/// `vkey` is the verifier key ([`crate::Log::verifier_key`]); after a rotation, an older one will do. `progress` is told the number of records checked so far, after each
/// bundle of 256. Reads only, and works on a log that is in use. The error names the first bad index.
pub fn verify_dir(dir: &Path, vkey: &str, mut progress: impl FnMut(u64)) -> Result<Verified, VerifyError> {
    let snapshot = Snapshot::take(dir, Some(vkey))?;
    let size = snapshot.head.size;
    let mut upper = UpperTiles { dir, snapshot: &snapshot, cached: HashMap::new() };
    let mut edge = Edge::default();
    let mut clock = ClockCheck::default();
    let segments = snapshot.pinned.segments();
    let is_sealed = |number: u64| segments.iter().any(|part| (part.from..part.to).contains(&(number * WIDTH)));
    let mut sealed = 0;
    for number in 0..size / WIDTH {
        let mut filled = Vec::new();
        match store::read_bundle(dir, number, WIDTH) {
            Err(VerifyError::MissingEntries { .. }) if is_sealed(number) => {
                let tile = store::read_tile(dir, 0, number, WIDTH)?;
                (0..WIDTH as usize).filter_map(|position| hash_at(&tile, position)).for_each(|leaf| {
                    edge.push(leaf, |full| filled.push(full));
                });
                sealed += WIDTH;
            }
            bundle => {
                let bundle = bundle?;
                let tile = store::read_tile(dir, 0, number, WIDTH)?;
                snapshot.compare_leaves(dir, number, &bundle, &tile, |index, record, leaf| {
                    edge.push(leaf, |full| filled.push(full));
                    clock.see(index, record)
                })?;
            }
        }
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
        snapshot.compare_leaves(dir, number, bundle, tile, |index, record, leaf| {
            edge.push(leaf, |_| {});
            clock.see(index, record)
        })?;
        progress(edge.size());
    }
    if edge.size() != size || edge.root() != snapshot.head.root {
        return Err(VerifyError::RootMismatch { size });
    }
    snapshot.pinned.check(size, |index| {
        let (number, position) = (index / WIDTH, (index % WIDTH) as usize);
        let tile = match snapshot.partials.first() {
            Some(partial) if number == partial_number(size, 0) => partial.clone()?,
            _ => store::read_tile(dir, 0, number, WIDTH)?,
        };
        Ok(hash_at(&tile, position))
    })?;
    let tail = snapshot.wal?.ok_or(VerifyError::MissingWal)?.after(size)?;
    Ok(Verified { size, root: snapshot.head.root.0, unsigned_tail: tail.count() as u64, sealed })
}

/// Checks that the records from `from` on, as far as they are signed, are those under the checkpoint: each against its tile, and each tile
/// against the signed root by an inclusion proof (RFC 6962 section 2.1.1). Records in archives are left out.
///
/// # Errors
/// As [`verify_dir`], which also looks at what comes before `from`.
pub fn verify_from(dir: &Path, vkey: &str, from: u64) -> Result<(), VerifyError> {
    let snapshot = Snapshot::take(dir, Some(vkey))?;
    let edge = snapshot.edge()?;
    let (tree, size) = (snapshot.head.clone(), snapshot.head.size);
    let head = Head { tree, edge };
    let hashes = HeadHashes::new(dir, &head);
    let included = |index: u64, leaf: Hash| {
        let proof = hashes.inclusion(index)?;
        check_record(&proof, size, snapshot.head.root, index, leaf).map_err(|_| VerifyError::BadProof { index })
    };
    // What stands in for records that are in archives, and for older keys.
    snapshot.pinned.check(size, |index| {
        let leaf = hash_at(&hashes.tile(0, index / WIDTH)?, (index % WIDTH) as usize);
        leaf.map(|leaf| included(index, leaf).map(|()| leaf)).transpose()
    })?;
    let sealed = snapshot.pinned.segments().iter().map(|segment| segment.to).max().unwrap_or(0);
    for number in from.max(sealed) / WIDTH..size / WIDTH {
        let bundle = store::read_bundle(dir, number, WIDTH)?;
        let tile = store::read_tile(dir, 0, number, WIDTH)?;
        snapshot.compare_leaves(dir, number, &bundle, &tile, |_, _, _| Ok(()))?;
        // One record's proof takes in the whole tile.
        let index = number * WIDTH;
        included(index, hash_at(&tile, 0).ok_or(VerifyError::BadProof { index })?)?;
    }
    if let Some(bundle) = &snapshot.bundle {
        let bundle = bundle.as_ref().map_err(Clone::clone)?;
        // The edge holds it, and gave the signed root.
        snapshot.compare_leaves(dir, partial_number(size, 0), bundle, head.edge.partial(0), |_, _, _| Ok(()))?;
    }
    Ok(())
}

/// All records in order: the signed ones, then the durable tail. For showing: nothing is verified here.
pub fn entries(dir: &Path) -> Result<impl Iterator<Item = Result<Vec<u8>, AuditError>> + use<>, AuditError> {
    Ok(entries_from(dir, 0)?.map(|(_, record)| record))
}

/// The records from index `from` on, each with its index. Records in sealed segments are left out. Nothing is verified.
pub fn entries_from(
    dir: &Path,
    from: u64,
) -> Result<impl Iterator<Item = (u64, Result<Vec<u8>, AuditError>)> + use<>, AuditError> {
    let snapshot = Snapshot::take(dir, None)?;
    let size = snapshot.head.size;
    let tail = snapshot.wal?.ok_or(AuditError::MissingWal)?.after(size)?;
    let sealed = snapshot.pinned.segments().iter().map(|segment| segment.to).max().unwrap_or(0);
    let from = from.max(sealed);
    let dir: PathBuf = dir.to_owned();
    let full = (from / WIDTH..size / WIDTH).map(move |number| (number, store::read_bundle(&dir, number, WIDTH)));
    let partial = snapshot.bundle.map(|bundle| (size / WIDTH, bundle));
    let signed = full.chain(partial).flat_map(|(number, bundle)| -> Vec<(u64, Result<Vec<u8>, AuditError>)> {
        let first = number * WIDTH;
        match bundle {
            Ok(bundle) => (first..).zip(bundle.entries().map(|entry| Ok(entry?.to_vec()))).collect(),
            Err(error) => vec![(first, Err(error.into()))],
        }
    });
    Ok(signed.chain((size..).zip(tail.map(Ok))).skip_while(move |(index, _)| *index < from))
}

/// Durable records of the log in `dir`, signed or not.
pub fn size_of(dir: &Path) -> Result<u64, AuditError> {
    let snapshot = Snapshot::take(dir, None)?;
    let size = snapshot.head.size;
    Ok(size + snapshot.wal?.ok_or(AuditError::MissingWal)?.after(size)?.count() as u64)
}

/// The time of the latest durable record of the log in `dir`, in milliseconds since 1970 UTC, signed or not; `None` for a log without
/// records of its own. Nothing is verified.
pub fn latest_ms(dir: &Path) -> Result<Option<u64>, AuditError> {
    let last = size_of(dir)?.saturating_sub(1);
    let mut latest = None;
    for (_, record) in entries_from(dir, last)? {
        latest = latest.max(crate::clock::time_of(&record?));
    }
    Ok(latest)
}

/// Reads records in full, signed bundles one by one; neighbours come from the same bundle. Nothing is verified.
pub struct RecordReader {
    dir: PathBuf,
    bundle: Option<(u64, Vec<Vec<u8>>)>,
}

impl RecordReader {
    /// A reader of the log in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), bundle: None }
    }

    /// The record; `None` when its segment is sealed.
    pub fn read(&mut self, index: u64) -> Result<Option<&[u8]>, AuditError> {
        let number = index / WIDTH;
        if self.bundle.as_ref().is_none_or(|(held, _)| *held != number) {
            let bundle = match store::read_bundle(&self.dir, number, WIDTH) {
                Err(VerifyError::MissingEntries { .. }) => return Ok(None),
                bundle => bundle?,
            };
            let records = bundle.entries().map(|entry| Ok(entry?.to_vec())).collect::<Result<_, VerifyError>>()?;
            self.bundle = Some((number, records));
        }
        let records = self.bundle.as_ref().map(|(_, records)| records.as_slice()).unwrap_or_default();
        Ok(records.get((index % WIDTH) as usize).map(Vec::as_slice))
    }
}

/// Records under the checkpoint on disk, whose signature is not checked.
pub(crate) fn signed_size(dir: &Path) -> Result<u64, AuditError> {
    let text = store::read_checkpoint(dir)?.ok_or(AuditError::MissingCheckpoint)?;
    Ok(note::parse_unverified(&text)?.size)
}

/// The root (RFC 6962 section 2.1) that the log had at `size` records; `None` if it has fewer.
///
/// Whoever was given a head some time ago finds out whether it was one of this log. It is made from the stored hashes, which stay
/// when records are sealed, and proven to be the beginning of the tree under the checkpoint, whose signature [`verify_dir`] checks:
/// call that first.
pub fn root_at(dir: &Path, size: u64) -> Result<Option<[u8; 32]>, AuditError> {
    let snapshot = Snapshot::take(dir, None)?;
    let mut edge = snapshot.edge()?;
    let tree = snapshot.head;
    if size > tree.size {
        // Records that are durable and not yet signed.
        for record in snapshot.wal?.ok_or(AuditError::MissingWal)?.after(tree.size)? {
            if edge.size() < size {
                edge.push(leaf_hash(&record), |_| {});
            }
        }
        return Ok((edge.size() == size).then(|| edge.root().0));
    }
    let (signed, root) = (tree.size, tree.root);
    let head = Head { tree, edge };
    let hashes = HeadHashes::new(dir, &head);
    let old = hashes.root_at(size)?;
    if !is_consistent(&hashes.consistency(size)?, signed, root, size, old) {
        return Err(VerifyError::RootMismatch { size }.into());
    }
    Ok(Some(old.0))
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
