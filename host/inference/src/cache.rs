use std::collections::HashMap;
use std::sync::Arc;

use casemate_fhe::PreparedTile;
use casemate_types::Digest;

/// Prepared tiles by the digests of their groups, within a budget of bytes; the least recently used ones go first.
///
/// What the current request uses is never evicted by it: a scan larger than the budget keeps what fits instead of
/// replacing everything once per scan.
pub(crate) struct Cache {
    budget: usize,
    bytes: usize,
    request: u64,
    entries: HashMap<Digest, Entry>,
}

struct Entry {
    tile: Arc<PreparedTile>,
    last_request: u64,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, request: 0, entries: HashMap::new() }
    }

    /// Starts a request that will use the tiles `names`, and returns what is there already, in their order.
    pub(crate) fn begin(&mut self, names: impl Iterator<Item = Digest>) -> Vec<Option<Arc<PreparedTile>>> {
        self.request += 1;
        let request = self.request;
        names
            .map(|name| {
                let entry = self.entries.get_mut(&name)?;
                entry.last_request = request;
                Some(entry.tile.clone())
            })
            .collect()
    }

    /// Keeps `tile` if it fits beside what the current requests use.
    pub(crate) fn offer(&mut self, name: Digest, tile: &Arc<PreparedTile>) {
        let size = tile.bytes();
        if size > self.budget || self.entries.contains_key(&name) {
            return;
        }
        while self.bytes + size > self.budget {
            let oldest = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.last_request < self.request)
                .min_by_key(|(_, entry)| entry.last_request)
                .map(|(name, _)| *name);
            let Some(entry) = oldest.and_then(|name| self.entries.remove(&name)) else {
                return;
            };
            self.bytes -= entry.tile.bytes();
        }
        self.bytes += size;
        self.entries.insert(name, Entry { tile: tile.clone(), last_request: self.request });
    }

    /// Groups and bytes kept.
    pub(crate) fn used(&self) -> (usize, usize) {
        (self.entries.values().map(|entry| entry.tile.groups()).sum(), self.bytes)
    }
}
