//! A place to rehearse in: a site, tokens, custodians, bindings and an approval, all made up. The plan and its run are real.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use casemate_ceremony::{Bindings, CustodianBinding, ModuleBinding, Plan, TokenBinding};
use casemate_custody::session::Custody;
use casemate_custody::{
    AuditHead, Custodian, CustodyFolder, Entropy, Envelope, HsmToken, Nonce, NonceFile, Operation, Roster, Statement,
    StatementFormat, SystemEntropy, TokenSerial, UnixTime, files, process,
};
use casemate_hsm::{Module, Pin};
use casemate_types::UserName;

use super::args::RunOptions;
use super::{attended, carry_out, read_plan};
use crate::custodian::{self, SiteLog};
use crate::failure::Failure;
use crate::{environment, init, output};

const CUSTODIANS: [&str; 3] = ["ana", "bo", "carla"];

/// How long the made-up approval is good.
const HOUR: u64 = 3600;

pub fn run(plan_path: &Path, out: &Path, split_pins: bool, yes: bool, json: bool) -> Result<ExitCode, Failure> {
    attended(yes)?;
    let (plan, _) = read_plan(plan_path)?;
    DirBuilder::new()
        .mode(0o700)
        .create(out)
        .map_err(|error| Failure::caused_by(format!("cannot create {}", out.display()), &error))?;
    let out = fs::canonicalize(out).map_err(|error| Failure::caused_by("cannot find the folder", &error))?;
    let say = |words: &str| if json { Ok(()) } else { output::line(words) };
    say(&format!("Rehearsal of `{}` in {}: everything here is made up but the plan.", plan.name(), out.display()))?;

    write_slots(&out, plan.roles().count() + CUSTODIANS.len())?;
    environment::set_variables([("KRYOPTIC_CONF".to_owned(), path_text(&out.join("tokens.conf"))?)]);
    environment::lock_down()?;
    let site = out.join("site");
    say("  making a site")?;
    let program = std::env::current_exe().map_err(|error| Failure::caused_by("cannot find this program", &error))?;
    let mut child = Command::new(program);
    child.arg("--json").arg("--site").arg(&site).arg("init");
    process::call(child, &[])?;

    say("  making tokens and custodians")?;
    let module = Module::load(&init::embedded_module()?)?;
    let place = Place { out, module, site_name: casemate_gate::SiteConfig::read(&site)?.name };
    let serials = place.bind(&plan, &site, split_pins)?;
    let statement = place.out.join("statement.json");
    place.approve(&plan, serials, &site, &statement)?;
    let options = RunOptions {
        plan: plan_path.to_owned(),
        bindings: place.out.join("bindings.toml"),
        folder: place.out.join("ceremony"),
        yes,
    };
    carry_out(&site, &options, Some(&statement), false, json)
}

struct Place {
    out: PathBuf,
    module: Arc<Module>,
    site_name: String,
}

impl Place {
    /// Makes tokens for all roles and custodians, the roster and the bindings; gives the roles' serial numbers.
    fn bind(&self, plan: &Plan, site: &Path, split_pins: bool) -> Result<Vec<TokenSerial>, Failure> {
        let environment = BTreeMap::from([("KRYOPTIC_CONF".to_owned(), "{folder}/tokens.conf".to_owned())]);
        let module = ModuleBinding { path: PathBuf::from("embedded"), environment };
        let mut bindings =
            Bindings::new(PathBuf::from("site/custody/roster.json"), BTreeMap::from([("embedded".to_owned(), module)]));
        let mut custodians: Vec<Custodian> = Vec::new();
        for name in CUSTODIANS {
            let label = format!("custodian-{name}");
            let (_, pin_file, pin) = self.token(&label)?;
            let name: UserName = name.parse().map_err(|error| Failure::caused_by("a custodian has no name", &error))?;
            let token = HsmToken::open(Arc::clone(&self.module), &label, &pin)?;
            custodians.push(token.enrol(name.clone(), format!("p-{name}").parse()?)?.0);
            // Two are at the ceremony; the third holds a share.
            if bindings.custodians.len() < 2 {
                bindings
                    .custodians
                    .insert(name, CustodianBinding { module: "embedded".to_owned(), pin_file: Some(pin_file) });
            }
        }
        let roster = Roster::new(&self.site_name, 1, 2, custodians)?;
        let mut serials = Vec::new();
        for (role, _) in plan.roles() {
            let (serial, pin_file, custody) = if split_pins {
                let (serial, folder) = self.split_token(role, &roster)?;
                (serial, None, Some(folder))
            } else {
                let (serial, pin_file, _) = self.token(role)?;
                (serial, Some(pin_file), None)
            };
            serials.push(serial.clone());
            let binding = TokenBinding { module: "embedded".to_owned(), serial, pin_file, custody };
            bindings.tokens.insert(role.to_owned(), binding);
        }
        let folder = site.join("custody");
        fs::create_dir_all(&folder).map_err(|error| Failure::caused_by("cannot create custody/", &error))?;
        files::write_new(&folder.join("roster.json"), &roster.to_bytes()?)?;
        drop(NonceFile::create(&custodian::nonces(site))?);
        files::write_new(&self.out.join("bindings.toml"), bindings.to_text()?.as_bytes())?;
        Ok(serials)
    }

    /// Initialises a token with random PINs that are split among the custodians, as `custodian token init` does.
    fn split_token(&self, role: &str, roster: &Roster) -> Result<(TokenSerial, PathBuf), Failure> {
        let relative = Path::new("custody").join(role);
        let folder = CustodyFolder::open(&self.out.join(&relative))?;
        let custody = Custody { folder: &folder, module: &self.module, roster, next_roster: roster };
        Ok((custody.initialise(role, &mut SystemEntropy, &mut |_| ())?, relative))
    }

    /// Initialises a token with random PINs; the user's goes into a file.
    fn token(&self, label: &str) -> Result<(TokenSerial, PathBuf, Pin), Failure> {
        let pin = Pin::random()?;
        let made = self.module.initialise(label, &Pin::random()?, &pin)?;
        let relative = PathBuf::from(format!("{label}.pin"));
        files::write_new(&self.out.join(&relative), pin.expose_secret().as_bytes())?;
        Ok((made.serial.parse()?, relative, pin))
    }

    /// A statement as `custodian request` writes it, with two signatures as `custodian approve` makes them.
    fn approve(&self, plan: &Plan, tokens: Vec<TokenSerial>, site: &Path, path: &Path) -> Result<(), Failure> {
        let roster = custodian::read_roster(site, None)?;
        let (size, root) = SiteLog::open(site)?.head();
        let mut nonce = [0; 16];
        SystemEntropy.fill(&mut nonce)?;
        let now = custodian::now()?;
        let statement = Statement {
            format: StatementFormat::One,
            operation: Operation::Ceremony,
            site: roster.site().to_owned(),
            roster: roster.digest(),
            epoch: roster.epoch(),
            key: None,
            class: None,
            name: None,
            version: None,
            tokens,
            template: None,
            subject: Some(plan.digest()),
            until: None,
            grant: None,
            reason: format!("rehearsal of plan {}", plan.name()),
            requester: "rehearsal".parse()?,
            nonce: Nonce::from_random(nonce),
            audit_head: AuditHead { size, root },
            not_before: now,
            expires: UnixTime(now.0.saturating_add(24 * HOUR)),
        };
        let mut envelope = Envelope::new(&statement)?;
        for name in CUSTODIANS.iter().take(2) {
            let label = format!("custodian-{name}");
            let pin = custodian::read_pin(&label, Some(&self.out.join(format!("{label}.pin"))))?;
            let name: UserName = name.parse().map_err(|error| Failure::caused_by("a custodian has no name", &error))?;
            let token = HsmToken::open(Arc::clone(&self.module), &label, &pin)?;
            token.sign_envelope(roster.custodian(&name)?, &mut envelope)?;
        }
        files::write_new(path, &envelope.to_bytes()?)?;
        Ok(())
    }
}

/// One slot of the embedded module for each token, each with storage of its own.
fn write_slots(out: &Path, count: usize) -> Result<(), Failure> {
    let mut text = String::new();
    for slot in 1..=count {
        let storage = toml::Value::String(path_text(&out.join(format!("token{slot}.sqlite")))?);
        text.push_str(&format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {storage}\n"));
    }
    Ok(files::write_new(&out.join("tokens.conf"), text.as_bytes())?)
}

fn path_text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}
