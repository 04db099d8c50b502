//! Databases that keep the encrypted store: servers that an inference tier reaches for it.
//!
//! ```text
//! gate (keys) --> inference tier --Dial--> PostgreSQL, Qdrant, Chroma      casemate inference serve --backend store.toml
//! ```
//!
//! Only ciphertext and tokens reach a database, and it is not trusted: the owner checks what comes back. What it must hold is in
//! [`casemate_vectors::conformance`]. A process that is locked down cannot dial: its [`Dial`](casemate_tier::Dial) does.

#![forbid(unsafe_code)]

mod chroma;
mod config;
mod error;
mod hints;
mod http;
mod journaled;
mod pool;
mod postgres;
mod qdrant;

pub use config::{Backend, ChromaConfig, PostgresConfig, QdrantConfig};
pub use error::BackendError;
pub use postgres::Postgres;
