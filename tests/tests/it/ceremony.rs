//! A ceremony at the command line, as the guide has it.

use std::fs;
use std::path::Path;

use crate::guest::root;
use crate::site::{Ended, Site, text};

fn rehearsed(plan: &Path, out: &Path) -> Ended {
    Site::at(out.join("site")).casemate(&["ceremony", "rehearse", text(plan), "--out", text(out), "--yes"])
}

#[test]
fn the_plan_of_the_guide_is_rehearsed_verified_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rehearsal");
    let plan = root().join("docs/samples/ceremony-plan.toml");
    let site = Site::at(out.join("site"));
    let checked = site.casemate(&["ceremony", "plan", "check", text(&plan)]).expect(0);
    let done = rehearsed(&plan, &out).expect(0);
    assert_eq!((&done["plan"], &done["signatures"]), (&checked["plan"], &2.into()));

    let transcript = out.join("ceremony/transcript.json");
    let verify = |plan: &Path| site.casemate(&["ceremony", "verify", text(&transcript), "--plan", text(plan)]);
    let verified = verify(&plan).expect(0);
    assert_eq!((&verified["digest"], &verified["this-program"]), (&done["digest"], &true.into()));
    let page = site.plain(&["ceremony", "print", text(&transcript)]);
    assert_eq!(page, fs::read_to_string(out.join("ceremony/transcript.txt")).unwrap());
    assert!(page.contains("SIGNED BY   ana") && page.contains("SIGNED BY   bo"), "{page}");

    // Each step stands in the log before and after, and each key operation.
    let records = site.records();
    let steps = checked["steps"].as_array().unwrap().len();
    for state in ["begun:", "done:"] {
        let of_state = records.iter().filter(|record| {
            record["action"] == "ceremony"
                && record["detail"].as_str().is_some_and(|detail| detail.contains(" step ") && detail.contains(state))
        });
        assert_eq!(of_state.count(), steps, "{state}");
    }
    let made = records.iter().filter(|record| record["operation"] == "ceremony generate on primary").count();
    assert_eq!(made, 5);

    // A changed plan neither verifies nor goes on.
    let changed = folder.path().join("changed.toml");
    fs::write(&changed, fs::read_to_string(&plan).unwrap().replace("names, version 1", "names, version 2")).unwrap();
    let other = verify(&changed);
    assert!(other.code == 4 && other.text.contains("this transcript is of plan"), "{}", other.text);
    let (bindings, ceremony) = (out.join("bindings.toml"), out.join("ceremony"));
    let resume = |plan: &Path| {
        let plan =
            ["ceremony", "resume", text(plan), "--bindings", text(&bindings), "--folder", text(&ceremony), "--yes"];
        site.casemate(&plan)
    };
    let refused = resume(&changed);
    assert!(refused.code == 4 && refused.text.contains("the custodians approved"), "{}", refused.text);
    assert_eq!(resume(&plan).expect(0)["digest"], done["digest"]);

    // The approval is used up, and the log has no hole.
    let (statement, again) = (out.join("statement.json"), out.join("again"));
    let replayed = site.casemate(&[
        "ceremony",
        "run",
        text(&plan),
        "--bindings",
        text(&bindings),
        "--statement",
        text(&statement),
        "--folder",
        text(&again),
        "--yes",
    ]);
    assert!(replayed.code == 4 && replayed.text.contains("used before"), "{}", replayed.text);
    site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn nobody_agrees_to_steps_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let plan = root().join("docs/samples/ceremony-plan.toml");
    let site = Site::at(folder.path().join("out/site"));
    let refused = site.casemate(&["ceremony", "rehearse", text(&plan), "--out", text(&folder.path().join("out"))]);
    assert!(refused.code == 2 && refused.text.contains("nobody is here to agree"), "{}", refused.text);
}

#[test]
fn the_bindings_of_the_guide_are_read_and_fit_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, bindings) =
        (root().join("docs/samples/ceremony-plan.toml"), root().join("docs/samples/ceremony-bindings.toml"));
    let site = crate::site::bare();
    let started = site.casemate(&[
        "ceremony",
        "run",
        text(&plan),
        "--bindings",
        text(&bindings),
        "--statement",
        "none.json",
        "--folder",
        text(folder.path()),
        "--yes",
    ]);
    // They are read; the roster that they name is not in the guide's folder.
    assert!(started.code == 1 && started.text.contains("roster.json"), "{}", started.text);
}

/// A rehearsed ceremony, and a `site.toml` that names its two tokens.
pub struct Held<'a> {
    pub folder: &'a Path,
    config: String,
}

impl Held<'_> {
    pub fn out(&self, file: &str) -> String {
        text(&self.folder.join("rehearsal").join(file)).to_owned()
    }

    /// A site of its own from the transcript.
    fn init(&self, name: &str, config: &str, plan: &Path, pins: [&str; 2]) -> (Site, Ended) {
        let file = self.folder.join(format!("{name}.toml"));
        fs::write(&file, config).unwrap();
        let site = Site::at(self.folder.join(name));
        let (transcript, held_by) = (self.out("ceremony/transcript.json"), self.out("site"));
        let pins = pins.map(|pin| self.out(pin));
        let ended = site.casemate(&[
            "init",
            "--config",
            text(&file),
            "--from-ceremony",
            &transcript,
            "--ceremony-plan",
            text(plan),
            "--ceremony-site",
            &held_by,
            "--pin-file",
            &pins[0],
            "--backup-pin-file",
            &pins[1],
        ]);
        (site, ended)
    }

    #[track_caller]
    fn refused(&self, name: &str, config: &str, plan: &Path, pins: [&str; 2], said: &str) {
        let (site, ended) = self.init(name, config, plan, pins);
        assert!(ended.code != 0 && ended.text.contains(said), "{said}: {}", ended.text);
        for left in ["state.json", "pins/user", "pins/backup-user", "users", "approvers", "log"] {
            assert!(!site.dir.join(left).exists(), "{left} is left of a refused site");
        }
    }
}

const PINS: [&str; 2] = ["primary.pin", "backup.pin"];

#[test]
fn a_site_takes_the_keys_of_its_ceremony_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let plan = root().join("docs/samples/site-plan.toml");
    rehearsed(&plan, &folder.path().join("rehearsal")).expect(0);
    let mut held = Held { folder: folder.path(), config: String::new() };
    let example = fs::read_to_string(held.out("site/site.toml")).unwrap();
    let module = example.lines().find(|line| line.starts_with("module = ")).unwrap().to_owned();
    let tokens = held.out("tokens.conf");
    let backup = format!("[hsm.backup]\n{module}\ntoken-label = \"backup\"\n\n[embedding]");
    held.config = example
        .replace("token-label = \"casemate\"", "token-label = \"primary\"")
        .replace("{site}/token/token.conf", &tokens)
        .replace("[embedding]", &backup);
    let config = held.config.clone();

    // Another plan than the one that was carried out.
    let changed = folder.path().join("changed.toml");
    fs::write(&changed, fs::read_to_string(&plan).unwrap().replace("site/mask", "site/other")).unwrap();
    held.refused("other-plan", &config, &changed, PINS, "this transcript is of plan");
    // A transcript that was altered after it was signed.
    let path = folder.path().join("rehearsal/ceremony/transcript.json");
    let honest = fs::read_to_string(&path).unwrap();
    let mut altered: serde_json::Value = serde_json::from_str(&honest).unwrap();
    let payload = altered["payload"].as_str().unwrap().to_owned();
    altered["payload"] = format!("{}{}", &payload[..payload.len() - 8], "AAAAAAAA").into();
    fs::write(&path, altered.to_string()).unwrap();
    let (_, ended) = held.init("altered", &config, &plan, PINS);
    assert!(ended.code != 0 && !folder.path().join("altered/state.json").exists(), "{}", ended.text);
    fs::write(&path, &honest).unwrap();
    // One custodian's signature.
    let mut alone: serde_json::Value = serde_json::from_str(&honest).unwrap();
    alone["signatures"].as_array_mut().unwrap().pop();
    fs::write(&path, alone.to_string()).unwrap();
    held.refused("alone", &config, &plan, PINS, "1 of 2 custodians signed");
    fs::write(&path, &honest).unwrap();
    // The two tokens the other way round.
    let swapped = config
        .replace("token-label = \"primary\"", "token-label = \"?\"")
        .replace("token-label = \"backup\"", "token-label = \"primary\"")
        .replace("token-label = \"?\"", "token-label = \"backup\"");
    held.refused("swapped", &swapped, &plan, ["backup.pin", "primary.pin"], "has serial number");
    // Another site, a pair that is none, and a compartment without a key.
    let other = config.replacen("name = \"example\"", "name = \"elsewhere\"", 1);
    held.refused("other-site", &other, &plan, PINS, "the transcript is of site `example`");
    held.refused(
        "one-token",
        &config.replace(&backup, "[embedding]"),
        &plan,
        PINS,
        "the ceremony had a token `backup`",
    );
    let wider = format!("{config}\n[compartments.finance]\ndepartments = [\"finance\"]\nclearance = \"internal\"\n");
    held.refused("wider", &wider, &plan, PINS, "the plan makes no key `compartment-finance`");
    held.refused("wrong-pin", &config, &plan, ["backup.pin", "backup.pin"], "the PIN is wrong");

    let (site, made) = held.init("site", &config, &plan, PINS);
    made.expect(0);
    assert_eq!(site.casemate(&["hsm", "status"]).expect(0)["state"], "healthy");
    let records = site.records();
    let first = records.iter().find(|record| record["action"] == "initialised").unwrap();
    assert!(first["detail"].as_str().unwrap().contains("keys of ceremony transcript sha256:"), "{first}");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(site.dir.join("state.json")).unwrap()).unwrap();
    let keys: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(held.out("ceremony/keys.json")).unwrap()).unwrap();
    for name in ["at-rest", "audit", "mask", "metadata", "tokens", "user-kek-wrapping"] {
        let of_ceremony = keys.iter().find(|key| key["name"] == name && key["token"] == "primary").unwrap();
        assert_eq!(state["keys"][name], of_ceremony["key"], "{name}");
    }
    // A second site on the same keys: the tokens remember that they serve one.
    held.refused("twin", &config, &plan, PINS, "holds an object that the transcript does not know");
    // The site lives on its keys: users come and go, and the wrapping key is another one afterwards.
    site.casemate(&["keys", "add-user", "dora", "--clearance", "internal", "--department", "engineering"]).expect(0);
    site.casemate(&["keys", "revoke", "dora"]).expect(0);
    site.casemate(&["audit", "verify"]).expect(0);
    held.refused("later", &config, &plan, PINS, "key `user-kek-wrapping` is not in the primary token");
}

/// A site whose tokens were made with split PINs, and the custodians who were at its ceremony.
pub struct Split<'a> {
    pub held: Held<'a>,
    plan: std::path::PathBuf,
}

impl<'a> Split<'a> {
    pub fn rehearsed(folder: &'a Path, profile: &str) -> Self {
        let plan = root().join("docs/samples/site-plan.toml");
        let out = folder.join("rehearsal");
        let order = ["ceremony", "rehearse", text(&plan), "--out", text(&out), "--split-pins", "--yes"];
        Site::at(out.join("site")).casemate(&order).expect(0);
        let mut held = Held { folder, config: String::new() };
        let example = fs::read_to_string(held.out("site/site.toml")).unwrap();
        let module = example.lines().find(|line| line.starts_with("module = ")).unwrap().to_owned();
        let (tokens, custody) =
            (held.out("tokens.conf"), |role: &str| format!("custody = {:?}", held.out(&format!("custody/{role}"))));
        let primary = format!("token-label = \"primary\"\n{}", custody("primary"));
        let backup = format!("[hsm.backup]\n{module}\ntoken-label = \"backup\"\n{}\n\n[embedding]", custody("backup"));
        held.config = example
            .replace("token-label = \"casemate\"", &primary)
            .replace("{site}/token/token.conf", &tokens)
            .replace("profile = \"rehearsal\"", &format!("profile = \"{profile}\""))
            .replace("[embedding]", &backup);
        fs::write(folder.join("site.toml"), &held.config).unwrap();
        Self { held, plan }
    }

    /// `casemate custodian ARGUMENTS` at the site of the ceremony.
    pub fn custodian(&self, arguments: &str, token: bool) -> Ended {
        let environment = format!("KRYOPTIC_CONF={}", self.held.out("tokens.conf"));
        let mut all = vec!["custodian"];
        all.extend(arguments.split(' '));
        if token {
            all.extend(["--module-env", &environment]);
        }
        Site::at(self.held.folder.join("rehearsal/site")).casemate(&all)
    }

    /// The site, founded by ana and bo.
    pub fn founded(&self) -> Site {
        let site = Site::at(self.held.folder.join("site"));
        self.init(&site, &["ana", "bo"], &self.founding()).expect(0);
        site
    }

    /// A ceremony over tokens with pads, at which two people are asked, and the configuration of a site on them.
    fn padded(folder: &'a Path) -> Self {
        let plan = root().join("docs/samples/site-plan.toml");
        rehearsed(&plan, &folder.join("rehearsal")).expect(0);
        let mut held = Held { folder, config: String::new() };
        let example = fs::read_to_string(held.out("site/site.toml")).unwrap();
        let module = example.lines().find(|line| line.starts_with("module = ")).unwrap().to_owned();
        let shim = std::env::current_exe().unwrap().with_file_name("libcasemate_shim.so");
        let pin = |role: &str| fs::read_to_string(held.out(&format!("{role}.pin"))).unwrap();
        let typed = ["primary", "backup"].map(|role| format!("{role}={}\n", pin(role).trim()));
        fs::write(folder.join("pads"), typed.concat()).unwrap();
        let environment = format!(
            "vendor-quorum = true\n[hsm.environment]\nCASEMATE_SHIM_{}\nCASEMATE_SHIM_PAD_FILE = {:?}\nCASEMATE_SHIM_QUORUM_FILE = {:?}\n",
            module.replace("module", "MODULE"),
            folder.join("pads"),
            folder.join("quorum"),
        );
        let backup =
            format!("[hsm.backup]\nmodule = {shim:?}\ntoken-label = \"backup\"\nvendor-quorum = true\n\n[embedding]");
        held.config = example
            .replace("token-label = \"casemate\"", "token-label = \"primary\"")
            .replace("{site}/token/token.conf", &held.out("tokens.conf"))
            .replace(&module, &format!("module = {shim:?}"))
            .replace("[hsm.environment]\n", &environment)
            .replace("[embedding]", &backup);
        fs::write(folder.join("site.toml"), &held.config).unwrap();
        Self { held, plan }
    }

    /// The approval to found the site: carla asks, ana and bo approve.
    pub fn founding(&self) -> String {
        let (config, file) = (self.held.folder.join("site.toml"), self.held.out("found.json"));
        let request = format!(
            "request --operation found --subject-of {} --reason test --requester p-carla --out {file}",
            text(&config)
        );
        self.custodian(&request, false).expect(0);
        for name in ["carla", "ana", "bo"] {
            let pin = self.held.out(&format!("custodian-{name}.pin"));
            let sign = format!("approve {file} --as {name} --token custodian-{name} --pin-file {pin} --yes");
            self.custodian(&sign, true).expect(0);
        }
        file
    }

    /// What opens the site: these custodians' tokens.
    pub fn opening(&self, names: &[&str], more: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = ["custodian", "open"].map(str::to_owned).to_vec();
        for name in names {
            let pin = self.held.out(&format!("custodian-{name}.pin"));
            all.extend(["--custodian".to_owned(), format!("{name}=custodian-{name}")]);
            all.extend(["--pin-file".to_owned(), format!("{name}={pin}")]);
        }
        all.extend(["--module-env".to_owned(), format!("KRYOPTIC_CONF={}", self.held.out("tokens.conf"))]);
        all.extend(["--roster".to_owned(), self.held.out("site/custody/roster.json")]);
        all.extend(more.iter().map(|word| (*word).to_owned()));
        all
    }

    fn init(&self, site: &Site, opened_by: &[&str], approval: &str) -> Ended {
        let (transcript, held_by) = (self.held.out("ceremony/transcript.json"), self.held.out("site"));
        let (config, roster) = (self.held.folder.join("site.toml"), self.held.out("site/custody/roster.json"));
        let init = [
            "init",
            "--config",
            text(&config),
            "--from-ceremony",
            &transcript,
            "--ceremony-plan",
            text(&self.plan),
            "--ceremony-site",
            &held_by,
            "--roster",
            &roster,
            "--approval",
            approval,
        ];
        if opened_by.is_empty() {
            return site.casemate(&init);
        }
        let mut all = self.opening(opened_by, &["--config", text(&config), "--"]);
        all.extend(init.map(str::to_owned));
        site.casemate(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn opened(&self, site: &Site, names: &[&str], command: &[&str]) -> Ended {
        let mut all = self.opening(names, &["--"]);
        all.extend(command.iter().map(|word| (*word).to_owned()));
        site.casemate(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn a_site_whose_pins_are_split_is_opened_by_two_custodians_and_by_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let split = Split::rehearsed(folder.path(), "rehearsal");
    // The ceremony used PINs of the first generation once; their shares are gone, and no file holds one.
    for role in ["primary", "backup"] {
        let generations = |number: u8| folder.path().join(format!("rehearsal/custody/{role}/gen-{number}")).exists();
        assert_eq!((generations(1), generations(2), generations(3)), (false, true, false), "{role}");
        assert!(!folder.path().join(format!("rehearsal/{role}.pin")).exists());
    }
    let desk = Site::at(folder.path().join("rehearsal/site"));
    let told = desk.records().iter().map(serde_json::Value::to_string).collect::<String>();
    assert!(
        told.contains("tier split-package-and-pin") && told.contains("new PINs, by generation: backup 2, primary 2"),
        "{told}"
    );

    let approval = split.founding();
    let site = Site::at(folder.path().join("site"));
    let refused =
        |ended: Ended, why: &str| assert!(ended.code != 0 && ended.text.contains(why), "{why}: {}", ended.text);
    refused(split.init(&site, &[], &approval), "nobody knows the PIN of the primary token");
    refused(split.init(&site, &["ana"], &approval), "1 of 2");
    assert!(!site.dir.join("state.json").exists());
    let made = split.init(&site, &["ana", "bo"], &approval).expect(0);
    assert_eq!(made["rehearsal"], false);
    assert!(!site.dir.join("pins/user").exists() && !site.dir.join("pins/backup-user").exists());

    refused(site.casemate(&["keys", "list"]), "nobody knows the PIN");
    refused(split.opened(&site, &["bo"], &["keys", "list"]), "1 of 2");
    split.opened(&site, &["bo", "carla"], &["keys", "list"]).expect(0);
    assert_eq!(split.opened(&site, &["ana", "carla"], &["hsm", "status"]).expect(0)["state"], "healthy");
    // A key takes two signatures besides, and they have force now.
    refused(split.opened(&site, &["ana", "bo"], &["keys", "renew-credential", "ben"]), "needs 2 custodians");
    let records = split.opened(&site, &["ana", "bo"], &["audit", "show"]);
    let first = site.records();
    assert!(first.iter().all(|record| record["rehearsal"] != true), "{}", records.text);
    let founded = first.iter().find(|record| record["action"] == "approval-used").unwrap();
    let founded = founded["detail"].as_str().unwrap();
    assert!(founded.contains("found by ana and bo") && founded.contains("tier split-package-and-pin"), "{founded}");
    // Each opening is in the log, with whose shares it took and which PINs are in force since.
    let opened: Vec<&str> = first
        .iter()
        .filter_map(|record| record["detail"].as_str().filter(|said| said.starts_with("opened: ")))
        .collect();
    assert!(opened.len() >= 3, "{opened:?}");
    assert!(opened.iter().all(|said| said.contains("primary token") && said.contains("backup token")), "{opened:?}");
    assert!(opened.iter().any(|said| said.contains("shares of bo and carla")), "{opened:?}");
    let generation =
        |said: &&str| said.split("PINs of generation ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let generations: Vec<u64> = opened.iter().map(|said| generation(said).parse().unwrap()).collect();
    assert!(generations.windows(2).all(|pair| pair[0] < pair[1]), "{opened:?}");
    assert!(opened.iter().all(|said| said.contains("put in force")), "{opened:?}");
    // A PIN that lies there is somebody's: nothing is opened beside it.
    for (file, role) in [("pins/user", "primary"), ("pins/backup-user", "backup")] {
        fs::write(site.dir.join(file), "a pin of somebody's").unwrap();
        let ended = split.opened(&site, &["ana", "bo"], &["keys", "list"]);
        assert!(ended.code != 0 && ended.text.contains(role), "{}", ended.text);
        refused(ended, "find out who wrote it");
        refused(site.casemate(&["keys", "list"]), "find out who wrote it");
        fs::remove_file(site.dir.join(file)).unwrap();
    }
    // Neither can it be made a rehearsal, in which one person is enough, by the file that says so.
    let state = fs::read_to_string(site.dir.join("state.json")).unwrap();
    let altered = state.replace("\"rehearsal\": false", "\"rehearsal\": true");
    assert_ne!(altered, state);
    fs::write(site.dir.join("state.json"), altered).unwrap();
    refused(split.opened(&site, &["ana", "bo"], &["keys", "list"]), "were altered");
    fs::write(site.dir.join("state.json"), state).unwrap();
    let before = site.records().len();
    split.opened(&site, &["ana", "bo"], &["keys", "list"]).expect(0);
    let records = site.records();
    assert!(records.len() > before && records[before..].iter().all(|record| record["rehearsal"] != true));
}

/// A site that one person made says that it is a rehearsal, and goes on saying so.
#[test]
fn a_rehearsal_passed_off_as_real_is_refused() {
    let site = crate::site::bare();
    let path = site.dir.join("state.json");
    let state = fs::read_to_string(&path).unwrap();
    let altered = state.replace("\"rehearsal\": true", "\"rehearsal\": false");
    assert_ne!(altered, state);
    fs::write(&path, altered).unwrap();
    let ended = site.casemate(&["keys", "list"]);
    assert!(
        ended.code != 0 && ended.text.contains("calls itself no rehearsal, and has no custodians"),
        "{}",
        ended.text
    );
    fs::write(&path, state).unwrap();
    site.casemate(&["keys", "list"]).expect(0);

    // The transcript of a rehearsal is signed by custodians who were made up for it: not those of the roster.
    let plan = root().join("docs/samples/ceremony-plan.toml");
    let folder = tempfile::tempdir().unwrap();
    let (real, made_up) = (folder.path().join("real"), folder.path().join("made-up"));
    rehearsed(&plan, &real).expect(0);
    rehearsed(&plan, &made_up).expect(0);
    let desk = Site::at(real.join("site"));
    let verify = |of: &Path| {
        desk.casemate(&["ceremony", "verify", text(&of.join("ceremony/transcript.json")), "--plan", text(&plan)])
    };
    verify(&real).expect(0);
    let refused = verify(&made_up);
    assert!(refused.code == 4 && refused.text.contains("is not a key of this roster"), "{}", refused.text);
}

#[test]
fn an_enterprises_site_is_founded_with_split_pins_and_not_without() {
    let folder = tempfile::tempdir().unwrap();
    let split = Split::rehearsed(folder.path(), "enterprise");
    let approval = split.founding();
    let site = Site::at(folder.path().join("site"));
    let made = split.init(&site, &["ana", "bo"], &approval).expect(0);
    assert_eq!(made["rehearsal"], false);
    // What is missing now is a validated module, and nothing else.
    let ended = split.opened(&site, &["ana", "bo"], &["keys", "list"]);
    assert!(ended.code == 4 && ended.text.contains("hardware"), "{}", ended.text);
}

/// Tokens that ask their maker's quorum are opened by the people at their pads; this program has no PIN of them.
#[test]
fn one_person_at_a_pad_that_asks_for_two_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let split = Split::padded(folder.path());
    let there = |who: &str| fs::write(folder.path().join("quorum"), format!("primary={who}\nbackup={who}\n")).unwrap();
    let refused =
        |ended: Ended, why: &str| assert!(ended.code != 0 && ended.text.contains(why), "{why}: {}", ended.text);
    let approval = split.founding();
    let site = Site::at(folder.path().join("site"));
    there("officer-1");
    refused(split.init(&site, &[], &approval), "refused at its own pad");
    assert!(!site.dir.join("state.json").exists());
    there("officer-1 officer-2");
    let made = split.init(&site, &[], &approval).expect(0);
    assert_eq!(made["rehearsal"], false);
    assert!(!site.dir.join("pins/user").exists() && !site.dir.join("pins/backup-user").exists());

    // Each opening asks them again, and says so in the log.
    site.casemate(&["keys", "list"]).expect(0);
    let records = site.records();
    let details: Vec<&str> = records.iter().filter_map(|record| record["detail"].as_str()).collect();
    assert!(
        details.iter().any(|said| said.contains("found by ana and bo") && said.contains("tier vendor")),
        "{details:?}"
    );
    let opened: Vec<_> = details.iter().filter(|said| said.starts_with("opened: ")).collect();
    assert!(opened.len() >= 2 && opened.iter().all(|said| said.matches("(vendor-quorum)").count() == 2), "{details:?}");
    for who in ["", "officer-1", "officer-2 officer-2"] {
        there(who);
        refused(site.casemate(&["keys", "list"]), "refused at its own pad");
    }
    there("officer-2 officer-1");
    site.casemate(&["keys", "list"]).expect(0);
    // A PIN that lies there would be one that somebody knows.
    fs::write(site.dir.join("pins/user"), "a pin of somebody's").unwrap();
    refused(site.casemate(&["keys", "list"]), "are typed into its own pad");
    fs::remove_file(site.dir.join("pins/user")).unwrap();
    // A token whose pad is switched off takes its PIN from the machine: it is not what the site says of it.
    let pads = fs::read(folder.path().join("pads")).unwrap();
    fs::write(folder.path().join("pads"), "").unwrap();
    refused(site.casemate(&["keys", "list"]), "takes its PIN from this machine");
    fs::write(folder.path().join("pads"), pads).unwrap();
    site.casemate(&["keys", "list"]).expect(0);
}

/// `kill -9` while tokens with split PINs are open: the PINs of before are in force, and `resume` goes on with them and replaces them.
#[test]
fn a_ceremony_that_is_killed_with_its_tokens_open_goes_on_with_the_pins_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rehearsal");
    let plan = root().join("docs/samples/site-plan.toml");
    let site = Site::at(out.join("site"));
    let order = ["ceremony", "rehearse", text(&plan), "--out", text(&out), "--split-pins", "--yes"];
    let quiet = || std::process::Stdio::null();
    let mut child = site.command(&order).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    let journal = out.join("ceremony/journal.jsonl");
    let steps = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    while steps() < 12 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let custody = |role: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(out.join(format!("custody/{role}/journal.json"))).unwrap()).unwrap()
    };
    assert!(!out.join("ceremony/transcript.json").exists(), "it was killed in the middle");
    for role in ["primary", "backup"] {
        assert_eq!((&custody(role)["generation"], &custody(role)["phase"]), (&1.into(), &"prepared".into()), "{role}");
    }
    let (bindings, ceremony) = (out.join("bindings.toml"), out.join("ceremony"));
    let resume =
        ["ceremony", "resume", text(&plan), "--bindings", text(&bindings), "--folder", text(&ceremony), "--yes"];
    // The process that keeps the log ends with its input; it may take a moment.
    let mut ended = site.casemate(&resume);
    while ended.code != 0 && ended.text.contains("in use") {
        ended = site.casemate(&resume);
    }
    ended.expect(0);
    for role in ["primary", "backup"] {
        assert_eq!((&custody(role)["generation"], &custody(role)["phase"]), (&2.into(), &"settled".into()), "{role}");
    }
    let transcript = out.join("ceremony/transcript.json");
    site.casemate(&["ceremony", "verify", text(&transcript), "--plan", text(&plan)]).expect(0);
}
