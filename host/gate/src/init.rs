//! `casemate init`: a token is initialised, keys are made in it, and a site comes into being.
//!
//! Until two-person custody exists the site is a *rehearsal*: PINs, credentials and approver keys lie in files of the site, and
//! every transcript and record says so.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_audit::record::Event;
use casemate_bundle::{ApproverKey, TrustRoot};
use casemate_fhe_owner::DataKey;
use casemate_hsm::probe::{self, Access, Fingerprint};
use casemate_hsm::{KeyClass, KeyRef, Keyring, Module, Pin};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::SiteConfig;
use crate::journal::{key_operation, user_key_operation};
use crate::probing;
use crate::session::{SECRETS, compartment_aad};
use crate::site::{SITE_AAD, open_journal};
use crate::state::{CompartmentState, STATE_FORMAT, SiteKey, SiteState, UserState, write_private};
use crate::user_key::{self, Issuer};

/// How long the pinned root is valid.
const ROOT_DAYS: i64 = 3 * 365;

/// What was made, for the transcript.
pub struct Created {
    /// The token's label, model and serial.
    pub token: casemate_hsm::TokenInfo,
    /// What the probe found, under the site's profile.
    pub probe: probe::Judgement,
    /// Every key made in the token.
    pub keys: Vec<(String, KeyRef)>,
    /// The approvers whose two signatures a bundle needs.
    pub approvers: Vec<String>,
    /// The public key that verifies the audit log.
    pub verifier_key: String,
}

/// Makes the folders of a site and writes its `site.toml`; the module's environment is read from it before threads start.
pub fn prepare(site: &Path, config_toml: &str) -> Result<(), GateError> {
    if site.join("state.json").exists() {
        return Err(GateError::SiteExists { path: site.to_owned() });
    }
    for folder in ["approvers", "log", "pins", "store", "token", "trust", "users"] {
        let path = site.join(folder);
        fs::create_dir_all(&path).map_err(|source| GateError::Io { action: "create", path: path.clone(), source })?;
        restrict(&path)?;
    }
    write_private(&site.join("site.toml"), config_toml.as_bytes())
}

fn restrict(folder: &Path) -> Result<(), GateError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(|source| GateError::Io {
        action: "restrict",
        path: folder.to_owned(),
        source,
    })
}

/// Initialises the token and makes every key, secret and credential that `site.toml` asks for.
pub fn create(
    site: &Path,
    config: &SiteConfig,
    approvers: &[&str],
    progress: &dyn Fn(&str),
) -> Result<Created, GateError> {
    if site.join("state.json").exists() {
        return Err(GateError::SiteExists { path: site.to_owned() });
    }
    let module = Module::load(&module_path(site, config))?;
    progress("initialising the token");
    let (so_pin, user_pin) = (Pin::random()?, Pin::random()?);
    let token = module.initialise(&config.hsm.token_label, &so_pin, &user_pin)?;
    write_private(&site.join("pins/so"), so_pin.expose_secret().as_bytes())?;
    write_private(&site.join("pins/user"), user_pin.expose_secret().as_bytes())?;
    // The token is new and holds nothing, so every line can be run, and no key is made in a token that leaks.
    progress(&format!("probing what the token enforces, for profile {}", config.profile));
    let access = Access::Scratch { pin: &user_pin, so_pin: Some(&so_pin) };
    let report = probe::run(&module, &config.hsm.token_label, &access, &|_| ())?;
    let judgement = report.judge(config.profile);
    probing::keep(site, &report, &judgement)?;
    judgement.require()?;
    let keyring = Keyring::open(Arc::clone(&module), &config.hsm.token_label, &user_pin)?;

    let mut made = Maker { keyring: &keyring, keys: Vec::new(), progress };
    let mut keys = BTreeMap::new();
    for (name, class) in [
        (SiteKey::AtRest, KeyClass::AtRest),
        (SiteKey::Audit, KeyClass::AuditSigning),
        (SiteKey::Mask, KeyClass::FpeFf1),
        (SiteKey::Metadata, KeyClass::FpeFf1),
        (SiteKey::Tokens, KeyClass::Token),
        (SiteKey::UserKekWrapping, KeyClass::KekWrapping),
    ] {
        let label =
            format!("site/{}", serde_json::to_value(name).ok().as_ref().and_then(|v| v.as_str()).unwrap_or("key"));
        keys.insert(name, made.generate(class, &label)?);
    }
    let at_rest = keyring.find(keys.get(&SiteKey::AtRest).ok_or(missing("at-rest key"))?)?;
    let site_secrets = keyring.random(32)?;
    let sealed_site_secrets = keyring.seal(&at_rest, SITE_AAD, &site_secrets)?;
    let compartments = compartments(config, &mut made)?;
    progress("issuing the users' keys");
    let wrapping = keyring.find(keys.get(&SiteKey::UserKekWrapping).ok_or(missing("user-kek-wrapping key"))?)?;
    let tokens = keyring.find(keys.get(&SiteKey::Tokens).ok_or(missing("tokens key"))?)?;
    let issuer =
        Issuer { keyring: &keyring, wrapping: &wrapping, tokens: &tokens, config, compartments: &compartments };
    let users = users(site, &issuer)?;

    let state = SiteState {
        format: STATE_FORMAT,
        rehearsal: true,
        token_serial: token.serial.clone(),
        probed: BTreeMap::from([(token.serial.clone(), Fingerprint::of(&report, &judgement))]),
        keys,
        sealed_site_secrets,
        compartments,
        issued: users.len() as u64,
        users,
        doomed: Vec::new(),
        generation: 0,
        keys_tag: Vec::new(),
        cmvp_floor: None,
    };
    progress("making the approvers' keys and the root of trust");
    let approver_names = approver_keys(site, approvers)?;
    let made_keys = made.keys;
    state.write(site)?;

    let (verifier_key, journal) = {
        let recordings = temporary_recordings()?;
        let key = Arc::new(DataKey::from_bytes(&array(&site_secrets)?).map_err(|e| GateError::Fhe(e.to_string()))?);
        let journal = open_journal(site, config, &state, &keyring, recordings, key)?;
        (journal.verifier_key(), journal)
    };
    fs::write(site.join("log.vkey"), format!("{verifier_key}\n")).map_err(|source| GateError::Io {
        action: "write",
        path: site.join("log.vkey"),
        source,
    })?;
    journal.record_blocking(Event::Site {
        action: "initialised".to_owned(),
        detail: format!("rehearsal: one person, no custody; token {} {}", token.model, token.serial),
    })?;
    journal.record_blocking(probing::event(&report, &judgement))?;
    for (name, key) in &made_keys {
        journal.record_blocking(key_operation(key, "generate", None, &format!("ok: {name}")))?;
    }
    for (user, held) in &state.users {
        journal.record_blocking(user_key_operation(&held.kek.key, "issue", held.version, user, "ok"))?;
    }
    journal.checkpoint()?;
    Ok(Created { token, probe: judgement, keys: made_keys, approvers: approver_names, verifier_key })
}

/// The module's path: absolute, or relative to the site's folder.
pub(crate) fn module_path(site: &Path, config: &SiteConfig) -> PathBuf {
    site.join(&config.hsm.module)
}

struct Maker<'a> {
    keyring: &'a Arc<Keyring>,
    keys: Vec<(String, KeyRef)>,
    progress: &'a dyn Fn(&str),
}

impl Maker<'_> {
    fn generate(&mut self, class: KeyClass, label: &str) -> Result<KeyRef, GateError> {
        (self.progress)(&format!("making {class} key `{label}` in the token"));
        let key = self.keyring.generate(class, label)?;
        self.keys.push((label.to_owned(), key.clone()));
        Ok(key)
    }
}

fn compartments(
    config: &SiteConfig,
    made: &mut Maker<'_>,
) -> Result<BTreeMap<casemate_types::CompartmentName, CompartmentState>, GateError> {
    let mut compartments = BTreeMap::new();
    for name in config.compartments.keys() {
        let reference = made.generate(KeyClass::Compartment, &format!("compartment/{name}"))?;
        let key = made.keyring.find(&reference)?;
        let secrets = made.keyring.random(SECRETS)?;
        let sealed_secrets = made.keyring.seal(&key, compartment_aad(name).as_bytes(), &secrets)?;
        compartments.insert(name.clone(), CompartmentState { key: reference, sealed_secrets });
    }
    Ok(compartments)
}

fn users(site: &Path, issuer: &Issuer<'_>) -> Result<BTreeMap<casemate_types::UserName, UserState>, GateError> {
    let mut users = BTreeMap::new();
    for (version, (name, user)) in (1..).zip(&issuer.config.users) {
        let credential = user_key::credential(issuer.keyring)?;
        let held = user_key::issue(issuer, (name, version), user, &credential)?;
        write_private(&site.join(format!("users/{name}.token")), credential.as_bytes())?;
        users.insert(name.clone(), held);
    }
    Ok(users)
}

fn approver_keys(site: &Path, names: &[&str]) -> Result<Vec<String>, GateError> {
    let keys = names.iter().map(|name| ApproverKey::generate(name)).collect::<Result<Vec<_>, _>>()?;
    for key in &keys {
        key.save(&site.join(format!("approvers/{}.key", key.public().name)))?;
    }
    let expires = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_hours(24 * ROOT_DAYS))
        .map_err(|error| GateError::Ingest(error.to_string()))?;
    let root = TrustRoot::create(&keys.iter().collect::<Vec<_>>(), expires)?;
    write_private(&site.join("trust/root.json"), &root)?;
    Ok(keys.iter().map(|key| key.public().name.to_string()).collect())
}

fn array(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, GateError> {
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(bytes.get(..32).ok_or(missing("site secret"))?);
    Ok(out)
}

fn temporary_recordings() -> Result<sled::Tree, GateError> {
    let database = sled::Config::new().temporary(true).open().map_err(|e| GateError::Store(e.to_string()))?;
    database.open_tree("recordings").map_err(|e| GateError::Store(e.to_string()))
}

fn missing(what: &str) -> GateError {
    GateError::StateIncomplete { what: what.to_owned() }
}
