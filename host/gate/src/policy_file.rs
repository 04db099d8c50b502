//! Users and compartments in `site.toml`, changed by commands: whatever else stands in the file, comments too, stays.

use std::collections::BTreeSet;
use std::path::Path;

use casemate_types::{CompartmentName, UserName};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::GateError;
use crate::config::{CompartmentRule, SiteConfig, UserConfig};
use crate::state::write_private;

/// Adds a user.
pub(crate) fn add_user(site: &Path, name: &UserName, user: &UserConfig) -> Result<SiteConfig, GateError> {
    let UserConfig { clearance, roles, groups, departments } = user;
    let table = entry(&clearance.to_string(), roles, groups, departments);
    edit(site, |document| insert(document, "users", name.as_str(), table))
}

/// Takes a user out, if it is there.
pub(crate) fn remove_user(site: &Path, name: &UserName) -> Result<SiteConfig, GateError> {
    edit(site, |document| {
        if let Some(users) = document.get_mut("users").and_then(Item::as_table_like_mut) {
            users.remove(name.as_str());
        }
    })
}

/// Adds a compartment.
pub(crate) fn add_compartment(
    site: &Path,
    name: &CompartmentName,
    rule: &CompartmentRule,
) -> Result<SiteConfig, GateError> {
    let CompartmentRule { roles, groups, departments, clearance } = rule;
    let table = entry(&clearance.to_string(), roles, groups, departments);
    edit(site, |document| insert(document, "compartments", name.as_str(), table))
}

/// Takes a compartment out, if it is there, with what the file says of its collection.
pub(crate) fn remove_compartment(site: &Path, name: &CompartmentName) -> Result<SiteConfig, GateError> {
    edit(site, |document| {
        for section in ["compartments", "collections"] {
            if let Some(section) = document.get_mut(section).and_then(Item::as_table_like_mut) {
                section.remove(name.as_str());
            }
        }
    })
}

/// Reads, changes, checks and replaces the file, whole or not at all.
fn edit(site: &Path, change: impl FnOnce(&mut DocumentMut)) -> Result<SiteConfig, GateError> {
    let path = site.join("site.toml");
    let malformed = |problem: String| GateError::Config { path: path.clone(), problem };
    let text = std::fs::read_to_string(&path).map_err(|source| GateError::NoSite { path: path.clone(), source })?;
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| malformed(error.to_string()))?;
    change(&mut document);
    let text = document.to_string();
    let config = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    write_private(&path, text.as_bytes())?;
    Ok(config)
}

fn insert(document: &mut DocumentMut, section: &str, name: &str, table: Table) {
    let section = document.entry(section).or_insert_with(|| {
        let mut section = Table::new();
        section.set_implicit(true);
        Item::Table(section)
    });
    if let Some(section) = section.as_table_like_mut() {
        section.insert(name, Item::Table(table));
    }
}

fn entry(
    clearance: &str,
    roles: &BTreeSet<String>,
    groups: &BTreeSet<String>,
    departments: &BTreeSet<String>,
) -> Table {
    let mut table = Table::new();
    table.insert("clearance", value(clearance));
    for (kind, names) in [("roles", roles), ("groups", groups), ("departments", departments)] {
        if !names.is_empty() {
            table.insert(kind, value(names.iter().collect::<Array>()));
        }
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use casemate_types::Level;

    const SITE: &str = r#"# Who runs this.
name = "north"
[hsm]
module = "m.so"
token-label = "t"
[chain]
combining = "deny-overrides" # the strict one
policies = []
agent = "a"
strategy = "s"
[compartments.red]
departments = ["red"]
clearance = "internal"
# Ana is the first.
[users.ana]
clearance = "secret"
"#;

    fn site() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("site.toml"), SITE).unwrap();
        dir
    }

    fn user() -> UserConfig {
        UserConfig {
            clearance: Level::Confidential,
            roles: ["analyst".to_owned()].into(),
            groups: BTreeSet::new(),
            departments: ["red".to_owned(), "a \"quoted\" one\n[users.mallory]".to_owned()].into(),
        }
    }

    #[test]
    fn a_user_is_added_and_the_rest_of_the_file_stays() {
        let dir = site();
        let name: UserName = "bo".parse().unwrap();
        let config = add_user(dir.path(), &name, &user()).unwrap();
        assert_eq!(config.users.len(), 2);
        assert_eq!(config.users[&name], user());
        let text = std::fs::read_to_string(dir.path().join("site.toml")).unwrap();
        assert!(text.starts_with(SITE), "{text}");
        // Taken out again, not a byte of the old file has changed.
        assert_eq!(remove_user(dir.path(), &name).unwrap().users.len(), 1);
        assert_eq!(std::fs::read_to_string(dir.path().join("site.toml")).unwrap(), SITE);
        remove_user(dir.path(), &name).unwrap();
    }

    #[test]
    fn a_compartment_is_added() {
        let dir = site();
        let rule = CompartmentRule {
            groups: ["blue-team".to_owned()].into(),
            clearance: Level::Secret,
            ..CompartmentRule::default()
        };
        let config = add_compartment(dir.path(), &"blue".parse().unwrap(), &rule).unwrap();
        let added = &config.compartments[&"blue".parse().unwrap()];
        assert_eq!((&added.groups, added.clearance), (&rule.groups, Level::Secret));
    }
}
