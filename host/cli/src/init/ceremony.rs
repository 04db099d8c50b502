//! `casemate init --from-ceremony`: the transcript is verified, and what it says of the tokens is handed to the gate.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use casemate_ceremony::{MadeKey, Verified, verify};
use casemate_custody::{Envelope, files};
use casemate_gate::{SiteConfig, Taken, TakenToken};
use casemate_hsm::{KeyRef, Module, Role};

use crate::args::InitOptions;
use crate::failure::Failure;
use crate::{ceremony, custodian};

/// Verifies signatures, plan and audit log.
pub fn verified(transcript: &Path, options: &InitOptions) -> Result<Verified, Failure> {
    let (Some(plan), Some(held_by)) = (&options.ceremony_plan, &options.ceremony_site) else {
        return Err(Failure::new("--from-ceremony needs --ceremony-plan and --ceremony-site").with_code(2));
    };
    let roster = custodian::read_roster(held_by, options.ceremony_roster.as_deref())?;
    let envelope = Envelope::parse(&files::read(transcript)?)?;
    let (plan, _) = ceremony::read_plan(plan)?;
    let key = fs::read_to_string(held_by.join("log.vkey"))
        .map_err(|error| Failure::caused_by("cannot read log.vkey of the ceremony's site", &error))?;
    Ok(verify(&envelope, &plan, &roster, &held_by.join("log"), key.trim())?)
}

/// What is taken over: the keys that the transcript leaves in the tokens `primary` and `backup`.
pub fn taken(verified: &Verified, site: &Path, config: &SiteConfig, options: &InitOptions) -> Result<Taken, Failure> {
    let transcript = &verified.transcript;
    let token = |role: Role, pin_file: Option<&Path>| -> Result<Option<TakenToken>, Failure> {
        let name = role.to_string();
        let Some(fact) = transcript.tokens.iter().find(|fact| fact.role == name) else { return Ok(None) };
        let keys: BTreeMap<String, KeyRef> = transcript
            .steps
            .iter()
            .flat_map(|step| &step.result.keys)
            .filter(|made| made.token == name)
            .map(|MadeKey { name, key, .. }| (name.clone(), key.clone()))
            .collect();
        let token = match config.hsm.place(role) {
            Some((module, label)) => Some(Module::load(&site.join(module))?.token(label)?),
            None => None,
        };
        let padded = token.as_ref().is_some_and(|token| token.protected_authentication_path);
        let pin = match (config.hsm.custody(role).and(token.as_ref()), pin_file) {
            (Some(_), Some(_)) => {
                return Err(Failure::new(format!("the PINs of token {name} are split, and a file is given for one"))
                    .with_code(2));
            }
            (Some(token), None) => Some(casemate_gate::user_pin(site, config, role, token)?),
            (None, None) if padded => None,
            (None, file) => Some(custodian::read_pin(&format!("user PIN of token {name}"), file)?),
        };
        Ok(Some(TakenToken { serial: fact.serial.clone(), pin, keys }))
    };
    let primary = token(Role::Primary, options.pin_file.as_deref())?.ok_or_else(|| {
        Failure::new("the ceremony had no token `primary`").with_code(crate::failure::code::VERIFICATION)
    })?;
    Ok(Taken {
        site: transcript.site.clone(),
        transcript: verified.digest.to_string(),
        signers: verified.signers.iter().map(|signer| signer.name.to_string()).collect(),
        primary,
        backup: token(Role::Backup, options.backup_pin_file.as_deref())?,
    })
}
