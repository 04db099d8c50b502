use std::path::PathBuf;

use casemate_tier::{Endpoint, TierError};

/// Why a database is not used, or what it answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The server answers, and not as asked.
    #[error("the database answers {status}: {words}")]
    Answer {
        /// Of HTTP.
        status: u16,
        /// The beginning of its words.
        words: String,
    },
    /// The file that names the database does not say what it must.
    #[error("{path}: {problem}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The database could not be dialled.
    #[error("the database cannot be reached")]
    Dial {
        /// Why.
        #[source]
        source: TierError,
    },
    /// This kind of database is not reached this way.
    #[error("{kind} is not reached by {endpoint}; write {want}")]
    Endpoint {
        /// The kind of database.
        kind: &'static str,
        /// As configured.
        endpoint: Endpoint,
        /// What it takes.
        want: &'static str,
    },
    /// What came is no answer.
    #[error("the database sent {what}; is it the server that was configured?")]
    Http {
        /// What came.
        what: &'static str,
    },
    /// A change that was cut short cannot be carried out.
    #[error("the journal of a change that was cut short is damaged; restore the store from an export")]
    Journal,
    /// The server is there and says no, or broke off.
    #[error("the database failed")]
    Postgres {
        /// Its own words.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server would lose what it acknowledged.
    #[error(
        "the database runs with {setting} = {value}, so that a crash could lose an acknowledged change; set it to on"
    )]
    NotDurable {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// Another tier writes.
    #[error("this tier only reads the database (`read-only` in its file); send changes to the tier that writes")]
    ReadOnly,
    /// A thread or descriptor could not be had.
    #[error("cannot set up the connection to the database")]
    System {
        /// Why.
        #[from]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("the database gave no answer for {seconds} seconds")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// All connections are in use.
    #[error("all {connections} connections to the database are in use; raise `connections`, or ask again later")]
    Busy {
        /// How many there are.
        connections: usize,
    },
}

impl From<TierError> for BackendError {
    fn from(source: TierError) -> Self {
        Self::Dial { source }
    }
}

impl From<tokio_postgres::Error> for BackendError {
    fn from(source: tokio_postgres::Error) -> Self {
        Self::Postgres { source }
    }
}
