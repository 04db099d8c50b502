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
struct Held<'a> {
    folder: &'a Path,
    config: String,
}

impl Held<'_> {
    fn out(&self, file: &str) -> String {
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
