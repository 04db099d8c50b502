use wasmtime::{ResourceLimiter, Result};

use crate::Refusal;

/// Sums over all memories and tables of a store: `memory_growing` is asked per memory, so a component with two memories would
/// otherwise get twice its limit.
pub(crate) struct Limiter {
    memory_limit: usize,
    memory_used: usize,
    table_limit: usize,
    table_used: usize,
}

/// Core instances a component may consist of; wit-component makes two or three.
const MAX_INSTANCES: usize = 16;

impl Limiter {
    pub(crate) fn new(memory_limit: usize, table_limit: usize) -> Self {
        Self { memory_limit, memory_used: 0, table_limit, table_used: 0 }
    }

    /// Linear memory in use, in bytes, all memories together; it never shrinks.
    pub(crate) fn memory_used(&self) -> u64 {
        self.memory_used as u64
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let used = self.memory_used.saturating_add(desired.saturating_sub(current));
        if used > self.memory_limit {
            return Err(Refusal::MemoryLimit { limit: self.memory_limit, unit: "bytes of memory" }.into());
        }
        self.memory_used = used;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let used = self.table_used.saturating_add(desired.saturating_sub(current));
        if used > self.table_limit {
            return Err(Refusal::MemoryLimit { limit: self.table_limit, unit: "table elements" }.into());
        }
        self.table_used = used;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn memories(&self) -> usize {
        4
    }

    fn tables(&self) -> usize {
        8
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn two_memories_share_one_limit() {
        let mut limiter = Limiter::new(100, 10);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        let error = limiter.memory_growing(0, 60, None).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Refusal::MemoryLimit { limit: 100, .. })));
        assert!(limiter.memory_growing(60, 100, None).unwrap());
    }
}
