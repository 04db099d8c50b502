//! Ceremonies on tokens of several makes, and on tokens that take their PINs at pads of their own.

use casemate_ceremony::CeremonyError;
use casemate_types::Profile;

use crate::ground::{Ground, in_a_process, play_own_role};
use crate::world::World;

/// The whole plan: both copies of the key are one, the escrow opens in the vault, and a user's keys are issued.
fn a_ceremony_holds(test: &'static str, softhsm: &[&str]) {
    let play = |_: &str, folder: &std::path::Path| {
        let world = World::at(folder);
        world.run().unwrap();
        let verified = world.assert_finished();
        let models: std::collections::BTreeSet<_> =
            verified.transcript.tokens.iter().map(|token| token.model.clone()).collect();
        assert_eq!(models.len(), if softhsm.len() == 3 { 1 } else { 2 }, "{models:?}");
        // OAEP with SHA-1 for SoftHSM, which takes nothing else, and with SHA-256 for others.
        let transports = verified.transcript.steps.iter().flat_map(|step| &step.result.addresses).count();
        assert_eq!(transports, 3);
    };
    if play_own_role(play) {
        return;
    }
    if let Some(ground) = Ground::of_makes(test, softhsm) {
        ground.play("attack");
    }
}

#[test]
fn softhsm_stands_behind_the_embedded_token() {
    a_ceremony_holds("makes::softhsm_stands_behind_the_embedded_token", &["backup"]);
}

#[test]
fn the_embedded_token_stands_behind_softhsm() {
    a_ceremony_holds("makes::the_embedded_token_stands_behind_softhsm", &["primary", "vault"]);
}

#[test]
fn all_tokens_are_softhsms() {
    a_ceremony_holds("makes::all_tokens_are_softhsms", &["backup", "primary", "vault"]);
}

#[track_caller]
fn message<T>(result: Result<T, CeremonyError>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

#[test]
fn no_pin_of_one_person_opens_an_enterprises_ceremony() {
    in_a_process(
        || Ground::ready("makes::no_pin_of_one_person_opens_an_enterprises_ceremony"),
        |folder| {
            for profile in [Profile::Enterprise, Profile::Government] {
                let mut world = World::at(folder);
                world.profile = profile;
                let said = message(world.run());
                assert!(said.contains("approvals-only"), "{said}");
                assert!(!world.folder.join("ceremony").exists());
            }
            // Who states a quorum that the tokens do not have is contradicted by them.
            let world = World::at(folder);
            world.change("bindings.toml", "vendor-quorum = false", "vendor-quorum = true");
            let said = message(world.run());
            assert!(said.contains("quorum"), "{said}");
        },
    );
}

#[test]
fn a_makers_own_quorum_is_asked_and_gets_no_pin_from_here() {
    in_a_process(
        || Ground::with_pads("makes::a_makers_own_quorum_is_asked_and_gets_no_pin_from_here"),
        |folder| {
            let mut world = World::at(folder);
            world.profile = Profile::Enterprise;
            world.approve("first.json", &["ana", "bo"]);
            world.approval = "first.json";
            // A PIN in a file would be one that somebody knows.
            let honest = std::fs::read_to_string(folder.join("bindings.toml")).unwrap();
            world.change("bindings.toml", "[tokens.primary]", "[tokens.primary]\npin-file = \"primary.pin\"");
            let said = message(world.run());
            assert!(said.contains("takes its PIN by a way of its own"), "{said}");
            std::fs::write(folder.join("bindings.toml"), honest).unwrap();
            std::fs::rename(folder.join("ceremony"), folder.join("refused")).unwrap();
            // One person at a pad that asks for two, and the same one twice.
            let both = std::fs::read_to_string(folder.join("quorum")).unwrap();
            for (round, alone) in ["officer-1", "officer-1 officer-1"].iter().enumerate() {
                std::fs::write(folder.join("quorum"), both.replace("officer-1 officer-2", alone)).unwrap();
                let statement: &'static str = ["alone.json", "twice.json"][round];
                world.approve(statement, &["ana", "bo"]);
                world.approval = statement;
                let said = message(world.run());
                assert!(said.contains("refused at its own pad"), "{said}");
                std::fs::rename(folder.join("ceremony"), folder.join(format!("refused {round}"))).unwrap();
            }
            std::fs::write(folder.join("quorum"), both).unwrap();
            world.approve("again.json", &["ana", "bo"]);
            world.approval = "again.json";
            world.run().unwrap();
            let verified = world.assert_finished();
            for token in &verified.transcript.tokens {
                assert_eq!(token.login, Some(casemate_ceremony::LoginBy::VendorQuorum), "{}", token.role);
            }
        },
    );
}
