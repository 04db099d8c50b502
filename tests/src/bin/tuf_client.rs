//! The TUF client that foreign conformance suites drive: the command line of tuf-conformance's `CLIENT-CLI.md` over the client workflow
//! that `host/bundle` verifies with. Plain HTTP on loopback. Never part of a site.
//!
//! ```text
//! casemate-tuf-client --metadata-dir DIR init ROOT
//! casemate-tuf-client --metadata-dir DIR --metadata-url URL refresh
//! casemate-tuf-client --metadata-dir DIR --metadata-url URL --target-name NAME... --target-base-url URL --target-dir DIR download
//! ```
//!
//! Exit code 0 when everything was done, 1 when anything was refused. Expiry is judged by the system's clock, which the suite fakes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use jiff::Timestamp;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{Error, MetadataStore, Repository, Result, Updater};

/// The longest response head, in bytes.
const MAX_HEAD: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Args {
    #[arg(long)]
    metadata_dir: PathBuf,
    #[arg(long)]
    metadata_url: Option<String>,
    #[arg(long)]
    target_name: Vec<String>,
    #[arg(long)]
    target_base_url: Option<String>,
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes the trusted root, unchecked: it is checked whenever it is used.
    Init { root: PathBuf },
    /// Brings the top-level metadata up to date.
    Refresh,
    /// Brings the metadata up to date and fetches targets.
    Download,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes = std::iter::successors(Some(&*error), |error| error.source());
            eprintln!("error: {}", causes.map(ToString::to_string).collect::<Vec<_>>().join(": "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = args.metadata_dir.join("root.json");
    if let Command::Init { root: trusted } = &args.command {
        fs::create_dir_all(&args.metadata_dir)?;
        fs::copy(trusted, root)?;
        return Ok(());
    }
    let download = matches!(args.command, Command::Download);
    if download && (args.target_name.is_empty() || args.target_base_url.is_none() || args.target_dir.is_none()) {
        return Err("download needs --target-name, --target-base-url and --target-dir".into());
    }
    let loopback = Loopback {
        metadata: args.metadata_url.clone().ok_or("--metadata-url is missing")?,
        targets: args.target_base_url.clone().unwrap_or_default(),
    };
    let trusted = Trusted { metadata: args.metadata_dir.clone(), targets: args.target_dir.clone() };
    let mut updater = Updater::new(loopback, &fs::read(root)?)?.with_store(trusted);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let now = Timestamp::now();
    runtime.block_on(updater.refresh(now))?;
    if download {
        for name in &args.target_name {
            runtime.block_on(updater.get_target(name, now))?;
        }
    }
    Ok(())
}

/// What was verified: metadata under the names of their roles, targets in a folder of their own.
struct Trusted {
    metadata: PathBuf,
    targets: Option<PathBuf>,
}

impl Trusted {
    /// Where a file lies; nowhere for a second copy under a version's number.
    fn path(&self, name: &str) -> Option<PathBuf> {
        if let Some(target) = name.strip_prefix("targets/") {
            return Some(self.targets.as_ref()?.join(file_name(target)));
        }
        let numbered = name.strip_suffix(".snapshot.json").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        (!numbered && !name.contains('/')).then(|| self.metadata.join(name))
    }
}

impl MetadataStore for Trusted {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.path(name) else { return Ok(None) };
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(failed(&path)),
        }
    }

    fn store(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.path(name).map_or(Ok(()), |path| fs::write(&path, bytes).map_err(failed(&path)))
    }
}

/// A repository behind `http://ADDRESS:PORT/`.
struct Loopback {
    metadata: String,
    targets: String,
}

impl Repository for Loopback {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(std::future::ready(get(&self.metadata, name, max_length)))
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(std::future::ready(get(&self.targets, &url_path(path), max_length)))
    }
}

/// Fetches at most `max` bytes; `None` when the server has no such file.
fn get(base: &str, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
    let refuse = |why: &str| Error::transport(format!("{path}: {why}"));
    let url = base.strip_prefix("http://").ok_or_else(|| refuse("the address is not http://"))?;
    let (address, folder) = url.split_once('/').unwrap_or((url, ""));
    let folder = folder.trim_end_matches('/');
    let mut stream = TcpStream::connect(address).map_err(failed(Path::new(address)))?;
    let request = format!("GET /{folder}/{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let sent = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(request.as_bytes()));
    sent.map_err(failed(Path::new(address)))?;

    // One byte more than allowed is enough to know that there is too much.
    let mut response = Vec::new();
    let most = (MAX_HEAD as u64).saturating_add(max).saturating_add(1);
    stream.take(most).read_to_end(&mut response).map_err(failed(Path::new(address)))?;
    let end = response.windows(4).take(MAX_HEAD).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = response.split_at(end.ok_or_else(|| refuse("the response has no head"))? + 4);
    let head = String::from_utf8_lossy(head);
    match head.split(' ').nth(1) {
        Some("200") => {}
        Some("403" | "404") => return Ok(None),
        _ => return Err(refuse("the server did not answer with the file")),
    }
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok()).flatten()
    });
    if length.unwrap_or(0).max(body.len() as u64) > max {
        return Err(refuse(&format!("more than {max} bytes")));
    }
    if length.is_some_and(|length| length != body.len() as u64) {
        return Err(refuse("cut off"));
    }
    Ok(Some(body.to_vec()))
}

/// A target's path as one file name.
fn file_name(target: &str) -> String {
    escape(target, b"-_.~")
}

/// A target's path in a URL (RFC 3986 section 3.3).
fn url_path(path: &str) -> String {
    escape(path, b"-_.~!$&'()*+,;=:@/")
}

fn escape(text: &str, plain: &[u8]) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn failed(what: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = what.display().to_string();
    move |error| Error::transport(format!("{what}: {error}"))
}
