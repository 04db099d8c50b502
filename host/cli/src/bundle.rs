//! `casemate bundle`: what crosses the air gap, from building to verifying, and the root of trust that says who may approve.

pub mod args;
mod build;
mod document;
mod evidence;
mod root;
mod show;
mod token;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use casemate_bundle::{ApproverKey, BundleError, Inspection, TrustRoot};
use casemate_gate::SiteConfig;
use casemate_types::Profile;
use zeroize::Zeroizing;

use crate::failure::{Failure, code};
use crate::output;
use args::{BundleCommand, KeyOptions};
pub use show::changes;

pub fn run(site: &Path, command: BundleCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        BundleCommand::Build(options) => build::run(site, &options, json),
        BundleCommand::Sign { bundle, key } => sign(site, &bundle, &key, json),
        BundleCommand::Inspect { bundle } => match holds_document(&bundle)? {
            true => document::inspect(site, &bundle, json),
            false => show::inspect(site, &bundle, json),
        },
        BundleCommand::Verify { bundle } => verify(site, &bundle, json),
        BundleCommand::Diff { old, new } => match holds_document(&new)? {
            true => document::diff(site, &old, &new, json),
            false => show::diff(site, &old, &new, json),
        },
        BundleCommand::Key(options) => root::new_key(&options, json),
        BundleCommand::TrustRoot(command) => root::run(site, command, json),
    }
}

fn sign(site: &Path, bundle: &Path, key: &KeyOptions, json: bool) -> Result<ExitCode, Failure> {
    let trust = trust(site)?;
    let key = signer(site, key)?;
    let signed = about(bundle, casemate_bundle::sign(&read(bundle)?, &key, &trust))?;
    write(bundle, &signed)?;
    let (signers, missing) = match casemate_bundle::is_document(&signed)? {
        true => {
            let inspection = casemate_bundle::inspect_document(&signed, &trust)?;
            (inspection.signers, inspection.missing_signatures)
        }
        false => {
            let inspection = casemate_bundle::inspect(&signed, &trust)?;
            (inspection.signers, inspection.missing_signatures)
        }
    };
    if json {
        output::json(&serde_json::json!({ "signers": signers, "missing": missing }))?;
    } else {
        output::line(&format!(
            "{} is signed by {}; {}",
            bundle.display(),
            signers.join(" and "),
            match missing {
                0 => "it can be loaded".to_owned(),
                missing => format!("{missing} more must sign"),
            }
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(site: &Path, bundle: &Path, json: bool) -> Result<ExitCode, Failure> {
    let now = casemate_gate::trusted_time_of(site)?;
    let verified = casemate_bundle::verify_any(&read(bundle)?, &trust(site)?, now).map_err(|error| {
        let clock_is_behind = matches!(error, BundleError::Expired { .. })
            && now.duration_since(jiff::Timestamp::now()) > jiff::SignedDuration::from_mins(1);
        let failure = Failure::from(error).about(bundle);
        if clock_is_behind {
            failure.hint(format!("the clock is behind the audit log, whose time ({now:.0}) counts: set it right"))
        } else {
            failure
        }
    })?;
    if json {
        output::json(&serde_json::json!({
            "verified": true, "name": verified.name(), "kind": verified.kind(), "version": verified.version(),
            "signers": verified.signers(), "digest": verified.bundle_digest(),
        }))?;
    } else {
        output::line(&format!(
            "{} {} is signed by {} and unaltered",
            verified.name(),
            verified.version(),
            verified.signers().join(" and ")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn holds_document(path: &Path) -> Result<bool, Failure> {
    about(path, casemate_bundle::is_document(&read(path)?))
}

/// The key that signs for a site. In clear it is for rehearsals: a site of another profile refuses it.
pub(crate) fn signer(site: &Path, options: &KeyOptions) -> Result<ApproverKey, Failure> {
    let (key, in_clear) = key_file(options)?;
    if in_clear && matches!(SiteConfig::read(site)?.profile, Profile::Government | Profile::Enterprise) {
        let path = options.key.display();
        return Err(Failure::new(format!("the key {path} lies there in clear, and this site is no rehearsal"))
            .hint("casemate bundle key NAME --out FILE makes a key under a passphrase; casemate bundle trust-root brings it in"));
    }
    Ok(key)
}

/// An approver's key, and whether it lay there in clear.
pub(crate) fn key_file(options: &KeyOptions) -> Result<(ApproverKey, bool), Failure> {
    if let Some(key) = token::open(&options.key, options.passphrase_fd) {
        return Ok((key?, false));
    }
    let mut asked = false;
    let key = ApproverKey::load_with(&options.key, || {
        asked = true;
        passphrase(options.passphrase_fd, "passphrase of the key").map_err(KeyFailure::Passphrase)
    });
    let key = key.map_err(|error| match error {
        KeyFailure::Key(error) => Failure::from(error)
            .with_code(code::FAILED)
            .hint("a key file of an approver, such as site/approvers/NAME.key"),
        KeyFailure::Passphrase(failure) => failure,
    })?;
    Ok((key, !asked))
}

enum KeyFailure {
    Key(BundleError),
    Passphrase(Failure),
}

impl From<BundleError> for KeyFailure {
    fn from(error: BundleError) -> Self {
        Self::Key(error)
    }
}

/// Asks at the terminal, or reads one line of an open file descriptor.
pub(crate) fn passphrase(descriptor: Option<u32>, what: &str) -> Result<Zeroizing<String>, Failure> {
    let mut text = match descriptor {
        Some(descriptor) => fs::read_to_string(format!("/proc/self/fd/{descriptor}"))
            .map_err(|error| Failure::caused_by(format!("cannot read file descriptor {descriptor}"), &error))
            .map(Zeroizing::new)?,
        None => rpassword::prompt_password(format!("{what}: ")).map(Zeroizing::new).map_err(|error| {
            Failure::caused_by("cannot ask for the passphrase", &error).hint("--passphrase-fd 3 3< FILE")
        })?,
    };
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok(text)
}

pub(crate) fn inspect_file(path: &Path, trust: &TrustRoot) -> Result<Inspection, Failure> {
    about(path, casemate_bundle::inspect(&read(path)?, trust))
}

/// Says which bundle an error is about.
pub(crate) fn about<T>(bundle: &Path, result: Result<T, BundleError>) -> Result<T, Failure> {
    result.map_err(|error| Failure::from(error).about(bundle))
}

/// The site's pinned root of trust.
pub(crate) fn trust(site: &Path) -> Result<TrustRoot, Failure> {
    let path = site.join("trust/root.json");
    let bytes = fs::read(&path).map_err(|error| {
        Failure::caused_by(format!("cannot read the root of trust {}", path.display()), &error).hint("casemate init")
    })?;
    Ok(TrustRoot::parse(&bytes)?)
}

/// A bundle from media, of bounded size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let received = casemate_change::ReceivedBundle::read(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    Ok(received.as_bytes().to_vec())
}

/// Replaces a file whole.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::caused_by(format!("cannot write {}", path.display()), &error))
}
