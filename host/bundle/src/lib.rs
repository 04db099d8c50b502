//! The one file that crosses the air gap: a plugin, its manifest and its settings, signed by two people.
//!
//! ```text
//! NAME.casemate          strict USTAR (module `ustar`), bytes a pure function of the inputs
//!   blobs/sha256/*       the component (WebAssembly, never native code), its OCI config and manifest
//!   evidence/*.dsse.json optional: in-toto statements about the component (module `evidence`)
//!   index.json           with oci-layout: an OCI image layout (module `oci`)
//!   manifest.toml        the whole authority of the plugin on one screen (`Manifest`)
//!   oci-layout
//!   settings.json        one JSON object
//!   tuf/snapshot.json    TUF 1.0 metadata: two approvers sign each of the three files
//!   tuf/targets.json
//!   tuf/timestamp.json
//! ```
//!
//! Or, in the place of component, layout and settings, one `document`: settings alone, a policy set, people and compartments, a model, or
//! the list of a host kit (module `document`).
//!
//! Trust comes from the site's pinned [`TrustRoot`], never from the file. [`build`] makes a draft, each approver adds a
//! signature with [`sign`], and [`verify`] is the only way to a [`VerifiedBundle`], the only type a loader takes.
//! [`inspect`] reads without trusting. There is no option that turns verification off.
//!
//! The core does no I/O: bytes and the time go in, a verified bundle or a named refusal comes out. The one exception is
//! [`ApproverKey`], whose file form must be written with care.

#![forbid(unsafe_code)]

mod approver;
mod contents;
mod difference;
mod document;
mod error;
mod evidence;
mod json;
mod lifecycle;
mod manifest;
mod metadata;
mod oci;
mod root;
mod sealed;
pub mod ustar;

pub use approver::{ApproverKey, ApproverPublic, key_id};
pub use casemate_attest::{PublicKey, Signer};
pub use contents::content_digest;
pub use difference::{Difference, dependencies};
pub use document::{
    DocumentInput, DocumentInspection, DocumentKind, DocumentManifest, Verified, VerifiedDocument, build_document,
    inspect_document, is_document, verify_any,
};
pub use error::BundleError;
pub use evidence::{CYCLONEDX, Evidence, PROVENANCE};
pub use lifecycle::{Additions, BuildInput, Inspection, VerifiedBundle, build, build_with, inspect, sign, verify};
pub use manifest::{Capability, Limits, Manifest, World, contract_digest};
pub use oci::component_of;
pub use root::{THRESHOLD, TrustRoot};
