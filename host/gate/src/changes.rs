//! Changes under way. `changes/CONTENT/` holds the bundle as received, the staging report and the approvals, `CONTENT` being what the bundle's
//! signatures are over. Nothing in there is believed: each look verifies all of it anew, and who asked is what the log says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_audit::Event;
use casemate_bundle::{
    ApproverKey, Difference, PublicKey, TrustRoot, Verified, content_digest, inspect, inspect_document, is_document,
    verify_any,
};
use casemate_change::cycle::{self, Change, Facts, Received, Report, Seen, Staged};
use casemate_change::{ApprovalError, ApprovalFile, ReceivedBundle, Standing};
use casemate_engine::Plugin;
use casemate_types::{Digest, Generation, PluginName};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::GateError;
use crate::config::SiteConfig;
use crate::inbox::Activated;
use crate::session::Session;
use crate::site::Gate;
use crate::staging::Trial;
use crate::standing::{RECEIVED, standing_of};
use crate::state::{SiteKey, write_private};

const FOLDER: &str = "changes";
const BUNDLE: &str = "bundle.casemate";
const REPORT: &str = "staging.json";
const APPROVALS: &str = "approvals";
/// How long a staging report counts.
const REPORT_DAYS: i64 = 7;

/// Where a change stands, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChangeLine {
    /// The digest of what the bundle's signatures are over: names the change.
    pub change: Digest,
    /// The name under which it would be active.
    pub name: PluginName,
    /// The bundle's version.
    pub version: u64,
    /// `received`, `verified`, `staged`, `approved`, `active`, `superseded`, `rolled-back` or `revoked`.
    pub state: String,
    /// Who asks for it.
    pub requester: String,
    /// Who approved what there is to see now.
    pub approvers: Vec<String>,
    /// Why it is not further, where something is wrong.
    pub problem: Option<String>,
}

/// The report of a staging, signed by the site. Its members are in alphabetical order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StagingReport {
    /// The site's name.
    pub site: String,
    /// The digest of its root of trust.
    pub root: Digest,
    /// What was tried.
    pub content: Digest,
    /// Its name.
    pub name: PluginName,
    /// Its version.
    pub version: u64,
    /// What changes against the active bundle.
    pub difference: Value,
    /// The generation that it was compared with.
    pub generation: Generation,
    /// The trial on recorded requests; none where nothing could be replayed.
    pub trial: Option<Trial>,
    /// Why nothing was replayed.
    pub not_replayed: Option<String>,
    /// When it was made.
    pub made: Timestamp,
    /// Until when it counts.
    pub expires: Timestamp,
}

/// A report with the site's signature over its statement.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedReport {
    /// The report as signed: canonical JSON.
    report: String,
    /// Ed25519, hexadecimal.
    signature: String,
}

/// What the site signs for a report: nothing else that its key signs begins so.
fn message(report: &str) -> Vec<u8> {
    [b"casemate staging report v1\n", report.as_bytes()].concat()
}

/// A change as its folder has it, up to what its approvers have to see.
struct Look {
    bundle: Vec<u8>,
    name: PluginName,
    version: u64,
    verified: Change<cycle::Verified>,
    staged: Result<Change<Staged>, GateError>,
}

/// Everything but the keys: what a look at changes needs of a site.
struct Scene {
    dir: PathBuf,
    config: SiteConfig,
    trust: TrustRoot,
    standing: Arc<Standing>,
    /// Verifies staging reports.
    key: PublicKey,
    now: Timestamp,
}

impl Scene {
    /// Of a site that this process has not opened.
    fn of(dir: &Path) -> Result<Self, GateError> {
        let path = dir.join("trust/root.json");
        let trust = fs::read(&path).map_err(|source| GateError::Io { action: "read", path, source })?;
        let text = fs::read_to_string(dir.join("log.vkey")).unwrap_or_default();
        let public = crate::site::public_of_vkey(&text)
            .ok_or_else(|| GateError::Store("log.vkey holds no key of a log".to_owned()))?;
        Ok(Self {
            dir: dir.to_owned(),
            config: SiteConfig::read(dir)?,
            trust: TrustRoot::parse(&trust)?,
            standing: Arc::new(standing_of(dir)?),
            key: key_of(&public)?,
            now: Timestamp::now(),
        })
    }

    fn folder(&self, content: Digest) -> PathBuf {
        self.dir.join(FOLDER).join(content.hex())
    }

    fn look(&self, content: Digest) -> Result<Look, GateError> {
        let folder = self.folder(content);
        let received = ReceivedBundle::read(&folder.join(BUNDLE))?;
        let bundle = received.as_bytes().to_vec();
        if content_digest(&bundle)? != content {
            return Err(GateError::Refused(format!("the bundle in {} is another one", folder.display())));
        }
        let requester = self.standing.requests.get(&content);
        let requester = requester.ok_or_else(|| {
            GateError::Refused("the log does not say that anybody asked for it: casemate change receive".to_owned())
        })?;
        let change: Change<Received> = Change::received(content, requester.clone());
        let facts = self.facts(&bundle)?;
        let (name, version) = (facts.name.clone(), facts.version);
        let verified = change.verified(facts);
        let staged = self.staged(&folder, verified.clone());
        Ok(Look { bundle, name, version, verified, staged })
    }

    /// Verifies a bundle (two signatures, in date) and compares it with the active one.
    fn facts(&self, bundle: &[u8]) -> Result<Facts, GateError> {
        verify_any(bundle, &self.trust, self.now)?;
        let active = |name: &PluginName| -> Result<Option<Vec<u8>>, GateError> {
            let Some(entry) = self.standing.active.entries.get(name) else { return Ok(None) };
            let bytes = ReceivedBundle::read(&self.dir.join(&entry.file))?.as_bytes().to_vec();
            // Or approvers would be shown what changes against something else.
            if Digest::of(&bytes) != entry.bundle_digest {
                return Err(GateError::Refused(format!("{} is not the bundle that is active", entry.file)));
            }
            Ok(Some(bytes))
        };
        if is_document(bundle)? {
            let new = inspect_document(bundle, &self.trust)?;
            let old = active(&new.name)?.map(|old| inspect_document(&old, &self.trust)).transpose()?;
            let difference =
                old.map_or(Value::Null, |old| json!({ "document": [old.document_digest, new.document_digest] }));
            let (name, version, expires, settings) = (new.name, new.version, new.expires, new.document_digest);
            return Ok(Facts { name, version, expires, settings, difference });
        }
        let new = inspect(bundle, &self.trust)?;
        let name = new.manifest.name.clone();
        let old = active(&name)?.map(|old| inspect(&old, &self.trust)).transpose()?;
        let difference = old.map(|old| serde_json::to_value(Difference::between(&old, &new))).transpose();
        let difference = difference.map_err(|error| GateError::Store(error.to_string()))?.unwrap_or_default();
        let (version, expires, settings) = (new.version, new.expires, new.settings_digest);
        Ok(Facts { name, version, expires, settings, difference })
    }

    fn staged(&self, folder: &Path, verified: Change<cycle::Verified>) -> Result<Change<Staged>, GateError> {
        let path = folder.join(REPORT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(GateError::NotStaged { change: verified.content() });
            }
            Err(source) => return Err(GateError::Io { action: "read", path, source }),
        };
        let report = self.report(&bytes)?;
        if report.generation == self.standing.active.generation && report.difference != *verified.difference() {
            return Err(GateError::Refused("the staging report shows another difference; stage it again".to_owned()));
        }
        let newly_allowed = report.trial.iter().flat_map(|trial| trial.newly_allowed.keys().cloned()).collect();
        let described = Report {
            digest: Digest::of(&bytes),
            content: report.content,
            generation: report.generation,
            newly_allowed,
            expires: report.expires,
        };
        let generation = self.standing.active.generation;
        Ok(verified.staged(described, &self.config.name, self.trust.digest(), generation, self.now)?)
    }

    /// A report that this site signed.
    fn report(&self, bytes: &[u8]) -> Result<StagingReport, GateError> {
        let refused = |why: &str| GateError::Refused(format!("the staging report is refused: {why}"));
        let signed: SignedReport = serde_json::from_slice(bytes).map_err(|error| refused(&error.to_string()))?;
        let signature = hex::decode(&signed.signature).unwrap_or_default();
        if !self.key.verifies(&message(&signed.report), &signature) {
            return Err(refused("this site's key did not sign it"));
        }
        let report: StagingReport =
            serde_json::from_str(&signed.report).map_err(|error| refused(&error.to_string()))?;
        if report.site != self.config.name || report.root != self.trust.digest() {
            return Err(refused("it was made for another site, or under another root of trust"));
        }
        Ok(report)
    }

    /// The approvals in a change's folder that hold for what there is to see now, and what is wrong with the others.
    fn approvals(&self, content: Digest, seen: &Seen) -> (Vec<casemate_change::Approval>, Vec<ApprovalError>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let files = fs::read_dir(self.folder(content).join(APPROVALS)).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        files.sort();
        for path in files {
            let approval = read_capped(&path)
                .and_then(|bytes| ApprovalFile::parse(&bytes))
                .and_then(|file| file.verify(seen, &self.trust, self.now));
            match approval {
                Ok(approval) => good.push(approval),
                Err(error) => bad.push(error),
            }
        }
        (good, bad)
    }

    fn line(&self, content: Digest) -> Result<ChangeLine, GateError> {
        let Look { bundle, name, version, verified, staged } = self.look(content)?;
        let requester = verified.requester().to_owned();
        let line = |state: &str, approvers: Vec<String>, problem: Option<String>| ChangeLine {
            change: content,
            name: name.clone(),
            version,
            state: state.to_owned(),
            requester,
            approvers,
            problem,
        };
        if let Some(state) = self.ran(&name, version, Digest::of(&bundle)) {
            return Ok(line(state, Vec::new(), None));
        }
        let staged = match staged {
            Ok(staged) => staged,
            Err(GateError::NotStaged { .. }) => return Ok(line("verified", Vec::new(), None)),
            Err(error) => return Ok(line("verified", Vec::new(), Some(error.to_string()))),
        };
        let (good, bad) = self.approvals(content, staged.seen());
        let approvers = good.iter().map(|approval| approval.approver().to_owned()).collect();
        let problem = bad.first().map(ToString::to_string);
        Ok(match staged.approved(&good) {
            Ok(_) => line("approved", approvers, problem),
            Err(_) => line("staged", approvers, problem),
        })
    }

    /// The state of a bundle that runs or ran.
    fn ran(&self, name: &PluginName, version: u64, bundle: Digest) -> Option<&'static str> {
        if self.standing.revoked.contains(&bundle) {
            return Some("revoked");
        }
        self.standing.version_of(name, bundle)?;
        let active = self.standing.active.entries.get(name);
        Some(match active {
            Some(entry) if entry.bundle_digest == bundle => "active",
            Some(entry) if entry.version < version => "rolled-back",
            _ => "superseded",
        })
    }
}

fn key_of(public: &[u8; 32]) -> Result<PublicKey, GateError> {
    PublicKey::from_bytes(public).map_err(|error| GateError::Store(error.to_string()))
}

fn read_capped(path: &Path) -> Result<Vec<u8>, ApprovalError> {
    use std::io::Read;
    let malformed = |error: std::io::Error| ApprovalError::Malformed(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(malformed)?;
    file.take(casemate_change::MAX_APPROVAL as u64 + 1).read_to_end(&mut bytes).map_err(malformed)?;
    Ok(bytes)
}

/// The changes of a site, whether or not another process has it open, by name and version.
///
/// # Errors
/// For a site that cannot be read; what is wrong with one change is said in its line.
pub fn changes_of(dir: &Path) -> Result<Vec<ChangeLine>, GateError> {
    let scene = Scene::of(dir)?;
    let folders = fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    let contents = folders.filter_map(|entry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok());
    let unreadable: PluginName = "unreadable".parse().map_err(|_| GateError::Store("no name".to_owned()))?;
    let mut lines: Vec<ChangeLine> = contents
        .map(|content: Digest| {
            scene.line(content).unwrap_or_else(|error| ChangeLine {
                change: content,
                name: unreadable.clone(),
                version: 0,
                state: "received".to_owned(),
                requester: scene.standing.requests.get(&content).cloned().unwrap_or_default(),
                approvers: Vec::new(),
                problem: Some(error.to_string()),
            })
        })
        .collect();
    lines.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    Ok(lines)
}

/// One change: its line, what its approvers have to see, and its staging report, where it has got so far.
///
/// # Errors
/// For a change that cannot be read.
pub fn change_of(dir: &Path, content: Digest) -> Result<(ChangeLine, Option<Seen>, Option<StagingReport>), GateError> {
    let scene = Scene::of(dir)?;
    let line = scene.line(content)?;
    let seen = scene.look(content)?.staged.ok().map(|staged| staged.seen().clone());
    let report = fs::read(scene.folder(content).join(REPORT)).ok().and_then(|bytes| scene.report(&bytes).ok());
    Ok((line, seen, report))
}

/// Approves what there is to see now: signs the digest of what was seen, with a reason for each request that would be allowed from now on. `expected` is the digest that the approver read; nothing else is signed.
///
/// # Errors
/// As [`ApprovalFile::sign`]; [`GateError::Refused`] when there is something else to see than was read.
pub fn approve_change(
    dir: &Path,
    content: Digest,
    expected: Digest,
    reasons: BTreeMap<String, String>,
    key: &ApproverKey,
) -> Result<ChangeLine, GateError> {
    let scene = Scene::of(dir)?;
    let look = scene.look(content)?;
    let staged = look.staged?;
    let seen = staged.seen();
    if seen.digest()? != expected {
        return Err(GateError::Refused(
            "there is something else to see than what was read; look again: casemate change show".to_owned(),
        ));
    }
    let approval = ApprovalFile::sign(seen, reasons, key, scene.now)?;
    approval.verify(seen, &scene.trust, scene.now)?;
    let approvals = scene.folder(content).join(APPROVALS);
    fs::create_dir_all(&approvals).map_err(|source| GateError::Io {
        action: "create",
        path: approvals.clone(),
        source,
    })?;
    write_private(&approvals.join(format!("{}.dsse.json", key.public().name)), &approval.to_bytes()?)?;
    scene.line(content)
}

/// The component of a change; none for a document.
pub(crate) fn component_of_change(dir: &Path, content: Digest) -> Result<Option<Digest>, GateError> {
    let scene = Scene::of(dir)?;
    let look = scene.look(content)?;
    Ok(match is_document(&look.bundle)? {
        true => None,
        false => Some(inspect(&look.bundle, &scene.trust)?.component_digest),
    })
}

impl Gate {
    /// The bundle of a change that somebody asked for, with its name and version.
    pub(crate) fn received_bundle(&self, content: Digest) -> Result<(Vec<u8>, PluginName, u64), GateError> {
        let look = self.scene()?.look(content)?;
        Ok((look.bundle, look.name, look.version))
    }

    fn scene(&self) -> Result<Scene, GateError> {
        let state = self.state();
        let key = self.keyring.find(state.key(SiteKey::Audit)?)?;
        Ok(Scene {
            dir: self.dir.clone(),
            config: self.config.clone(),
            trust: self.trust()?,
            standing: self.standing(),
            key: key_of(&self.keyring.public_key(&key)?)?,
            now: self.trusted_now(),
        })
    }

    /// Takes in a bundle that the user of a session asks for. Two people have signed it: it is verified before it is kept.
    ///
    /// # Errors
    /// As [`casemate_bundle::verify`]; [`GateError::Refused`] for one that somebody asked for before.
    pub async fn receive_change(&self, session: &Session, raw: &[u8]) -> Result<ChangeLine, GateError> {
        self.check_current(session)?;
        let scene = self.scene()?;
        let facts = scene.facts(raw)?;
        let content = content_digest(raw)?;
        if let Some(requester) = scene.standing.requests.get(&content) {
            return Err(GateError::Refused(format!("{requester} asked for this change before: {content}")));
        }
        let folder = scene.folder(content);
        fs::create_dir_all(&folder).map_err(|source| GateError::Io {
            action: "create",
            path: folder.clone(),
            source,
        })?;
        write_private(&folder.join(BUNDLE), raw)?;
        let _changing = self.changing.lock().await;
        let requester = session.claims.user.to_string();
        self.record_step(RECEIVED, &facts.name, facts.version, content, vec![requester]).await?;
        self.scene()?.line(content)
    }

    /// Tries a change on what the site was asked before, and keeps the signed report.
    ///
    /// # Errors
    /// [`GateError::Replay`]; as [`Gate::try_load`].
    pub async fn stage_change(&self, content: Digest, tell: impl FnMut(u64)) -> Result<StagingReport, GateError> {
        let scene = self.scene()?;
        let look = scene.look(content)?;
        let trial = self.trial_of(&look, tell).await?;
        let (trial, not_replayed) = match trial {
            Ok(trial) => (Some(trial), None),
            Err(why) => (None, Some(why)),
        };
        let expires = scene.now.checked_add(SignedDuration::from_hours(24 * REPORT_DAYS));
        let facts = scene.facts(&look.bundle)?;
        let report = StagingReport {
            site: scene.config.name.clone(),
            root: scene.trust.digest(),
            content,
            name: look.name.clone(),
            version: look.version,
            difference: facts.difference,
            generation: scene.standing.active.generation,
            trial,
            not_replayed,
            made: scene.now,
            expires: expires.map_err(|error| GateError::Store(error.to_string()))?,
        };
        let malformed = |error: serde_json::Error| GateError::Store(error.to_string());
        // Through a value, whose members are sorted.
        let text = serde_json::to_value(&report).and_then(|value| serde_json::to_string(&value)).map_err(malformed)?;
        self.record_key_use(SiteKey::Audit, "sign", &"staging", "ok").await?;
        let key = self.keyring.find(self.state().key(SiteKey::Audit)?)?;
        let signature = hex::encode(self.keyring.sign(&key, &message(&text))?);
        let bytes = serde_json::to_vec(&SignedReport { report: text, signature }).map_err(malformed)?;
        let _changing = self.changing.lock().await;
        write_private(&scene.folder(content).join(REPORT), &bytes)?;
        self.record_step("staged", &look.name, look.version, Digest::of(&bytes), Vec::new()).await?;
        Ok(report)
    }

    /// The trial, or why there is nothing to replay.
    async fn trial_of(&self, look: &Look, tell: impl FnMut(u64)) -> Result<Result<Trial, String>, GateError> {
        let Verified::Component(new) = verify_any(&look.bundle, &self.trust()?, self.trusted_now())? else {
            return Ok(Err("it holds no component; what it changes is in the difference".to_owned()));
        };
        let active = self.active();
        let Some(entry) = self.standing().active.entries.get(&look.name).cloned() else {
            return Ok(Err(format!("nothing called `{}` is active, so nothing of it is recorded", look.name)));
        };
        let changes = self.changes()?;
        let old =
            changes.load_one(&look.name, entry.version, entry.bundle_digest, &self.trust()?, self.trusted_now())?;
        let Verified::Component(old) = old else {
            return Err(GateError::Refused(format!("`{}` is no component", look.name)));
        };
        let engine = Self::replay_engine()?;
        let settings = active.documents.settings_of(&old).map(|(.., document)| document.settings());
        let old = Plugin::load_with(&engine, &old, settings.as_ref().unwrap_or_else(|| old.settings())).await?;
        let new = Plugin::load(&engine, &new).await?;
        if old.manifest().world != new.manifest().world {
            return Ok(Err("it is of another world than the active one".to_owned()));
        }
        self.try_on_recordings(Arc::new(old), Arc::new(new), tell).await.map(Ok)
    }

    /// Makes a change active that was staged and approved.
    ///
    /// # Errors
    /// [`GateError::Approval`]; as [`Gate::load_bundle`].
    pub async fn activate_change(&self, content: Digest) -> Result<Activated, GateError> {
        let scene = self.scene()?;
        let look = scene.look(content)?;
        let staged = look.staged?;
        let (good, bad) = scene.approvals(content, staged.seen());
        let seen = staged.seen().digest()?;
        let approved = match staged.approved(&good) {
            Ok(approved) => approved,
            // What is wrong with an approval says more than that it is missing.
            Err(ApprovalError::TooFew { found, needed }) => {
                return Err(bad.into_iter().next().unwrap_or(ApprovalError::TooFew { found, needed }).into());
            }
            Err(error) => return Err(error.into()),
        };
        {
            let _changing = self.changing.lock().await;
            let approvers = approved.approvers().to_vec();
            self.record_step("approved", &look.name, look.version, seen, approvers).await?;
        }
        self.activate_approved(&look.bundle, approved.seen().generation).await
    }

    /// Records a step of a change. The caller holds `changing`.
    pub(crate) async fn record_step(
        &self,
        action: &str,
        name: &PluginName,
        version: u64,
        digest: Digest,
        signers: Vec<String>,
    ) -> Result<(), GateError> {
        let event = Event::Bundle {
            action: action.to_owned(),
            name: name.to_string(),
            version,
            digest,
            signers,
            reason: None,
            generation: self.standing().active.generation,
        };
        let index = self.journal.record(event.clone()).await?;
        self.take_in(&event, index)
    }
}
