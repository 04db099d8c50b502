//! The life cycle of a bundle at a site, in states carried by types.
//!
//! ```text
//! ReceivedBundle --verify--> VerifiedBundle --activate--> ActiveSet, one generation up
//!   bytes from media          two approvers, in date       what a server loads
//! ```
//!
//! What may be activated is decided by [`ActiveSet`], which does no I/O; [`SiteStore`] keeps it on disk so that a crash
//! leaves the old set or the new one. Going back is a new generation that names a bundle that was active before, by an
//! [`Order`] of two people, or the old component in a bundle of a higher version. The floor of a plugin's version never
//! falls. [`Standing`] is what the audit log says about all of this; whoever has it needs no file.

#![forbid(unsafe_code)]

mod active;
mod error;
mod order;
mod received;
mod standing;
mod store;

pub use active::{ActiveEntry, ActiveSet};
pub use error::{ChangeError, OrderError};
pub use order::{MAX_ORDER, MAX_REASON, Order, OrderFile, Scope, SignedOrder};
pub use received::ReceivedBundle;
pub use standing::Standing;
pub use store::SiteStore;
