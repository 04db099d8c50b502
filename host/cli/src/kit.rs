//! The offline install package: its list of sums, signatures over that list, and the one file that goes on media. `cargo xtask kit`
//! gathers what is in it; `install.sh` in it verifies without this program.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_archive::{Limits, Names, Reader, Writer};
use casemate_bundle::TrustRoot;
use casemate_types::Digest;
use clap::Subcommand;

use crate::bundle::args::KeyOptions;
use crate::bundle::key_file;
use crate::failure::{Failure, code};
use crate::output;

#[derive(Subcommand)]
pub enum KitCommand {
    /// Write the public key of each approver of the site's root of trust as NAME.pem, for `install.sh --key`.
    Keys {
        /// The folder to write to.
        out: PathBuf,
    },
    /// Pack the folder into one strict USTAR file, the same bytes for the same content.
    Pack {
        /// The kit's folder.
        kit: PathBuf,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write SHA256SUMS over all that is in the folder; signatures over an older one go.
    Seal {
        /// The kit's folder.
        kit: PathBuf,
    },
    /// Check every sum and add an approver's signature over SHA256SUMS. Two must sign.
    Sign {
        /// The kit's folder.
        kit: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
}

const SUMS: &str = "SHA256SUMS";
const SIGNATURES: &str = "signatures";

/// DSSE v1 payload type of the list: what approvers sign for a kit cannot be taken for anything else that they sign.
const PAYLOAD_TYPE: &str = "application/vnd.casemate.kit.sha256sums";

/// What the one file may hold.
const LIMITS: Limits = Limits { entry: 1 << 30, total: 4 << 30, entries: 50_000 };

pub fn run(site: &Path, command: KitCommand, json: bool) -> Result<ExitCode, Failure> {
    let (value, said) = match command {
        KitCommand::Keys { out } => keys(site, &out)?,
        KitCommand::Pack { kit, out } => pack(&kit, &out)?,
        KitCommand::Seal { kit } => seal(&kit)?,
        KitCommand::Sign { kit, key } => sign(&kit, &key)?,
    };
    if json {
        output::json(&value)?;
    } else {
        output::line(&said)?;
    }
    Ok(ExitCode::SUCCESS)
}

type Said = (serde_json::Value, String);

fn seal(kit: &Path) -> Result<Said, Failure> {
    let signatures = kit.join(SIGNATURES);
    if signatures.exists() {
        fs::remove_dir_all(&signatures).map_err(cannot("remove", &signatures))?;
    }
    let sums = sums(kit)?;
    let path = kit.join(SUMS);
    fs::write(&path, &sums).map_err(cannot("write", &path))?;
    let digest = Digest::of(sums.as_bytes());
    Ok((serde_json::json!({ "sums": digest }), format!("{} is {digest}; two approvers must sign it", path.display())))
}

fn sign(kit: &Path, key: &KeyOptions) -> Result<Said, Failure> {
    let (key, _) = key_file(key)?;
    let listed = checked_sums(kit)?;
    let signature = key.sign_dsse(&message(&listed))?;
    let name = &key.public().name;
    let path = kit.join(SIGNATURES).join(format!("{name}.sig"));
    fs::create_dir_all(kit.join(SIGNATURES)).map_err(cannot("create", &path))?;
    fs::write(&path, signature).map_err(cannot("write", &path))?;
    let digest = Digest::of(&listed);
    Ok((
        serde_json::json!({ "signer": name, "sums": digest }),
        format!("{name} signed {SUMS} {digest}, after every sum in it was checked"),
    ))
}

fn pack(kit: &Path, out: &Path) -> Result<Said, Failure> {
    checked_sums(kit)?;
    let mut names = files(kit)?;
    names.insert(SUMS.to_owned());
    let signatures = kit.join(SIGNATURES);
    if signatures.is_dir() {
        names.extend(files(&signatures)?.into_iter().map(|name| format!("{SIGNATURES}/{name}")));
    }
    let failed = |error: casemate_archive::ArchiveError| Failure::caused_by("cannot pack the kit", &error);
    let file = File::create_new(out).map_err(cannot("create", out))?;
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, file), LIMITS).names(Names::Files);
    for name in &names {
        let path = kit.join(name);
        writer.push(name, &fs::read(&path).map_err(cannot("read", &path))?).map_err(failed)?;
    }
    let file =
        writer.finish().map_err(failed)?.into_inner().map_err(|error| cannot("write", out)(error.into_error()))?;
    file.sync_all().map_err(cannot("write", out))?;
    let input = File::open(out).map_err(cannot("read", out))?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, input), LIMITS).names(Names::Files);
    let mut read = 0;
    while reader.entry().map_err(failed)?.is_some() {
        read += 1;
    }
    Ok((
        serde_json::json!({ "archive": out, "entries": read }),
        format!("{} holds {read} files; it was read back", out.display()),
    ))
}

/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 section 4), up to the key.
const ED25519_SPKI: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

fn keys(site: &Path, out: &Path) -> Result<Said, Failure> {
    let path = site.join("trust/root.json");
    let bytes = fs::read(&path).map_err(cannot("read", &path))?;
    // Checked first; then the key objects of TUF 1.0.34 section 4.2 are taken from it as they stand.
    TrustRoot::parse(&bytes)?;
    let root: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| Failure::caused_by("the root of trust is no JSON", &error))?;
    fs::create_dir_all(out).map_err(cannot("create", out))?;
    let mut written = Vec::new();
    for key in root["signed"]["keys"].as_object().into_iter().flat_map(|keys| keys.values()) {
        let public = key["keyval"]["public"].as_str().unwrap_or_default();
        let name = key["x-casemate-approver"].as_str().unwrap_or_default();
        let pem = match (key["keytype"].as_str(), hex::decode(public)) {
            (Some("ed25519"), Ok(raw)) => format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                STANDARD.encode([&ED25519_SPKI[..], &raw].concat())
            ),
            // An ECDSA key is PEM already.
            _ if public.starts_with("-----BEGIN PUBLIC KEY-----") => public.to_owned(),
            _ => return Err(Failure::new(format!("the key of {name} has a form that openssl cannot be given"))),
        };
        let path = out.join(format!("{name}.pem"));
        fs::write(&path, pem).map_err(cannot("write", &path))?;
        written.push(path.display().to_string());
    }
    Ok((
        serde_json::json!({ "keys": written }),
        format!("{}\nCarry them apart from the kit: a key that comes with it proves nothing.", written.join("\n")),
    ))
}

/// The pre-authentication encoding of DSSE v1 (protocol.md).
fn message(sums: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), sums.len());
    [head.as_bytes(), sums].concat()
}

/// SHA256SUMS as it stands, if it is what the folder holds.
fn checked_sums(kit: &Path) -> Result<Vec<u8>, Failure> {
    let path = kit.join(SUMS);
    let listed = fs::read(&path).map_err(cannot("read", &path))?;
    let found = sums(kit)?;
    if listed != found.as_bytes() {
        let listed = String::from_utf8_lossy(&listed);
        let differs = |one: &str, other: &str| -> Option<String> {
            let other: BTreeSet<&str> = other.lines().collect();
            one.lines().find(|line| !other.contains(line)).map(|line| line.chars().skip(66).collect())
        };
        let named = differs(&found, &listed).or_else(|| differs(&listed, &found));
        return Err(Failure::new(format!(
            "the kit is not what {SUMS} lists: {}",
            named.unwrap_or_else(|| "its lines are in another order".to_owned())
        ))
        .with_code(code::VERIFICATION)
        .hint("make the kit again with `cargo xtask kit`"));
    }
    Ok(listed)
}

/// The lines of `sha256sum`, sorted by name.
fn sums(kit: &Path) -> Result<String, Failure> {
    let mut lines = String::new();
    for name in files(kit)? {
        let path = kit.join(&name);
        let digest = Digest::of(&fs::read(&path).map_err(cannot("read", &path))?);
        lines.push_str(&format!("{}  {name}\n", digest.hex()));
    }
    Ok(lines)
}

/// Every file below `folder` but the list and the signatures. Anything that is neither file nor folder is refused.
fn files(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(cannot("read", &dir))? {
            let path = entry.map_err(cannot("read", &dir))?.path();
            let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
            let name = name.ok_or_else(|| Failure::new(format!("{} is no name for a kit", path.display())))?;
            if name == SUMS || name == SIGNATURES {
                continue;
            }
            let kind = fs::symlink_metadata(&path).map_err(cannot("read", &path))?.file_type();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                found.insert(name.to_owned());
            } else {
                return Err(Failure::new(format!("{} is a link or a device", path.display()))
                    .with_code(code::VERIFICATION)
                    .hint("a kit holds files and folders only"));
            }
        }
    }
    Ok(found)
}

fn cannot<'a>(action: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Failure + 'a {
    move |error| Failure::caused_by(format!("cannot {action} {}", path.display()), &error)
}
