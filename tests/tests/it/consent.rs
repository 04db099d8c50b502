//! Two custodians are asked before the key office acts, and nobody gets round them.

use std::fs;

use serde_json::{Value, json};

use crate::custodian::Desk;
use crate::site::{self, Ended, Site, text};

const UNVERIFIED: i32 = 4;

/// A site whose roster is ana, bo and carla, with rita, who asks.
pub struct Office {
    pub desk: Desk,
    serial: String,
}

impl Office {
    pub fn of(site: Site) -> Self {
        let desk = Desk::at(site);
        for name in ["ana", "bo", "carla", "rita"] {
            desk.enrol(name);
        }
        let roster = desk.site.dir.join("custody/roster.json");
        let built =
            format!("roster build @ana.card @bo.card @carla.card --requester @rita.card --out {}", text(&roster));
        assert_eq!(desk.custodian(&built, false).code, 0);
        let state: Value = serde_json::from_slice(&fs::read(desk.site.dir.join("state.json")).unwrap()).unwrap();
        let serial = state["token-serial"].as_str().unwrap().trim().to_owned();
        Self { desk, serial }
    }

    pub fn adopted(site: Site) -> Self {
        let office = Self::of(site);
        let adopted = office.desk.custodian("roster adopt", false).expect(0);
        assert_eq!(adopted["changed"], true);
        office
    }

    /// A statement that rita asks for and signs, without approvals.
    pub fn ask(&self, operation: &str, file: &str) {
        let arguments = format!(
            "request --operation {operation} --on {} --reason test --requester p-rita --out @{file}",
            self.serial
        );
        self.desk.custodian(&arguments, false).expect(0);
        self.desk.approve("rita", file).expect(0);
    }

    /// One that ana and bo approve besides.
    pub fn approved(&self, operation: &str, file: &str) -> String {
        self.ask(operation, file);
        self.desk.approve("ana", file).expect(0);
        self.desk.approve("bo", file).expect(0);
        text(&self.desk.path(file)).to_owned()
    }

    pub fn keys(&self, arguments: &[&str]) -> Ended {
        self.desk.site.casemate(&[&["keys"], arguments].concat())
    }

    fn add_dora(&self, more: &[&str]) -> Ended {
        let dora = ["add-user", "dora", "--clearance", "internal", "--department", "engineering"];
        self.keys(&[&dora, more].concat())
    }
}

const DORA: &str = "issue-user --for dora --clearance internal --department engineering --compartment engineering";

#[track_caller]
fn refused(ended: Ended, why: &str) {
    assert!(ended.text.contains(why), "{}", ended.text);
    ended.expect(UNVERIFIED);
}

#[test]
fn one_officer_alone_issues_no_key_once_there_are_custodians() {
    let office = Office::of(site::bare());
    let objects = |office: &Office| office.keys(&["list"]).expect(0)["token-objects"].clone();
    let before = objects(&office);
    // A roster that lies there and is not adopted opens nothing, and is no way back to one person either.
    refused(office.add_dora(&[]), "has not adopted it");
    office.desk.custodian("roster adopt", false).expect(0);
    refused(office.add_dora(&[]), "needs 2 custodians");
    refused(office.keys(&["issue", "carla"]), "needs 2 custodians");
    refused(office.keys(&["renew-credential", "ben"]), "needs 2 custodians");
    refused(office.keys(&["issue", "ben"]), "needs 2 custodians");
    let compartment = ["add-compartment", "legal", "--clearance", "internal", "--department", "legal"];
    refused(office.keys(&compartment), "needs 2 custodians");
    refused(office.desk.site.casemate(&["audit", "rotate-key"]), "needs 2 custodians");
    assert_eq!(objects(&office), before);
    // Taking away needs nobody.
    office.keys(&["revoke", "ben"]).expect(0);
}

#[test]
fn approval_of_one_custodian_or_for_something_else_issues_no_key() {
    let office = Office::adopted(site::bare());
    office.ask(DORA, "one.json");
    let one = text(&office.desk.path("one.json")).to_owned();
    refused(office.add_dora(&["--approval", &one]), "0 of 2 custodians signed");
    office.desk.approve("ana", "one.json").expect(0);
    refused(office.add_dora(&["--approval", &one]), "1 of 2 custodians signed");
    for (operation, why) in [
        (DORA.replace("dora", "mallory"), "the user goes beyond"),
        (DORA.replace("internal", "public"), "the clearance goes beyond"),
        (DORA.replace("--department engineering", "--department sales"), "the department goes beyond"),
        (DORA.replace("--compartment engineering", "--compartment cryptography"), "the compartment goes beyond"),
        ("open-custody".to_owned(), "operation"),
    ] {
        let file = format!("{}.json", why.replace(' ', "-"));
        let other = office.approved(&operation, &file);
        refused(office.add_dora(&["--approval", &other]), why);
    }
    // The custodians' words are not the officer's to change.
    let good = office.approved(DORA, "good.json");
    let forged = fs::read_to_string(&good).unwrap();
    let mut envelope: Value = serde_json::from_str(&forged).unwrap();
    let other: Value =
        serde_json::from_slice(&fs::read(office.desk.path("the-user-goes-beyond.json")).unwrap()).unwrap();
    envelope["signatures"] = other["signatures"].clone();
    fs::write(office.desk.path("forged.json"), envelope.to_string()).unwrap();
    let forged = text(&office.desk.path("forged.json")).to_owned();
    refused(office.add_dora(&["--approval", &forged]), "changed after signing");
    assert_eq!(office.add_dora(&["--approval", &good]).expect(0)["compartments"], json!(["engineering"]));
    // For once.
    refused(office.keys(&["renew-credential", "dora", "--approval", &good]), "used before");
    refused(office.desk.custodian("verify @good.json --tier approvals-only", false), "was used on 2");
    let records = office.desk.site.records();
    let used = records.iter().find(|record| record["action"] == "approval-used").unwrap();
    let detail = used["detail"].as_str().unwrap();
    for part in ["issue-user by ana and bo", "requested by p-rita (signed by the requester)", "use 1 of 1"] {
        assert!(detail.contains(part), "{detail}");
    }
    let added = records.iter().find(|record| record["operation"] == "add-user").unwrap();
    assert!(added["by"].as_str().unwrap().contains("approved by ana and bo (statement sha256:"), "{added}");
}

#[test]
fn request_in_anothers_name_is_refused() {
    let office = Office::adopted(site::bare());
    let serial = &office.serial;
    for (requester, why) in
        [("p-rita", "did not sign"), ("p-carla", "did not sign"), ("p-77", "neither a custodian nor")]
    {
        let file = format!("{requester}.json");
        let arguments =
            format!("request --operation {DORA} --on {serial} --reason test --requester {requester} --out @{file}");
        office.desk.custodian(&arguments, false).expect(0);
        office.desk.approve("ana", &file).expect(0);
        office.desk.approve("bo", &file).expect(0);
        let path = text(&office.desk.path(&file)).to_owned();
        refused(office.add_dora(&["--approval", &path]), why);
        // Rita proves what she asked for herself, and nothing else.
        let signed = office.desk.approve("rita", &file);
        assert_eq!(signed.code == 0, requester == "p-rita", "{}", signed.text);
    }
    let path = text(&office.desk.path("p-rita.json")).to_owned();
    office.add_dora(&["--approval", &path]).expect(0);
}

#[test]
fn standing_approval_serves_many_users_and_no_more_than_it_says() {
    let office = Office::adopted(site::bare());
    let standing = "issue-user --clearance internal --department engineering,sales --compartment engineering --uses 3";
    let path = office.approved(standing, "standing.json");
    let folder = office.desk.site.dir.join("custody/approvals");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(path, folder.join("standing.json")).unwrap();
    let add = |name: &str, clearance: &str, department: &str| {
        office.keys(&["add-user", name, "--clearance", clearance, "--department", department])
    };
    add("u1", "internal", "engineering").expect(0);
    refused(add("u2", "secret", "engineering"), "the clearance goes beyond");
    refused(add("u2", "internal", "legal"), "the department goes beyond");
    add("u2", "public", "sales").expect(0);
    // A rule that was changed so that the same attributes open more is not what the custodians read.
    office.desk.site.configure(
        "departments = [\"cryptography\"]\nroles = [\"analyst\", \"curator\"]\nclearance = \"secret\"",
        "departments = [\"engineering\"]\nclearance = \"internal\"",
    );
    refused(add("u3", "internal", "engineering"), "the compartment goes beyond");
    add("u3", "internal", "sales").expect(0);
    refused(add("u4", "internal", "sales"), "used 3 times");
    let uses: Vec<String> = office
        .desk
        .site
        .records()
        .iter()
        .filter(|record| record["action"] == "approval-used")
        .map(|record| {
            record["detail"].as_str().unwrap().split(", ").find(|part| part.starts_with("use ")).unwrap().to_owned()
        })
        .collect();
    assert_eq!(uses, ["use 1 of 3", "use 2 of 3", "use 3 of 3"]);
}

#[test]
fn roster_that_was_exchanged_or_taken_away_gives_nobody_the_keys() {
    let office = Office::adopted(site::bare());
    let path = office.desk.site.dir.join("custody/roster.json");
    let roster = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_ne!(office.add_dora(&[]).code, 0);
    // Another roster of the same people: one custodian is gone.
    office.desk.custodian(&format!("roster build @ana.card @bo.card --epoch 1 --out {}", text(&path)), false);
    refused(office.add_dora(&[]), "put that one back");
    refused(office.desk.custodian("roster adopt", false), "has to be of epoch 2");
    // Nor out of the state.
    fs::write(&path, &roster).unwrap();
    let file = office.desk.site.dir.join("state.json");
    let state = fs::read(&file).unwrap();
    let mut changed: Value = serde_json::from_slice(&state).unwrap();
    changed.as_object_mut().unwrap().remove("custody").unwrap();
    fs::write(&file, changed.to_string()).unwrap();
    fs::remove_file(&path).unwrap();
    let ended = office.add_dora(&[]);
    assert!(ended.code != 0 && ended.text.contains("were altered"), "{}", ended.text);
    fs::write(&file, &state).unwrap();
    fs::write(&path, &roster).unwrap();
    // The ledger of used approvals is not begun anew.
    let good = office.approved(DORA, "good.json");
    let nonces = office.desk.site.dir.join("custody/nonces");
    fs::rename(&nonces, office.desk.path("nonces")).unwrap();
    assert_ne!(office.add_dora(&["--approval", &good]).code, 0);
    refused(office.desk.custodian("roster adopt", false), "could be used again");
    fs::rename(office.desk.path("nonces"), &nonces).unwrap();
    // A change of the roster takes the old one's custodians.
    let next = office.desk.path("next.json");
    office.desk.custodian(
        &format!("roster build @bo.card @carla.card --requester @rita.card --epoch 2 --out {}", text(&next)),
        false,
    );
    refused(office.desk.custodian("roster adopt @next.json", false), "needs 2 custodians");
    let digest =
        office.desk.custodian("roster show @next.json", false).expect(0)["digest"].as_str().unwrap().to_owned();
    office.approved(&format!("change-roster --subject {digest}"), "change.json");
    office.desk.custodian("roster adopt @next.json --approval @change.json", false).expect(0);
    refused(office.add_dora(&["--approval", &good]), "another roster");
}

#[test]
fn log_key_and_compartment_are_replaced_and_made_with_two_custodians() {
    let office = Office::adopted(site::bare());
    let rule = "--clearance internal --department legal";
    let made = office.approved(&format!("generate --class compartment --name compartment/legal {rule}"), "legal.json");
    let lax = ["add-compartment", "legal", "--clearance", "public", "--department", "legal", "--approval", &made];
    refused(office.keys(&lax), "subject");
    let compartment =
        ["add-compartment", "legal", "--clearance", "internal", "--department", "legal", "--approval", &made];
    office.keys(&compartment).expect(0);
    let state: Value = serde_json::from_slice(&fs::read(office.desk.site.dir.join("state.json")).unwrap()).unwrap();
    let key = state["keys"]["audit"]["id"].as_str().unwrap();
    let rotate = office.approved(&format!("rotate --class audit-signing --key {key}"), "rotate.json");
    office.desk.site.casemate(&["audit", "rotate-key", "--approval", &rotate]).expect(0);
    refused(office.desk.site.casemate(&["audit", "rotate-key", "--approval", &rotate]), "key");
    office.desk.site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn site_that_custodians_found_is_not_founded_by_one_or_twice() {
    let office = Office::of(site::bare());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("site.toml");
    let text_of = fs::read_to_string(office.desk.site.dir.join("site.toml")).unwrap();
    fs::write(&config, &text_of).unwrap();
    let roster = office.desk.site.dir.join("custody/roster.json");
    let found = |name: &str, config: &std::path::Path, approval: &str| {
        let site = Site::at(folder.path().join(name));
        let approval = office.desk.path(approval);
        let ended = site.casemate(&[
            "init",
            "--config",
            text(config),
            "--roster",
            text(&roster),
            "--approval",
            text(&approval),
        ]);
        (site, ended)
    };
    let request = format!("found --subject-of {}", text(&config));
    office.ask(&request, "found.json");
    refused(found("a", &config, "found.json").1, "0 of 2 custodians signed");
    office.desk.approve("bo", "found.json").expect(0);
    office.desk.approve("carla", "found.json").expect(0);
    let other = folder.path().join("other.toml");
    fs::write(&other, format!("{text_of}\n[users.mallory]\nclearance = \"secret\"\n")).unwrap();
    let (site, ended) = found("b", &other, "found.json");
    refused(ended, "subject");
    assert!(!site.dir.join("state.json").exists());
    let (site, ended) = found("c", &config, "found.json");
    ended.expect(0);
    refused(site.casemate(&["keys", "renew-credential", "ben"]), "needs 2 custodians");
    let records = site.records();
    assert!(records[0]["detail"].as_str().unwrap().starts_with("found by bo and carla"), "{}", records[0]);
    // Under a profile that claims something nobody founds a site alone, nor with tokens whose PINs lie in a file.
    let strict = folder.path().join("strict.toml");
    fs::write(&strict, text_of.replace("profile = \"rehearsal\"", "profile = \"enterprise\"")).unwrap();
    office.approved(&format!("found --subject-of {}", text(&strict)), "strict.json");
    refused(found("d", &strict, "strict.json").1, "approvals-only");
    let alone = Site::at(folder.path().join("e")).casemate(&["init", "--config", text(&strict)]);
    assert!(
        alone.text.contains("without two custodians") || alone.text.contains("must not hold keys"),
        "{}",
        alone.text
    );
    alone.expect(UNVERIFIED);
}
