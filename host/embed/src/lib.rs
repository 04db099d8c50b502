//! Sentence embedding: text in, 384 `f32` of unit length out.
//!
//! [`MiniLm`] is the product's embedder: all-MiniLM-L6-v2 on the processor, read from files that set-up has pinned.
//! [`Lexical`] needs no model: hashed words and character n-grams under a random projection. It finds shared words,
//! not shared meaning, and says so in its name.
//!
//! ```
//! use casemate_embed::{DIMENSION, Embedder, Lexical};
//!
//! let lexical = Lexical::fit(["the pump is broken", "the valve leaks"]);
//! let vectors = lexical.embed(&["broken pump"])?;
//! assert_eq!(vectors[0].len(), DIMENSION);
//! # Ok::<(), casemate_embed::EmbedError>(())
//! ```
//!
//! Nothing here opens a socket, and no text is kept, logged or put into an error.

#![forbid(unsafe_code)]

mod bert;
mod error;
mod lexical;
mod minilm;

pub use error::EmbedError;
pub use lexical::Lexical;
pub use minilm::MiniLm;

use casemate_types::Digest;

/// Components of every vector.
pub const DIMENSION: usize = 384;

/// Turns texts into vectors whose dot product is their cosine similarity.
pub trait Embedder: Send + Sync {
    /// Names the embedder in transcripts. Vectors of embedders with different names must not be compared.
    fn name(&self) -> &str;

    /// What the vectors depend on, as a digest: equal ones come of the same weights and the same tokens.
    fn digest(&self) -> Digest;

    /// One vector per text, in the order given: [`DIMENSION`] finite components, Euclidean length 1.
    ///
    /// # Errors
    ///
    /// All or nothing: when one text fails, no vector is returned.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// Scales `sums` to length 1. `None` if a component is not finite or all are zero.
fn unit(sums: &[f64]) -> Option<Vec<f32>> {
    let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
    (length.is_finite() && length > 0.0).then(|| sums.iter().map(|x| (x / length) as f32).collect())
}
