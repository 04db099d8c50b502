//! Approvers' keys and the root of trust that names them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use casemate_bundle::{ApproverKey, ApproverPublic, PublicKey, TrustRoot};

use super::args::{NewKeyOptions, RootCommand};
use super::{passphrase, signer, trust, write};
use crate::failure::Failure;
use crate::output;

pub fn new_key(options: &NewKeyOptions, json: bool) -> Result<ExitCode, Failure> {
    let key =
        if options.p256 { ApproverKey::generate_p256(&options.name) } else { ApproverKey::generate(&options.name) }?;
    let first = passphrase(options.passphrase_fd, "new passphrase")?;
    if options.passphrase_fd.is_none() && *passphrase(None, "the same again")? != *first {
        return Err(Failure::new("the two passphrases differ; nothing was written"));
    }
    key.save_encrypted(&options.out, &first)?;
    let (public, key_id) = (&key.public().key, key.public().key_id()?);
    let text = hex::encode(public.as_bytes());
    if json {
        output::json(&serde_json::json!({
            "name": options.name, "algorithm": public.algorithm(), "key": text, "key-id": key_id, "file": options.out,
        }))?;
    } else {
        output::line(&format!(
            "{}: {} key {key_id}\n{}={text}",
            options.out.display(),
            public.algorithm(),
            options.name
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn run(site: &Path, command: RootCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        RootCommand::Show { root } => {
            let root = match root {
                Some(path) => TrustRoot::parse(&read(&path)?).map_err(|error| Failure::from(error).about(&path))?,
                None => trust(site)?,
            };
            show(&root, json)?;
        }
        RootCommand::Draft { out, add, remove, valid_days } => {
            let root = trust(site)?;
            let mut approvers: Vec<ApproverPublic> =
                root.approver_keys().map(|(_, approver)| approver.clone()).collect();
            for name in &remove {
                let before = approvers.len();
                approvers.retain(|approver| approver.name != *name);
                if approvers.len() == before {
                    return Err(Failure::new(format!("`{name}` is no approver of this site")).with_code(2));
                }
            }
            for text in &add {
                let added = parse(text)?;
                approvers.retain(|approver| approver.name != added.name);
                approvers.push(added);
            }
            let expires = jiff::Timestamp::now()
                .checked_add(jiff::SignedDuration::from_hours(24 * i64::from(valid_days)))
                .map_err(|error| Failure::caused_by("--valid-days is out of range", &error))?;
            let draft = root.draft_next(&approvers, expires)?;
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&out)
                .and_then(|mut file| file.write_all(&draft))
                .map_err(|error| Failure::caused_by(format!("cannot write {}", out.display()), &error))?;
            let names: Vec<&str> = approvers.iter().map(|approver| approver.name.as_str()).collect();
            report(
                json,
                &serde_json::json!({"root": out, "version": root.version() + 1, "approvers": names}),
                &format!(
                    "{} is the draft of root {} with {}; two approvers of today and two of these must sign it",
                    out.display(),
                    root.version() + 1,
                    names.join(", ")
                ),
            )?;
        }
        RootCommand::Sign { root: path, key } => {
            let root = trust(site)?;
            let key = signer(site, &key)?;
            let signed = root.sign_next(&read(&path)?, &key).map_err(|error| Failure::from(error).about(&path))?;
            write(&path, &signed)?;
            let name = &key.public().name;
            report(
                json,
                &serde_json::json!({"root": path, "signed": name}),
                &format!("{name} signed {}", path.display()),
            )?;
        }
        RootCommand::Accept { root: path } => {
            let root = trust(site)?;
            let bytes = read(&path)?;
            let next =
                root.follow(&bytes, jiff::Timestamp::now()).map_err(|error| Failure::from(error).about(&path))?;
            // With all its signatures, so that everybody can follow the chain of roots later; then what is pinned.
            write(&site.join(format!("trust/{}.root.json", next.version())), &bytes)?;
            write(&site.join("trust/root.json"), next.as_bytes())?;
            show(&next, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(root: &TrustRoot, json: bool) -> Result<(), Failure> {
    if json {
        let approvers: Vec<_> = root
            .approver_keys()
            .map(|(key_id, approver)| {
                serde_json::json!({"name": approver.name, "key-id": key_id, "algorithm": approver.key.algorithm()})
            })
            .collect();
        return output::json(&serde_json::json!({
            "version": root.version(), "digest": root.digest(), "expires": root.expires().to_string(), "approvers": approvers,
        }));
    }
    output::line(&format!("root {} {}, until {}", root.version(), root.digest(), root.expires()))?;
    for (key_id, approver) in root.approver_keys() {
        output::line(&format!("  {} {} key {key_id}", approver.name, approver.key.algorithm()))?;
    }
    Ok(())
}

fn report(json: bool, value: &serde_json::Value, line: &str) -> Result<(), Failure> {
    if json { output::json(value) } else { output::line(line) }
}

fn parse(text: &str) -> Result<ApproverPublic, Failure> {
    let wrong = || Failure::new(format!("`{text}` is not NAME=KEY, as `casemate bundle key` prints it")).with_code(2);
    let (name, key) = text.split_once('=').ok_or_else(wrong)?;
    let bytes = hex::decode(key).map_err(|_| wrong())?;
    let key = PublicKey::from_bytes(&bytes).map_err(|_| wrong())?;
    Ok(ApproverPublic::new(name, key)?)
}

/// A root from media; larger ones than any site has are refused by the parser.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    super::read(path)
}
