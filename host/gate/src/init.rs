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
use casemate_hsm::{HsmError, KeyClass, KeyRef, Keyring, Login, Module, Pin, Role, TokenInfo};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::SiteConfig;
use crate::consent::{AdoptedRoster, Consent, Founding, strict};
use crate::journal::{key_operation, user_key_operation};
use crate::session::{SECRETS, compartment_aad};
use crate::site::{SITE_AAD, open_journal};
use crate::state::{CompartmentState, STATE_FORMAT, SiteKey, SiteState, UserState, write_private};
use crate::taken::Taken;
use crate::user_key::{self, Issuer};
use crate::vault::{PairFile, Vault};
use crate::{doomed, pins, probing};

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
    /// One person can open it, or made it.
    pub rehearsal: bool,
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
    founding: Option<&Founding>,
    progress: &dyn Fn(&str),
) -> Result<Created, GateError> {
    if site.join("state.json").exists() {
        return Err(GateError::SiteExists { path: site.to_owned() });
    }
    if let Some(role) = [Role::Primary, Role::Backup].into_iter().find(|role| config.hsm.custody(*role).is_some()) {
        return Err(GateError::Consent(format!(
            "the PINs of the {role} token are to be split: such a token and its keys come from a ceremony (`casemate init --from-ceremony`)"
        )));
    }
    // Before the token is touched: what is initialised cannot be taken back.
    check_blank(site, config)?;
    let consent = founding.map(|founding| founding.consent(site, config)).transpose()?;
    let primary = Prepared::make(site, config, Role::Primary, progress)?;
    let backup = match &config.hsm.backup {
        Some(_) => Some(Prepared::make(site, config, Role::Backup, progress)?),
        None => None,
    };
    furnish(site, config, approvers, (primary, backup), custodians(config, consent)?, None, progress)
}

/// As [`create`], with keys that a ceremony made: no token is initialised and no key of the site is made here.
///
/// # Errors
/// [`GateError::Ceremony`] for whatever differs from the transcript: serial numbers, keys, their classes and check values, and
/// objects that it does not know.
pub fn create_from(
    site: &Path,
    config: &SiteConfig,
    approvers: &[&str],
    founding: Option<&Founding>,
    taken: Taken,
    progress: &dyn Fn(&str),
) -> Result<Created, GateError> {
    if site.join("state.json").exists() {
        return Err(GateError::SiteExists { path: site.to_owned() });
    }
    taken.check(config)?;
    // All names before the tokens are put in force as a pair: that leaves marks in them.
    for (name, class) in SITE_KEYS {
        taken.key(Role::Primary, class, &name.to_string())?;
    }
    for name in config.compartments.keys() {
        taken.key(Role::Primary, KeyClass::Compartment, &format!("compartment-{name}"))?;
    }
    if config.hsm.backup.is_some() {
        taken.key(Role::Primary, KeyClass::Transport, "transport-primary")?;
        taken.key(Role::Backup, KeyClass::Transport, "transport-backup")?;
        taken.key(Role::Backup, KeyClass::AuditSigning, "audit-reserve")?;
        taken.key(Role::Primary, KeyClass::AuditSigning, "pair-manifest")?;
    }
    let primary = Prepared::found(site, config, Role::Primary, &taken, progress)?;
    let backup = match &config.hsm.backup {
        Some(_) => Some(Prepared::found(site, config, Role::Backup, &taken, progress)?),
        None => None,
    };
    let consent = founding.map(|founding| founding.consent(site, config)).transpose()?;
    furnish(site, config, approvers, (primary, backup), custodians(config, consent)?, Some(&taken), progress)
}

/// Who founds the site. A profile that demands two people makes no key for one; a token that is unfit is refused before, by its name.
fn custodians(
    config: &SiteConfig,
    consent: Option<(Consent, AdoptedRoster)>,
) -> Result<(Consent, Option<AdoptedRoster>), GateError> {
    if consent.is_none() && strict(config.profile) {
        return Err(GateError::Consent(format!(
            "profile `{}` makes no key without two custodians: `casemate init --roster FILE --approval FILE`",
            config.profile
        )));
    }
    Ok(consent.map_or((Consent::Alone, None), |(consent, roster)| (consent, Some(roster))))
}

/// Everything but the tokens.
fn furnish(
    site: &Path,
    config: &SiteConfig,
    approvers: &[&str],
    (primary, backup): (Prepared, Option<Prepared>),
    (consent, custody): (Consent, Option<AdoptedRoster>),
    taken: Option<&Taken>,
    progress: &dyn Fn(&str),
) -> Result<Created, GateError> {
    // Two people made it, and nobody can open it alone.
    let rehearsal = taken.is_none() || !pins::nobody_knows(config) || matches!(consent, Consent::Alone);
    let prints = [Some(&primary), backup.as_ref()].into_iter().flatten().map(Prepared::print);
    let mut state = SiteState {
        format: STATE_FORMAT,
        rehearsal,
        token_serial: primary.token.serial.clone(),
        probed: prints.map(|print| (print.serial.clone(), print)).collect(),
        keys: BTreeMap::new(),
        versions: BTreeMap::new(),
        sealed_site_secrets: Vec::new(),
        compartments: BTreeMap::new(),
        issued: 0,
        users: BTreeMap::new(),
        doomed: Vec::new(),
        generation: 0,
        keys_tag: Vec::new(),
        manifest_signer: None,
        custody,
        legacy: None,
        cmvp_floor: None,
    };
    let mut made = Made { keys: Vec::new(), progress, taken };
    let (keyring, founded) = match &backup {
        None => {
            let keyring = Vault::one(primary.login(config)?);
            for (name, class) in SITE_KEYS {
                state.keys.insert(name, made.generate(&keyring, class, &name.label(), &name.to_string())?);
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
    if state.custody.is_some() {
        state.keys_tag = doomed::first_tag(&keyring, &state)?;
    }
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
    if let Some(event) = consent.event() {
        journal.record_blocking(event)?;
    }
    let who = match &consent {
        Consent::Alone => "rehearsal: one person, no custody".to_owned(),
        approved if !rehearsal => format!("PINs of its tokens are split; founded by {}", approved.by("init")),
        approved => format!("rehearsal, because PINs lie in the site's folder; founded by {}", approved.by("init")),
    };
    journal.record_blocking(Event::Site {
        action: "initialised".to_owned(),
        detail: match taken {
            None => format!("{who}; token {} {}", primary.token.model, primary.token.serial),
            Some(taken) => format!(
                "{who}; keys of ceremony transcript {}, signed by {}; credentials and approver keys in files; token {} {}",
                taken.transcript,
                taken.signers.join(" and "),
                primary.token.model,
                primary.token.serial
            ),
        },
    })?;
    if let Some(opened) = pins::opened_by(config) {
        journal.record_blocking(pins::record(&opened))?;
    }
    for prepared in [Some(&primary), backup.as_ref()].into_iter().flatten() {
        journal.record_blocking(probing::event(&prepared.report, &prepared.judgement))?;
    }
    if let Some(detail) = founded {
        journal.record_blocking(Event::Site { action: "hsm-pair-founded".to_owned(), detail })?;
    }
    for (name, key) in &made_keys {
        let operation = if taken.is_some() { "take from the ceremony" } else { "generate" };
        journal.record_blocking(key_operation(key, None, operation, None, &format!("ok: {name}")))?;
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
        rehearsal,
    })
}

/// Refuses before either token is touched: what is initialised stays so.
fn check_blank(site: &Path, config: &SiteConfig) -> Result<(), GateError> {
    let places: Vec<_> = [Role::Primary, Role::Backup].into_iter().filter_map(|role| config.hsm.place(role)).collect();
    for (index, (module, label)) in places.iter().enumerate() {
        if places.iter().skip(index + 1).any(|(_, other)| other == label) {
            return Err(HsmError::TokenTwin { label: (*label).to_owned() }.into());
        }
        Module::load(&site.join(module))?.check_blank(&[label])?;
    }
    Ok(())
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

/// A token that was found fit: a new one that was initialised and holds nothing yet, or one of a ceremony.
struct Prepared {
    module: Arc<Module>,
    role: Role,
    token: TokenInfo,
    pin: Option<Pin>,
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
        Ok(Self { module, role, token, pin: Some(pin), report, judgement })
    }

    /// A token that a ceremony has filled. It is in use, so lines of the probe that change logins are not tried.
    fn found(
        site: &Path,
        config: &SiteConfig,
        role: Role,
        taken: &Taken,
        progress: &dyn Fn(&str),
    ) -> Result<Self, GateError> {
        let (module, label) = config.hsm.place(role).ok_or(HsmError::PairIncomplete { role })?;
        let report_file = match role {
            Role::Primary => probing::REPORT,
            Role::Backup => probing::BACKUP_REPORT,
        };
        let module = Module::load(&site.join(module))?;
        let token = module.token(label)?;
        let of = taken.of(role)?;
        if !of.serial.eq_ignore_ascii_case(&token.serial) {
            return Err(GateError::Ceremony {
                why: format!(
                    "the {role} token `{label}` has serial number {}, the transcript says {}",
                    token.serial, of.serial
                ),
            });
        }
        pins::check_quorum(site, config, role, &token)?;
        let pin = match (&of.pin, token.protected_authentication_path) {
            (None, false) => return Err(HsmError::PinMissing { label: label.to_owned() }.into()),
            (Some(_), true) => return Err(HsmError::PinUnwanted { label: label.to_owned() }.into()),
            (pin, _) => pin.as_ref().map(|pin| Pin::new(pin.expose_secret().to_owned())).transpose()?,
        };
        progress(&format!("probing what the {role} token enforces, for profile {}", config.profile));
        let report = probe::run(&module, label, &Access::Live { pin: pin.as_ref() }, &|_| ())?;
        let judgement = report.judge(config.profile);
        probing::keep(site, report_file, &report, &judgement)?;
        judgement.require()?;
        let prepared = Self { module, role, token, pin, report, judgement };
        progress(&format!("comparing the keys of the {role} token with the transcript"));
        taken.compare(role, &*prepared.login(config)?)?;
        if let Some(pin) = prepared.pin.as_ref().filter(|_| config.hsm.custody(role).is_none()) {
            write_private(&site.join(pins::file(role)), pin.expose_secret().as_bytes())?;
        }
        Ok(prepared)
    }

    fn print(&self) -> Fingerprint {
        Fingerprint::of(&self.report, &self.judgement)
    }

    fn login(&self, config: &SiteConfig) -> Result<Arc<Keyring>, GateError> {
        let (_, label) = config.hsm.place(self.role).ok_or(HsmError::PairIncomplete { role: self.role })?;
        let login = Login { pin: self.pin.as_ref(), native_ff1: config.hsm.native_ff1(self.role) };
        Ok(Keyring::open_with(Arc::clone(&self.module), label, &login)?)
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
    let own = |made: &mut Made<'_>, role, class, label: &str, name: &str| {
        let ring = if role == Role::Primary { primary } else { backup };
        made.note_on(role, class, label, name, |label| Ok(ring.generate(class, label)?))
    };
    let transports = [
        own(made, Role::Primary, KeyClass::Transport, "pair/transport", "transport-primary")?,
        own(made, Role::Backup, KeyClass::Transport, "pair/backup-transport", "transport-backup")?,
    ];
    let keys = [primary.find(&transports[0])?, backup.find(&transports[1])?];
    let mut shared = Vec::new();
    for (name, class) in SITE_KEYS {
        let key = if class.is_replicable() {
            let both = |label: &str| Ok(replicate([&**primary, &**backup], [&keys[0], &keys[1]], class, label)?);
            let key = made.note_on(Role::Primary, class, &name.label(), &name.to_string(), both)?;
            shared.push(ManifestKey::new(&key, 1));
            key
        } else {
            own(made, Role::Primary, class, &name.label(), &name.to_string())?
        };
        state.keys.insert(name, key);
    }
    let reserve = own(made, Role::Backup, KeyClass::AuditSigning, "site/audit-reserve", "audit-reserve")?;
    let reserve_public = backup.public_key(&backup.find(&reserve)?)?;
    // A plan makes no custodian's key; the class of the log's signs as well.
    let class = if made.taken.is_some() { KeyClass::AuditSigning } else { KeyClass::CustodianSigning };
    let signing = own(made, Role::Primary, class, "pair/manifest", "pair-manifest")?;
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
    taken: Option<&'a Taken>,
}

impl Made<'_> {
    fn generate(&mut self, keyring: &Vault, class: KeyClass, label: &str, name: &str) -> Result<KeyRef, GateError> {
        self.note_on(Role::Primary, class, label, name, |label| keyring.generate(class, label))
    }

    /// The key that the ceremony made under `name`, or else a new one.
    fn note_on(
        &mut self,
        role: Role,
        class: KeyClass,
        label: &str,
        name: &str,
        make: impl FnOnce(&str) -> Result<KeyRef, GateError>,
    ) -> Result<KeyRef, GateError> {
        let key = match self.taken {
            Some(taken) => {
                (self.progress)(&format!("taking {class} key `{name}` of the ceremony"));
                taken.key(role, class, name)?
            }
            None => {
                (self.progress)(&format!("making {class} key `{label}`"));
                make(label)?
            }
        };
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
        let reference = made.generate(
            keyring,
            KeyClass::Compartment,
            &format!("compartment/{name}"),
            &format!("compartment-{name}"),
        )?;
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
