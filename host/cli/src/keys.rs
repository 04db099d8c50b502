mod legacy;
mod rotate;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_gate::{CompartmentRule, Gate, GateError, Issued, KeyList, Officer, UserConfig, UserStatus};
use casemate_types::{CompartmentName, Level, UserName};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::custodian::read_envelope;
use crate::failure::Failure;
use crate::{environment, output};

/// A user's key opens the compartments whose rule the user's attributes satisfy. It is issued for
/// the attributes that site.toml gives the user at that moment, and needs the user's credential to
/// open: editing site.toml alone gives nobody more.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Show the site's keys, every user's key and what is due.
    ///
    /// A status of `attributes-changed` says that site.toml and the key differ: what both say counts
    /// until you issue a new key. `no-key` waits for `keys issue`.
    List,
    /// Add a user to site.toml and issue the first key and credential.
    AddUser {
        /// The new user: lower-case letters, digits, `-`.
        name: UserName,
        #[command(flatten)]
        attributes: Attributes,
        #[command(flatten)]
        consent: Consent,
    },
    /// Issue a key for the attributes that site.toml gives a user now; the old key ends.
    ///
    /// The user presents the credential and keeps it. A user without a key gets a first credential.
    Issue {
        /// The user.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<UserName>,
        /// The file with the user's credential; users/NAME.token of the site otherwise.
        #[arg(long, value_name = "FILE", conflicts_with = "all")]
        credential: Option<PathBuf>,
        /// Issue first keys to all users of site.toml who have none.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// End a user's key for good and take the user out of site.toml; open sessions end.
    ///
    /// The key that wraps all users' keys is replaced and destroyed in the token, so that no copy of
    /// the revoked key opens anything, whoever kept one. Beside a running `casemate serve` the server
    /// does it.
    Revoke {
        /// The user.
        name: UserName,
    },
    /// Give a user a new credential for the same attributes; the old one ends.
    ///
    /// For a credential that was lost or seen. Refused while site.toml says something else than the
    /// key: then review the change and use `keys issue`.
    RenewCredential {
        /// The user.
        name: UserName,
        #[command(flatten)]
        consent: Consent,
    },
    /// Destroy an older version of a key, or a compartment's key with everything that was ever ingested into it, for good.
    ///
    /// `metadata@1` is an older version under which nothing is encrypted any more. `compartment/NAME` asks for two custodians' approval (operation destroy) and for the number of passages that nobody will read any more. The keys of
    /// users who hold it end: `keys issue --all` gives them new ones for what is left. Ends with a certificate that each custodian signs
    /// (`casemate custodian certify`). If it is cut off, call it again: it goes on without another approval.
    Destroy {
        /// A key's older version as `metadata@1`, `mask@1` or `at-rest@1`, or compartment/NAME. A key in use is not destroyed.
        name: String,
        /// How many passages are lost, decoys included; the command names the number when it is missing or wrong.
        #[arg(long, value_name = "N")]
        confirm_passages: Option<u64>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Rotate the site's own keys: 48 hours' notice, two custodians, re-encryption.
    #[command(subcommand)]
    Rotate(rotate::RotateCommand),
    /// FF3-1 for data that exists: off unless two custodians say until when.
    #[command(subcommand)]
    Legacy(legacy::LegacyCommand),
    /// Make the keys of a compartment, and add its rule to site.toml.
    ///
    /// Users who satisfy the rule get in with their next key: `casemate keys issue USER`.
    /// Without options the rule must stand in site.toml already.
    AddCompartment {
        /// The new compartment: lower-case letters, digits, `-`.
        name: CompartmentName,
        #[command(flatten)]
        rule: Rule,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What the custodians agreed to.
#[derive(Args)]
pub struct Consent {
    /// A statement that the site's custodians signed. Without it, one in custody/approvals that fits is used.
    #[arg(long, visible_alias = "statement", value_name = "FILE")]
    pub approval: Option<PathBuf>,
}

impl Consent {
    pub fn officer<'a>(&self, name: &'a str) -> Result<Officer<'a>, Failure> {
        Ok(Officer { name, approval: self.approval.as_deref().map(read_envelope).transpose()? })
    }
}

/// Who a user is.
#[derive(Args)]
pub struct Attributes {
    /// The highest label the user may read: public, internal, confidential or secret.
    #[arg(long, value_name = "LEVEL")]
    clearance: Level,
    /// A role. May be repeated, or separated by commas.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// A group. May be repeated, or separated by commas.
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',')]
    groups: Vec<String>,
    /// A department. May be repeated, or separated by commas.
    #[arg(long = "department", value_name = "DEPARTMENT", value_delimiter = ',')]
    departments: Vec<String>,
}

/// Who belongs to a compartment: one of each kind that is named, and the clearance.
#[derive(Args)]
pub struct Rule {
    /// The lowest clearance admitted.
    #[arg(long, value_name = "LEVEL")]
    clearance: Option<Level>,
    /// One of these roles.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',', requires = "clearance")]
    roles: Vec<String>,
    /// One of these groups.
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',', requires = "clearance")]
    groups: Vec<String>,
    /// One of these departments.
    #[arg(long = "department", value_name = "DEPARTMENT", value_delimiter = ',', requires = "clearance")]
    departments: Vec<String>,
}

pub fn run(site: &Path, command: KeysCommand, json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let by = environment::officer();
    let command = match command {
        KeysCommand::Revoke { name } => return revoke(site, &name, &by, json),
        KeysCommand::Rotate(command) => return rotate::run(site, command, json),
        KeysCommand::Legacy(command) => return legacy::run(site, command, json),
        KeysCommand::Destroy { name, consent, .. } if !name.starts_with("compartment/") => {
            return rotate::destroy(site, &name, &consent, json);
        }
        other => other,
    };
    let gate = Gate::open_without_plugins(site)?;
    match command {
        KeysCommand::List => list(&gate.key_list()?, json),
        KeysCommand::AddUser { name, attributes, consent } => {
            print(&[gate.add_user(&consent.officer(&by)?, &name, &attributes.into())?], json)
        }
        KeysCommand::Issue { all: true, consent, .. } => print(&gate.issue_missing(&consent.officer(&by)?)?, json),
        KeysCommand::Issue { name: Some(name), credential, consent, .. } => {
            let officer = consent.officer(&by)?;
            let path = credential.unwrap_or_else(|| site.join(format!("users/{name}.token")));
            // A user without a key has no credential either; the gate knows which of them this is.
            let text = fs::read_to_string(&path).map(Zeroizing::new).ok();
            let issued = gate.issue_key(&officer, &name, text.as_ref().map(|text| text.trim())).map_err(|error| {
                let hint = format!("name the file of {name}'s credential with --credential; for a lost one `casemate keys renew-credential {name}`");
                match error {
                    GateError::Unauthenticated => Failure::from(error).hint(hint),
                    error => error.into(),
                }
            })?;
            print(&[issued], json)
        }
        KeysCommand::Issue { .. } => Err(Failure::new("name a user, or --all").with_code(2)),
        KeysCommand::RenewCredential { name, consent } => {
            print(&[gate.renew_credential(&consent.officer(&by)?, &name)?], json)
        }
        KeysCommand::Destroy { name, confirm_passages, consent } => {
            destroy(&gate, &consent.officer(&by)?, &name, confirm_passages, json)
        }
        KeysCommand::AddCompartment { name, rule, consent } => {
            let users = gate.add_compartment(&consent.officer(&by)?, &name, rule.into_rule().as_ref())?;
            if json {
                output::json(&serde_json::json!({ "compartment": name, "satisfied-by": users }))?;
            } else {
                output::line(&format!("Compartment `{name}` has its keys."))?;
                for user in users {
                    output::line(&format!("  {user} satisfies its rule: casemate keys issue {user}"))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        KeysCommand::Revoke { .. } | KeysCommand::Rotate(_) | KeysCommand::Legacy(_) => Ok(ExitCode::SUCCESS),
    }
}

fn destroy(
    gate: &Gate,
    officer: &Officer<'_>,
    name: &str,
    confirmed: Option<u64>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let compartment = name.trim_start_matches("compartment/");
    let compartment: CompartmentName = compartment
        .parse()
        .map_err(|error| Failure::caused_by(format!("`{compartment}` names no compartment"), &error).with_code(2))?;
    // What was begun was confirmed then.
    let goes_on = gate.unfinished_destruction()?.as_ref() == Some(&compartment);
    let passages = match confirmed {
        Some(passages) => passages,
        None if goes_on => 0,
        None => {
            let passages = gate.passages_of(&compartment)?;
            return Err(Failure::new(format!(
                "{passages} passages of `{compartment}` (decoys included) will be unreadable for ever, for everybody"
            ))
            .hint(format!("--confirm-passages {passages}"))
            .with_code(2));
        }
    };
    let done = gate.destroy_compartment(officer, &compartment, passages)?;
    if json {
        output::json(&serde_json::json!({ "certificate": done.certificate, "file": done.path }))?;
    } else {
        output::line(&done.certificate.to_string())?;
        output::line(&format!(
            "The certificate is {}. Each custodian signs it: casemate custodian certify {} --as NAME --token LABEL",
            done.path.display(),
            done.path.display()
        ))?;
        if !done.certificate.users.is_empty() {
            output::line("Users whose keys ended get new ones with `casemate keys issue --all`.")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Beside a running server the server revokes: it has the site, and the sessions that must end.
fn revoke(site: &Path, name: &UserName, by: &str, json: bool) -> Result<ExitCode, Failure> {
    let server = match Gate::open_without_plugins(site) {
        Ok(gate) => {
            gate.revoke(by, name)?;
            false
        }
        Err(GateError::InUse { .. }) => {
            casemate_gate::ask_to_revoke(site, name, by)?;
            true
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        output::json(&serde_json::json!({ "revoked": name, "by-server": server }))?;
    } else {
        let how = if server { " by the process that has the site open; open sessions have ended" } else { "" };
        output::line(&format!("`{name}` is revoked{how}. No copy of the key opens anything any more."))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(issued: &[Issued], json: bool) -> Result<ExitCode, Failure> {
    if json {
        for one in issued {
            output::json(one)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if issued.is_empty() {
        output::line("Every user of site.toml has a key.")?;
    }
    for Issued { user, version, compartments, lost, credential } in issued {
        output::line(&format!("{user}: key {version}, opens {}", joined(compartments)))?;
        if !lost.is_empty() {
            output::line(&format!("  no longer: {}", joined(lost)))?;
        }
        match credential {
            Some(path) => output::line(&format!(
                "  new credential: {} (rehearsal: hand it over and delete the file)",
                path.display()
            ))?,
            None => output::line("  the credential stays as it is")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(list: &KeyList, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(list)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("{} key objects in the token", list.token_objects))?;
    for (name, key) in &list.keys {
        output::line(&format!("  {name:<32} {:<14} check {}", key.class.to_string(), key.check))?;
    }
    output::line(&format!("{} users", list.users.len()))?;
    for user in &list.users {
        let version = user.version.map_or_else(|| "-".to_owned(), |version| format!("key {version}"));
        let status = match user.status {
            UserStatus::Issued => String::new(),
            UserStatus::AttributesChanged => {
                format!("  <- attributes or rules changed: casemate keys issue {}", user.user)
            }
            UserStatus::NoKey => format!("  <- no key: casemate keys issue {}", user.user),
            UserStatus::NotInPolicy => format!("  <- not in site.toml: casemate keys revoke {}", user.user),
        };
        output::line(&format!(
            "  {:<20} {version:<8} opens {}{status}",
            user.user.to_string(),
            joined(&user.compartments)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn joined(names: &BTreeSet<CompartmentName>) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.iter().map(CompartmentName::as_str).collect::<Vec<_>>().join(", ")
}

impl From<Attributes> for UserConfig {
    fn from(Attributes { clearance, roles, groups, departments }: Attributes) -> Self {
        let set = |names: Vec<String>| names.into_iter().collect();
        Self { clearance, roles: set(roles), groups: set(groups), departments: set(departments) }
    }
}

impl Rule {
    /// Nothing when no option was given: then the rule stands in the file.
    fn into_rule(self) -> Option<CompartmentRule> {
        let Self { clearance, roles, groups, departments } = self;
        let set = |names: Vec<String>| names.into_iter().collect();
        clearance.map(|clearance| CompartmentRule {
            clearance,
            roles: set(roles),
            groups: set(groups),
            departments: set(departments),
        })
    }
}
