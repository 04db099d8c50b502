//! Generated from `wit/`: the types of the contract and one trait per capability.

#![allow(missing_docs, unsafe_code, clippy::all, reason = "generated code; the documentation is in the WIT files")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "host",
    imports: { default: async | trappable },
    additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    with: {
        "casemate:plugin/fpe.key": crate::state::FpeKey,
        "casemate:plugin/hsm.key": crate::state::HsmKey,
        "casemate:plugin/vectors.collection": crate::state::Collection,
        "casemate:plugin/vectors.query": crate::state::Query,
    },
});

pub use casemate::plugin::*;
