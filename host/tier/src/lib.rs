//! The inference tier as a process of its own: what holds the store and scores, behind a Unix socket or mutual TLS.
//!
//! ```text
//! gate (keys)  --Shared--> Remote --+-- TierServer: store + scoring       casemate inference serve --store DIR
//!                                   +-- TierServer: scoring only          casemate inference serve --store-of ENDPOINT
//! ```
//!
//! A tier holds no key that opens anything; this crate links none that does. A gate trusts no tier: whatever comes back is checked
//! by the owner (`docs/encrypted-search.md`). TLS is version 1.3 with certificates of the site's own offline [`Authority`].
//!
//! A gate's process cannot dial once it is locked down: a [`Broker`], started before, dials for it, the listed endpoints only, and
//! hands over the connected socket.

#![forbid(unsafe_code)]

mod authority;
mod broker;
mod endpoint;
mod error;
mod limits;
mod remote;
mod server;
mod shared;
mod tls;
mod transport;
mod wire;

pub use authority::{Authority, Role};
pub use broker::{Broker, Dial, Direct, answer_dials, dialler, install_dialler};
pub use endpoint::Endpoint;
pub use error::TierError;
pub use limits::Limits;
pub use remote::Remote;
pub use server::TierServer;
pub use shared::Shared;
pub use tls::{ClientTls, ServerTls};
