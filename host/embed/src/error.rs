use std::path::PathBuf;

/// What can go wrong between a text and its vector. No message holds any of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// The tensors could not be computed: shapes do not fit or memory ran out.
    #[error("cannot compute the embedding of {texts} texts")]
    Compute {
        /// Texts in the batch.
        texts: usize,
        /// What the tensor library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes are not a fitted [`Lexical`](crate::Lexical).
    #[error("cannot read the lexical statistics: {reason}; fit them again from the corpus")]
    Lexical {
        /// The first check that failed.
        reason: &'static str,
    },
    /// A file of the model is there but is not what it must be.
    #[error("cannot use {path} as a file of all-MiniLM-L6-v2: run `cargo xtask setup`")]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the model cannot be read.
    #[error("cannot read {path} of the embedding model: run `cargo xtask setup`")]
    ModelMissing {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The network put out NaN, infinity or zero: the weights are damaged.
    #[error("the embedding model put out a vector without a direction: run `cargo xtask setup`")]
    NotFinite,
    /// The tokenizer refused a text.
    #[error("cannot split the texts into tokens")]
    Tokenize {
        /// What the tokenizer said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A worker thread could not be started, or ended early.
    #[error("a worker thread of the embedder failed: restart the service")]
    Worker,
}
