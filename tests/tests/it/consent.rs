//! Custodians decide about a site's keys from the adoption of their roster on: attacks by an officer, by one custodian, by who writes files.

use std::fs;

use serde_json::Value;

use crate::custodian::Desk;
use crate::site::{self, text};

const ADD: [&str; 9] =
    ["keys", "add-user", "dora", "--clearance", "internal", "--role", "analyst", "--department", "engineering"];

/// A site that has adopted its custodians.
fn decided() -> Desk {
    let desk = Desk::at(site::bare());
    for name in ["ana", "bo", "carla"] {
        desk.enrol(name);
    }
    let roster = desk.site.dir.join("custody/roster.json");
    desk.custodian(&format!("roster build @ana.card @bo.card @carla.card --out {}", text(&roster)), false).expect(0);
    desk.custodian("roster adopt", false).expect(0);
    desk
}

fn run(desk: &Desk, arguments: &[&str], more: &[&str]) -> site::Ended {
    desk.site.casemate(&[arguments, more].concat())
}

/// Asks for what the arguments say and has people sign it.
fn signed(desk: &Desk, arguments: &[&str], file: &str, people: &[&str]) -> String {
    let path = desk.path(file);
    run(desk, arguments, &["--ask", text(&path), "--requester", "p-officer"]).expect(0);
    for name in people {
        desk.approve(name, file).expect(0);
    }
    text(&path).to_owned()
}

#[track_caller]
fn refused(ended: site::Ended, name: &str) {
    assert!(ended.code != 0 && ended.text.contains(name), "{}", ended.text);
}

fn users(desk: &Desk) -> Vec<String> {
    let list = desk.site.casemate(&["keys", "list"]).expect(0);
    list["users"].as_array().unwrap().iter().map(|user| user["user"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_gives_keys_needs_two_custodians_who_signed_exactly_that() {
    let desk = decided();
    refused(run(&desk, &ADD, &[]), "two custodians decide this");
    let one = signed(&desk, &ADD, "one.json", &["ana"]);
    refused(run(&desk, &ADD, &["--statement", &one]), "1 of 2 custodians signed");
    // More than was signed.
    let two = signed(&desk, &ADD, "two.json", &["ana", "bo"]);
    let more = ADD.map(|word| if word == "internal" { "secret" } else { word });
    refused(run(&desk, &more, &["--statement", &two]), "the custodians approved something else");
    let other = ADD.map(|word| if word == "dora" { "mallory" } else { word });
    let three = signed(&desk, &ADD, "three.json", &["bo", "carla"]);
    refused(run(&desk, &other, &["--statement", &three]), "the custodians approved something else");
    assert!(!users(&desk).contains(&"mallory".to_owned()));
    let four = signed(&desk, &ADD, "four.json", &["ana", "carla"]);
    run(&desk, &ADD, &["--statement", &four]).expect(0);
    assert!(users(&desk).contains(&"dora".to_owned()));
    // Once.
    refused(run(&desk, &["keys", "issue", "dora"], &["--statement", &four]), "used before");
    for arguments in [&["keys", "renew-credential", "dora"][..], &["keys", "issue", "dora"], &["audit", "rotate-key"]] {
        refused(run(&desk, arguments, &[]), "two custodians decide this");
        let file = format!("{}.json", arguments[1]);
        let statement = signed(&desk, arguments, &file, &["ana", "bo"]);
        run(&desk, arguments, &["--statement", &statement]).expect(0);
    }
    let compartment = ["keys", "add-compartment", "finance", "--department", "finance", "--clearance", "internal"];
    refused(run(&desk, &compartment, &[]), "two custodians decide this");
    let statement = signed(&desk, &compartment, "finance.json", &["bo", "carla"]);
    run(&desk, &compartment, &["--statement", &statement]).expect(0);
    // What only takes away needs nobody.
    run(&desk, &["keys", "revoke", "dora"], &[]).expect(0);
    let approvals = desk.site.records().iter().filter(|record| record["action"] == "approval").count();
    assert_eq!(approvals, 5, "one for each that was done");
}

#[test]
fn a_roster_that_is_exchanged_or_taken_away_opens_nothing() {
    let desk = decided();
    let roster = desk.site.dir.join("custody/roster.json");
    let kept = fs::read(&roster).unwrap();
    // Bo and a fourth make a roster of their own.
    desk.secret("dan", "the pin of dan");
    desk.enrol("dan");
    fs::remove_file(&roster).unwrap();
    refused(run(&desk, &ADD, &[]), "two custodians decide this");
    desk.custodian(&format!("roster build @bo.card @dan.card --out {}", text(&roster)), false).expect(0);
    let forged = signed(&desk, &ADD, "forged.json", &["bo", "dan"]);
    refused(run(&desk, &ADD, &["--statement", &forged]), "another roster than the one in force");
    refused(desk.custodian("roster adopt", false), "is in force");
    // A state without its roster is not the one that was written.
    fs::write(&roster, &kept).unwrap();
    let state = desk.site.dir.join("state.json");
    let written = fs::read(&state).unwrap();
    let mut cut: Value = serde_json::from_slice(&written).unwrap();
    cut.as_object_mut().unwrap().remove("roster").unwrap();
    fs::write(&state, cut.to_string()).unwrap();
    refused(run(&desk, &ADD, &[]), "altered");
    fs::write(&state, written).unwrap();

    // The custodians themselves may.
    let next = desk.path("next.json");
    let built = format!("roster build @ana.card @bo.card @carla.card @dan.card --epoch 2 --out {}", text(&next));
    desk.custodian(&built, false).expect(0);
    let shown = desk.custodian(&format!("roster show {}", text(&next)), false).expect(0)["digest"].clone();
    let request = format!(
        "request --operation change-roster --subject {} --reason dan-joins --requester p-officer --out @change.json",
        shown.as_str().unwrap()
    );
    desk.custodian(&request, false).expect(0);
    let adopt = format!("roster adopt --roster {} --statement @change.json", text(&next));
    desk.approve("ana", "change.json").expect(0);
    refused(desk.custodian(&adopt, false), "1 of 2 custodians signed");
    desk.approve("carla", "change.json").expect(0);
    assert_eq!(desk.custodian(&adopt, false).expect(0)["epoch"], 2);
    let statement = signed(&desk, &ADD, "by-dan.json", &["dan", "ana"]);
    run(&desk, &ADD, &["--statement", &statement]).expect(0);
}
