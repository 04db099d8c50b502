use std::collections::HashMap;
use std::sync::Arc;

use casemate_fhe::PreparedGroup;
use casemate_types::Digest;

/// Prepared groups by digest, within a budget of bytes; the least recently used ones go first.
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
    group: Arc<PreparedGroup>,
    last_request: u64,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, request: 0, entries: HashMap::new() }
    }

    /// Starts a request that will use `digests`, and returns what is there already, in their order.
    pub(crate) fn begin(&mut self, digests: impl Iterator<Item = Digest>) -> Vec<Option<Arc<PreparedGroup>>> {
        self.request += 1;
        let request = self.request;
        digests
            .map(|digest| {
                let entry = self.entries.get_mut(&digest)?;
                entry.last_request = request;
                Some(entry.group.clone())
            })
            .collect()
    }

    /// Keeps `group` if it fits beside what the current requests use.
    pub(crate) fn offer(&mut self, digest: Digest, group: &Arc<PreparedGroup>) {
        let size = group.bytes();
        if size > self.budget || self.entries.contains_key(&digest) {
            return;
        }
        while self.bytes + size > self.budget {
            let oldest = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.last_request < self.request)
                .min_by_key(|(_, entry)| entry.last_request)
                .map(|(digest, _)| *digest);
            let Some(entry) = oldest.and_then(|digest| self.entries.remove(&digest)) else {
                return;
            };
            self.bytes -= entry.group.bytes();
        }
        self.bytes += size;
        self.entries.insert(digest, Entry { group: group.clone(), last_request: self.request });
    }

    pub(crate) fn used(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}
