//! `casemate witness`: the second custodian's process.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use casemate_audit::{CheckpointSigner, FileSigner, SignError, Witness, WitnessError, serve_directory, serve_socket};
use casemate_hsm::{Key, KeyClass, KeyRef, Keyring, Module, Pin};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::args::WitnessCommand;
use crate::failure::{Failure, code};
use crate::{environment, output};

/// How often a folder is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub fn run(command: WitnessCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        WitnessCommand::Init { dir, name, module, module_env, token_label, pin_file } => {
            let token = match (module, token_label) {
                (Some(module), Some(label)) => Some((module, label, module_env)),
                _ => None,
            };
            init(&dir, &name, token, pin_file.as_deref(), json)
        }
        WitnessCommand::AddLog { dir, key, hand_over, pin_file } => {
            let key = match fs::read_to_string(&key) {
                Ok(text) => text.trim().to_owned(),
                Err(_) => key,
            };
            let mut witness = open(&dir, pin_file.as_deref())?;
            match hand_over {
                None => witness.add_log(&key)?,
                Some(path) => {
                    let pinned = fs::read(&path)
                        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
                    witness.hand_over(&key, &pinned)?;
                }
            }
            said(json, &serde_json::json!({ "log": key }), "The witness knows the log from now on.")
        }
        WitnessCommand::Cosign { dir, folder, pin_file } => cosign(&dir, &folder, pin_file.as_deref(), json),
        WitnessCommand::Serve { dir, socket: Some(socket), pin_file, .. } => {
            let listener = listen(&socket)?;
            environment::lock_down()?;
            log_to_stderr();
            let mut witness = open(&dir, pin_file.as_deref())?;
            said(json, &serde_json::json!({ "socket": socket }), &format!("Cosigning at {}.", socket.display()))?;
            Err(Failure::caused_by("the witness stopped", &serve_socket(&mut witness, &listener)))
        }
        WitnessCommand::Serve { dir, folder, pin_file, .. } => {
            let folder = folder.ok_or_else(|| Failure::new("give --socket or --folder").with_code(2))?;
            environment::lock_down()?;
            log_to_stderr();
            let mut witness = open(&dir, pin_file.as_deref())?;
            said(json, &serde_json::json!({ "folder": folder }), &format!("Cosigning in {}.", folder.display()))?;
            loop {
                // Media may be away; the next look finds them.
                if let Err(error) = serve_directory(&mut witness, &folder) {
                    tracing::debug!(%error, "the folder cannot be read");
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// Where the witness's key is, when it is in a token.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TokenFile {
    module: PathBuf,
    environment: BTreeMap<String, String>,
    token_label: String,
    key: KeyRef,
}

fn init(
    dir: &Path,
    name: &str,
    token: Option<(PathBuf, String, Vec<String>)>,
    pin_file: Option<&Path>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let cannot = |error: &dyn std::error::Error| Failure::caused_by(format!("cannot make {}", dir.display()), error);
    fs::create_dir_all(dir).map_err(|error| cannot(&error))?;
    if dir.join("witness.vkey").exists() {
        return Err(Failure::new(format!("{} holds a witness already", dir.display())).hint("another folder"));
    }
    let public = match token {
        None => FileSigner::create(&dir.join("witness.key")).map_err(|error| cannot(&error))?.public_key(),
        Some((module, token_label, variables)) => {
            let environment: BTreeMap<_, _> =
                variables.iter().map(|text| environment::pair(text)).collect::<Result<_, _>>()?;
            set_variables(dir, &environment)?;
            let keyring = keyring(&module, &token_label, pin_file)?;
            let key = keyring.generate(KeyClass::AuditSigning, "witness").map_err(|error| cannot(&error))?;
            let public = keyring.find(&key).and_then(|key| keyring.public_key(&key)).map_err(|error| cannot(&error))?;
            let text = serde_json::to_vec_pretty(&TokenFile { module, environment, token_label, key })
                .map_err(|error| cannot(&error))?;
            fs::write(dir.join("token.json"), text).map_err(|error| cannot(&error))?;
            public
        }
    };
    let key = Witness::init(dir, name, public)?.vkey();
    said(
        json,
        &serde_json::json!({ "witness-key": key }),
        &format!("The witness is ready. Its key, for `[audit.witness]` in site.toml and for auditors:\n  {key}"),
    )
}

fn open(dir: &Path, pin_file: Option<&Path>) -> Result<Witness, Failure> {
    Witness::key_of(dir)?;
    let token = dir.join("token.json");
    let signer: Box<dyn CheckpointSigner> = match fs::read(&token) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Box::new(
            FileSigner::open(&dir.join("witness.key"))
                .map_err(|error| Failure::caused_by("cannot use the witness's key", &error))?,
        ),
        Err(error) => return Err(Failure::caused_by(format!("cannot read {}", token.display()), &error)),
        Ok(bytes) => {
            let file: TokenFile = serde_json::from_slice(&bytes)
                .map_err(|error| Failure::caused_by(format!("cannot read {}", token.display()), &error))?;
            set_variables(dir, &file.environment)?;
            Box::new(TokenSigner::open(&file, pin_file)?)
        }
    };
    Ok(Witness::open(dir, signer)?)
}

fn cosign(dir: &Path, folder: &Path, pin_file: Option<&Path>, json: bool) -> Result<ExitCode, Failure> {
    environment::lock_down()?;
    let mut witness = open(dir, pin_file)?;
    let answers = serve_directory(&mut witness, folder)
        .map_err(|error| Failure::caused_by(format!("cannot answer in {}", folder.display()), &error))?;
    let mut refused = answers.is_empty();
    for (name, answer) in &answers {
        let status = answer.lines().next().unwrap_or_default();
        refused |= status != "200 ok" && !status.ends_with("conflict");
        let detail = if status == "200 ok" { "" } else { answer.lines().nth(1).unwrap_or_default() };
        said(
            json,
            &serde_json::json!({ "request": name, "answer": status, "detail": detail }),
            &format!("{name}: {status} {detail}"),
        )?;
    }
    if answers.is_empty() {
        return Err(Failure::new(format!("there is no request in {}", folder.display()))
            .hint("the log leaves one when site.toml names this folder under [audit.witness]"));
    }
    Ok(if refused { ExitCode::from(code::VERIFICATION) } else { ExitCode::SUCCESS })
}

/// Binds the socket; one that a dead witness left is replaced.
fn listen(socket: &Path) -> Result<UnixListener, Failure> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(Failure::new(format!("somebody answers at {} already", socket.display())));
    }
    match fs::symlink_metadata(socket) {
        Ok(there) if std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => {
            let _ = fs::remove_file(socket);
        }
        _ => {}
    }
    UnixListener::bind(socket)
        .map_err(|error| Failure::caused_by(format!("cannot listen at {}", socket.display()), &error))
}

/// Sets what the token's module reads; `{site}` stands for the witness's folder. No thread has been started yet.
fn set_variables(dir: &Path, variables: &BTreeMap<String, String>) -> Result<(), Failure> {
    let absolute = environment::absolute(dir)?;
    let filled = variables.iter().map(|(name, value)| (name.clone(), value.replace("{site}", &absolute)));
    environment::set_variables(filled);
    Ok(())
}

fn log_to_stderr() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
}

fn said(json: bool, value: &serde_json::Value, text: &str) -> Result<ExitCode, Failure> {
    if json {
        output::json(value)?
    } else {
        output::line(text)?
    }
    Ok(ExitCode::SUCCESS)
}

fn keyring(module: &Path, label: &str, pin_file: Option<&Path>) -> Result<Arc<Keyring>, Failure> {
    let path = pin_file.ok_or_else(|| Failure::new("the witness's key is in a token: give --pin-file").with_code(2))?;
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    let failed = |error: &casemate_hsm::HsmError| Failure::caused_by("cannot open the witness's token", error);
    let pin = Pin::new(Zeroizing::new(text)).map_err(|error| failed(&error))?;
    let module = Module::load(module).map_err(|error| failed(&error))?;
    Keyring::open(module, label, &pin).map_err(|error| failed(&error))
}

struct TokenSigner {
    keyring: Arc<Keyring>,
    key: Key,
    public: [u8; 32],
}

impl TokenSigner {
    fn open(file: &TokenFile, pin_file: Option<&Path>) -> Result<Self, Failure> {
        let keyring = keyring(&file.module, &file.token_label, pin_file)?;
        let failed = |error: &casemate_hsm::HsmError| Failure::caused_by("cannot use the witness's key", error);
        let key = keyring.find(&file.key).map_err(|error| failed(&error))?;
        let public = keyring.public_key(&key).map_err(|error| failed(&error))?;
        Ok(Self { keyring, key, public })
    }
}

impl CheckpointSigner for TokenSigner {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.keyring.sign(&self.key, message)?)
    }
}

impl From<WitnessError> for Failure {
    fn from(error: WitnessError) -> Self {
        Self::caused_by("the witness", &error)
    }
}
