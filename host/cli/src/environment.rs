use std::fs;
use std::future::Future;
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use casemate_custody::{CustodyFolder, SplitPin, process};
use casemate_gate::{Gate, Session, SiteConfig};
use casemate_hsm::Role;
use casemate_sandbox::Profile;
use casemate_tier::Endpoint;
use casemate_types::UserName;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Sets the environment variables that the site's PKCS#11 module reads. Call before any thread is started.
pub fn prepare(site: &Path) -> Result<(), Failure> {
    let config = SiteConfig::read(site)?;
    set(site, &config)
}

/// As [`prepare`], for a configuration that is read already.
pub fn set(site: &Path, config: &SiteConfig) -> Result<(), Failure> {
    set_variables(variables(site, config)?);
    hold_opened(site, config)?;
    match &config.inference {
        None => Ok(()),
        Some(inference) => {
            let endpoints: Vec<Endpoint> = inference.endpoints(site).into_iter().collect();
            // A connected TCP socket could be turned around, unless nothing may connect.
            if endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Tls { .. })) {
                TIER_OVER_TCP.store(true, Ordering::Relaxed);
            }
            crate::inference::start_broker(endpoints)
        }
    }
}

/// What the modules of the site's tokens read, with the site's folder filled in.
pub fn variables(site: &Path, config: &SiteConfig) -> Result<Vec<(String, String)>, Failure> {
    variables_at(&absolute(site)?, config)
}

/// As [`variables`], for a folder that may not be there yet, as the module is going to see it.
pub fn variables_at(absolute: &str, config: &SiteConfig) -> Result<Vec<(String, String)>, Failure> {
    let mut variables = config.hsm.environment.clone();
    for (name, value) in config.hsm.backup.iter().flat_map(|backup| &backup.environment) {
        // Two modules cannot both have their way; one module for both tokens is configured once.
        if variables.insert(name.clone(), value.clone()).is_some_and(|other| other != *value) {
            return Err(Failure::new(format!("[hsm] and [hsm.backup] of site.toml set {name} to different values")));
        }
    }
    Ok(variables.into_iter().map(|(name, value)| (name, value.replace("{site}", absolute))).collect())
}

/// Sets what a PKCS#11 module reads. Call before any thread is started.
#[allow(unsafe_code, reason = "a PKCS#11 module is configured through the environment, and std offers no safe way")]
pub fn set_variables(variables: impl IntoIterator<Item = (String, String)>) {
    for (name, value) in variables {
        // SAFETY: `main` calls this before it starts a thread or the async runtime, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
}

/// As [`set_variables`], for `NAME=VALUE`.
pub fn set_pairs(pairs: &[String]) -> Result<(), Failure> {
    set_variables(pairs.iter().map(|text| pair(text)).collect::<Result<Vec<_>, _>>()?);
    Ok(())
}

/// The site's folder as the module must see it.
pub fn absolute(site: &Path) -> Result<String, Failure> {
    let path = fs::canonicalize(site).map_err(|error| {
        Failure::caused_by(format!("cannot find the site `{}`", site.display()), &error).hint("casemate init")
    })?;
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new("the site's path is not UTF-8"))
}

/// Refuses a folder that is no site, before anything is created in it.
pub fn require_site(site: &Path) -> Result<(), Failure> {
    if site.join("state.json").is_file() {
        return Ok(());
    }
    Err(Failure::new(format!("{} is no site: it holds no state.json", site.display()))
        .hint("casemate init, or name the site's folder with --site"))
}

/// How long work that was cut off may take to end.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// Runs async work on a fresh runtime.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::caused_by("cannot start the async runtime", &error))?;
    let done = runtime.block_on(work);
    // Work that hangs in a token or a disk must not keep the program from ending.
    runtime.shutdown_timeout(SHUTDOWN);
    done
}

/// Opens the site and a session of `user`, does the work, and ends the session in the log, whether or not the work was done.
pub async fn with_session<T, W: Future<Output = Result<T, Failure>>>(
    site: &Path,
    user: &UserName,
    work: impl FnOnce(Arc<Gate>, Arc<Session>) -> W,
) -> Result<T, Failure> {
    let (gate, session) = open(site, user).await?;
    let done = work(Arc::clone(&gate), Arc::clone(&session)).await;
    gate.finish().await;
    let closed = gate.close(&session).await;
    let done = done?;
    closed?;
    Ok(done)
}

/// Opens the site and a session of `user`, whose token a rehearsal site keeps in a file.
async fn open(site: &Path, user: &UserName) -> Result<(Arc<Gate>, Arc<Session>), Failure> {
    let gate = Arc::new(Gate::open(site).await?);
    let path = site.join(format!("users/{user}.token"));
    // A user without a token file gets the same answer, and the same record, as one with a wrong token.
    let token = fs::read_to_string(&path).unwrap_or_default();
    let session = gate.session(token.trim()).await?;
    Ok((gate, session))
}

/// Who gives an order, as far as this machine knows: the account that runs this process. Recorded, and no proof.
pub fn officer() -> String {
    use std::os::unix::fs::MetadataExt;
    // Asked for once: a process without core dumps has a folder that belongs to root.
    static OFFICER: OnceLock<String> = OnceLock::new();
    let ask =
        || fs::metadata("/proc/self").map_or_else(|_| "unknown account".to_owned(), |own| format!("uid {}", own.uid()));
    OFFICER.get_or_init(ask).clone()
}

/// What the session that opened the site's tokens handed over, as lines, until it is used.
static OPENED: Mutex<Option<Zeroizing<Vec<u8>>>> = Mutex::new(None);

/// Reads what `custodian open` passes on, before anything else is done.
pub fn take_opened(pipe: u32) -> Result<(), Failure> {
    officer();
    process::no_core_dumps()?;
    let unreadable =
        |error: std::io::Error| Failure::caused_by("cannot read what the custodians' session opened", &error);
    let mut lines = Zeroizing::new(Vec::with_capacity(MAX_OPENED + 1));
    let pipe = fs::File::open(format!("/proc/self/fd/{pipe}")).map_err(unreadable)?;
    pipe.take(MAX_OPENED as u64 + 1).read_to_end(&mut lines).map_err(unreadable)?;
    if lines.len() > MAX_OPENED {
        return Err(Failure::new("what the custodians' session opened is larger than any").with_code(2));
    }
    *OPENED.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines);
    Ok(())
}

/// Two lines, which fit into a pipe, so that the process that writes them can end before they are read.
const MAX_OPENED: usize = 16_384;

/// Passes it on to a process of this program that opens the site in the place of this one. The pipe has to live until it is started.
pub fn hand_on(command: &mut Command) -> Result<Option<PipeReader>, Failure> {
    let Some(lines) = OPENED.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(None) };
    let failed =
        |error: std::io::Error| Failure::caused_by("cannot pass on what the custodians' session opened", &error);
    let (reader, mut writer) = std::io::pipe().map_err(failed)?;
    writer.write_all(&lines).map_err(failed)?;
    inherit(&reader, command)?;
    Ok(Some(reader))
}

/// Lets a process have a pipe, and tells it which.
pub fn inherit(pipe: &PipeReader, command: &mut Command) -> Result<(), Failure> {
    rustix::io::fcntl_setfd(pipe, rustix::io::FdFlags::empty())
        .map_err(|error| Failure::caused_by("cannot pass on what the custodians' session opened", &error))?;
    command.arg("--opened-fd").arg(pipe.as_raw_fd().to_string());
    Ok(())
}

/// Takes the PINs of a site's tokens that this process was given, if they are split, and holds the folders of their shares: nobody
/// replaces the PINs while the site is open.
fn hold_opened(site: &Path, config: &SiteConfig) -> Result<(), Failure> {
    let split: Vec<(Role, PathBuf)> = [Role::Primary, Role::Backup]
        .into_iter()
        .filter_map(|role| Some((role, site.join(config.hsm.custody(role)?))))
        .collect();
    if split.is_empty() {
        return Ok(());
    }
    // Without it the site says by itself who opens it.
    let Some(lines) = OPENED.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
    // In the order of the roles; the folder tells whether it is this token's.
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for ((role, folder), line) in split.iter().zip(lines) {
        let pin = SplitPin::from_pipe(line)?.hold(CustodyFolder::open(folder)?)?;
        casemate_gate::provide_pin(*role, pin);
    }
    Ok(())
}

/// Splits `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), Failure> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| Failure::new(format!("`{text}` is not NAME=VALUE")).with_code(2))
}

/// Closes the network for this process and everything it starts. Call before any thread is started.
pub fn lock_down() -> Result<(), Failure> {
    let profile = if TIER_OVER_TCP.load(Ordering::Relaxed) { Profile::LoopbackListener } else { Profile::FullAirGap };
    lock_down_with(profile)
}

/// Whether the broker will hand over TCP sockets: then nothing in this process may connect, a daemon of a PKCS#11 module included.
static TIER_OVER_TCP: AtomicBool = AtomicBool::new(false);

/// As [`lock_down`], with a profile.
pub fn lock_down_with(profile: Profile) -> Result<(), Failure> {
    casemate_sandbox::lock_down(profile).map_err(|error| {
        Failure::caused_by("cannot close the network for this process", &error).hint("Linux with seccomp is needed")
    })
}
