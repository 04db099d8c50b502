use std::os::unix::net::UnixListener;
use std::sync::Arc;

use casemate_fhe::stream::{Domain, mask};
use casemate_fhe::{EncryptedQuery, EncryptedScores, NormBound, Params, PlainModel, TierModel};
use casemate_inference::{InferenceError, Scorer, Tier};
use casemate_tier::{Endpoint, Limits, Shared};

use crate::{remote, serve, sled};

struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn tier(&self, name: &str) -> Endpoint {
        serve(sled(&self.0.path().join(format!("{name}-store"))), &self.0.path().join(name), Limits::default())
    }

    fn rogue(&self, name: &str) -> Endpoint {
        let listener = UnixListener::bind(self.0.path().join(name)).unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        Endpoint::Unix(self.0.path().join(name))
    }

    fn direct(&self, model: &TierModel, query: &EncryptedQuery) -> EncryptedScores {
        Tier::new(sled(&self.0.path().join("direct")), 0).classify(model, query).unwrap()
    }
}

fn params() -> Params {
    Params::of_model(16, NormBound::new(8.0).unwrap()).unwrap()
}

fn model(number: usize) -> TierModel {
    let row = |class: usize| {
        (0..17).map(|i| ((i * 5 + class * 3 + number) % 7) as f32 / 4.0 - 0.75 + number as f32 / 64.0).collect()
    };
    TierModel::plain(PlainModel::new(params(), &[row(0), row(1), row(2)]).unwrap())
}

fn query(params: Params, byte: u8) -> EncryptedQuery {
    let bodies = (0..params.rows()).flat_map(|row| mask(&[byte; 32], Domain::Secrets, row).unwrap());
    EncryptedQuery::from_parts(params, [byte; 16], [byte; 32], bodies.map(|value| value & !0xffff).collect()).unwrap()
}

#[test]
fn one_tier_and_several_give_the_logits_of_this_process() {
    let room = Room::new();
    let (model, query) = (model(0), query(params(), 3));
    let direct = room.direct(&model, &query);
    let (a, b) = (room.tier("a"), room.tier("b"));
    let alone = remote(&a);
    // The first sends the model, the second finds it.
    for _ in 0..2 {
        assert_eq!(alone.classify(&model, &query).unwrap(), direct);
    }
    let shared = Shared::new([Arc::new(remote(&b)), Arc::new(remote(&a))]);
    assert_eq!(shared.classify(&model, &query).unwrap(), direct);
}

/// A tier keeps sixteen; the first of twenty is sent again without anybody noticing.
#[test]
fn models_that_others_push_out_are_sent_again() {
    let room = Room::new();
    let query = query(params(), 4);
    let tier = remote(&room.tier("a"));
    let models: Vec<TierModel> = (0..20).map(model).collect();
    for model in models.iter().chain(models.first()) {
        assert_eq!(tier.classify(model, &query).unwrap(), room.direct(model, &query));
    }
    let kept = Tier::new(sled(&room.0.path().join("kept")), 0);
    models.iter().for_each(|model| kept.keep_model(model).unwrap());
    let missing = |model: &TierModel| kept.classify_with(&model.digest(), &query).map(drop);
    assert!(matches!(missing(&models[3]), Err(InferenceError::ModelMissing { .. })));
    assert!(missing(&models[4]).is_ok());
}

#[test]
fn a_tier_that_is_gone_or_hangs_up_leaves_its_models_to_the_others() {
    let room = Room::new();
    let (model, query) = (model(1), query(params(), 5));
    let (a, hangs_up) = (room.tier("a"), room.rogue("hangs-up"));
    let gone = Endpoint::Unix(room.0.path().join("gone"));
    let shared = |tiers: &[&Endpoint]| Shared::new(tiers.iter().map(|endpoint| Arc::new(remote(endpoint))));
    let direct = room.direct(&model, &query);
    assert_eq!(shared(&[&gone, &hangs_up, &a]).classify(&model, &query).unwrap(), direct);
    let none = shared(&[&gone, &hangs_up]).classify(&model, &query);
    assert!(matches!(none, Err(InferenceError::RemoteModel { .. })));
}

#[test]
fn a_query_of_other_parameters_is_refused_by_name() {
    let room = Room::new();
    let foreign = query(Params::of_model(16, NormBound::new(9.0).unwrap()).unwrap(), 6);
    let refused = remote(&room.tier("a")).classify(&model(2), &foreign).unwrap_err();
    let InferenceError::RemoteModel { source } = refused else { panic!("{refused}") };
    assert!(source.to_string().contains("parameters differ"), "{source}");
}
