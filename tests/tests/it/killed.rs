//! `kill -9` before every durable step of a change: what was active comes back whole, and the same command finishes or says what was done.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::plug::at_every_step;
use crate::site::{self, Site, text};
use crate::staging::{CARLA, PAYROLL, approve, clearance, key, received, settings, show};

/// A site whose `clearance` was asked about the payroll, and a bundle of the next version, which lets that through.
fn site_and_bundle(folder: &Path) -> (Site, PathBuf) {
    let site = site::copy();
    let first = clearance(&site, folder, &settings(), 70_000_000_000);
    site.casemate(&["plugin", "load", text(&first)]).expect(0);
    decides(&site, "blocked-topic");
    let mut open = settings();
    open["blocked-topics"] = json!(["room"]);
    let next = clearance(&site, folder, &open, 70_000_000_001);
    (site, next)
}

/// A change that was staged, and approved by ana.
fn half_approved(site: &Site, bundle: &Path) -> (String, Vec<String>) {
    let change = received(site, bundle);
    let report = site.casemate(&["change", "stage", &change]).expect(0);
    let newly: Vec<String> = report["trial"]["newly-allowed"].as_object().unwrap().keys().cloned().collect();
    let reasons: Vec<String> = newly.iter().map(|request| format!("{request}=payroll is public now")).collect();
    approve(site, &change, "ana", &reasons).expect(0);
    (change, reasons)
}

fn active(site: &Site) -> Value {
    site.casemate(&["change", "status"]).expect(0)["active"].clone()
}

fn generation(site: &Site) -> u64 {
    active(site)["generation"].as_u64().unwrap()
}

/// The reason with which ben's question about the payroll is denied, or `allow`.
#[track_caller]
fn decides(site: &Site, expected: &str) {
    let decision = site.casemate(&["policy", "eval", "--text", PAYROLL, "--as", "ben"]).json["decision"].clone();
    let said = if decision["verdict"] == "allow" { "allow" } else { decision["reason"].as_str().unwrap() };
    assert_eq!(said, expected, "{decision}");
}

/// The same command again is carried out, or refused because it was.
#[track_caller]
fn again(site: &Site, order: &[&str], done_before: &str, told: &str) {
    let again = site.casemate(order);
    assert!(again.code == 0 || again.text.contains(done_before), "{told}: {}", again.text);
}

/// An order of two, signed and not yet submitted.
fn order(site: &Site, command: &[&str], folder: &Path) -> String {
    let path = text(&folder.join("order")).to_owned();
    let _ = fs::remove_file(&path);
    let ana = key(site, "ana");
    site.casemate(&[&["change"], command, &["--reason", "a test", "--key", &ana, "--out", &path]].concat()).expect(0);
    site.casemate(&["change", "sign", &path, "--key", &key(site, "bo")]).expect(0);
    path
}

#[test]
fn kill_9_at_every_step_of_receiving_and_staging_loses_no_change_and_activates_none() {
    let folder = tempfile::tempdir().unwrap();
    let (site, bundle) = site_and_bundle(folder.path());
    let before = active(&site);
    let receive = ["change", "receive", text(&bundle), "--as", CARLA];
    at_every_step(&site, &receive, &["/bundle.casemate"], |site, told| {
        again(site, &receive, "asked for this change before", told);
        let list = site.casemate(&["change", "list"]).expect(0);
        let states: Vec<&Value> = list.as_array().unwrap().iter().map(|line| &line["state"]).collect();
        assert_eq!(states, ["verified"], "{told}");
        assert_eq!(active(site), before, "{told}");
    });
    let change = received(&site, &bundle);
    let stage = ["change", "stage", &change];
    at_every_step(&site, &stage, &["/staging.json"], |site, told| {
        again(site, &stage, "", told);
        assert_eq!(show(site, &change)["change"]["state"], "staged", "{told}");
        assert_eq!(active(site), before, "{told}");
        decides(site, "blocked-topic");
    });
}

#[test]
fn kill_9_at_every_step_of_approving_and_activating_leaves_one_whole_generation() {
    let folder = tempfile::tempdir().unwrap();
    let (site, bundle) = site_and_bundle(folder.path());
    let before = generation(&site);
    let (change, reasons) = half_approved(&site, &bundle);
    let seen = show(&site, &change)["approve"].as_str().unwrap().to_owned();
    let bo = key(&site, "bo");
    let mut approve = vec!["change", "approve", &change, "--seen", &seen, "--key", &bo];
    reasons.iter().for_each(|reason| approve.extend(["--reason", reason]));
    at_every_step(&site, &approve, &["/approvals/"], |site, told| {
        again(site, &approve, "approved already", told);
        assert_eq!(show(site, &change)["change"]["state"], "approved", "{told}");
        assert_eq!(generation(site), before, "{told}");
    });
    site.casemate(&approve).expect(0);
    let activate = ["change", "activate", &change];
    at_every_step(&site, &activate, &["/active.json", "/bundles/"], |site, told| {
        let now = generation(site);
        assert!(now == before || now == before + 1, "{told}: {now} after {before}");
        decides(site, if now == before { "blocked-topic" } else { "allow" });
        again(site, &activate, "generation", told);
        assert_eq!(generation(site), before + 1, "{told}");
        assert_eq!(show(site, &change)["change"]["state"], "active", "{told}");
        decides(site, "allow");
    });
}

#[test]
fn kill_9_at_every_step_of_stop_resume_rollback_and_revoke_leaves_the_order_done_or_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let (site, bundle) = site_and_bundle(folder.path());
    let old = active(&site)["entries"]["clearance"]["bundle_digest"].as_str().unwrap().to_owned();
    site.casemate(&["plugin", "load", text(&bundle)]).expect(0);
    let before = generation(&site);
    let ana = key(&site, "ana");

    let stop = ["change", "stop", "--everything", "--reason", "a leak", "--key", &ana];
    at_every_step(&site, &stop, &["/change.standing"], |site, told| {
        again(site, &stop, "stopped already", told);
        decides(site, "host:stopped");
        assert_eq!(generation(site), before, "{told}");
    });
    let stopped = site.copy();
    stopped.casemate(&stop).expect(0);
    let resume = order(&stopped, &["resume", "--everything"], folder.path());
    let submit = ["change", "submit", &resume];
    at_every_step(&stopped, &submit, &["/change.standing"], |site, told| {
        again(site, &submit, "carried out before", told);
        decides(site, "allow");
        assert_eq!(generation(site), before, "{told}");
    });

    let rollback = order(&site, &["rollback", "clearance"], folder.path());
    let submit = ["change", "submit", &rollback];
    at_every_step(&site, &submit, &["/active.json", "/change.standing"], |site, told| {
        let now = generation(site);
        assert!(now == before || now == before + 1, "{told}: {now} after {before}");
        decides(site, if now == before { "allow" } else { "blocked-topic" });
        again(site, &submit, "carried out before", told);
        assert_eq!(generation(site), before + 1, "{told}");
        decides(site, "blocked-topic");
    });

    let revoke = ["change", "revoke", &old, "--reason", "broken", "--key", &ana];
    at_every_step(&site, &revoke, &["/change.standing"], |site, told| {
        again(site, &revoke, "revoked already", told);
        assert_eq!(generation(site), before, "{told}");
        decides(site, "allow");
        // An order of before, back to what is revoked now.
        let refused = site.casemate(&submit);
        assert!(refused.code != 0 && refused.text.contains("revoked"), "{told}: {}", refused.text);
    });
}
