//! The life cycle of a bundle at a site, in states carried by types.
//!
//! ```text
//! ReceivedBundle --verify--> VerifiedBundle --activate--> ActiveSet, one generation up
//!   bytes from media          two approvers, in date       what a server loads
//! ```
//!
//! What may be activated is decided by [`ActiveSet`], which does no I/O; [`SiteStore`] keeps it on disk so that a crash
//! leaves the old set or the new one. Going back is a change like any other: the old component in a bundle of a higher
//! version, signed by two. The floor of a plugin's version never falls.

#![forbid(unsafe_code)]

mod active;
mod error;
mod received;
mod store;

pub use active::{ActiveEntry, ActiveSet};
pub use error::ChangeError;
pub use received::ReceivedBundle;
pub use store::SiteStore;
