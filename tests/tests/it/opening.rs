//! A site whose PINs are split is opened: what was shown is worthless afterwards, and no PIN is anywhere but in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_custody::{Collector, CustodyFolder, Generation, OpenShare, Roster, SecretKind};
use serde_json::{Value, json};

use crate::ceremony::Split;
use crate::serve::{Served, Server};
use crate::site::{self, Ended, Site, copy_folder, text};
use crate::{corpus, plug};

const ROLES: [&str; 2] = ["primary", "backup"];

fn folder(split: &Split<'_>, role: &str) -> PathBuf {
    PathBuf::from(split.held.out(&format!("custody/{role}")))
}

fn journal(split: &Split<'_>, role: &str) -> Value {
    serde_json::from_slice(&fs::read(folder(split, role).join("journal.json")).unwrap()).unwrap()
}

fn generation(split: &Split<'_>, role: &str) -> u64 {
    journal(split, role)["generation"].as_u64().unwrap()
}

/// The folder is settled and holds the shares of one generation.
#[track_caller]
fn assert_one_generation(split: &Split<'_>) {
    for role in ROLES {
        assert_eq!(journal(split, role)["phase"], "settled", "{role}");
        let names = fs::read_dir(folder(split, role)).unwrap().map(|entry| entry.unwrap().file_name());
        let generations: Vec<String> =
            names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("gen-")).collect();
        assert_eq!(generations, [format!("gen-{}", generation(split, role))], "{role}");
    }
}

#[track_caller]
fn refused(ended: &Ended, why: &str) {
    assert!(ended.code != 0 && ended.text.contains(why), "{why}: {}", ended.text);
}

#[test]
fn shares_that_an_opening_showed_open_nothing_afterwards() {
    let place = tempfile::tempdir().unwrap();
    let split = Split::rehearsed(place.path(), "rehearsal");
    let site = split.founded();
    let list = |names: &[&str]| split.opened(&site, names, &["keys", "list"]);
    let share = |role: &str, generation: u64, file: &str| folder(&split, role).join(format!("gen-{generation}/{file}"));

    // Everything that an opening takes, copied before it; the opening; and everything put back after it.
    let backup = place.path().join("backup");
    ROLES.iter().for_each(|role| copy_folder(&folder(&split, role), &backup.join(role)));
    let before = ROLES.map(|role| generation(&split, role));
    list(&["ana", "bo"]).expect(0);
    assert_eq!(ROLES.map(|role| generation(&split, role)), before.map(|generation| generation + 1));
    assert_one_generation(&split);
    let newest = place.path().join("newest");
    ROLES.iter().for_each(|role| copy_folder(&folder(&split, role), &newest.join(role)));
    let put = |from: &Path| {
        for role in ROLES {
            fs::remove_dir_all(folder(&split, role)).unwrap();
            copy_folder(&from.join(role), &folder(&split, role));
        }
    };
    put(&backup);
    refused(&list(&["ana", "bo"]), "are not in force any more");
    put(&newest);

    // Shares of before under the names of those in force.
    let now = generation(&split, "primary");
    let in_force = share("primary", now, "user-pin.ana.share.json");
    let honest = fs::read(&in_force).unwrap();
    let older = backup.join(format!("primary/gen-{}/user-pin.ana.share.json", before[0]));
    fs::copy(older, &in_force).unwrap();
    refused(&list(&["ana", "bo"]), &format!("it is of epoch {}", before[0]));
    // A byte of one, and somebody else's.
    let mut corrupted: Value = serde_json::from_slice(&honest).unwrap();
    for field in corrupted["sealed"].as_object_mut().unwrap().values_mut() {
        let text = field.as_str().unwrap().to_owned();
        let digit = if text.ends_with('0') { "1" } else { "0" };
        *field = format!("{}{digit}", &text[..text.len() - 1]).into();
    }
    fs::write(&in_force, corrupted.to_string()).unwrap();
    let ended = list(&["ana", "bo"]);
    refused(&ended, "open the share of `ana`");
    refused(&ended, "no PIN was replaced");
    fs::copy(share("primary", now, "user-pin.bo.share.json"), &in_force).unwrap();
    refused(&list(&["ana", "bo"]), "belongs to another custodian or token");
    fs::copy(share("backup", generation(&split, "backup"), "user-pin.ana.share.json"), &in_force).unwrap();
    refused(&list(&["ana", "bo"]), "open");
    fs::write(&in_force, &honest).unwrap();
    // One custodian, and one twice.
    refused(&list(&["bo"]), "1 of 2");
    refused(&list(&["bo", "bo"]), "one custodian counts once");
    // None of it cost a generation or told a PIN; whoever is honest gets in.
    assert_eq!(generation(&split, "primary"), now);
    list(&["bo", "carla"]).expect(0);
    assert_one_generation(&split);
}

/// Custodians come and go: those of before sign the next roster, and the opening splits the new PINs for it.
#[test]
fn pins_are_split_for_the_next_roster_that_custodians_signed_and_for_no_other() {
    let place = tempfile::tempdir().unwrap();
    let split = Split::rehearsed(place.path(), "rehearsal");
    let site = split.founded();
    let out = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let mut slots = fs::read_to_string(split.held.out("tokens.conf")).unwrap();
    for slot in 40..46 {
        slots.push_str(&format!(
            "\n[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {:?}\n",
            out(&format!("t{slot}"))
        ));
    }
    fs::write(split.held.out("tokens.conf"), slots).unwrap();
    for name in ["dan", "eve", "finn"] {
        // Where the custodians of before have theirs.
        fs::copy(split.held.out("custodian-ana.pin"), split.held.out(&format!("custodian-{name}.pin"))).unwrap();
        let pin = split.held.out(&format!("custodian-{name}.pin"));
        let card = out(&format!("{name}.card"));
        let enrol = format!(
            "enrol --name {name} --person p-{name} --token custodian-{name} --initialise --pin-file {pin} --so-pin-file {pin} --out {card}"
        );
        split.custodian(&enrol, true).expect(0);
    }
    let build = |epoch: u8, to: &str| {
        let cards = ["dan", "eve", "finn"].map(|name| out(&format!("{name}.card"))).join(" ");
        split.custodian(&format!("roster build --epoch {epoch} {cards} --out {}", out(to)), false).expect(0);
        Roster::parse(&fs::read(out(to)).unwrap()).unwrap().digest()
    };
    let (next, other) = (build(2, "next.json"), build(3, "other.json"));
    assert_ne!(next, other);
    let ask = format!(
        "request --operation change-roster --subject {next} --reason test --requester p-carla --out {}",
        out("change.json")
    );
    split.custodian(&ask, false).expect(0);
    let sign = |name: &str| {
        let (file, pin) = (out("change.json"), split.held.out(&format!("custodian-{name}.pin")));
        let sign = format!("approve {file} --as {name} --token custodian-{name} --pin-file {pin} --yes");
        split.custodian(&sign, true).expect(0);
    };
    let open = |names: &[&str], next: &str| {
        let (next, change) = (out(next), out("change.json"));
        let words = split.opening(names, &["--next-roster", &next, "--change", &change, "--", "keys", "list"]);
        site.casemate(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let before = generation(&split, "primary");
    sign("carla");
    sign("ana");
    refused(&open(&["ana", "bo"], "next.json"), "2 other custodians have to sign");
    sign("bo");
    refused(&open(&["ana", "bo"], "other.json"), "the custodians approved something else");
    assert_eq!(generation(&split, "primary"), before);
    open(&["ana", "bo"], "next.json").expect(0);
    assert_one_generation(&split);
    // From now on it is theirs.
    refused(&split.opened(&site, &["ana", "bo"], &["keys", "list"]), "there is no share of `ana`");
    fs::copy(out("next.json"), split.held.out("site/custody/roster.json")).unwrap();
    refused(&split.opened(&site, &["ana", "bo"], &["keys", "list"]), "custodian `ana`");
    split.opened(&site, &["dan", "finn"], &["keys", "list"]).expect(0);
    assert_one_generation(&split);
}

#[test]
fn kill_9_at_every_step_of_an_opening_leaves_one_generation_of_shares() {
    let place = tempfile::tempdir().unwrap();
    let split = Split::rehearsed(place.path(), "rehearsal");
    let site = split.founded();
    let (mut at, mut phases) = (0, Vec::new());
    loop {
        at += 1;
        let log = tempfile::NamedTempFile::new().unwrap();
        let words = split.opening(&["ana", "bo"], &["--", "keys", "list"]);
        let mut command = site.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("LD_PRELOAD", plug::library()).env("CASEMATE_PLUG_CALLS", "rename unlink");
        command.env("CASEMATE_PLUG_AT", at.to_string()).env("CASEMATE_PLUG_LOG", log.path());
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        // Each process counts for itself; the session that replaces PINs comes first, and ends with a failure of `open` if it is killed.
        if status.code() != Some(1) {
            break;
        }
        phases.push(journal(&split, "backup")["phase"].as_str().unwrap().to_owned());
        phases.push(journal(&split, "primary")["phase"].as_str().unwrap().to_owned());
        split.opened(&site, &["bo", "carla"], &["keys", "list"]).expect(0);
        assert_one_generation(&split);
    }
    for phase in ["settled", "prepared", "changing-user", "changing-so"] {
        assert!(phases.iter().any(|seen| seen == phase), "no kill in {phase}: {phases:?}");
    }
    split.opened(&site, &["ana", "carla"], &["keys", "list"]).expect(0);
    assert_one_generation(&split);
}

#[test]
fn a_site_that_custodians_opened_is_served_and_no_pin_is_anywhere() {
    let place = tempfile::tempdir().unwrap();
    let split = Split::rehearsed(place.path(), "rehearsal");
    let site = split.founded();
    for plugin in site::PLUGINS {
        let bundle = site::bundle(&site, plugin, place.path());
        split.opened(&site, &["ana", "bo"], &["plugin", "load", &bundle]).expect(0);
    }
    let lines = place.path().join("corpus.jsonl");
    fs::write(&lines, corpus::json_lines()).unwrap();
    split.opened(&site, &["bo", "carla"], &["ingest", text(&lines), "--as", "carla"]).expect(0);

    let serve = |site: &Site, names: &[&str]| {
        let words = split.opening(names, &["--", "serve", "--listen", "127.0.0.1:0"]);
        Server::by(site.command(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let question = json!({ "question": "How does an authenticated cipher protect the integrity of a message?" });
    let served = Served::by(serve(&site, &["ana", "bo"]), Site::at(site.dir.clone()));
    let answer = served.post("/v1/ask", "ana", &question);
    assert_eq!((answer.status, &answer.body["outcome"]["outcome"]), (200, &json!("answered")), "{}", answer.body);

    // Under load, while somebody without the custodians, and custodians for another command, want in.
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| (0..3).map(|_| served.post("/v1/ask", "ana", &question).status).collect::<Vec<_>>())
            })
            .collect();
        refused(&site.casemate(&["serve", "--listen", "127.0.0.1:0"]), "in use by another process");
        refused(&split.opened(&site, &["bo", "carla"], &["keys", "list"]), "another process is using it");
        for asker in askers {
            assert_eq!(asker.join().unwrap(), [200; 3]);
        }
    });
    assert_eq!(served.get("/v1/health", "ana").body["rehearsal"], false);
    no_pin_is_anywhere(&split, &site, &served, place.path());

    // Cut off without warning: the custodians open it again, with the shares of the PINs that were in force.
    let process = served.process().to_string();
    assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    drop(served);
    let alone = site.casemate(&["serve", "--listen", "127.0.0.1:0"]);
    refused(&alone, "nobody knows the PIN of the primary token");
    refused(&alone, "casemate custodian open");
    let served = Served::by(serve(&site, &["bo", "carla"]), Site::at(site.dir.clone()));
    assert_eq!(served.post("/v1/ask", "ana", &question).status, 200);
    assert_one_generation(&split);
}

/// The PINs in force, in hexadecimal as the tokens take them, and the shares in clear, from copies of the folders.
fn secrets(split: &Split<'_>, site: &Site, place: &Path) -> Vec<Vec<u8>> {
    let copies = ROLES.map(|role| place.join("copies").join(role));
    for (role, copy) in ROLES.iter().zip(&copies) {
        copy_folder(&folder(split, role), copy);
    }
    let mut words = split.opening(&["ana", "bo"], &["--folder", text(&copies[0]), "--folder", text(&copies[1])]);
    words[1] = "open-shares".to_owned();
    let output = site.command(&words.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let roster = Roster::parse(&fs::read(split.held.out("site/custody/roster.json")).unwrap()).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let blocks: Vec<&str> = text.split("\n\n").filter(|block| !block.is_empty()).collect();
    assert_eq!(blocks.len(), ROLES.len());
    let mut secrets = Vec::new();
    for ((block, copy), role) in blocks.iter().zip(&copies).zip(ROLES) {
        let epoch = generation(split, role);
        let opened = CustodyFolder::open(copy).unwrap();
        for kind in [SecretKind::UserPin, SecretKind::SoPin] {
            let set = opened.set(kind, Generation(epoch)).unwrap();
            let mut collector = Collector::new(&set, &roster, epoch).unwrap();
            for share in block.lines().map(|line| OpenShare::from_pipe(line.as_bytes()).unwrap()) {
                if share.kind() == kind {
                    collector.enter(share).unwrap();
                }
            }
            let pin = collector.combine().unwrap();
            secrets.push(hex::encode(&pin[..]).into_bytes());
            secrets.push(pin.to_vec());
        }
        for line in block.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            secrets.push(line["content"].as_str().unwrap().as_bytes().to_vec());
            secrets.push(hex::decode(line["content"].as_str().unwrap()).unwrap());
        }
    }
    fs::remove_dir_all(place.join("copies")).unwrap();
    assert_eq!(secrets.len(), 2 * (4 + 8));
    secrets
}

/// No argument, environment or file has a PIN or a share in clear.
#[track_caller]
fn no_pin_is_anywhere(split: &Split<'_>, site: &Site, served: &Served, place: &Path) {
    let secrets = secrets(split, site, place);
    let told = |bytes: &[u8]| secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret));
    // What is looked for would be found.
    let planted = place.join("planted");
    fs::write(&planted, [b"pin=", &secrets[0][..], b"\n"].concat()).unwrap();
    assert!(site::files(place).iter().any(|path| told(&fs::read(path).unwrap())));
    fs::remove_file(planted).unwrap();

    let process = PathBuf::from(format!("/proc/{}", served.process()));
    assert!(!fs::read(process.join("cmdline")).unwrap().is_empty());
    let mut looked = 0;
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        for file in ["cmdline", "environ"] {
            // A process that ended, or that shows its environment to nobody, tells nothing.
            let Ok(bytes) = fs::read(entry.path().join(file)) else { continue };
            looked += 1;
            assert!(!told(&bytes), "{} of {:?}", file, entry.path());
        }
    }
    assert!(looked > 1);
    let files = site::files(place);
    assert!(files.len() > 50, "{}", files.len());
    for path in files {
        // The databases are written while this looks.
        let Ok(bytes) = fs::read(&path) else { continue };
        assert!(!told(&bytes), "{}", path.display());
    }
}
