//! Plans and bindings as files: what is refused before a token is touched.

use std::path::Path;

use casemate_ceremony::*;

use crate::world::PLAN;

#[track_caller]
fn refused(plan: &str, why: &str) {
    let error = Plan::parse(plan.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

fn without(step: &str) -> String {
    assert!(PLAN.contains(step), "{step}");
    PLAN.replacen(&format!("[[steps]]\n{step}"), "", 1)
}

#[test]
fn plan_is_named_by_the_hash_of_its_bytes() {
    let plan = Plan::parse(PLAN.as_bytes()).unwrap();
    assert_eq!(plan.digest(), casemate_types::Digest::of(PLAN.as_bytes()));
    assert_eq!(plan.steps().len(), 16);
    let spaced = format!("{PLAN}\n");
    assert_ne!(Plan::parse(spaced.as_bytes()).unwrap().digest(), plan.digest());
}

#[test]
fn unknown_keys_are_errors() {
    refused(&PLAN.replacen("epoch = 2", "epoch = 2\nquiet = true", 1), "quiet");
    refused(&format!("quiet = true\n{PLAN}"), "quiet");
    refused(&PLAN.replacen("do = \"record\"", "do = \"forget\"", 1), "forget");
    let bindings =
        "format = \"casemate ceremony bindings 1\"\nroster = \"r\"\nquiet = true\n[modules]\n[tokens]\n[custodians]\n";
    let error = Bindings::parse(bindings, Path::new("/")).unwrap_err().to_string();
    assert!(error.contains("quiet"), "{error}");
}

#[test]
fn no_key_goes_into_a_token_that_is_not_probed() {
    refused(&without("do = \"probe\"\ntoken = \"vault\"\n"), "step 8: token `vault` is not probed");
}

#[test]
fn an_escrow_that_is_never_opened_is_none() {
    refused(&without("do = \"recover\"\nkey = \"names\"\n"), "recovery of key `names` is not rehearsed");
    refused(&without("do = \"escrow\"\nkey = \"names\"\nepoch = 2\n"), "not escrowed at this step");
    refused(&PLAN.replacen("escrow-for = \"vault\"", "escrow-for = \"backup\"", 1), "nothing could be rehearsed");
}

#[test]
fn keys_that_must_not_leave_are_not_planned_to() {
    refused(&PLAN.replacen("fpe-ff1", "compartment", 1), "belongs to one token");
    refused(&PLAN.replacen("fpe-ff1", "custodian-signing", 1), "not made by `generate`");
    refused(&PLAN.replacen("under = \"users\"", "under = \"engineering\"", 1), "not kek-wrapping");
    refused(&without("do = \"transport\"\ntoken = \"vault\"\n"), "`vault` has no transport pair");
}

#[test]
fn a_token_is_not_fresh_after_something_was_made_in_it() {
    let late = PLAN.replacen(
        "do = \"record\"\ntext = \"both",
        "do = \"fresh\"\ntoken = \"vault\"\n[[steps]]\ndo = \"record\"\ntext = \"both",
        1,
    );
    refused(&late, "`vault` is not empty any more");
}

#[test]
fn one_token_in_two_roles_is_refused() {
    let token = |role: &str| format!("[tokens.{role}]\nmodule = \"m\"\nserial = \"ABC\"\n");
    let text = format!(
        "format = \"casemate ceremony bindings 1\"\nroster = \"r\"\n[modules.m]\npath = \"m.so\"\n{}{}[custodians]\n",
        token("primary"),
        token("backup").replace("ABC", "abc"),
    );
    let error = Bindings::parse(&text, Path::new("/")).unwrap_err().to_string();
    assert!(error.contains("`backup` and `primary` are one token"), "{error}");
}

#[test]
fn texts_that_look_other_than_they_are_are_refused() {
    refused(&PLAN.replacen("names 1", "names \u{202e}1", 1), "one line each");
    refused(&PLAN.replacen("make the keys of a site", "", 1), "one line each");
}
