//! The SDK as a policy team uses it: an exported policy, scripted capabilities, cases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use casemate_sdk::testing::{Host, KeyPurpose, run_policy_cases, run_policy_cases_with, settings, with_host};
use casemate_sdk::{
    CapabilityError, Decision, Description, LogLevel, Obligation, Policy, Request, SettingKind, Settings, Span, audit,
    clock, fpe, hsm, inference, kv, log, random, records, retrieval, session, vectors,
};

struct OfficeHours;

impl Policy for OfficeHours {
    fn describe() -> Description {
        Description::new("Answers before the closing time only.")
            .required("closes", SettingKind::Integer, "Milliseconds since 1970.")
            .optional("spans", SettingKind::Texts, "Hides the first byte, and claims one beyond the text.")
    }

    fn evaluate(request: &Request, settings: &Settings) -> Decision {
        if settings.texts("spans").is_some() {
            let end = request.text.len() as u32 + 1;
            return Decision::mask(vec![Span { start: 0, end, kind: "x".to_owned() }]);
        }
        if request.attribute("urgent") == Some("yes") {
            return Decision::transform([Obligation::LogAt(LogLevel::Notice)]);
        }
        match settings.integer("closes") {
            Some(closes) if clock::now() < closes as u64 => Decision::allow(),
            _ => Decision::deny("closed", "Ask again tomorrow."),
        }
    }
}

casemate_sdk::export_policy!(OfficeHours);

const CASE: &str = r#"{"cases": [{"name": "NAME", "request": {"phase": "request", "claims": {"user": "ana",
    "clearance": "secret"}, "action": "ask", "text": "When?", "passage": null, "attributes": ATTRIBUTES},
    "expect": EXPECT}]}"#;

fn case(attributes: &str, expect: &str) -> String {
    CASE.replace("ATTRIBUTES", attributes).replace("EXPECT", expect)
}

#[test]
fn cases_run_against_a_scripted_host() {
    let open = case("[]", r#"{"verdict": "allow"}"#);
    run_policy_cases_with::<OfficeHours>(&open, r#"{"closes": 10}"#, || Host::new().now(9));
    let closed = case("[]", r#"{"verdict": "deny", "reason": "closed"}"#);
    run_policy_cases_with::<OfficeHours>(&closed, r#"{"closes": 10}"#, || Host::new().now(10));
    let urgent = case(r#"[{"name": "urgent", "value": "yes"}]"#, r#"{"verdict": "transform", "spans": []}"#);
    run_policy_cases::<OfficeHours>(&urgent, r#"{"closes": 10}"#);
}

#[test]
#[should_panic(expected = "expected Allow")]
fn a_case_that_differs_fails() {
    let wrong = case("[]", r#"{"verdict": "allow"}"#);
    run_policy_cases_with::<OfficeHours>(&wrong, r#"{"closes": 10}"#, || Host::new().now(10));
}

#[test]
#[should_panic(expected = "expected Deny Some(\"late\")")]
fn a_case_with_another_reason_fails() {
    let wrong = case("[]", r#"{"verdict": "deny", "reason": "late"}"#);
    run_policy_cases_with::<OfficeHours>(&wrong, r#"{"closes": 10}"#, || Host::new().now(10));
}

#[test]
#[should_panic(expected = "`clock.now` was called, and the test host does not grant it")]
fn an_ungranted_call_is_named() {
    run_policy_cases::<OfficeHours>(&case("[]", r#"{"verdict": "allow"}"#), r#"{"closes": 10}"#);
}

#[test]
#[should_panic(expected = "is no part of the text")]
fn a_span_outside_the_text_is_named() {
    let masked = case("[]", r#"{"verdict": "transform"}"#);
    run_policy_cases::<OfficeHours>(&masked, r#"{"closes": 10, "spans": []}"#);
}

#[test]
#[should_panic(expected = "unknown field `verdct`")]
fn a_misspelt_key_in_a_case_is_named() {
    run_policy_cases::<OfficeHours>(&case("[]", r#"{"verdct": "allow"}"#), r#"{"closes": 10}"#);
}

#[test]
#[should_panic(expected = "the required setting `closes` is missing")]
fn a_missing_setting_is_named() {
    settings("{}", &OfficeHours::describe());
}

#[test]
#[should_panic(expected = "declares no setting `closing`")]
fn an_unknown_setting_is_named() {
    settings(r#"{"closes": 1, "closing": 2}"#, &OfficeHours::describe());
}

#[test]
#[should_panic(expected = "must be of type")]
fn a_setting_of_the_wrong_type_is_named() {
    settings(r#"{"closes": "late"}"#, &OfficeHours::describe());
}

#[test]
fn what_was_done_is_recorded() {
    let host = Host::new().log().audit().random(&[7]).state([("old".to_owned(), vec![1])]);
    let (bytes, seen) = with_host(host, || {
        log::write(LogLevel::Info, "a line");
        audit::annotate("name", "value").unwrap();
        kv::set("new", b"2").unwrap();
        assert_eq!(kv::get("old").unwrap(), Some(vec![1]));
        kv::delete("old").unwrap();
        assert!(matches!(random::bytes(1025), Err(CapabilityError::Invalid(_))));
        random::bytes(2).unwrap()
    });
    assert_eq!(bytes, [7, 7]);
    assert_eq!(seen.calls.join(" "), "log.write audit.annotate kv.set kv.get kv.delete random.bytes random.bytes");
    assert_eq!(seen.log, [(LogLevel::Info, "a line".to_owned())]);
    assert_eq!(seen.annotations[0].name, "name");
    assert_eq!(seen.state.into_iter().collect::<Vec<_>>(), [("new".to_owned(), b"2".to_vec())]);
}

#[test]
fn keys_have_one_purpose_and_are_opened_by_name() {
    let host = Host::new().key("pan", KeyPurpose::Fpe).key("seal", KeyPurpose::Mac);
    with_host(host, || {
        let key = fpe::Key::open("pan").unwrap();
        let item = |text: &str| fpe::Item { text: text.to_owned(), alphabet: fpe::Alphabet::Digits, tweak: Vec::new() };
        let hidden = key.encrypt(&[item("123459")]).unwrap();
        assert_eq!(hidden, ["234560"]);
        assert_eq!(key.decrypt(&[item(&hidden[0])]).unwrap(), ["123459"]);
        assert!(matches!(key.encrypt(&[item("12345")]), Err(CapabilityError::Invalid(_))));
        assert!(matches!(fpe::Key::open("seal"), Err(CapabilityError::Denied(_))));
        let seal = hsm::Key::open("seal").unwrap();
        assert_eq!((seal.mac(b"m").unwrap().len(), seal.info().purpose.as_str()), (32, "mac"));
        assert!(matches!(seal.sign(b"m"), Err(CapabilityError::Invalid(_))));
    });
}

#[test]
fn nothing_is_granted_by_default() {
    let calls: [(&str, fn()); 8] = [
        ("session.current", || drop(session::current())),
        ("vectors.collections", || drop(vectors::collections())),
        ("records.open", || drop(records::open(&[]))),
        ("retrieval.retrieve", || drop(retrieval::retrieve("", &[], 1))),
        ("inference.closeness", || drop(inference::closeness("", &[]))),
        ("hsm.open", || drop(hsm::Key::open("k"))),
        ("audit.annotate", || drop(audit::annotate("", ""))),
        ("kv.get", || drop(kv::get(""))),
    ];
    for (name, ungranted) in calls {
        let panic = std::panic::catch_unwind(|| with_host(Host::new(), ungranted)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains(name), "{name}");
    }
}
