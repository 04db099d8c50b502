//! `casemate init`: a token, or each of a pair, is initialised, keys are made in it, and a site comes into being.
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
use casemate_hsm::pair::{Manifest, ManifestKey, ManifestSigner, TokenSigner, replicate};
use casemate_hsm::probe::{self, Access, Fingerprint};
use casemate_hsm::{HsmError, KeyClass, KeyRef, Keyring, Module, Pin, Role, TokenInfo};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::SiteConfig;
use crate::journal::{key_operation, user_key_operation};
use crate::probing;
use crate::session::{SECRETS, compartment_aad};
use crate::site::{SITE_AAD, open_journal};
use crate::state::{CompartmentState, STATE_FORMAT, SiteKey, SiteState, UserState, write_private};
use crate::user_key::{self, Issuer};
use crate::vault::{PairFile, Vault};

/// How long the pinned root is valid.
const ROOT_DAYS: i64 = 3 * 365;

/// What was made, for the transcript.
pub struct Created {
    /// The token's label, model and serial.
    pub token: TokenInfo,
    /// The backup's, in a pair.
    pub backup: Option<TokenInfo>,
    /// What the probe found, under the site's profile.
    pub probe: probe::Judgement,
    /// Every key made in a token.
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
    let primary = Prepared::make(site, config, Role::Primary, progress)?;
    let backup = match &config.hsm.backup {
        Some(_) => Some(Prepared::make(site, config, Role::Backup, progress)?),
        None => None,
    };
    let prints = [Some(&primary), backup.as_ref()].into_iter().flatten().map(Prepared::print);
    let mut state = SiteState {
        format: STATE_FORMAT,
        rehearsal: true,
        token_serial: primary.token.serial.clone(),
        probed: prints.map(|print| (print.serial.clone(), print)).collect(),
        keys: BTreeMap::new(),
        versions: BTreeMap::new(),
        roster: None,
        sealed_site_secrets: Vec::new(),
        compartments: BTreeMap::new(),
        issued: 0,
        users: BTreeMap::new(),
        doomed: Vec::new(),
        generation: 0,
        keys_tag: Vec::new(),
        manifest_signer: None,
        cmvp_floor: None,
    };
    let mut made = Made { keys: Vec::new(), progress };
    let (keyring, founded) = match &backup {
        None => {
            let keyring = Vault::one(primary.login(config)?);
            for (name, class) in SITE_KEYS {
                state.keys.insert(name, made.generate(&keyring, class, &name.label())?);
            }
            (keyring, None)
        }
        Some(backup) => {
            let founded = found(site, &primary.login(config)?, &backup.login(config)?, &mut state, &mut made)?;
            // The approvers who sign the list of certificates are made below: the next opening judges by it.
            (Vault::open(site, config, &state, false)?, Some(founded))
        }
    };
    let at_rest = keyring.find(state.key(SiteKey::AtRest)?)?;
    let site_secrets = keyring.random(32)?;
    state.sealed_site_secrets = keyring.seal(&at_rest, SITE_AAD, &site_secrets)?;
    state.compartments = compartments(config, &keyring, &mut made)?;
    progress("issuing the users' keys");
    let wrapping = keyring.find(state.key(SiteKey::UserKekWrapping)?)?;
    let tokens = keyring.find(state.key(SiteKey::Tokens)?)?;
    let issuer =
        Issuer { keyring: &keyring, wrapping: &wrapping, tokens: &tokens, config, compartments: &state.compartments };
    let users = users(site, &issuer)?;
    state.issued = users.len() as u64;
    state.users = users;
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
        detail: format!("rehearsal: one person, no custody; token {} {}", primary.token.model, primary.token.serial),
    })?;
    for prepared in [Some(&primary), backup.as_ref()].into_iter().flatten() {
        journal.record_blocking(probing::event(&prepared.report, &prepared.judgement))?;
    }
    if let Some(detail) = founded {
        journal.record_blocking(Event::Site { action: "hsm-pair-founded".to_owned(), detail })?;
    }
    for (name, key) in &made_keys {
        journal.record_blocking(key_operation(key, None, "generate", None, &format!("ok: {name}")))?;
    }
    for (user, held) in &state.users {
        journal.record_blocking(user_key_operation(&held.kek.key, "issue", held.version, user, "ok"))?;
    }
    journal.checkpoint()?;
    Ok(Created {
        token: primary.token,
        backup: backup.map(|backup| backup.token),
        probe: primary.judgement,
        keys: made_keys,
        approvers: approver_names,
        verifier_key,
    })
}

/// The module's path: absolute, or relative to the site's folder.
pub(crate) fn module_path(site: &Path, config: &SiteConfig) -> PathBuf {
    site.join(&config.hsm.module)
}

/// The site's own keys.
const SITE_KEYS: [(SiteKey, KeyClass); 6] = [
    (SiteKey::AtRest, KeyClass::AtRest),
    (SiteKey::Audit, KeyClass::AuditSigning),
    (SiteKey::Mask, KeyClass::FpeFf1),
    (SiteKey::Metadata, KeyClass::FpeFf1),
    (SiteKey::Tokens, KeyClass::Token),
    (SiteKey::UserKekWrapping, KeyClass::KekWrapping),
];

/// A new token that was initialised and found fit, and holds nothing yet.
struct Prepared {
    module: Arc<Module>,
    role: Role,
    token: TokenInfo,
    pin: Pin,
    report: probe::Report,
    judgement: probe::Judgement,
}

impl Prepared {
    fn make(site: &Path, config: &SiteConfig, role: Role, progress: &dyn Fn(&str)) -> Result<Self, GateError> {
        let (module, label) = config.hsm.place(role).ok_or(HsmError::PairIncomplete { role })?;
        let (so_file, user_file, report_file, which) = match role {
            Role::Primary => ("pins/so", "pins/user", probing::REPORT, "token"),
            Role::Backup => ("pins/backup-so", "pins/backup-user", probing::BACKUP_REPORT, "backup token"),
        };
        let module = Module::load(&site.join(module))?;
        progress(&format!("initialising the {which}"));
        let (so_pin, pin) = (Pin::random()?, Pin::random()?);
        let token = module.initialise(label, &so_pin, &pin)?;
        write_private(&site.join(so_file), so_pin.expose_secret().as_bytes())?;
        write_private(&site.join(user_file), pin.expose_secret().as_bytes())?;
        // The token is new and holds nothing, so every line can be run, and no key is made in a token that leaks.
        progress(&format!("probing what the {which} enforces, for profile {}", config.profile));
        let report = probe::run(&module, label, &Access::Scratch { pin: &pin, so_pin: Some(&so_pin) }, &|_| ())?;
        let judgement = report.judge(config.profile);
        probing::keep(site, report_file, &report, &judgement)?;
        judgement.require()?;
        Ok(Self { module, role, token, pin, report, judgement })
    }

    fn print(&self) -> Fingerprint {
        Fingerprint::of(&self.report, &self.judgement)
    }

    fn login(&self, config: &SiteConfig) -> Result<Arc<Keyring>, GateError> {
        let (_, label) = config.hsm.place(self.role).ok_or(HsmError::PairIncomplete { role: self.role })?;
        Ok(Keyring::open(Arc::clone(&self.module), label, &self.pin)?)
    }
}

/// Makes the site keys of a pair: what can be in both tokens is made for both, the log's key in each, and the first manifest is
/// signed by a key of the primary's. Writes `pair.json`; returns what is to be recorded.
fn found(
    site: &Path,
    primary: &Arc<Keyring>,
    backup: &Arc<Keyring>,
    state: &mut SiteState,
    made: &mut Made<'_>,
) -> Result<String, GateError> {
    let own = |made: &mut Made<'_>, ring: &Keyring, class, label: &str| {
        made.note(class, label, |label| Ok(ring.generate(class, label)?))
    };
    let transports = [
        own(made, primary, KeyClass::Transport, "pair/transport")?,
        own(made, backup, KeyClass::Transport, "pair/backup-transport")?,
    ];
    let keys = [primary.find(&transports[0])?, backup.find(&transports[1])?];
    let mut shared = Vec::new();
    for (name, class) in SITE_KEYS {
        let key = if class.is_replicable() {
            let both = |label: &str| Ok(replicate([&**primary, &**backup], [&keys[0], &keys[1]], class, label)?);
            let key = made.note(class, &name.label(), both)?;
            shared.push(ManifestKey::new(&key, 1));
            key
        } else {
            own(made, primary, class, &name.label())?
        };
        state.keys.insert(name, key);
    }
    let reserve = own(made, backup, KeyClass::AuditSigning, "site/audit-reserve")?;
    let reserve_public = backup.public_key(&backup.find(&reserve)?)?;
    let signing = own(made, primary, KeyClass::CustodianSigning, "pair/manifest")?;
    let signer = TokenSigner::new(Arc::clone(primary), primary.find(&signing)?)?;
    let manifest = Manifest::after(None, primary.serial(), backup.serial(), shared).sign(&signer)?;
    let fingerprints = [primary.transport_key(&keys[0])?.fingerprint(), backup.transport_key(&keys[1])?.fingerprint()];
    state.manifest_signer = Some(signer.public_key());
    PairFile { manifest, signing, transports, reserve, reserve_public }.write(site)?;
    Ok(format!(
        "primary {}, backup {}; manifests signed by {}; transport keys {} and {}",
        primary.serial(),
        backup.serial(),
        hex::encode(signer.public_key()),
        fingerprints[0],
        fingerprints[1]
    ))
}

struct Made<'a> {
    keys: Vec<(String, KeyRef)>,
    progress: &'a dyn Fn(&str),
}

impl Made<'_> {
    fn generate(&mut self, keyring: &Vault, class: KeyClass, label: &str) -> Result<KeyRef, GateError> {
        self.note(class, label, |label| keyring.generate(class, label))
    }

    fn note(
        &mut self,
        class: KeyClass,
        label: &str,
        make: impl FnOnce(&str) -> Result<KeyRef, GateError>,
    ) -> Result<KeyRef, GateError> {
        (self.progress)(&format!("making {class} key `{label}`"));
        let key = make(label)?;
        self.keys.push((label.to_owned(), key.clone()));
        Ok(key)
    }
}

fn compartments(
    config: &SiteConfig,
    keyring: &Vault,
    made: &mut Made<'_>,
) -> Result<BTreeMap<casemate_types::CompartmentName, CompartmentState>, GateError> {
    let mut compartments = BTreeMap::new();
    for name in config.compartments.keys() {
        let reference = made.generate(keyring, KeyClass::Compartment, &format!("compartment/{name}"))?;
        let key = keyring.find(&reference)?;
        let secrets = keyring.random(SECRETS)?;
        let sealed_secrets = keyring.seal(&key, compartment_aad(name).as_bytes(), &secrets)?;
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
