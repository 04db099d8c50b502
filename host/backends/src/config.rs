//! `store.toml`: where the database of an inference tier is. Unknown keys are errors.

use std::fs;
use std::num::NonZeroU8;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_tier::{Dial, Endpoint};
use casemate_vectors::{EntryStore, VectorStore};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::chroma::Chroma;
use crate::http::Http;
use crate::journaled::Journaled;
use crate::qdrant::Qdrant;
use crate::{BackendError, Postgres};

/// The database, with its password read.
pub struct Backend {
    kind: Kind,
    password: Option<Zeroizing<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Kind {
    Chroma(ChromaConfig),
    Postgres(PostgresConfig),
    Qdrant(QdrantConfig),
}

/// A collection of a Chroma server on this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ChromaConfig {
    /// `loopback:PORT`.
    pub endpoint: Endpoint,
    /// The tenant.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The database of the tenant.
    #[serde(default = "default_database")]
    pub database: String,
    /// The collection; made if it is not there.
    #[serde(default = "collection")]
    pub collection: String,
    /// For all tiers but the one that takes changes.
    #[serde(default)]
    pub read_only: bool,
    /// Connections at a time.
    #[serde(default = "connections")]
    pub connections: NonZeroU8,
}

/// A collection of a Qdrant server on this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QdrantConfig {
    /// `loopback:PORT`, that of the REST interface.
    pub endpoint: Endpoint,
    /// The collection; made if it is not there.
    #[serde(default = "collection")]
    pub collection: String,
    /// The file that holds the API key and nothing else.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// For all tiers but the one that takes changes.
    #[serde(default)]
    pub read_only: bool,
    /// Connections at a time.
    #[serde(default = "connections")]
    pub connections: NonZeroU8,
}

/// A PostgreSQL database.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PostgresConfig {
    /// The server's Unix socket, `unix:/run/postgresql/.s.PGSQL.5432`.
    pub endpoint: Endpoint,
    /// The database, which must be there. The store's table is made in it.
    pub database: String,
    /// The role to log in as.
    pub user: String,
    /// The file that holds the role's password and nothing else; absolute, or relative to the file that names it. Without one the
    /// server must know the account by other means (`peer`).
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Connections at a time.
    #[serde(default = "connections")]
    pub connections: NonZeroU8,
}

fn default_tenant() -> String {
    "default_tenant".to_owned()
}

fn default_database() -> String {
    "default_database".to_owned()
}

fn collection() -> String {
    "casemate".to_owned()
}

fn connections() -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(7)
}

impl Backend {
    /// Reads the file and the password that it points to. Opens no connection.
    ///
    /// # Errors
    /// [`BackendError::Config`], also for a password that other accounts could read.
    pub fn read(path: &Path) -> Result<Self, BackendError> {
        let wrong = |problem: String| BackendError::Config { path: path.to_owned(), problem };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let kind: Kind = toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
        let password = kind.password_file().map(|file| password(&path.with_file_name(file))).transpose()?;
        let want = match (&kind, kind.endpoint()) {
            (Kind::Postgres(_), Endpoint::Unix(_)) | (Kind::Chroma(_) | Kind::Qdrant(_), Endpoint::Loopback(_)) => None,
            (Kind::Postgres(_), _) => Some(("PostgreSQL", "unix:SOCKET, the server's own socket")),
            (Kind::Chroma(_), _) => Some(("Chroma", "loopback:PORT, and run it on this machine")),
            (Kind::Qdrant(_), _) => Some(("Qdrant", "loopback:PORT, and run it on this machine")),
        };
        if let Some((name, want)) = want {
            return Err(BackendError::Endpoint { kind: name, endpoint: kind.endpoint().clone(), want });
        }
        // They become parts of a path.
        for name in kind.names() {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
                return Err(wrong(format!("`{name}` is no name of letters, digits, dots, dashes and underscores")));
            }
        }
        Ok(Self { kind, password })
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        self.kind.endpoint()
    }

    /// Connects, and makes what the store lies in if it is not there.
    ///
    /// # Errors
    /// Whatever keeps the database from serving.
    pub fn open(self, dial: Arc<dyn Dial>) -> Result<Arc<dyn VectorStore>, BackendError> {
        Ok(match self.kind {
            Kind::Chroma(config) => {
                let http = Http::new(config.endpoint, dial, None, usize::from(config.connections.get()));
                let chroma = Chroma::open(http, &config.tenant, &config.database, &config.collection)?;
                Arc::new(EntryStore::new(Journaled::new(chroma, config.read_only)))
            }
            Kind::Postgres(config) => Arc::new(EntryStore::new(Postgres::open(&config, self.password, dial)?)),
            Kind::Qdrant(config) => {
                let key = self.password.map(|key| ("api-key", key));
                let http = Http::new(config.endpoint, dial, key, usize::from(config.connections.get()));
                let qdrant = Qdrant::open(http, &config.collection)?;
                Arc::new(EntryStore::new(Journaled::new(qdrant, config.read_only)))
            }
        })
    }
}

impl Kind {
    fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Chroma(config) => &config.endpoint,
            Self::Postgres(config) => &config.endpoint,
            Self::Qdrant(config) => &config.endpoint,
        }
    }

    fn password_file(&self) -> Option<&Path> {
        match self {
            Self::Chroma(_) => None,
            Self::Postgres(config) => config.password_file.as_deref(),
            Self::Qdrant(config) => config.password_file.as_deref(),
        }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Chroma(config) => vec![&config.tenant, &config.database, &config.collection],
            Self::Postgres(_) => Vec::new(),
            Self::Qdrant(config) => vec![&config.collection],
        }
    }
}

/// A password that only this account can read.
fn password(path: &Path) -> Result<Zeroizing<String>, BackendError> {
    let wrong = |problem: String| BackendError::Config { path: path.to_owned(), problem };
    let mode = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(wrong(format!("others may open this password (mode {:o}); chmod 600", mode & 0o777)));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?);
    let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if text.is_empty() || text.contains(|c: char| c.is_control()) {
        return Err(wrong("a password is one line".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str, mode: u32) -> Result<Backend, BackendError> {
        let folder = tempfile::tempdir().unwrap();
        let (config, secret) = (folder.path().join("store.toml"), folder.path().join("secret"));
        fs::write(&config, text).unwrap();
        fs::write(&secret, "open sesame\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        Backend::read(&config)
    }

    fn refusal(text: &str, mode: u32) -> String {
        read(text, mode).map(drop).unwrap_err().to_string()
    }

    const GOOD: &str = "kind = \"postgres\"\nendpoint = \"unix:/run/x\"\ndatabase = \"d\"\nuser = \"u\"\n";

    #[test]
    fn a_password_that_others_could_read_and_unknown_keys_are_refused() {
        let with_password = format!("{GOOD}password-file = \"secret\"\n");
        let backend = read(&with_password, 0o600).unwrap();
        assert_eq!(backend.password.unwrap().as_str(), "open sesame");
        for mode in [0o640, 0o604, 0o666] {
            assert!(refusal(&with_password, mode).contains("others may open this password"));
        }
        assert!(refusal(&format!("{GOOD}password = \"x\"\n"), 0o600).contains("unknown field `password`"));
        assert!(refusal(&format!("{GOOD}connections = 0\n"), 0o600).contains("nonzero"));
        assert!(refusal(&GOOD.replace("postgres", "oracle"), 0o600).contains("unknown variant `oracle`"));
        assert!(refusal(&GOOD.replace("unix:/run/x", "tls:db:5432"), 0o600).contains("unix:SOCKET"));
        assert!(refusal("", 0o600).contains("kind"));
        for kind in ["qdrant", "chroma"] {
            let good = format!("kind = \"{kind}\"\nendpoint = \"loopback:6333\"\n");
            assert!(read(&good, 0o600).is_ok(), "{kind}");
            assert!(refusal(&good.replace("loopback:", "tls:db:"), 0o600).contains("loopback:PORT"), "{kind}");
            assert!(refusal(&format!("{good}collection = \"a/../b\"\n"), 0o600).contains("a/../b"), "{kind}");
        }
    }
}
