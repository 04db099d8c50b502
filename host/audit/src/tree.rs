//! The RFC 6962 tree in tiles of 256, without I/O: coordinates, the right edge, entry bundles.

use tlog_tiles::{EMPTY_HASH, HASH_SIZE, Hash, Tile, node_hash, record_hash};

/// Hashes per tile and entries per bundle.
pub(crate) const WIDTH: u64 = 256;

/// log2 of [`WIDTH`].
pub(crate) const HEIGHT: u8 = 8;

/// The most records we handle: keeps every shift and product of tile arithmetic inside 64 bits.
pub(crate) const MAX_SIZE: u64 = 1 << 48;

/// Path of a tile of hashes below the log directory (C2SP `tlog-tiles`, Merkle tree).
pub(crate) fn tile_path(level: u8, tile: u64, width: u64) -> String {
    path(level, tile, width, false).replacen("tile/8/", "tile/", 1)
}

/// Path of an entry bundle below the log directory (C2SP `tlog-tiles`, log entries).
pub(crate) fn bundle_path(tile: u64, width: u64) -> String {
    path(0, tile, width, true).replacen("tile/8/data/", "tile/entries/", 1)
}

/// Width of the partial tile of `level` in a tree of `size` records; 0 when there is none.
pub(crate) fn partial_width(size: u64, level: u8) -> u64 {
    (size >> (HEIGHT * level)) % WIDTH
}

/// Number of the partial tile of `level` in a tree of `size` records.
pub(crate) fn partial_number(size: u64, level: u8) -> u64 {
    size >> (HEIGHT * (level + 1))
}

/// Levels that hold at least one hash in a tree of `size` records, lowest first.
pub(crate) fn levels(size: u64) -> impl Iterator<Item = u8> {
    (0..6).take_while(move |level| size >> (HEIGHT * level) > 0)
}

/// First record under hash `position` of a tile.
pub(crate) fn first_index(level: u8, tile: u64, position: u64) -> u64 {
    (tile * WIDTH + position) << (HEIGHT * level)
}

/// The right edge of the tree: the hashes of the partial tile of every level. Fixes the root, and all it takes to append.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<u8>>,
}

/// A tile that an append filled.
pub(crate) struct FullTile {
    pub(crate) level: u8,
    pub(crate) tile: u64,
    pub(crate) bytes: Vec<u8>,
    /// Its Merkle hash: what the level above stores.
    pub(crate) hash: Hash,
}

impl Edge {
    /// The edge of a tree of `size` records from its stored partial tiles, level 0 first, each of the right width.
    pub(crate) fn from_partials(size: u64, levels: Vec<Vec<u8>>) -> Self {
        Self { size, levels }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The partial tile of `level`; empty when there is none.
    pub(crate) fn partial(&self, level: u8) -> &[u8] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// Appends one leaf hash and hands over every tile this fills, lowest first. Amortised constant time.
    pub(crate) fn push(&mut self, leaf: Hash, mut filled: impl FnMut(FullTile)) {
        let mut carry = leaf;
        for level in 0_u8.. {
            let at = usize::from(level);
            if self.levels.len() == at {
                self.levels.push(Vec::new());
            }
            self.levels[at].extend_from_slice(&carry.0);
            if self.levels[at].len() < WIDTH as usize * HASH_SIZE {
                break;
            }
            let bytes = std::mem::take(&mut self.levels[at]);
            carry = Tile::subtree_hash(&bytes);
            filled(FullTile { level, tile: partial_number(self.size, level), bytes, hash: carry });
        }
        self.size += 1;
    }

    /// The Merkle tree hash (RFC 6962 section 2.1): the perfect subtrees of the edge, joined from the right.
    pub(crate) fn root(&self) -> Hash {
        let mut root = None;
        for tile in &self.levels {
            let mut end = tile.len() / HASH_SIZE;
            while end > 0 {
                // The rightmost perfect subtree has as many leaves as the lowest set bit says.
                let start = end - (1 << end.trailing_zeros());
                let subtree = Tile::subtree_hash(&tile[start * HASH_SIZE..end * HASH_SIZE]);
                root = Some(root.map_or(subtree, |right| node_hash(subtree, right)));
                end = start;
            }
        }
        root.unwrap_or(EMPTY_HASH)
    }
}

/// The leaf hash of a record.
pub(crate) fn leaf_hash(record: &[u8]) -> Hash {
    record_hash(record)
}

/// Hash `position` of a tile, if the tile is that long.
pub(crate) fn hash_at(tile: &[u8], position: usize) -> Option<Hash> {
    let start = position.checked_mul(HASH_SIZE)?;
    let bytes = tile.get(start..start.checked_add(HASH_SIZE)?)?;
    Some(Hash(bytes.try_into().ok()?))
}

/// Appends one entry to a bundle. `record` is at most [`crate::MAX_RECORD`] bytes: checked where records enter.
pub(crate) fn push_entry(bundle: &mut Vec<u8>, record: &[u8]) {
    bundle.extend_from_slice(&(record.len() as u16).to_be_bytes());
    bundle.extend_from_slice(record);
}

/// Takes the first entry off a bundle; `None` when it is cut short.
pub(crate) fn take_entry<'a>(bundle: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bundle.split_first_chunk()?;
    let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *bundle = rest;
    Some(entry)
}

fn path(level: u8, tile: u64, width: u64, entries: bool) -> String {
    // 1 <= width <= 256 and level < 64 by construction, which is all that `Tile::new` asks for.
    Tile::new(HEIGHT, level, tile, width.clamp(1, WIDTH) as u32, entries).path()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn edge_of(records: &[&[u8]]) -> Edge {
        let mut edge = Edge::default();
        for record in records {
            edge.push(leaf_hash(record), |_| {});
        }
        edge
    }

    /// The eight leaves and roots that the RFC 6962 reference implementation tests with.
    #[test]
    fn rfc_6962_known_roots() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, hex) in roots.iter().enumerate() {
            let root = edge_of(&leaves[..size]).root();
            let found: String = root.0.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(&found, hex, "{size} leaves");
        }
    }

    #[test]
    fn edge_agrees_with_the_recursive_definition_and_fills_the_tiles_of_the_standard() {
        fn mth(leaves: &[Hash]) -> Hash {
            match leaves {
                [] => EMPTY_HASH,
                [one] => *one,
                many => {
                    let split = many.len().next_power_of_two() / 2;
                    node_hash(mth(&many[..split]), mth(&many[split..]))
                }
            }
        }
        let leaves: Vec<Hash> = (0..70_000_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let mut edge = Edge::default();
        let mut tiles = Vec::new();
        for (at, leaf) in leaves.iter().enumerate() {
            edge.push(*leaf, |full| tiles.push((full.level, full.tile)));
            if [0, 1, 254, 255, 256, 511, 65_534, 65_535, 65_536, 69_999].contains(&at) {
                assert_eq!(edge.root(), mth(&leaves[..=at]), "{at}");
            }
        }
        // The example of C2SP tlog-tiles, partial tiles: a tree of 70,000.
        assert_eq!(tiles.iter().filter(|(level, _)| *level == 0).count(), 273);
        assert_eq!(tiles.iter().filter(|(level, _)| *level == 1).count(), 1);
        let widths: Vec<u64> = levels(70_000).map(|level| partial_width(70_000, level)).collect();
        assert_eq!(widths, [112, 17, 1]);
        for level in levels(70_000) {
            assert_eq!(edge.partial(level).len() as u64, partial_width(70_000, level) * 32);
        }
    }

    #[test]
    fn paths_follow_the_standard() {
        assert_eq!(tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile_path(2, 0, 17), "tile/2/000.p/17");
        assert_eq!(bundle_path(5, 1), "tile/entries/005.p/1");
        assert_eq!(bundle_path(1000, 256), "tile/entries/x001/000");
    }

    #[test]
    fn a_bundle_cut_anywhere_yields_no_entry_that_was_not_whole() {
        let mut bundle = Vec::new();
        push_entry(&mut bundle, b"abc");
        push_entry(&mut bundle, b"");
        for end in 0..5 {
            assert_eq!(take_entry(&mut &bundle[..end]), None);
        }
        let mut rest = bundle.as_slice();
        assert_eq!(take_entry(&mut rest), Some(b"abc".as_slice()));
        assert_eq!(take_entry(&mut rest), Some(b"".as_slice()));
        assert_eq!(take_entry(&mut rest), None);
    }
}
