//! Attacks on a ceremony, each named after what is tried.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_ceremony::*;
use casemate_custody::*;
use casemate_hsm::KeyClass;
use serde_json::{Value, json};

use crate::ground::{Ground, in_a_process};
use crate::world::World;

/// The step that puts the shares together.
const RECOVER: usize = 12;

macro_rules! attack {
    ($name:ident, $place:ident, |$world:ident| $body:block) => {
        #[test]
        fn $name() {
            in_a_process(
                || Ground::$place(concat!("attacks::", stringify!($name))),
                |folder| {
                    #[allow(unused_mut, reason = "some attacks change it")]
                    let mut $world = World::at(folder);
                    $body
                },
            );
        }
    };
}

#[track_caller]
fn message<T>(result: Result<T, CeremonyError>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

attack!(nothing_is_wrong_with_an_honest_ceremony, finished, |world| {
    let verified = world.assert_finished();
    assert_eq!(verified.signers.len(), 2);
    let steps = &verified.transcript.steps;
    assert!(steps.iter().all(|step| step.attempts == 1));
    let made = steps[9].result.calls.iter().find(|call| call.call == "C_UnwrapKey names").unwrap();
    for wanted in ["CKA_SENSITIVE = true", "CKA_EXTRACTABLE = false", "CKA_DECRYPT = false", "CKA_ENCRYPT = true"] {
        assert!(made.attributes.iter().any(|told| told == wanted), "{wanted}: {:?}", made.attributes);
    }
    let escrow = steps[10].result.escrow.as_ref().unwrap();
    assert_eq!((escrow.epoch, escrow.threshold, escrow.shares.len()), (2, 2, 3));
    assert!(steps[11].result.calls.iter().any(|call| call.result.contains("a search finds nothing")));
    let page = fs::read_to_string(world.folder.join("ceremony/transcript.txt")).unwrap();
    assert_eq!(page, print::page(&world.transcript(), &world.roster).unwrap());
    for wanted in ["SIGNED BY   ana", "SIGNED BY   bo", "CKA_EXTRACTABLE = false", "carla: sha256:"] {
        assert!(page.contains(wanted), "{wanted} is not on the page:\n{page}");
    }
    assert!(page.lines().all(|line| line.chars().count() <= 110), "{page}");
    // No PIN in anything that is left behind.
    for name in ["ana", "primary"] {
        let pin = format!("the pin of {name}");
        for file in ["journal.jsonl", "transcript.json", "transcript.txt", "keys.json"] {
            assert!(!fs::read_to_string(world.folder.join("ceremony").join(file)).unwrap().contains(&pin));
        }
    }
});

attack!(changed_plan_is_refused_by_name, ready, |world| {
    world.change("plan.toml", "names 1", "names 2");
    let said = message(world.run());
    assert!(said.contains("the custodians approved") && said.contains(&world.plan().digest().to_string()), "{said}");
    assert!(!world.folder.join("ceremony").exists());
});

attack!(one_custodian_alone_begins_nothing, ready, |world| {
    world.approve("alone.json", &["ana"]);
    world.approval = "alone.json";
    assert!(message(world.run()).contains("1 of 2 custodians signed"));
    world.approval = "approval.json";
    let text = fs::read_to_string(world.folder.join("bindings.toml")).unwrap();
    let start = text.find("[custodians.bo]").unwrap();
    fs::write(world.folder.join("bindings.toml"), &text[..start]).unwrap();
    assert!(message(world.run()).contains("1 custodians are bound, 2 have to be here"));
});

attack!(one_custodian_twice_signs_no_transcript, finished, |world| {
    let mut file: Value = serde_json::from_slice(&world.transcript().to_bytes().unwrap()).unwrap();
    let first = file["signatures"][0].clone();
    file["signatures"] = json!([first.clone(), first]);
    let twice = Envelope::parse(file.to_string().as_bytes()).unwrap();
    assert!(message(world.verify(&twice)).contains("signed twice"));
    file["signatures"].as_array_mut().unwrap().pop();
    let once = Envelope::parse(file.to_string().as_bytes()).unwrap();
    assert!(message(world.verify(&once)).contains("1 of 2 custodians signed"));
});

attack!(token_with_another_serial_is_refused, ready, |world| {
    let serial = world.bindings().tokens["primary"].serial.to_string();
    // A token that is there and was not approved: carla's own.
    let other = world.roster.custodians()[2].token_serial.to_string();
    world.change("bindings.toml", &serial, &other);
    assert!(message(world.run()).contains("for another token"));
    world.change("bindings.toml", &other, "NOSUCHTOKEN");
    assert!(message(world.run()).contains("no initialised token has serial number NOSUCHTOKEN"));
});

attack!(token_that_is_not_fresh_is_refused, ready, |world| {
    world.ring("backup").generate(KeyClass::AtRest, "left over").unwrap();
    let said = message(world.run());
    assert!(said.contains("it holds 1 objects") && said.contains("left over"), "{said}");
    // Nothing was made anywhere.
    for role in ["primary", "vault"] {
        assert!(world.ring(role).inventory().unwrap().iter().all(|object| object.built_in));
    }
});

attack!(share_of_an_older_epoch_recovers_nothing, ready, |world| {
    world.stop_before = Some(RECOVER);
    assert!(message(world.run()).contains("the test wants it"));
    let of = SplitOf { kind: SecretKind::Package, about: "names", epoch: 1 };
    let (_, shares) = split(b"a package of before", of, &world.roster, &mut SystemEntropy).unwrap();
    let old = shares.iter().find(|share| share.custodian().as_str() == "bo").unwrap();
    let path = world.folder.join("ceremony/shares/names/bo.share.json");
    let honest = fs::read(&path).unwrap();
    fs::write(&path, old.to_bytes().unwrap()).unwrap();
    world.stop_before = None;
    let said = message(world.resume());
    assert!(said.contains("it is of epoch 1, the current one is 2"), "{said}");
    assert_eq!(world.ring("vault").key_count().unwrap(), 2);
    fs::write(&path, honest).unwrap();
    world.resume().unwrap();
    world.assert_finished();
});

attack!(transcript_that_was_altered_is_refused, finished, |world| {
    let file: Value = serde_json::from_slice(&world.transcript().to_bytes().unwrap()).unwrap();
    let payload = String::from_utf8(STANDARD.decode(file["payload"].as_str().unwrap()).unwrap()).unwrap();
    for (from, to) in [("CKA_EXTRACTABLE = false", "CKA_EXTRACTABLE = true"), ("\"attempts\":1", "\"attempts\":2")] {
        assert!(payload.contains(from), "{from}");
        let mut altered = file.clone();
        altered["payload"] = STANDARD.encode(payload.replacen(from, to, 1)).into();
        let envelope = Envelope::parse(altered.to_string().as_bytes()).unwrap();
        assert!(message(world.verify(&envelope)).contains("was changed after signing"));
    }
});

attack!(transcript_that_the_log_does_not_hold_is_refused, finished, |world| {
    // Both custodians sign another transcript afterwards: their signatures hold, and the log knows better.
    let mut other: Transcript = world.transcript().document().unwrap();
    other.steps[9].attempts = 7;
    let mut envelope = Envelope::new(&other).unwrap();
    for name in ["ana", "bo"] {
        let module = casemate_hsm::Module::load(&crate::ground::module()).unwrap();
        let token = HsmToken::open(module, name, &crate::world::pin(&format!("the pin of {name}"))).unwrap();
        token.sign_envelope(world.roster.custodian(&name.parse().unwrap()).unwrap(), &mut envelope).unwrap();
    }
    assert!(message(world.verify(&envelope)).contains("no record of its end"));
});

attack!(transcript_of_another_plan_is_refused, finished, |world| {
    let honest = world.transcript();
    world.change("plan.toml", "names 1", "names 2");
    let said = message(world.verify(&honest));
    assert!(said.contains("this transcript is of plan"), "{said}");
});

attack!(resume_with_another_plan_is_refused, ready, |world| {
    world.stop_before = Some(RECOVER);
    let _ = message(world.run());
    world.stop_before = None;
    world.change("plan.toml", "names 1", "names 2");
    // Also one that the custodians approved since.
    world.approve("other.json", &["ana", "bo"]);
    world.approval = "other.json";
    let said = message(world.resume());
    assert!(said.contains("this journal is of plan"), "{said}");
});

attack!(journal_that_was_cut_off_is_refused, ready, |world| {
    world.stop_before = Some(RECOVER);
    let _ = message(world.run());
    let path = world.folder.join("ceremony/journal.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    // Whole lines away: the log knows more. A torn line after them changes nothing.
    for torn in ["", "{\"n\":99"] {
        fs::write(&path, format!("{}\n{torn}", lines[..lines.len() - 1].join("\n"))).unwrap();
        let said = message(world.resume());
        assert!(said.contains("cut off or replaced by an older one"), "{said}");
    }
    fs::write(&path, "").unwrap();
    assert!(message(world.resume()).contains("does not begin a ceremony"));
    // A torn line at the end of the whole journal was never acted on.
    fs::write(&path, format!("{whole}{{\"n\":99")).unwrap();
    world.stop_before = None;
    world.resume().unwrap();
    world.assert_finished();
});

attack!(journal_that_was_altered_is_refused, ready, |world| {
    world.stop_before = Some(RECOVER);
    let _ = message(world.run());
    let path = world.folder.join("ceremony/journal.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replacen("fit for profile", "FIT FOR PROFILE", 1)).unwrap();
    assert!(message(world.resume()).contains("does not follow the one before"));
    // The last entry has no follower; the audit log holds its digest.
    let at = whole.trim_end().rfind("\"at\":").unwrap();
    fs::write(&path, format!("{}{}", &whole[..at], whole[at..].replacen("\"at\":1", "\"at\":2", 1))).unwrap();
    assert!(message(world.resume()).contains("is not the one that the audit log holds"));
    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&path, format!("{}\n{}\n", lines.join("\n"), lines[0])).unwrap();
    assert!(message(world.resume()).contains("does not follow the one before"));
});

attack!(approval_of_a_ceremony_is_good_once, finished, |world| {
    fs::rename(world.folder.join("ceremony"), world.folder.join("before")).unwrap();
    assert!(message(world.run()).contains("used before"));
});
