mod rotate;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_gate::{CompartmentRule, Gate, GateError, Issued, KeyList, KeyRequest, UserConfig, UserStatus};
use casemate_types::{CompartmentName, Level, UserName};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::custodian::consent::Consent;
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
    ///
    /// Example: casemate keys add-user dora --clearance internal --role analyst --department engineering
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
    /// Rotate the site's own keys: 48 hours' notice, two custodians, re-encryption.
    #[command(subcommand)]
    Rotate(rotate::RotateCommand),
    /// Destroy an older version of a key in every token, with proofs in the log. Two custodians approve it.
    Destroy(rotate::Destroy),
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
        KeysCommand::Destroy(options) => return rotate::destroy(site, &options, json),
        other => other,
    };
    let gate = Gate::open_without_plugins(site)?;
    match command {
        KeysCommand::List => list(&gate.key_list()?, json),
        KeysCommand::AddUser { name, attributes, consent } => {
            let attributes: UserConfig = attributes.into();
            let request = KeyRequest::AddUser { name: name.clone(), attributes: attributes.clone() };
            let Some(approved) = consent.given(site, &gate, &request, json)? else { return Ok(ExitCode::SUCCESS) };
            print(&[gate.add_user(&by, &name, &attributes, approved.as_ref())?], json)
        }
        KeysCommand::Issue { all: true, consent, .. } => {
            let given = consent.given(site, &gate, &KeyRequest::IssueMissing, json)?;
            let Some(approved) = given else { return Ok(ExitCode::SUCCESS) };
            print(&gate.issue_missing(&by, approved.as_ref())?, json)
        }
        KeysCommand::Issue { name: Some(name), credential, consent, .. } => {
            let given = consent.given(site, &gate, &KeyRequest::Issue { name: name.clone() }, json)?;
            let Some(approved) = given else { return Ok(ExitCode::SUCCESS) };
            let path = credential.unwrap_or_else(|| site.join(format!("users/{name}.token")));
            // A user without a key has no credential either; the gate knows which of them this is.
            let text = fs::read_to_string(&path).map(Zeroizing::new).ok();
            let credential = text.as_ref().map(|text| text.trim());
            let issued = gate.issue_key(&by, &name, credential, approved.as_ref()).map_err(|error| {
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
            let given = consent.given(site, &gate, &KeyRequest::RenewCredential { name: name.clone() }, json)?;
            let Some(approved) = given else { return Ok(ExitCode::SUCCESS) };
            print(&[gate.renew_credential(&by, &name, approved.as_ref())?], json)
        }
        KeysCommand::AddCompartment { name, rule, consent } => {
            let rule = rule.into_rule();
            let request = KeyRequest::AddCompartment { name: name.clone(), rule: rule.clone() };
            let Some(approved) = consent.given(site, &gate, &request, json)? else { return Ok(ExitCode::SUCCESS) };
            let users = gate.add_compartment(&by, &name, rule.as_ref(), approved.as_ref())?;
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
        KeysCommand::Revoke { .. } | KeysCommand::Rotate(_) | KeysCommand::Destroy(_) => Ok(ExitCode::SUCCESS),
    }
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
