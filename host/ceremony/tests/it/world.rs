//! A place with three tokens for keys and three custodians, and everything a ceremony needs to run there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_audit::{Event, FileSigner, Log, LogOptions, Record, RecordClock};
use casemate_ceremony::*;
use casemate_custody::*;
use casemate_hsm::{Keyring, Module, Pin};
use casemate_types::{Profile, UserName};

use crate::ground::{self, Ground, play_own_role};

pub const SITE: &str = "north";
pub const ROLES: [&str; 3] = ["backup", "primary", "vault"];
pub const NAMES: [&str; 3] = ["ana", "bo", "carla"];
/// Where the records of these tests begin.
pub const NOW: UnixTime = UnixTime(1_800_000_000);

pub const PLAN: &str = r#"
format = "casemate ceremony plan 1"
name = "first"
purpose = "make the keys of a site"

[tokens.primary]
purpose = "holds the keys"
[tokens.backup]
purpose = "holds the same keys"
[tokens.vault]
purpose = "opens the escrow"

[[steps]]
do = "probe"
token = "primary"
[[steps]]
do = "probe"
token = "backup"
[[steps]]
do = "probe"
token = "vault"
[[steps]]
do = "fresh"
token = "primary"
[[steps]]
do = "fresh"
token = "backup"
[[steps]]
do = "fresh"
token = "vault"
[[steps]]
do = "transport"
token = "primary"
[[steps]]
do = "transport"
token = "backup"
[[steps]]
do = "transport"
token = "vault"
[[steps]]
do = "generate"
key = "names"
class = "fpe-ff1"
label = "names 1"
on = ["primary", "backup"]
escrow-for = "vault"
[[steps]]
do = "escrow"
key = "names"
epoch = 2
[[steps]]
do = "recover"
key = "names"
[[steps]]
do = "generate"
key = "users"
class = "kek-wrapping"
label = "users"
on = ["primary"]
[[steps]]
do = "generate"
key = "engineering"
class = "compartment"
label = "engineering"
on = ["primary"]
[[steps]]
do = "issue"
user = "dora"
keys = ["engineering"]
under = "users"
[[steps]]
do = "record"
text = "both custodians compared the three fingerprints"
"#;

/// Objects that the plan leaves in each token: pairs count twice.
pub const OBJECTS: [(&str, usize); 3] = [("backup", 3), ("primary", 5), ("vault", 2)];

/// Makes the shared places; see [`Ground`].
#[test]
fn a_place_is_made() {
    if !play_own_role(play) {
        Ground::ready("world::a_place_is_made");
    }
}

pub fn play(role: &str, folder: &Path) {
    create(folder, role);
    if role == "finished" {
        World::at(folder).run().unwrap();
    }
}

pub fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned()).unwrap()
}

/// `softhsm:` and the roles whose tokens are SoftHSM's, or `pads:` for tokens with pads; custodians' tokens are embedded ones.
fn create(folder: &Path, place: &str) {
    let roster = PathBuf::from("roster.json");
    let binding = |path: PathBuf| ModuleBinding { path, environment: BTreeMap::new() };
    let mut modules = BTreeMap::from([("soft".to_owned(), binding(ground::module()))]);
    let pads = place == "pads:";
    let softhsm: Vec<&str> = place.strip_prefix("softhsm:").map(|roles| roles.split(',').collect()).unwrap_or_default();
    if pads {
        modules.insert("padded".to_owned(), binding(ground::padded()));
        let typed: String = ROLES.iter().map(|role| format!("{role}=the pin of {role}\n")).collect();
        fs::write(folder.join("pads"), typed).unwrap();
        let there: String = ROLES.iter().map(|role| format!("{role}=officer-1 officer-2\n")).collect();
        fs::write(folder.join("quorum"), there).unwrap();
    }
    if !softhsm.is_empty() {
        modules.insert("softhsm".to_owned(), binding(ground::softhsm()));
    }
    let mut bindings = Bindings::new(roster, modules);
    bindings.vendor_quorum = pads;
    let make = |label: &str| if softhsm.contains(&label) { ground::softhsm() } else { ground::module() };
    let module = Module::load(&ground::module()).unwrap();
    let token = |label: &str| {
        let module = Module::load(&make(label)).unwrap();
        let made =
            module.initialise(label, &pin("an officer's pin of theirs"), &pin(&format!("the pin of {label}"))).unwrap();
        fs::write(folder.join(format!("{label}.pin")), format!("the pin of {label}")).unwrap();
        (made.serial.parse::<TokenSerial>().unwrap(), Some(PathBuf::from(format!("{label}.pin"))))
    };
    for role in ROLES {
        let (serial, pin_file) = token(role);
        let module = if softhsm.contains(&role) { "softhsm" } else { "soft" };
        let (module, pin_file) = if pads { ("padded", None) } else { (module, pin_file) };
        bindings
            .tokens
            .insert(role.to_owned(), TokenBinding { module: module.to_owned(), serial, pin_file, custody: None });
    }
    let custodians = NAMES.map(|name| {
        let (_, pin_file) = token(name);
        let held = HsmToken::open(Arc::clone(&module), name, &pin(&format!("the pin of {name}"))).unwrap();
        if name != "carla" {
            bindings.custodians.insert(name.parse().unwrap(), CustodianBinding { module: "soft".to_owned(), pin_file });
        }
        held.enrol(name.parse().unwrap(), format!("p-{name}").parse().unwrap()).unwrap().0
    });
    let roster = Roster::new(SITE, 1, 2, custodians.to_vec()).unwrap();
    files::write_new(&folder.join("roster.json"), &roster.to_bytes().unwrap()).unwrap();
    files::write_new(&folder.join("bindings.toml"), bindings.to_text().unwrap().as_bytes()).unwrap();
    files::write_new(&folder.join("plan.toml"), PLAN.as_bytes()).unwrap();
    NonceFile::create(&folder.join("nonces")).unwrap();
    FileSigner::create(&folder.join("log.key")).unwrap();
    let mut log = LogTrail::open(folder);
    log.append(Event::Site { action: "started".to_owned(), detail: "a test".to_owned() }).unwrap();
    log.head().unwrap();
    fs::write(folder.join("log.vkey"), log.log.verifier_key()).unwrap();
    drop(log);
    World::at(folder).approve("approval.json", &["ana", "bo"]);
}

/// A log with a key in a file.
pub struct LogTrail {
    log: Log,
    dir: PathBuf,
    clock: RecordClock,
}

impl LogTrail {
    pub fn open(folder: &Path) -> Self {
        let signer = FileSigner::open(&folder.join("log.key")).unwrap();
        let dir = folder.join("log");
        let log = Log::open(&dir, LogOptions::new("casemate.example/test"), Box::new(signer)).unwrap();
        Self { log, dir, clock: RecordClock::after(NOW.0 * 1000) }
    }
}

impl AuditTrail for LogTrail {
    fn append(&mut self, event: Event) -> Result<(), CeremonyError> {
        let v = casemate_audit::record::VERSION;
        let record = Record { v, time_ms: self.clock.now_ms(), site: SITE.to_owned(), rehearsal: true, event };
        self.log.append(record.to_bytes()).unwrap();
        Ok(())
    }

    fn head(&mut self) -> Result<AuditHead, CeremonyError> {
        self.log.checkpoint().unwrap();
        let verified = casemate_audit::verify_dir(&self.dir, &self.log.verifier_key(), |_| {}).unwrap();
        Ok(AuditHead { size: verified.size, root: verified.root })
    }

    fn marks(&mut self, ceremony: &str) -> Result<Vec<Mark>, CeremonyError> {
        marks(&self.dir, ceremony)
    }
}

/// The log as a judge of statements.
struct Heads(PathBuf);

impl AuditHeads for Heads {
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError> {
        Ok(casemate_audit::root_at(&self.0, size).unwrap())
    }
    fn time_of(&self, _: u64) -> Result<Option<UnixTime>, CustodyError> {
        Ok(Some(NOW))
    }
    fn size(&self) -> u64 {
        casemate_audit::size_of(&self.0).unwrap()
    }
}

/// Nobody at the terminal; may stop before a step, and is told what is reached.
pub struct Silent<'a> {
    pub stop_before: Option<usize>,
    pub reached: &'a mut dyn FnMut(&str),
}

impl Console for Silent<'_> {
    fn before(&mut self, step: usize, _: usize, _: &str) -> Result<(), CeremonyError> {
        match self.stop_before {
            Some(stop) if stop == step => Err(CeremonyError::Paused { why: "the test wants it".to_owned() }),
            _ => Ok(()),
        }
    }
    fn after(&mut self, _: usize, _: &StepResult) -> Result<(), CeremonyError> {
        Ok(())
    }
    fn reached(&mut self, point: &str) {
        (self.reached)(point);
    }
}

/// A place, as one process sees it.
pub struct World {
    pub folder: PathBuf,
    pub roster: Roster,
    pub stop_before: Option<usize>,
    pub approval: &'static str,
    pub profile: Profile,
}

impl World {
    pub fn at(folder: &Path) -> Self {
        let roster = Roster::parse(&files::read(&folder.join("roster.json")).unwrap()).unwrap();
        Self {
            folder: folder.to_owned(),
            roster,
            stop_before: None,
            approval: "approval.json",
            profile: Profile::Rehearsal,
        }
    }

    pub fn plan(&self) -> Plan {
        Plan::parse(&self.plan_file()).unwrap()
    }

    fn plan_file(&self) -> Vec<u8> {
        fs::read(self.folder.join("plan.toml")).unwrap()
    }

    pub fn bindings(&self) -> Bindings {
        Bindings::parse(&fs::read_to_string(self.folder.join("bindings.toml")).unwrap(), &self.folder).unwrap()
    }

    /// Changes a file; the text must be there.
    #[track_caller]
    pub fn change(&self, file: &str, from: &str, to: &str) {
        let old = fs::read_to_string(self.folder.join(file)).unwrap();
        assert!(old.contains(from), "{from} is not in {old}");
        fs::write(self.folder.join(file), old.replacen(from, to, 1)).unwrap();
    }

    /// Logs in to one of the tokens.
    pub fn ring(&self, role: &str) -> Arc<Keyring> {
        let softhsm = self.bindings().tokens.get(role).is_some_and(|token| token.module == "softhsm");
        let module = if softhsm { ground::softhsm() } else { ground::module() };
        Keyring::open(Module::load(&module).unwrap(), role, &pin(&format!("the pin of {role}"))).unwrap()
    }

    /// The approval of the plan as it is now.
    pub fn approve(&self, file: &str, names: &[&str]) {
        // A stranger may ask for a rehearsal; under a profile that promises something a custodian does, and signs it.
        let strict = matches!(self.profile, Profile::Enterprise | Profile::Government);
        let requester = if strict { "p-carla" } else { "p-77" };
        let verified = casemate_audit::root_at(&self.folder.join("log"), 1).unwrap().unwrap();
        let mut nonce = [0; 16];
        SystemEntropy.fill(&mut nonce).unwrap();
        let statement = Statement {
            format: StatementFormat::One,
            operation: Operation::Ceremony,
            site: SITE.to_owned(),
            roster: self.roster.digest(),
            epoch: 1,
            key: None,
            class: None,
            name: None,
            version: None,
            tokens: self.bindings().tokens.into_values().map(|token| token.serial).collect(),
            template: None,
            subject: Some(self.plan().digest()),
            until: None,
            grant: None,
            reason: "a test".to_owned(),
            requester: requester.parse().unwrap(),
            nonce: Nonce::from_random(nonce),
            audit_head: AuditHead { size: 1, root: verified },
            not_before: NOW,
            expires: UnixTime(NOW.0 + 3600),
        };
        let mut envelope = Envelope::new(&statement).unwrap();
        let module = Module::load(&ground::module()).unwrap();
        for name in strict.then_some(&"carla").into_iter().chain(names) {
            let token = HsmToken::open(Arc::clone(&module), name, &pin(&format!("the pin of {name}"))).unwrap();
            let name: UserName = name.parse().unwrap();
            token.sign_envelope(self.roster.custodian(&name).unwrap(), &mut envelope).unwrap();
        }
        files::replace(&self.folder.join(file), &envelope.to_bytes().unwrap()).unwrap();
    }

    pub fn run(&self) -> Result<Envelope, CeremonyError> {
        self.carry_out(false, &mut |_| {})
    }

    pub fn resume(&self) -> Result<Envelope, CeremonyError> {
        self.carry_out(true, &mut |_| {})
    }

    /// What `casemate ceremony run` and `resume` do.
    pub fn carry_out(&self, resume: bool, reached: &mut dyn FnMut(&str)) -> Result<Envelope, CeremonyError> {
        let (plan, bindings) = (self.plan(), self.bindings());
        let pins = |_: &str, file: Option<&Path>| Ok(pin(&fs::read_to_string(file.unwrap()).unwrap()));
        let desk = Desk::open(&bindings, &self.roster, &plan, None, &pins)?;
        let heads = Heads(self.folder.join("log"));
        let verifier = Verifier {
            site: SITE,
            roster: &self.roster,
            tier: desk.tier()?,
            profile: self.profile,
            max_head_age: Verifier::MAX_HEAD_AGE,
        };
        let approval = Envelope::parse(&files::read(&self.folder.join(self.approval)).unwrap()).unwrap();
        let signed = verifier.inspect(&approval, NOW, &heads)?;
        let mut trail = LogTrail::open(&self.folder);
        let mut console = Silent { stop_before: self.stop_before, reached };
        let ceremony = Ceremony {
            plan: &plan,
            roster: &self.roster,
            desk: &desk,
            folder: self.folder.join("ceremony"),
            profile: self.profile,
            software: vec![Hashed { name: "test".to_owned(), digest: casemate_types::Digest::of(b"test") }],
            trail: &mut trail,
            console: &mut console,
            clock: &|| NOW,
        };
        if resume {
            return ceremony.resume(&Permission::Standing(Box::new(signed)));
        }
        let mut ledger = NonceFile::open(&self.folder.join("nonces"))?;
        let approved = verifier.approve(&approval, NOW, &heads, &mut ledger)?;
        ceremony.run(&approved, &approval, &self.plan_file())
    }

    pub fn transcript(&self) -> Envelope {
        Envelope::parse(&files::read(&self.folder.join("ceremony/transcript.json")).unwrap()).unwrap()
    }

    pub fn verify(&self, envelope: &Envelope) -> Result<Verified, CeremonyError> {
        let key = fs::read_to_string(self.folder.join("log.vkey")).unwrap();
        verify(envelope, &self.plan(), &self.roster, &self.folder.join("log"), key.trim())
    }

    /// What every ceremony ends in, however often it was cut off.
    pub fn assert_finished(&self) -> Verified {
        let verified = self.verify(&self.transcript()).unwrap();
        let keys: Vec<_> = verified.transcript.steps.iter().flat_map(|step| step.result.keys.clone()).collect();
        let key = |name: &str, token: &str| keys.iter().find(|made| made.name == name && made.token == token).unwrap();
        assert_eq!(key("names", "primary").key, key("names", "backup").key);
        for (role, count) in OBJECTS {
            let ring = self.ring(role);
            let stored = ring.inventory().unwrap().into_iter().filter(|object| !object.built_in).count();
            assert_eq!(stored, count, "objects on {role}");
            for made in keys.iter().filter(|made| made.token == role) {
                ring.find(&made.key).unwrap();
            }
        }
        let left: Vec<_> = fs::read_dir(self.folder.join("ceremony/packages")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(self.folder.join("ceremony/issued/dora.json").exists());
        verified
    }
}
