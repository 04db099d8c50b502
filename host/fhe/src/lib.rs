//! Encrypted search, the half without keys: parameters, ciphertexts and homomorphic scoring.
//!
//! Both the database and the query are ciphertext. The scheme is amortised multi-secret RLWE (Peikert, Vaikuntanathan,
//! Waters, CRYPTO 2008): the documents of one *group* share one mask, and each block of dimensions has a secret of its
//! own. Scoring multiplies database digits by query rows in the Fourier domain and ends in one ciphertext per group
//! under a secret that the owner drew for this query alone.
//!
//! ```text
//! EncryptedGroup --PreparedTile::new---> PreparedTile ----+
//!                                                         +--score--> EncryptedScores
//! EncryptedQuery --PreparedQuery::new--> PreparedQuery ---+
//! ```
//!
//! This crate defines no secret key type. Keys, encryption and decryption live in `casemate-fhe-owner`, which the
//! inference tier does not link.
//!
//! | symbol | meaning | value |
//! |---|---|---|
//! | N | ring degree, `Z_2^64[X]/(X^N + 1)` | 2048 |
//! | b | block size | 4, 8, 16 or 32 |
//! | m | blocks, `ceil(width / b)` | |
//! | P | documents per group, `N / b` | |
//! | B | bits of a digit | 25 |

#![forbid(unsafe_code)]

mod error;
pub mod fft;
mod group;
mod kernel;
mod measure;
mod model;
mod params;
pub mod plaintext;
mod query;
mod reply;
mod score;
mod settings;
pub mod stream;
mod wire;

pub use error::FheError;
pub use group::{EncryptedGroup, GROUPS_PER_TILE, PreparedTile};
pub use kernel::instructions;
pub use measure::{Measure, NormBound};
pub use model::{MAX_CLASSES, PlainModel, TierModel};
pub use params::{
    BLOCKS, BODY_BITS, BODY_SAVING, DEFAULT_BLOCK, DEFAULT_BODY_BITS, DEFAULT_DIMENSION, DEFAULT_REPLY_BITS,
    DIGIT_BITS, MAX_DIMENSION, NOISE_BOUND_LOG2, Params, QUERY_BITS, REPLY_BITS, RING_DEGREE, SCORE_ONE,
};
pub use query::{EncryptedQuery, PreparedQuery};
pub use reply::{EncryptedScores, GroupReply};
pub use score::{QUERIES_PER_PASS, score, score_many, score_one_thread};
pub use settings::NoiseBudget;
