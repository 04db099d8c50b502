//! Two custodians are asked before the key office acts.
//!
//! A site adopts its roster once; `state.json` holds the roster's digest from then on, under the tag of its keys, and no key is made,
//! issued, replaced or destroyed without a statement that the roster's custodians have signed. Revocation asks nobody: it only takes away.
//! A site without a roster is one person's, which its profile must allow and every record of its log says.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use casemate_audit::Event;
use casemate_custody::{
    Approved, CustodyError, Envelope, Grant, LegacyPermit, NonceFile, Operation, QuorumBackend, Roster, Statement,
    TokenSerial, UnixTime, Verifier, files,
};
use casemate_hsm::{KeyClass, KeyId};
use casemate_types::{Digest, Profile};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::config::SiteConfig;
use crate::pins;
use crate::site::Gate;
use crate::site_log::{NoLog, SiteLog};
use crate::state::{SiteState, write_private};

/// Who gives an order, and the approval that this person brings.
pub struct Officer<'a> {
    /// As the machine knows the person: recorded, and no proof.
    pub name: &'a str,
    /// A statement that custodians signed. Without one the site looks into `custody/approvals`.
    pub approval: Option<Envelope>,
}

impl<'a> Officer<'a> {
    /// An officer who brings no approval.
    pub fn alone(name: &'a str) -> Self {
        Self { name, approval: None }
    }
}

/// The roster that a site has adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AdoptedRoster {
    /// SHA-256 of its canonical JSON.
    pub digest: Digest,
    /// Its epoch.
    pub epoch: u64,
}

/// The roster of a site.
pub fn roster_path(site: &Path) -> PathBuf {
    site.join("custody/roster.json")
}

/// The ledger of used approvals of a site.
pub fn ledger_path(site: &Path) -> PathBuf {
    site.join("custody/nonces")
}

/// Where the site looks for approvals that nobody brings: standing ones above all.
pub fn approvals_path(site: &Path) -> PathBuf {
    site.join("custody/approvals")
}

/// What is to be done, to be compared with what was approved.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) key: Option<KeyId>,
    pub(crate) class: Option<KeyClass>,
    pub(crate) name: Option<String>,
    pub(crate) version: Option<u32>,
    pub(crate) subject: Option<Digest>,
    pub(crate) grant: Option<Grant>,
}

/// Whether two custodians stand behind an operation.
pub(crate) enum Consent {
    /// One person's site.
    Alone,
    /// They do.
    Approved(Box<Approved<Statement>>),
}

impl Consent {
    /// Who did it, for the record of the operation.
    pub(crate) fn by(&self, officer: &str) -> String {
        match self {
            Self::Alone => officer.to_owned(),
            Self::Approved(approved) => {
                format!("{officer}, approved by {} (statement {})", approvers(approved), approved.digest())
            }
        }
    }

    /// The record of the approval itself.
    pub(crate) fn event(&self) -> Option<Event> {
        let Self::Approved(approved) = self else { return None };
        let statement = approved.statement();
        let uses = statement.grant.as_ref().map_or(1, |grant| grant.uses);
        let claim =
            if approved.requester_proven() { "signed by the requester" } else { "the requester's name is a claim" };
        let detail = format!(
            "{} by {}, requested by {} ({claim}), statement {}, use {} of {uses}, roster {} of epoch {}, tier {}",
            statement.operation,
            approvers(approved),
            statement.requester,
            approved.digest(),
            approved.used(),
            statement.roster,
            statement.epoch,
            approved.tier(),
        );
        Some(Event::Site { action: "approval-used".to_owned(), detail })
    }

    /// What was signed.
    pub(crate) fn statement(&self) -> Option<Digest> {
        match self {
            Self::Alone => None,
            Self::Approved(approved) => Some(approved.digest()),
        }
    }

    pub(crate) fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Alone => None,
            Self::Approved(approved) => approved.statement().grant.as_ref(),
        }
    }
}

fn approvers(approved: &Approved<Statement>) -> String {
    let names: Vec<&str> = approved.approvers().iter().map(|signer| signer.name.as_str()).collect();
    names.join(" and ")
}

/// Roster, ledger, log and approvals of a site, held while one order is carried out.
pub(crate) struct Desk {
    site: String,
    profile: Profile,
    tier: QuorumBackend,
    roster: Roster,
    ledger: NonceFile,
    log: SiteLog,
    tokens: Vec<TokenSerial>,
    brought: Vec<(String, Envelope)>,
    explicit: bool,
}

impl Desk {
    /// Nothing for a site of one person.
    ///
    /// # Errors
    /// [`GateError::Consent`] for a roster that was not adopted or is another one, for none under a profile that needs one, and for an
    /// approval that nobody can judge.
    pub(crate) fn open(
        dir: &Path,
        config: &SiteConfig,
        state: &SiteState,
        serials: Vec<String>,
        approval: Option<Envelope>,
    ) -> Result<Option<Self>, GateError> {
        let (name, profile, tier) = (config.name.as_str(), config.profile, pins::tier(config, state));
        let Some(adopted) = &state.custody else {
            if roster_path(dir).exists() {
                return refuse(
                    "custody/roster.json is there, and this site has not adopted it; compare its digest, then `casemate custodian roster adopt`",
                );
            }
            if strict(profile) {
                return Err(GateError::Consent(format!(
                    "profile `{profile}` makes, issues and destroys no key without two custodians; `casemate custodian roster build`, then `adopt`"
                )));
            }
            if approval.is_some() {
                return refuse(
                    "this site has no custodians who could have signed; leave --approval away, or adopt a roster",
                );
            }
            return Ok(None);
        };
        let roster = read_roster(&roster_path(dir))?;
        if roster.digest() != adopted.digest || roster.epoch() != adopted.epoch {
            return Err(GateError::Consent(format!(
                "custody/roster.json is {} of epoch {}, and this site has adopted {} of epoch {}; put that one back",
                roster.digest(),
                roster.epoch(),
                adopted.digest,
                adopted.epoch
            )));
        }
        let explicit = approval.is_some();
        let brought = match approval {
            Some(envelope) => vec![("the approval".to_owned(), envelope)],
            None => lying_ready(dir)?,
        };
        let tokens = serials.iter().map(|serial| serial.trim().parse()).collect::<Result<_, _>>()?;
        let ledger = NonceFile::open(&ledger_path(dir))?;
        let log = SiteLog::open(dir)?;
        Ok(Some(Self { site: name.to_owned(), profile, tier, roster, ledger, log, tokens, brought, explicit }))
    }

    /// Finds the approval of an operation and uses it, for once.
    ///
    /// # Errors
    /// [`GateError::Custody`] as [`Verifier::approve`] for an approval that was brought; [`GateError::Consent`] when none fits.
    pub(crate) fn ask(&mut self, operation: Operation, wanted: &Wanted) -> Result<Consent, GateError> {
        let verifier = verifier((&self.site, self.profile, self.tier), &self.roster);
        let now = now()?;
        let mut nearest = None;
        for (name, envelope) in &self.brought {
            let fits = verifier
                .inspect(envelope, now, &self.log)
                .and_then(|signed| fits(signed.document(), operation, wanted, &self.tokens));
            match fits.and_then(|()| verifier.approve(envelope, now, &self.log, &mut self.ledger)) {
                Ok(approved) => return Ok(Consent::Approved(Box::new(approved))),
                Err(error) if self.explicit => return Err(error.into()),
                // What was said of another operation explains nothing.
                Err(CustodyError::NotApproved { what: "operation", .. }) => {}
                Err(error) => nearest = Some(format!("; {name} does not do: {error}")),
            }
        }
        Err(GateError::Consent(format!(
            "`{operation}` needs {} custodians: have a statement signed (`casemate custodian request --operation {operation} --help`), \
             then give it with --approval or put it into custody/approvals{}",
            self.roster.threshold(),
            nearest.unwrap_or_default()
        )))
    }
}

impl Desk {
    /// The permit of a statement that was used before.
    ///
    /// # Errors
    /// As [`Verifier::legacy_permit`].
    pub(crate) fn legacy_permit(&self, envelope: &Envelope) -> Result<LegacyPermit, CustodyError> {
        self.verifier().legacy_permit(envelope, &self.ledger)
    }

    fn verifier(&self) -> Verifier<'_> {
        verifier((&self.site, self.profile, self.tier), &self.roster)
    }
}

fn verifier<'a>((site, profile, tier): (&'a str, Profile, QuorumBackend), roster: &'a Roster) -> Verifier<'a> {
    Verifier { site, roster, tier, profile, max_head_age: Verifier::MAX_HEAD_AGE }
}

fn fits(
    statement: &Statement,
    operation: Operation,
    wanted: &Wanted,
    tokens: &[TokenSerial],
) -> Result<(), CustodyError> {
    let refused = |what| Err(CustodyError::NotApproved { what, approved: statement.operation });
    if statement.operation != operation {
        return refused("operation");
    }
    if statement.key != wanted.key {
        return refused("key");
    }
    if statement.class != wanted.class {
        return refused("class");
    }
    if statement.name != wanted.name {
        return refused("name");
    }
    if statement.version != wanted.version {
        return refused("version");
    }
    if statement.subject != wanted.subject {
        return refused("subject");
    }
    // Whatever is done is done in every token of the site.
    if tokens.iter().any(|token| !statement.tokens.iter().any(|named| named.same_device(token))) {
        return refused("token");
    }
    match (&statement.grant, &wanted.grant) {
        (Some(grant), Some(wanted)) => {
            grant.exceeded_by(wanted).map_or(Ok(()), |what| Err(CustodyError::BeyondGrant { what }))
        }
        (None, None) => Ok(()),
        _ => refused("grant"),
    }
}

fn refuse<T>(why: &str) -> Result<T, GateError> {
    Err(GateError::Consent(why.to_owned()))
}

/// Profiles that make no key on one person's word.
pub(crate) fn strict(profile: Profile) -> bool {
    matches!(profile, Profile::Enterprise | Profile::Government)
}

fn read_roster(path: &Path) -> Result<Roster, GateError> {
    Ok(Roster::parse(&files::read(path)?)?)
}

/// The statements in `custody/approvals`, by name. A file that is none is named.
fn lying_ready(dir: &Path) -> Result<Vec<(String, Envelope)>, GateError> {
    let folder = approvals_path(dir);
    let io = |source| GateError::Io { action: "list", path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let envelope = Envelope::parse(&files::read(path)?)?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), envelope))
    };
    paths.iter().map(read).collect()
}

pub(crate) fn now() -> Result<UnixTime, GateError> {
    let second = u64::try_from(jiff::Timestamp::now().as_second());
    second.map(UnixTime).map_err(|_| GateError::Consent("the clock is before 1970".to_owned()))
}

/// The founding of a site by its custodians, before it has a state.
pub struct Founding {
    /// Its first roster.
    pub roster: Roster,
    /// The approval (operation `found`), whose subject is the digest of `site.toml`.
    pub approval: Envelope,
}

impl Founding {
    /// The head of the log that a founding statement names: there is no log yet.
    pub fn head() -> (u64, [u8; 32]) {
        NoLog::head()
    }

    /// Uses the approval, in a ledger that begins with it. A folder in which a ledger is already goes on with that one: an approval does
    /// not found two sites, nor one site twice.
    ///
    /// # Errors
    /// [`GateError::Custody`] as [`Verifier::approve`].
    pub(crate) fn consent(&self, dir: &Path, config: &SiteConfig) -> Result<(Consent, AdoptedRoster), GateError> {
        let path = dir.join("site.toml");
        let text = fs::read(&path).map_err(|source| GateError::Io { action: "read", path, source })?;
        let wanted = Wanted { subject: Some(Digest::of(&text)), ..Wanted::default() };
        let roster = &self.roster;
        let verifier = verifier((&config.name, config.profile, pins::tier_of(config)), roster);
        let now = now()?;
        let signed = verifier.inspect(&self.approval, now, &NoLog)?;
        fits(signed.document(), Operation::Found, &wanted, &[])?;
        create_folder(dir)?;
        let path = ledger_path(dir);
        let mut ledger = if path.exists() { NonceFile::open(&path)? } else { NonceFile::create(&path)? };
        let approved = verifier.approve(&self.approval, now, &NoLog, &mut ledger)?;
        write_private(&roster_path(dir), &roster.to_bytes()?)?;
        let adopted = AdoptedRoster { digest: roster.digest(), epoch: roster.epoch() };
        Ok((Consent::Approved(Box::new(approved)), adopted))
    }
}

fn create_folder(dir: &Path) -> Result<(), GateError> {
    let path = dir.join("custody");
    fs::create_dir_all(&path).map_err(|source| GateError::Io { action: "create", path, source })
}

impl Gate {
    /// Adopts a roster. The first one is adopted by one person, who compares its digest with the custodians; each later one needs the
    /// approval of the one in force (operation `change-roster`), and its epoch is the next. Returns whether anything changed.
    ///
    /// # Errors
    /// [`GateError::Consent`] for the roster of another site, an epoch that is not the next, and a ledger of used approvals that is gone;
    /// as [`Verifier::approve`].
    pub fn adopt_roster(&self, officer: &Officer<'_>, roster: &Roster) -> Result<bool, GateError> {
        if roster.site() != self.config.name {
            return Err(GateError::Consent(format!("the roster is that of site `{}`", roster.site())));
        }
        let adopted = AdoptedRoster { digest: roster.digest(), epoch: roster.epoch() };
        let before = self.state().custody.clone();
        if before.as_ref() == Some(&adopted) {
            // Cut off between state and file.
            write_private(&roster_path(&self.dir), &roster.to_bytes()?)?;
            return Ok(false);
        }
        if !ledger_path(&self.dir).exists() {
            return refuse("custody/nonces, the ledger of used approvals, is gone; put it back");
        }
        let consent = match &before {
            None => Consent::Alone,
            Some(held) if roster.epoch() != held.epoch + 1 => {
                return Err(GateError::Consent(format!(
                    "the roster in force is of epoch {}; the next one has to be of epoch {}",
                    held.epoch,
                    held.epoch + 1
                )));
            }
            Some(_) => {
                let wanted = Wanted { subject: Some(roster.digest()), ..Wanted::default() };
                // A change of the roster is on no token.
                let desk = self.desk(officer, Vec::new())?;
                match desk {
                    Some(mut desk) => desk.ask(Operation::ChangeRoster, &wanted)?,
                    None => return refuse("nobody can approve a change of the roster"),
                }
            }
        };
        if let Some(event) = consent.event() {
            self.journal.record_blocking(event)?;
        }
        let detail = format!(
            "roster adopted: {} of epoch {}, {} of {} custodians, by {}",
            adopted.digest,
            adopted.epoch,
            roster.threshold(),
            roster.custodians().len(),
            consent.by(officer.name)
        );
        self.journal.record_blocking(Event::Site { action: "custody".to_owned(), detail })?;
        self.change_state(|state| {
            state.custody = Some(adopted);
            Ok(())
        })?;
        write_private(&roster_path(&self.dir), &roster.to_bytes()?)?;
        Ok(true)
    }

    /// Verifies what the site's custodians signed against its log as it is now, and uses it up. Whoever gets the answer compares what was
    /// approved with what is to be done.
    ///
    /// # Errors
    /// [`GateError::Consent`] for a site that has adopted no roster; [`GateError::Custody`] as [`Verifier::approve`].
    pub fn approve(&self, envelope: Envelope) -> Result<(Approved<Statement>, SiteLog), GateError> {
        let officer = Officer { name: "", approval: Some(envelope.clone()) };
        let Some(mut desk) = self.desk(&officer, Vec::new())? else {
            return refuse("this site has no custodians; `casemate custodian roster adopt`");
        };
        let verifier = verifier((&desk.site, desk.profile, desk.tier), &desk.roster);
        let approved = verifier.approve(&envelope, now()?, &desk.log, &mut desk.ledger)?;
        Ok((approved, desk.log))
    }

    /// Refuses what other people than the site's custodians approved.
    ///
    /// # Errors
    /// [`GateError::Consent`], [`GateError::Custody`].
    pub(crate) fn by_adopted(&self, approved: &Approved<Statement>) -> Result<(), GateError> {
        let state = self.state();
        let Some(adopted) = &state.custody else {
            return refuse("this site has no custodians; `casemate custodian roster adopt`");
        };
        let Statement { roster, epoch, .. } = approved.statement();
        if *roster == adopted.digest && *epoch == adopted.epoch {
            return Ok(());
        }
        Err(CustodyError::OtherRoster { epoch: *epoch, current: adopted.epoch }.into())
    }

    pub(crate) fn desk(&self, officer: &Officer<'_>, serials: Vec<String>) -> Result<Option<Desk>, GateError> {
        let state = self.state();
        if state.custody.is_some() {
            // Only what is signed counts, so sign all that is there.
            self.journal.checkpoint()?;
        }
        Desk::open(&self.dir, &self.config, &state, serials, officer.approval.clone())
    }
}
