//! Encrypted search, the owner's half: secret keys, encryption, query building and decryption.
//!
//! Whoever holds an [`OwnerKey`] can read the collection; there is no key that can only search. The inference tier does
//! not link this crate and cannot name its types.
//!
//! ```
//! use casemate_fhe::{Params, PreparedQuery, PreparedTile, score};
//! use casemate_fhe_owner::OwnerKey;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = OwnerKey::from_seed(&[7; 32].into(), Params::new(4, 4)?)?;
//! let group = key.encrypt_group(&[&[1.0, 0.0, 0.0, 0.0], &[0.6, 0.8, 0.0, 0.0]])?;
//! let (query, secret) = key.query(&[0.0, 1.0, 0.0, 0.0])?;
//!
//! // What follows needs no key.
//! let groups = PreparedTile::prepare(&[group])?;
//! let reply = score(&groups, &PreparedQuery::new(&query)?)?;
//!
//! let cosines = secret.decrypt(&reply, &[2])?;
//! assert!((cosines[0][0] - 0.0).abs() < 1e-3 && (cosines[0][1] - 0.8).abs() < 1e-3);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod canary;
mod error;
mod fetch;
mod key;
mod model;
mod noise;
mod perturb;
mod query;
mod seal;
mod vector;

pub use canary::{CANARIES_PER_GROUP, Canaries, Canary, GroupPlace};
pub use error::OwnerError;
pub use fetch::fetch_plan;
pub use key::OwnerKey;
pub use model::{ModelKey, ModelSecret};
pub use perturb::Perturbation;
pub use query::QuerySecret;
pub use seal::DataKey;
