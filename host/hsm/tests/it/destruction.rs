//! A destroyed key is dead, and the token says so itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use casemate_hsm::{Claim, Ff1, Ff1Value, HsmError, KeyClass};

use crate::fixture::Fixture;

crate::list![every_proof_is_given, no_operation_begins_during_destruction, a_session_object_is_proven_dead_too];

fn every_proof_is_given(fixture: &Fixture) {
    for class in fixture.classes() {
        let key = fixture.key(class);
        let reference = key.reference().clone();
        let destruction = fixture.ring.destroy(key).unwrap();
        assert_eq!((&destruction.key, destruction.token.as_str()), (&reference, fixture.ring.serial()), "{class}");
        let shown = |claim| destruction.proofs.iter().any(|proof| proof.claim == claim && !proof.evidence.is_empty());
        for claim in [Claim::HandleInvalid, Claim::NothingFound, Claim::UseRefused, Claim::StreamDead] {
            assert!(shown(claim), "{class}: {claim:?} in {destruction:?}");
        }
        let opens = matches!(class, KeyClass::AtRest | KeyClass::Compartment);
        assert_eq!(shown(Claim::CiphertextDead), opens, "{class}");
        // The record is kept as JSON.
        let text = serde_json::to_string(&destruction).unwrap();
        assert_eq!(serde_json::from_str::<casemate_hsm::Destruction>(&text).unwrap(), destruction);
        assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyMissing { .. })), "{class}");
    }
}

/// A stream that begins between the closing of sessions and the destruction would go on for ever.
fn no_operation_begins_during_destruction(fixture: &Fixture) {
    for _ in 0..5 {
        let reference = fixture.ring.generate(KeyClass::FpeFf1, "test").unwrap();
        let batches = Ff1::new(Arc::clone(&fixture.ring), fixture.ring.find(&reference).unwrap(), 10).unwrap();
        let destroyed = AtomicBool::new(false);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let too_late = destroyed.load(Ordering::SeqCst);
                        let mut batch = vec![Ff1Value { numerals: vec![7; 16], tweak: Vec::new() }; 200];
                        let worked = batches.encrypt(&mut batch).is_ok();
                        assert!(!(too_late && worked), "a batch ran after the destruction");
                        done.fetch_add(1, Ordering::SeqCst);
                        if too_late {
                            break;
                        }
                    }
                });
            }
            while done.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            fixture.ring.destroy(fixture.ring.find(&reference).unwrap()).unwrap();
            destroyed.store(true, Ordering::SeqCst);
        });
    }
    fixture.ring.random(1).unwrap();
}

fn a_session_object_is_proven_dead_too(fixture: &Fixture) {
    let kek = fixture.key(KeyClass::UserKek);
    let blob = fixture.ring.wrap(&kek, &fixture.key(KeyClass::Compartment)).unwrap();
    let key = fixture.ring.unwrap(&kek, KeyClass::Compartment, &blob).unwrap();
    let id = key.id();
    let destruction = fixture.ring.destroy(key).unwrap();
    assert!(destruction.proofs.iter().any(|proof| proof.claim == Claim::CiphertextDead), "{destruction:?}");
    assert!(fixture.objects(id).is_empty());
}
