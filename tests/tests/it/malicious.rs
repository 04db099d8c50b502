//! A scoring tier that acts, behind a whole site: every trick is refused, named to the operator, and in the audit log by name.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use casemate_fhe::{EncryptedQuery, EncryptedScores, TierModel};
use casemate_gate::{Gate, Outcome, SiteConfig};
use casemate_inference::{ExpectedGroup, InferenceError, Scorer};
use casemate_types::CollectionName;

use crate::site::{self, passage, text};

const QUESTION: &str = "When is the bilge pump of the ferry tested?";
const SITE: &str = "CASEMATE_TEST_SITE";
/// Bytes of encrypted scores before the first group: header, query identifier, number of groups.
const FRONT: usize = 52 + 16 + 4;

/// Each trick, and what the log must say of it. Scores of a hundred slots that are lowered miss all four canaries, whose places are drawn by
/// chance, once in some hundred runs: then the exact score of a passage gives it away.
const TRICKS: [(&str, &str); 8] = [
    ("zeroed", "canaries of group 0 do not have their scores"),
    ("lowered", "canaries of group 0 do not have their scores|gives; the scoring tier altered it"),
    ("one raised", "gives; the scoring tier altered it"),
    ("swapped", "is no result of this query"),
    ("replayed", "answers another query"),
    ("relabelled", "is no result of this query"),
    ("truncated", "replies for"),
    ("selective", "is missing from the store"),
];

/// Whether a fault says one of the names.
fn named(fault: &str, names: &str) -> bool {
    names.split('|').any(|name| fault.contains(name))
}

/// The tier of this process, with a trick between it and the gate.
struct Malicious {
    honest: Arc<dyn Scorer>,
    trick: Arc<Mutex<&'static str>>,
    kept: Mutex<Option<EncryptedScores>>,
}

impl Scorer for Malicious {
    fn classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError> {
        self.honest.classify(model, query)
    }

    fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError> {
        let reply = self.honest.score(collection, query, expected)?;
        let trick = *self.trick.lock().unwrap();
        if trick == "none" {
            *self.kept.lock().unwrap() = Some(reply.clone());
            return Ok(reply);
        }
        let each = query.params().reply_bytes();
        let mask = 2048 * query.params().reply_bits() as usize / 8;
        let mut bytes = reply.to_bytes();
        // A body is a 16-bit number; a cosine of 0.1 is about 3,057.
        let lower = |body: &mut [u8]| {
            let lowered = u16::from_le_bytes([body[0], body[1]]).wrapping_sub(3057);
            body.copy_from_slice(&lowered.to_le_bytes());
        };
        match trick {
            "zeroed" => bytes[FRONT..FRONT + each].fill(0),
            "lowered" => bytes[FRONT + mask..][..2 * 100].chunks_exact_mut(2).for_each(lower),
            // One passage that is no match is to come first.
            "one raised" => {
                let body = &mut bytes[FRONT + mask + 2 * 3..][..2];
                let raised = u16::from_le_bytes([body[0], body[1]]).wrapping_add(5 * 3057);
                body.copy_from_slice(&raised.to_le_bytes());
            }
            "swapped" => {
                let (first, second) = bytes[FRONT..].split_at_mut(each);
                first.swap_with_slice(&mut second[..each]);
            }
            "replayed" => return Ok(self.kept.lock().unwrap().clone().unwrap()),
            "relabelled" => {
                let id = bytes[52..68].to_vec();
                bytes = self.kept.lock().unwrap().as_ref().unwrap().to_bytes();
                bytes[52..68].copy_from_slice(&id);
            }
            "truncated" => {
                bytes.truncate(bytes.len() - each);
                bytes[68..72].copy_from_slice(&(expected.len() as u32 - 1).to_le_bytes());
            }
            _ => {
                let (collection, group) = (collection.clone(), 0);
                return Err(InferenceError::GroupMissing { collection, group });
            }
        }
        Ok(EncryptedScores::from_bytes(&bytes).unwrap())
    }
}

/// The gate is opened in a process of its own: a token's module is configured through the environment, before any thread starts.
#[test]
fn malicious_tier_is_caught_by_name_and_logged() {
    let site = site::copy();
    // More passages than one group holds.
    let lines: Vec<_> = (0..270)
        .map(|n| passage(&format!("n{n}"), &format!("Note {n}"), &format!("Note {n} is about topic {}.", n * n)))
        .collect();
    site.ingest(&lines);
    let config = SiteConfig::read(&site.dir).unwrap();
    let dir = fs::canonicalize(&site.dir).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["malicious::child", "--exact", "--ignored", "--nocapture"])
        .env(SITE, &dir)
        .envs(config.hsm.environment.iter().map(|(name, value)| (name, value.replace("{site}", text(&dir)))))
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && told.contains("1 passed"), "{told}");

    let records = site.records();
    let fault = |record: &&serde_json::Value| record["annotations"][0][0] == "fault";
    let faults: Vec<&str> =
        records.iter().filter(fault).filter_map(|record| record["annotations"][0][1].as_str()).collect();
    for (trick, name) in TRICKS {
        assert!(faults.iter().any(|fault| fault.contains("engineering") && named(fault, name)), "{trick}: {faults:?}");
    }
    let refused = records.iter().filter(|record| record["reason"] == "host:scores-refused").count();
    assert_eq!(refused, TRICKS.len() - 1, "all but the one that does not answer");
}

#[test]
#[ignore = "run by malicious_tier_is_caught_by_name_and_logged in a process of its own"]
fn child() {
    let Some(dir) = std::env::var_os(SITE).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let trick = Arc::new(Mutex::new("none"));
        let shared = Arc::clone(&trick);
        let gate = Gate::open(&dir).await.unwrap();
        let gate =
            Arc::new(gate.scored_by(|honest| Arc::new(Malicious { honest, trick: shared, kept: Mutex::default() })));
        let token = fs::read_to_string(dir.join("users/ben.token")).unwrap();
        let session = gate.session(token.trim()).await.unwrap();
        for (name, sign) in [("none", "")].into_iter().chain(TRICKS).chain([("none", "")]) {
            *trick.lock().unwrap() = name;
            let reply = gate.ask(&session, QUESTION, Vec::new()).await.unwrap();
            let answered = matches!(reply.outcome, Outcome::Answered { .. });
            assert_eq!(answered, name == "none", "{name}: {:?}", reply.fault);
            assert!(
                name == "none" || reply.fault.as_deref().is_some_and(|fault| named(fault, sign)),
                "{name}: {:?}",
                reply.fault
            );
        }
        gate.close(&session).await.unwrap();
    });
}
