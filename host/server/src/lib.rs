//! The gate over HTTP/JSON, on loopback: `ask`, policy evaluation, health. Every call but `/healthz` carries a bearer token.

#![forbid(unsafe_code)]

mod connections;
mod error;
mod routes;
mod sessions;

pub use error::ServerError;
pub use routes::serve;
