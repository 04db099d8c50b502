//! The inference tier as a process of its own, its certificates, and who dials for a gate that is locked down.

pub mod args;

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use casemate_backends::Backend;
use casemate_sandbox::{Confinement, Profile, confine, lock_down, self_check};
use casemate_tier::{
    Authority, Broker, ClientTls, Endpoint, Limits, Remote, Role, ServerTls, TierServer, answer_dials, dialler,
    install_dialler,
};
use casemate_vectors::{SledStore, VectorStore};

use self::args::{CaCommand, InferenceCommand, MoveOptions, ServeOptions};
use crate::failure::Failure;
use crate::output;

pub fn run(command: InferenceCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        InferenceCommand::Serve(options) => serve(&options, json),
        InferenceCommand::Export(options) => export(&options, json),
        InferenceCommand::Import(options) => import(&options, json),
        InferenceCommand::Ca(command) => authority(command, json),
        InferenceCommand::Dial { endpoints } => dial(&endpoints),
    }
}

fn serve(options: &ServeOptions, json: bool) -> Result<ExitCode, Failure> {
    // What it needs of the network is made first; after the lock-down nobody can make more.
    let unix = options.unix.as_deref().map(bind_unix).transpose()?;
    let tls = options.tls.map(|address| {
        let listener = TcpListener::bind(address);
        listener.map_err(|error| Failure::caused_by(format!("cannot listen on {address}"), &error))
    });
    let tls = tls.transpose()?;
    let server_tls = match (&tls, &options.certificates) {
        (Some(_), Some(folder)) => Some(ServerTls::read(folder, &options.name)?),
        _ => None,
    };
    let mut left = Confinement {
        read: vec![PathBuf::from("/proc/self"), PathBuf::from("/sys/fs/cgroup")],
        ..Confinement::default()
    };
    if let Some(folder) = &options.store {
        fs::create_dir_all(folder)
            .map_err(|error| Failure::caused_by(format!("cannot make {}", folder.display()), &error))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .map_err(|error| Failure::caused_by(format!("cannot close {} to others", folder.display()), &error))?;
        left.write.push(folder.clone());
    }
    // Its password is read now: afterwards its folder is out of reach.
    let backend = options.backend.as_deref().map(Backend::read).transpose()?;
    if let Some(backend) = &backend {
        start_broker(vec![backend.endpoint().clone()])?;
    }
    let client_tls = match (&options.store_of, &options.certificates) {
        (Some(endpoint), certificates) => {
            start_broker(vec![endpoint.clone()])?;
            certificates.as_deref().map(|folder| ClientTls::read(folder, &options.name)).transpose()?
        }
        (None, _) => None,
    };
    let enforced = confine(&left).map_err(|error| Failure::caused_by("cannot confine this process", &error))?;
    lock_down(Profile::Listener)
        .map_err(|error| Failure::caused_by("cannot close the network for this process", &error))?;
    self_check().map_err(|error| Failure::caused_by("the network is not closed for this process", &error))?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();

    let (store, keeps): (Arc<dyn VectorStore>, bool) = match (&options.store, backend, &options.store_of) {
        (Some(folder), ..) => (Arc::new(open_store(folder)?), true),
        (None, Some(backend), _) => (backend.open(dialler())?, true),
        (None, None, Some(endpoint)) => (Arc::new(Remote::new(endpoint.clone(), client_tls, dialler())?), false),
        (None, None, None) => return Err(Failure::new("name a store: --store, --backend or --store-of").with_code(2)),
    };
    let limits = Limits {
        connections: options.connections,
        per_client: options.per_client,
        scoring: options.scoring.max(1),
        ..Limits::default()
    };
    let server = Arc::new(TierServer::new(store, keeps, options.memory.bytes(), limits));
    let listening = [
        options.unix.as_ref().map(|path| format!("unix:{}", path.display())),
        tls.as_ref().and_then(|listener| listener.local_addr().ok()).map(|address| format!("tls:{address}")),
    ];
    let listening: Vec<String> = listening.into_iter().flatten().collect();
    if json {
        output::json(&serde_json::json!({ "listening": listening, "confined": enforced.to_string() }))?;
    } else {
        output::line(&format!(
            "Inference tier on {} (no socket can be made any more; {enforced}; stop with Ctrl-C)",
            listening.join(" and ")
        ))?;
    }
    std::thread::scope(|scope| {
        let over_unix = unix.as_ref().map(|listener| scope.spawn(|| server.serve_unix(listener)));
        let done = match (&tls, &server_tls) {
            (Some(listener), Some(tls)) => server.serve_tls(listener, tls),
            _ => Ok(()),
        };
        done.and_then(|()| {
            over_unix.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
        })
    })
    .map_err(|error| Failure::caused_by("the tier stopped", &error))?;
    Ok(ExitCode::SUCCESS)
}

fn open_store(folder: &Path) -> Result<SledStore, Failure> {
    SledStore::open(folder).map_err(|error| {
        Failure::caused_by(format!("cannot open the store in {}", folder.display()), &error)
            .hint("one process at a time may have it open")
    })
}

fn export(options: &MoveOptions, json: bool) -> Result<ExitCode, Failure> {
    let tier = keeper(options)?;
    let failed = |error| Failure::caused_by(format!("cannot write {}", options.file.display()), &error);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&options.file).map_err(failed)?;
    let done = tier.export(&mut file).map_err(|error| Failure::caused_by("the store was not exported", &error));
    if done.is_err() {
        // Half an export is of no use; its checksum would say so.
        let _ = fs::remove_file(&options.file);
    }
    done?;
    file.sync_all().map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    said(json, &format!("{bytes} bytes in {}", options.file.display()))
}

fn import(options: &MoveOptions, json: bool) -> Result<ExitCode, Failure> {
    let tier = keeper(options)?;
    let mut file = fs::File::open(&options.file)
        .map_err(|error| Failure::caused_by(format!("cannot open {}", options.file.display()), &error))?;
    tier.import(&mut file).map_err(|error| Failure::caused_by("the store was not imported", &error))?;
    said(json, &format!("{} imported into {}", options.file.display(), options.tier))
}

fn keeper(options: &MoveOptions) -> Result<Remote, Failure> {
    let tls = options.certificates.as_deref().map(|folder| ClientTls::read(folder, "gate")).transpose()?;
    Ok(Remote::new(options.tier.clone(), tls, dialler())?)
}

fn said(json: bool, words: &str) -> Result<ExitCode, Failure> {
    if json {
        output::json(&serde_json::json!({ "done": words }))?;
    } else {
        output::line(words)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A socket that only this account can open, unless the operator opens its mode. One that nobody serves any more is replaced.
fn bind_unix(path: &Path) -> Result<UnixListener, Failure> {
    let failed = |error| Failure::caused_by(format!("cannot make the socket {}", path.display()), &error);
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(Failure::new(format!("{} is there and is no socket", path.display())));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(Failure::new(format!("another process serves {}", path.display())));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn authority(command: CaCommand, json: bool) -> Result<ExitCode, Failure> {
    let said = match command {
        CaCommand::Init { folder, name } => {
            Authority::create(&folder, &name)?;
            format!(
                "The authority is in {}. Keep the folder offline: who holds ca.key can make gates.",
                folder.display()
            )
        }
        CaCommand::Issue { ca, gate, tier: _, name, hosts, days, out } => {
            let (role, part) = if gate { (Role::Gate, "gate") } else { (Role::Tier, "tier") };
            let name = name.unwrap_or_else(|| part.to_owned());
            if role == Role::Tier && hosts.is_empty() {
                return Err(Failure::new("a tier's certificate needs the names or addresses that gates reach it by")
                    .hint("--host tier.example, --host 10.0.0.5")
                    .with_code(2));
            }
            Authority::open(&ca)?.issue(role, &name, &hosts, days, &out)?;
            format!(
                "{0}/{name}.pem, {0}/{name}.key, {0}/ca.pem, {0}/revoked.pem: {days} days as a {part}",
                out.display()
            )
        }
        CaCommand::Revoke { ca, name } => {
            Authority::open(&ca)?.revoke(&name)?;
            format!("Revoked. Carry {}/revoked.pem to every gate and tier, and restart them.", ca.display())
        }
    };
    self::said(json, &said)
}

/// Starts the process that dials `endpoints` for this one. Call before the lock-down.
pub fn start_broker(endpoints: Vec<Endpoint>) -> Result<(), Failure> {
    let failed = |error| Failure::caused_by("cannot start the process that dials inference tiers", &error);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    Command::new(program)
        .args(["inference", "dial"])
        .args(endpoints.iter().map(ToString::to_string))
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok(install_dialler(Arc::new(Broker::new(endpoints, ours)?))?)
}

/// The process that dials: it has no key, no file and no port but those of the endpoints.
fn dial(endpoints: &[Endpoint]) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::caused_by("the process that dials ended", &error);
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    stream.peer_addr().map_err(failed)?;
    let ports = endpoints.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Loopback(port) | Endpoint::Tls { port, .. } => Some(*port),
        Endpoint::Unix(_) => None,
    });
    let read = vec![PathBuf::from("/proc/self")];
    let mut left = Confinement { read, connect: ports.collect(), ..Confinement::default() };
    let dials_out = !left.connect.is_empty();
    if dials_out {
        // Names are looked up in /etc/hosts, or by whatever /etc/nsswitch.conf says.
        left.read.extend(["/etc", "/lib", "/usr/lib"].map(PathBuf::from));
    }
    confine(&left).map_err(|error| Failure::caused_by("cannot confine the process that dials", &error))?;
    if !dials_out {
        lock_down(Profile::FullAirGap)
            .map_err(|error| Failure::caused_by("cannot close the network for this process", &error))?;
    }
    answer_dials(stream, endpoints).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
