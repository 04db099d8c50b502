use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use casemate_fhe::{EncryptedQuery, EncryptedScores, GroupReply, TierModel};
use casemate_inference::{ExpectedGroup, InferenceError, Scorer};
use casemate_types::CollectionName;

use crate::remote::{Failure, Remote};
use crate::wire::Failed;

/// How long a tier that failed is left alone, unless no other is left.
const REST: Duration = Duration::from_secs(5);

/// Several tiers over the same groups, each scoring a share of them: the share of a tier that fails goes to the others, within the
/// same query.
///
/// Shares follow rendezvous hashing (Thaler and Ravishankar 1998), so a tier that dies moves its own groups only, and each tier's
/// memory holds its own share.
pub struct Shared {
    tiers: Vec<Member>,
}

struct Member {
    remote: Arc<Remote>,
    name: Vec<u8>,
    rests_until: Mutex<Option<Instant>>,
}

impl Member {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until > now)
    }

    fn set_rest(&self, until: Option<Instant>) {
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl Shared {
    /// The tiers that share the work; at least one.
    pub fn new(tiers: impl IntoIterator<Item = Arc<Remote>>) -> Self {
        let member = |remote: Arc<Remote>| Member {
            name: remote.endpoint().to_string().into_bytes(),
            remote,
            rests_until: Mutex::default(),
        };
        Self { tiers: tiers.into_iter().map(member).collect() }
    }

    /// Which tier among `present` scores a group.
    fn owner(&self, present: &[usize], collection: &CollectionName, group: u32) -> Option<usize> {
        let weight = |tier: &usize| {
            let mut hash = Context::new(&SHA256);
            hash.update(self.tiers.get(*tier).map(|member| member.name.as_slice()).unwrap_or_default());
            hash.update(&[0]);
            hash.update(collection.as_str().as_bytes());
            hash.update(&group.to_be_bytes());
            hash.finish().as_ref().to_vec()
        };
        present.iter().copied().max_by_key(weight)
    }
}

impl Scorer for Shared {
    fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError> {
        let now = Instant::now();
        let mut present: Vec<usize> = (0..self.tiers.len()).filter(|tier| !self.tiers[*tier].rests(now)).collect();
        if present.is_empty() {
            present = (0..self.tiers.len()).collect();
        }
        let mut missing: Vec<usize> = (0..expected.len()).collect();
        let mut replies: Vec<Option<GroupReply>> = expected.iter().map(|_| None).collect();
        let mut last = None;
        while !missing.is_empty() {
            let mut shares: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for place in missing.drain(..) {
                match self.owner(&present, collection, expected[place].group) {
                    Some(tier) => shares.entry(tier).or_default().push(place),
                    None => {
                        return Err(last.map_or_else(
                            || nobody(collection),
                            |failure: Failure| failure.of_scorer(collection, expected),
                        ));
                    }
                }
            }
            for (tier, places, done) in self.score_shares(collection, query, expected, shares) {
                match done {
                    Ok(scores) => {
                        self.tiers[tier].set_rest(None);
                        for (place, reply) in places.into_iter().zip(scores.into_replies()) {
                            replies[place] = Some(reply);
                        }
                    }
                    Err(failure) => {
                        let member = &self.tiers[tier];
                        tracing::warn!(tier = %member.remote.endpoint(), ?failure, "an inference tier failed; others take its share");
                        // A busy one is well; one that lies or is gone is left alone for a while.
                        if !matches!(failure, Failure::Said(Failed::Busy(_))) {
                            member.set_rest(Some(now + REST));
                        }
                        present.retain(|other| *other != tier);
                        missing.extend(places);
                        last = Some(failure);
                    }
                }
            }
        }
        let replies = replies.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| nobody(collection))?;
        Ok(EncryptedScores::from_replies(query, replies))
    }

    /// One tier classifies: by the model's digest, so that its model stays where it is. The others stand in, in their order, and
    /// those that rest are asked last.
    fn classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError> {
        let now = Instant::now();
        let weight = |member: &&Member| {
            let mut hash = Context::new(&SHA256);
            hash.update(&member.name);
            hash.update(model.digest().as_bytes());
            (member.rests(now), std::cmp::Reverse(hash.finish().as_ref().to_vec()))
        };
        let mut members: Vec<&Member> = self.tiers.iter().collect();
        members.sort_by_cached_key(weight);
        let mut last = None;
        for member in members {
            match member.remote.try_classify(model, query) {
                Ok(logits) => {
                    member.set_rest(None);
                    return Ok(logits);
                }
                Err(failure) => {
                    tracing::warn!(tier = %member.remote.endpoint(), ?failure, "an inference tier did not classify; others are asked");
                    if !matches!(failure, Failure::Said(_)) {
                        member.set_rest(Some(now + REST));
                    }
                    last = Some(failure);
                }
            }
        }
        let nobody = || InferenceError::RemoteModel { source: "no inference tier is left that could classify".into() };
        Err(last.map_or_else(nobody, Failure::of_model))
    }
}

impl Shared {
    /// Each share on its tier, all at once.
    fn score_shares(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
        shares: BTreeMap<usize, Vec<usize>>,
    ) -> Vec<(usize, Vec<usize>, Result<EncryptedScores, Failure>)> {
        let one = |tier: usize, places: Vec<usize>| {
            let groups: Vec<ExpectedGroup> = places.iter().map(|place| expected[*place]).collect();
            let done = self.tiers[tier].remote.try_score(collection, query, &groups);
            (tier, places, done)
        };
        let mut shares: Vec<_> = shares.into_iter().collect();
        let Some((tier, places)) = shares.pop() else { return Vec::new() };
        std::thread::scope(|scope| {
            let others: Vec<_> =
                shares.into_iter().map(|(tier, places)| scope.spawn(move || one(tier, places))).collect();
            let mut done = vec![one(tier, places)];
            done.extend(others.into_iter().filter_map(|other| other.join().ok()));
            done
        })
    }
}

fn nobody(collection: &CollectionName) -> InferenceError {
    let source = "no inference tier is left that could score".into();
    InferenceError::Remote { collection: collection.clone(), source }
}
