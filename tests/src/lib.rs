//! What crosses crates: scenarios, attacks and conformance (`tests/it`), the benchmarks and the demo's attacker (`src/bin`).
