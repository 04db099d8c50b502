//! Inclusion and consistency proofs (RFC 6962 sections 2.1.1 and 2.1.2) from a signed tree's tiles.

use std::cell::RefCell;
use std::path::Path;

use tlog_tiles::{Hash, HashReader, Tile, check_tree, node_hash, prove_record, prove_tree, tree_hash};

use crate::log::Head;
use crate::tree::{HEIGHT, WIDTH, partial_number};
use crate::{VerifyError, store};

/// The longest proof in a tree of 2^48 records, with room to spare; also the limit of C2SP `tlog-witness`.
pub(crate) const MAX_PROOF: usize = 63;

/// The hashes of a signed tree: from the partial tiles in memory, where no newer checkpoint replaces them, and the full ones on
/// disk. They are not authenticated one by one: the finished proof is checked against the signed root.
pub(crate) struct HeadHashes<'a> {
    dir: &'a Path,
    head: &'a Head,
    failure: RefCell<Option<VerifyError>>,
}

impl<'a> HeadHashes<'a> {
    pub(crate) fn new(dir: &'a Path, head: &'a Head) -> Self {
        Self { dir, head, failure: RefCell::new(None) }
    }

    /// A whole tile of the tree.
    pub(crate) fn tile(&self, level: u8, number: u64) -> Result<Vec<u8>, VerifyError> {
        if number == partial_number(self.head.tree.size, level) {
            return Ok(self.head.edge.partial(level).to_vec());
        }
        store::read_tile(self.dir, level, number, WIDTH)
    }

    /// The inclusion proof of record `index`, not yet checked.
    pub(crate) fn inclusion(&self, index: u64) -> Result<Vec<Hash>, VerifyError> {
        let proof = prove_record(self.head.tree.size, index, self);
        self.answer(proof, VerifyError::BadProof { index })
    }

    /// The proof that the tree begins with the first `old` records; empty for none and for all of them.
    pub(crate) fn consistency(&self, old: u64) -> Result<Vec<Hash>, VerifyError> {
        if old == 0 || old == self.head.tree.size {
            return Ok(Vec::new());
        }
        self.answer(prove_tree(self.head.tree.size, old, self), VerifyError::RootMismatch { size: old })
    }

    /// The root of the first `size` records.
    pub(crate) fn root_at(&self, size: u64) -> Result<Hash, VerifyError> {
        self.answer(tree_hash(size, self), VerifyError::RootMismatch { size })
    }

    fn answer<T>(&self, result: Result<T, tlog_tiles::Error>, otherwise: VerifyError) -> Result<T, VerifyError> {
        match self.failure.take() {
            Some(error) => Err(error),
            None => result.map_err(|_| otherwise),
        }
    }
}

impl HashReader for HeadHashes<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        let read = |index: &u64| {
            // The narrowest tile that holds the hash; a wider one begins with the same bytes.
            let tile = Tile::from_index(HEIGHT, *index);
            let bytes = self.tile(tile.level(), tile.level_index()).map_err(|error| {
                *self.failure.borrow_mut() = Some(error);
                tlog_tiles::Error::InvalidTile
            })?;
            tile.hash_at_index(&bytes, *index)
        };
        indexes.iter().map(read).collect()
    }
}

/// Whether `proof` shows that the tree `(size, root)` begins with the tree `(old, old_root)`.
pub(crate) fn is_consistent(proof: &[Hash], size: u64, root: Hash, old: u64, old_root: Hash) -> bool {
    match old {
        // Nothing to be consistent with (C2SP `tlog-witness`: the proof must be empty).
        0 => proof.is_empty(),
        _ if old == size => proof.is_empty() && root == old_root,
        _ => check_tree(&proof.to_vec(), size, root, old, old_root).is_ok(),
    }
}

/// The root of the first `old` records that a consistency proof commits to, if the proof leads to the tree `(size, root)` at all.
///
/// RFC 9162, 2.1.4.2. `None` as well where `old` is a power of two: such a proof does not hold the old root.
pub(crate) fn old_root(proof: &[Hash], size: u64, root: Hash, old: u64) -> Option<Hash> {
    if old == 0 || old >= size || old.is_power_of_two() {
        return None;
    }
    let shift = (old - 1).trailing_ones();
    let (mut first, mut second) = ((old - 1) >> shift, (size - 1) >> shift);
    let (start, rest) = proof.split_first()?;
    let (mut old_root, mut new_root) = (*start, *start);
    for hash in rest {
        if second == 0 {
            return None;
        }
        if first & 1 == 1 || first == second {
            old_root = node_hash(*hash, old_root);
            new_root = node_hash(*hash, new_root);
            let shift = if first == 0 { 0 } else { first.trailing_zeros() };
            (first, second) = (first >> shift, second >> shift);
        } else {
            new_root = node_hash(new_root, *hash);
        }
        (first, second) = (first >> 1, second >> 1);
    }
    (second == 0 && new_root == root).then_some(old_root)
}
