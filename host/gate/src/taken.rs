//! What a site takes over from a ceremony whose transcript was verified.

use std::collections::BTreeMap;

use casemate_hsm::{KeyClass, KeyRef, Keyring, Pin, Role};

use crate::GateError;
use crate::config::SiteConfig;

/// The keys of a ceremony. Whoever makes one has verified the transcript: both custodians' signatures, the plan, and the audit log
/// that holds it.
pub struct Taken {
    /// The site that the ceremony was for.
    pub site: String,
    /// SHA-256 of the transcript.
    pub transcript: String,
    /// The custodians who signed it.
    pub signers: Vec<String>,
    /// The token with the plan's role `primary`.
    pub primary: TakenToken,
    /// The one with the role `backup`, for a site on a pair.
    pub backup: Option<TakenToken>,
}

/// A token of a ceremony.
pub struct TakenToken {
    /// Its serial number.
    pub serial: String,
    /// The user's PIN; none for a token that takes it by a way of its own.
    pub pin: Option<Pin>,
    /// Its keys by their names in the plan.
    pub keys: BTreeMap<String, KeyRef>,
}

impl Taken {
    /// Refuses a ceremony of another site, or for one token where the site wants two.
    pub(crate) fn check(&self, config: &SiteConfig) -> Result<(), GateError> {
        if self.site != config.name {
            return refuse(format!("the transcript is of site `{}`, site.toml is of `{}`", self.site, config.name));
        }
        match (&self.backup, &config.hsm.backup) {
            (None, Some(_)) => {
                refuse("site.toml names a backup token, and the ceremony had no token `backup`".to_owned())
            }
            (Some(_), None) => {
                refuse("the ceremony had a token `backup`, and site.toml has no [hsm.backup]".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn of(&self, role: Role) -> Result<&TakenToken, GateError> {
        match (role, &self.backup) {
            (Role::Primary, _) => Ok(&self.primary),
            (Role::Backup, Some(backup)) => Ok(backup),
            (Role::Backup, None) => refuse("the ceremony had no token `backup`".to_owned()),
        }
    }

    /// Looks every key of the transcript up in the token, with its class, attributes and check value, and refuses a token that holds
    /// anything besides.
    pub(crate) fn compare(&self, role: Role, ring: &Keyring) -> Result<(), GateError> {
        let keys = &self.of(role)?.keys;
        for (name, key) in keys {
            ring.find(key).map_err(|error| GateError::Ceremony {
                why: format!("key `{name}` is not in the {role} token as the transcript has it: {error}"),
            })?;
        }
        let known: Vec<String> = keys.values().map(|key| key.id.to_string()).collect();
        let strange = ring.inventory()?.into_iter().find(|object| !object.built_in && !known.contains(&object.id));
        match strange {
            None => Ok(()),
            Some(object) => refuse(format!(
                "the {role} token holds an object that the transcript does not know: {} `{}` {}",
                object.class, object.label, object.id
            )),
        }
    }

    /// The key of a name, with the class that the site wants; in both tokens of a pair where it belongs to both.
    pub(crate) fn key(&self, role: Role, class: KeyClass, name: &str) -> Result<KeyRef, GateError> {
        let held = |role| -> Result<&KeyRef, GateError> {
            let found = self.of(role)?.keys.get(name);
            found.ok_or_else(|| GateError::Ceremony {
                why: format!("the site wants a {class} key, and the plan makes no key `{name}` on token `{role}`"),
            })
        };
        let key = held(role)?;
        if key.class != class {
            return refuse(format!("key `{name}` is of class {}, the site wants {class}", key.class));
        }
        if self.backup.is_some() && class.is_replicable() && (held(Role::Primary)? != held(Role::Backup)?) {
            return refuse(format!("key `{name}` of the primary and of the backup token are two keys"));
        }
        Ok(key.clone())
    }
}

fn refuse<T>(why: String) -> Result<T, GateError> {
    Err(GateError::Ceremony { why })
}
