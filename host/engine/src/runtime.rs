use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::thread;
use std::time::Duration;

use casemate_types::Digest;
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::cache::{Cache, CacheKey};

/// How large the instance pool is. The defaults serve one gate.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Component instances that may be alive at once.
    pub instances: u32,
    /// The most memory any manifest may ask for, in bytes; also the size of a pool slot.
    pub max_memory_bytes: usize,
    /// Whether instructions are counted ([`crate::Trace::fuel`]). It makes guests slower, and no guest can tell.
    pub count_fuel: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { instances: 256, max_memory_bytes: 256 << 20, count_fuel: false }
    }
}

/// The Wasm runtime: configuration, instance pool, epoch clock and code cache. One per process.
pub struct Engine {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) count_fuel: bool,
    cache: Option<Cache>,
}

/// The runtime could not be set up or a component could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The component is not valid for this engine.
    #[error("cannot compile component {digest}: {cause}")]
    Compile {
        /// Which component.
        digest: Digest,
        /// What the compiler said.
        cause: String,
    },
    /// The engine could not be configured, for instance because the instance pool does not fit the address space. There is no
    /// fallback to on-demand allocation.
    #[error("cannot set up the Wasm engine: {0}")]
    Setup(String),
}

/// The epoch advances this often; a deadline is as precise as this.
const EPOCH: Duration = Duration::from_millis(1);

/// A guest's stack. `casemate bundle build` gives Rust guests 64 KiB of shadow stack; this is the machine stack beside it.
const WASM_STACK: usize = 256 * 1024;

/// Memory a slot keeps mapped between runs: resetting it is cheaper than faulting it in again.
const KEEP_RESIDENT: usize = 512 * 1024;

impl Engine {
    /// An engine that keeps precompiled components in `cache`, authenticated under its key.
    pub fn new(options: &EngineOptions, cache: Option<(&Path, CacheKey)>) -> Result<Self, EngineError> {
        let setup = |error: wasmtime::Error| EngineError::Setup(format!("{error:#}"));
        let wasmtime = wasmtime::Engine::new(&config(options)).map_err(setup)?;
        start_epoch_clock(&wasmtime).map_err(|error| EngineError::Setup(error.to_string()))?;
        Ok(Self { wasmtime, count_fuel: options.count_fuel, cache: cache.map(|(dir, key)| Cache::new(dir, key)) })
    }

    /// Compiles, or loads what this host compiled before from the same bytes with the same engine.
    pub(crate) fn component(&self, bytes: &[u8]) -> Result<Component, EngineError> {
        let digest = Digest::of(bytes);
        let compile = |error: wasmtime::Error| EngineError::Compile { digest, cause: format!("{error:#}") };
        let Some(cache) = &self.cache else {
            return Component::from_binary(&self.wasmtime, bytes).map_err(compile);
        };
        let engine_hash = self.engine_hash();
        if let Some(code) = cache.get(&digest, engine_hash)
            && let Ok(component) = self.deserialize(&code)
        {
            return Ok(component);
        }
        let code = self.wasmtime.precompile_component(bytes).map_err(compile)?;
        cache.put(&digest, engine_hash, &code);
        self.deserialize(&code).map_err(compile)
    }

    /// Changes with wasmtime's version, its settings and the processor's features.
    fn engine_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    #[allow(unsafe_code, reason = "the one place where machine code is loaded")]
    fn deserialize(&self, code: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: `code` was produced by this process or authenticated under this host's own HMAC key over the component's
        // digest, the engine's compatibility hash and the code (`Cache::get`), so it is wasmtime's own unmodified output.
        unsafe { Component::deserialize(&self.wasmtime, code) }
    }
}

fn config(options: &EngineOptions) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(options.instances)
        .total_core_instances(options.instances * 4)
        .total_memories(options.instances)
        .total_tables(options.instances * 4)
        .total_stacks(options.instances)
        .max_core_instances_per_component(16)
        .max_memories_per_component(4)
        .max_tables_per_component(8)
        .table_elements(100_000)
        .max_memory_size(options.max_memory_bytes)
        .max_unused_warm_slots(options.instances)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .async_stack_keep_resident(WASM_STACK)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .consume_fuel(options.count_fuel)
        // Explicit bounds checks and no guard pages: then a memory that a guest grew need not be protected again for the next one,
        // and no run changes page protections, which would interrupt every core. It also needs no signal handler.
        .signals_based_traps(false)
        .memory_guard_size(0)
        .memory_reservation(options.max_memory_bytes as u64)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(2 * WASM_STACK)
        .wasm_component_model(true);
    config
}

/// Advances the epoch from a thread of its own: always on, never sharing a guest's thread, never catching up in bursts. Ends with
/// the engine.
fn start_epoch_clock(engine: &wasmtime::Engine) -> std::io::Result<()> {
    let weak = engine.weak();
    thread::Builder::new().name("epoch".to_owned()).spawn(move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(EPOCH);
        }
    })?;
    Ok(())
}
