//! Changes beside a running server: the command leaves a signed order or a signed bundle in the site's folder, and the process that has
//! the site open carries it out. Who may write that folder gains nothing: signatures are checked by whoever carries it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_bundle::Verified;
use casemate_change::{MAX_ORDER, ReceivedBundle};
use casemate_types::{Digest, Generation, PluginName};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::orders::CarriedOut;
use crate::site::Gate;
use crate::state::write_private;

/// How long a request may take; a large component takes seconds to compile.
const PATIENCE: Duration = Duration::from_secs(60);
/// A staging replays thousands of requests a second, and there may be many.
const STAGING_PATIENCE: Duration = Duration::from_secs(1800);
const FOLDER: &str = "inbox";

/// What can be asked of the process that has a site open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To activate a bundle.
    Bundle,
    /// To carry out an order.
    Order,
    /// To try a change on what was recorded.
    Stage,
    /// To make a change active that was approved.
    Activate,
    /// To let the component of a change run beside the active one.
    Shadow,
    /// To let it run beside no longer.
    Unshadow,
}

/// A bundle that became active.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Activated {
    /// Its plugin, or the name of the document.
    pub name: PluginName,
    /// `component`, or the kind of document.
    pub kind: String,
    /// Its version.
    pub version: u64,
    /// The generation that it is active in.
    pub generation: Generation,
    /// The whole file.
    pub digest: Digest,
    /// Who signed.
    pub signers: Vec<String>,
    /// What it may use.
    pub capabilities: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Reply {
    Done(serde_json::Value),
    Refused(String),
}

impl Request {
    fn patience(self) -> Duration {
        if self == Self::Stage { STAGING_PATIENCE } else { PATIENCE }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Order => "order",
            Self::Stage => "stage",
            Self::Activate => "activate",
            Self::Shadow => "shadow",
            Self::Unshadow => "unshadow",
        }
    }
}

/// Asks the process that has the site open, and waits until it has answered.
///
/// # Errors
/// [`GateError::InUse`] when that process does not answer; [`GateError::Refused`] with its words when it refuses.
pub fn ask_beside(site: &Path, request: Request, bytes: &[u8]) -> Result<serde_json::Value, GateError> {
    let folder = site.join(FOLDER);
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| GateError::Io { action, path, source }
    };
    fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    let path = folder.join(format!("{}.{}", Digest::of(bytes).hex(), request.suffix()));
    let reply = reply_to(&path);
    // What an earlier request was told is not the answer to this one.
    if reply.exists() {
        fs::remove_file(&reply).map_err(io("remove", &reply))?;
    }
    write_private(&path, bytes)?;
    let asked = Instant::now();
    while path.exists() {
        if asked.elapsed() > request.patience() {
            fs::remove_file(&path).map_err(io("take back", &path))?;
            return Err(GateError::InUse { path: site.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let bytes = fs::read(&reply).map_err(io("read", &reply))?;
    fs::remove_file(&reply).map_err(io("remove", &reply))?;
    match serde_json::from_slice(&bytes) {
        Ok(Reply::Done(value)) => Ok(value),
        Ok(Reply::Refused(why)) => Err(GateError::Refused(why)),
        Err(error) => Err(GateError::Config { path: reply, problem: error.to_string() }),
    }
}

impl From<(Verified, Generation)> for Activated {
    fn from((bundle, generation): (Verified, Generation)) -> Self {
        Self {
            name: bundle.name().clone(),
            kind: bundle.kind().to_owned(),
            version: bundle.version(),
            generation,
            digest: bundle.bundle_digest(),
            signers: bundle.signers().to_vec(),
            capabilities: bundle.capabilities(),
        }
    }
}

impl Gate {
    /// Activates a bundle, and says what became active.
    ///
    /// # Errors
    /// As [`Gate::load_bundle`].
    pub async fn activate(&self, raw: &[u8]) -> Result<Activated, GateError> {
        self.load_bundle(raw).await.map(Activated::from)
    }

    /// As [`Gate::activate`], for a change whose approvals were checked.
    pub(crate) async fn activate_approved(&self, raw: &[u8], against: Generation) -> Result<Activated, GateError> {
        self.load_approved(raw, Some(against)).await.map(Activated::from)
    }

    /// Stages, shadows and activates the changes that the inbox asks for. Returns what was asked for, and what became of it.
    pub async fn carry_out_changes(&self) -> Vec<(Request, Result<(), GateError>)> {
        let mut done = Vec::new();
        for request in [Request::Stage, Request::Activate, Request::Shadow, Request::Unshadow] {
            for path in self.waiting(request) {
                let content = read_capped(&path).and_then(|bytes| {
                    let text = String::from_utf8_lossy(&bytes).trim().parse();
                    text.map_err(|_| GateError::Refused("it names no change".to_owned()))
                });
                let result = match (content, request) {
                    (Err(error), _) => answer(&path, Err::<(), _>(error)),
                    (Ok(content), Request::Stage) => answer(&path, self.stage_change(content, |_| ()).await).map(drop),
                    (Ok(content), Request::Shadow) => answer(&path, self.shadow_change(content, true).await),
                    (Ok(content), Request::Unshadow) => answer(&path, self.shadow_change(content, false).await),
                    (Ok(content), _) => answer(&path, self.activate_change(content).await).map(drop),
                };
                done.push((request, result));
            }
        }
        done
    }

    /// Carries out the orders that lie in the inbox. Returns what became of each.
    pub async fn carry_out_orders(&self) -> Vec<Result<CarriedOut, GateError>> {
        let mut done = Vec::new();
        for path in self.waiting(Request::Order) {
            let result = match read_capped(&path) {
                Ok(bytes) => self.carry_out_order(&bytes).await,
                Err(error) => Err(error),
            };
            done.push(answer(&path, result));
        }
        done
    }

    /// Activates the bundles that lie in the inbox. Returns what became of each.
    pub async fn carry_out_bundles(&self) -> Vec<Result<Activated, GateError>> {
        let mut done = Vec::new();
        for path in self.waiting(Request::Bundle) {
            let result = match ReceivedBundle::read(&path) {
                Ok(received) => self.activate(received.as_bytes()).await,
                Err(error) => Err(error.into()),
            };
            done.push(answer(&path, result));
        }
        done
    }

    fn waiting(&self, request: Request) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.dir.join(FOLDER)) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|suffix| suffix == request.suffix())).collect()
    }
}

/// Leaves the answer. The request goes last, because that is what the other side waits for.
fn answer<T: Serialize>(path: &Path, result: Result<T, GateError>) -> Result<T, GateError> {
    let reply = match &result {
        Ok(done) => Reply::Done(serde_json::to_value(done).unwrap_or_default()),
        Err(error) => Reply::Refused(words(error)),
    };
    let reply = serde_json::to_vec(&reply).unwrap_or_default();
    write_private(&reply_to(path), &reply)?;
    fs::remove_file(path).map_err(|source| GateError::Io { action: "remove", path: path.to_owned(), source })?;
    result
}

/// An error and its causes on one line.
fn words(error: &GateError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn read_capped(path: &Path) -> Result<Vec<u8>, GateError> {
    use std::io::Read;
    let io = |source| GateError::Io { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(io)?.take(MAX_ORDER as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn reply_to(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".answer");
    PathBuf::from(name)
}
