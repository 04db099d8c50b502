//! Retrieval strategies on a whole site: what they find, what they cannot reach, and what store and tier see of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_embed::{Embedder, MiniLm};
use casemate_engine::{Exchange, HostAnswer, HostCall, wit};
use casemate_fhe::{EncryptedQuery, EncryptedScores, TierModel};
use casemate_gate::{Gate, Outcome, SiteConfig};
use casemate_inference::{ExpectedGroup, InferenceError, Scorer};
use casemate_types::CollectionName;
use casemate_vectors::{Change, DocumentId, PassageRecord, SledStore, VectorStore};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::corpus;
use crate::guest::{component, root};
use crate::site::{self, Site, passage, text, titles};

const QUESTION: &str = "When is the bilge pump of the ferry tested?";

/// Puts a strategy of this project in charge.
fn use_strategy(site: &Site, name: &str, settings: &str) {
    let manifest = fs::read_to_string(root().join("plugins").join(name).join("manifest.toml")).unwrap();
    site.load_with(&component(&format!("plugins/{name}"), ""), &manifest, settings, 3600);
    site.configure("strategy = \"nearest\"", &format!("strategy = \"{name}\""));
}

fn of_collection(site: &Site, settings: &str) {
    site.configure("[fields]\n", &format!("[collections.engineering]\n{settings}\n\n[fields]\n"));
}

fn reindex(site: &Site) -> Value {
    site.casemate(&["reindex", "--compartment", "engineering", "--as", "carla"]).expect(0)
}

#[test]
fn filtered_cannot_be_widened_by_who_asks() {
    let site = site::copy();
    use_strategy(&site, "filtered", r#"{"where": ["licence in BSD-3-Clause,none-such"]}"#);
    assert_eq!(titles(&site.ask("ben", "What does a pool do?").expect(0)), ["Bloom filters"]);
    let ask =
        |condition| site.casemate(&["ask", "What does a pool do?", "--as", "ben", "--where", condition]).expect(0);
    assert!(titles(&ask("licence=MIT")).is_empty());
    assert_eq!(titles(&ask("licence in BSD-3-Clause,MIT")), ["Bloom filters"]);
}

#[test]
fn diverse_does_not_say_the_same_thing_twice() {
    let site = site::copy();
    let mut lines: Vec<Value> = (1..=5)
        .map(|n| {
            passage(
                &format!("p{n}"),
                &format!("Pump {n}"),
                &format!("The bilge pump of the ferry is tested on Mondays, says note {n}."),
            )
        })
        .collect();
    lines.push(passage("boat", "Boat", "The rescue boat of the ferry is lowered and tested once a month by its crew."));
    site.ingest(&lines);
    // Two passages are all that the agent retrieves.
    let librarian = fs::read_to_string(root().join("plugins/librarian/manifest.toml")).unwrap();
    let settings = r#"{"passages": 2, "sentences": 4, "minimum": 0}"#;
    site.load_next(&component("plugins/librarian", ""), &librarian, settings, 2);
    let nearest = titles(&site.ask("ben", QUESTION).expect(0));
    assert!(nearest.iter().all(|title| title.starts_with("Pump")), "{nearest:?}");
    use_strategy(&site, "diverse", r#"{"relevance": 50}"#);
    let diverse = titles(&site.ask("ben", QUESTION).expect(0));
    assert!(diverse.iter().any(|title| title.starts_with("Pump")), "{diverse:?}");
    assert!(diverse.iter().any(|title| !title.starts_with("Pump")), "{diverse:?}");
}

/// Engineering's store as somebody with the disk sees it.
fn store(site: &Site) -> (SledStore, CollectionName) {
    (SledStore::open(&site.dir.join("store")).unwrap(), "engineering".parse().unwrap())
}

fn records(site: &Site) -> Vec<(DocumentId, PassageRecord)> {
    let (store, collection) = store(site);
    let all = store.documents(&collection).unwrap();
    all.into_iter().map(|(_, document)| (document, store.passage(&collection, &document).unwrap().unwrap())).collect()
}

/// Writes the records back as whoever has the disk would.
fn alter(site: &Site, change: impl Fn(&mut PassageRecord)) {
    let mut records = records(site);
    records.iter_mut().for_each(|(_, record)| change(record));
    let (store, collection) = store(site);
    let manifest = store.manifest(&collection).unwrap().unwrap();
    let version = store.reserve_version(&collection).unwrap();
    store.apply(&collection, Change { version, put_passages: records, manifest, ..Change::default() }).unwrap();
}

/// Tokens of words: all metadata that no field of a document has.
fn words(record: &PassageRecord) -> BTreeSet<&str> {
    let is_word = |(name, _): &&(String, String)| name.starts_with('\u{1f}');
    record.metadata.iter().filter(is_word).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn hybrid_finds_a_word_and_an_index_that_lies_is_caught() {
    let site = site::copy();
    use_strategy(&site, "hybrid", "{}");
    let part = passage("part", "Spare part", "Item xk4711z lies on the second shelf of the blue store.");
    site.ingest(&[part]);
    // Without keywords closeness alone answers.
    let before = look(&site, &[("ben", "xk4711z")]);
    assert!(before[0].calls.iter().any(|exchange| matches!(
        (&exchange.call, &exchange.answer),
        (HostCall::KeywordsSearch { .. }, HostAnswer::References(Err(wit::CapabilityError::Invalid(_))))
    )));
    of_collection(&site, "keywords = true");
    assert_eq!(reindex(&site)["keywords"], true);
    let reply = site.ask("ben", "xk4711z").expect(0);
    assert_eq!(titles(&reply)[0], "Spare part", "{reply}");
    let after = look(&site, &[("ben", "Where is xk4711z and the quokka of the harbour?")]);
    let found: Vec<&Vec<wit::Reference>> = after[0]
        .calls
        .iter()
        .filter_map(|exchange| match (&exchange.call, &exchange.answer) {
            (HostCall::KeywordsSearch { .. }, HostAnswer::References(Ok(found))) => Some(found),
            _ => None,
        })
        .collect();
    // The rarest word weighs most, and a share is no whole.
    assert!(found[0][0].closeness > 0 && found[0][0].closeness < 1023, "{found:?}");

    // Whoever has the disk says that every passage has every word.
    let all: BTreeSet<(String, String)> = records(&site)
        .iter()
        .flat_map(|(_, record)| record.metadata.clone())
        .filter(|(name, _)| name.starts_with('\u{1f}'))
        .collect();
    alter(&site, |record| {
        record.metadata.retain(|(name, _)| !name.starts_with('\u{1f}'));
        record.metadata.extend(all.iter().cloned());
    });
    let refused = site.ask("ben", "Where is xk4711z?").expect(3);
    assert_eq!(refused["outcome"]["reason"], "host:store-failed");
    assert!(refused["operator"].as_str().unwrap().contains("the store's index says"), "{refused}");
}

#[test]
fn the_store_sees_tokens_of_words_and_no_more() {
    let site = site::copy();
    of_collection(&site, "keywords = true");
    let ferry = |id: &str, body: &str| passage(id, id, body);
    site.ingest(&[ferry("one", "Anchors hold anchors."), ferry("two", "Anchors chafe.")]);
    reindex(&site);
    let records = records(&site);
    // One token a word, however often it occurs; the same in two passages; canaries have some as well.
    let sizes: BTreeMap<usize, usize> = records.iter().fold(BTreeMap::new(), |mut sizes, (_, record)| {
        *sizes.entry(words(record).len()).or_default() += 1;
        sizes
    });
    assert!(!sizes.contains_key(&0), "a passage without words would be a canary: {sizes:?}");
    for (_, record) in &records {
        for token in words(record) {
            assert!(token.len() == 34 && token.starts_with("k:"), "{token}");
        }
    }
    let shared = |size: usize| {
        records
            .iter()
            .filter(|(_, record)| words(record).len() == size)
            .map(|(_, record)| words(record))
            .collect::<Vec<_>>()
    };
    let pairs = shared(3);
    assert!(pairs.iter().flat_map(|a| pairs.iter().map(move |b| a.intersection(b).count())).any(|common| common == 1));
    for path in site::files(&site.dir.join("store")) {
        let bytes = fs::read(&path).unwrap();
        for word in ["anchors", "Anchors", "chafe"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word} in {}", path.display());
        }
    }
    // Another collection's tokens of the same words are others.
    site.configure(
        "[collections.engineering]",
        "[collections.cryptography]\nkeywords = true\n\n[collections.engineering]",
    );
    let mut secret = ferry("one", "Anchors hold anchors.");
    secret["compartment"] = json!("cryptography");
    site.ingest(&[secret]);
    let (store, _) = store(&site);
    let other: CollectionName = "cryptography".parse().unwrap();
    let theirs: Vec<PassageRecord> = store
        .documents(&other)
        .unwrap()
        .into_iter()
        .map(|(_, id)| store.passage(&other, &id).unwrap().unwrap())
        .collect();
    let ours: BTreeSet<&str> = records.iter().flat_map(|(_, record)| words(record)).collect();
    assert!(theirs.iter().any(|record| !words(record).is_empty()));
    assert!(theirs.iter().all(|record| words(record).is_disjoint(&ours)));
}

/// Notes about eight subjects, ten of each, with a question whose answer is one of them.
fn notes() -> (Vec<Value>, Vec<(String, String)>) {
    const SUBJECTS: [(&str, &str); 8] = [
        ("pump", "The bilge pump of ferry NAME is tested in week NUMBER."),
        ("bread", "Baker NAME bakes rye bread with NUMBER grams of salt."),
        ("orbit", "Satellite NAME circles the planet Mars NUMBER times a year."),
        ("violin", "Violinist NAME practises NUMBER hours before the concert."),
        ("goal", "Striker NAME scored NUMBER goals in the football cup."),
        ("tulip", "Gardener NAME plants NUMBER tulip bulbs every autumn."),
        ("court", "Judge NAME heard NUMBER cases about unpaid rent."),
        ("vaccine", "Doctor NAME gave NUMBER children a measles vaccine."),
    ];
    const NAMES: [&str; 10] = ["Alba", "Bruno", "Clara", "Dario", "Elena", "Fabio", "Greta", "Hugo", "Irene", "Jonas"];
    let (mut lines, mut questions) = (Vec::new(), Vec::new());
    for (subject, (kind, sentence)) in SUBJECTS.iter().enumerate() {
        for (place, name) in NAMES.iter().enumerate() {
            let id = format!("{kind}-{name}");
            let text = sentence.replace("NAME", name).replace("NUMBER", &(10 + subject * 10 + place).to_string());
            questions.push((id.clone(), text.replace("NAME", name)));
            lines.push(passage(&id, &id, &text));
        }
    }
    (lines, questions)
}

#[test]
fn clustered_has_a_fixed_number_of_groups_scored_and_finds_nearly_all() {
    let site = site::copy();
    let (lines, questions) = notes();
    site.ingest(&lines);
    of_collection(&site, "cluster-size = 16");
    use_strategy(&site, "clustered", r#"{"probes": 2}"#);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let queries: String =
        questions.iter().map(|(id, text)| format!("{}\n", json!({ "_id": id, "text": text }))).collect();
    let qrels: String = questions.iter().map(|(id, _)| format!("{id}\t{id}\t1\n")).collect();
    fs::write(path("queries.jsonl"), queries).unwrap();
    fs::write(path("qrels.tsv"), format!("query-id\tcorpus-id\tscore\n{qrels}")).unwrap();
    let (queries, qrels) = (path("queries.jsonl"), path("qrels.tsv"));
    let eval = |more: &[&str]| {
        let files = [
            "eval",
            "--queries",
            text(&queries),
            "--qrels",
            text(&qrels),
            "--as",
            "ben",
            "--compartment",
            "engineering",
        ];
        site.casemate(&[&files[..], more].concat())
    };
    let early = eval(&["--probes", "2"]);
    assert!(early.code != 0 && early.text.contains("not clustered"), "{}", early.text);
    let all = eval(&[]).expect(0);

    let done = reindex(&site);
    let groups = done["groups"].as_u64().unwrap();
    let documents = (corpus::PASSAGES.iter().filter(|passage| passage.1 == "engineering").count() + lines.len()) as u64;
    assert_eq!((done["clustered"].as_bool(), done["passages"].as_u64()), (Some(true), Some(documents)));
    assert!(groups >= documents.div_ceil(16), "{done}");
    let measure = |found: &Value| found["encrypted"]["ndcg-10"].as_f64().unwrap();
    let (three, every) = (eval(&["--probes", "3"]).expect(0), eval(&["--probes", "64"]).expect(0));
    println!(
        "nDCG@10: all {:.4}, 3 of {groups} groups {:.4}, every group {:.4}",
        measure(&all),
        measure(&three),
        measure(&every)
    );
    assert!((measure(&every) - measure(&all)).abs() < 1e-3, "{every}");
    assert!(measure(&three) >= measure(&all) - 0.05, "{all} {three}");

    // The component itself, which the site's settings give two groups.
    let (two, strategy) = (eval(&["--probes", "2"]).expect(0), eval(&["--strategy"]).expect(0));
    assert!((measure(&two) - measure(&strategy)).abs() < 1e-3, "{two} {strategy}");

    // What comes later is placed, and grows no group beyond its size.
    let more: Vec<Value> = (0..40)
        .map(|n| {
            passage(
                &format!("late-{n}"),
                &format!("Late {n}"),
                &format!("The bilge pump of ferry number {n} is tested late."),
            )
        })
        .collect();
    site.ingest(&more);
    let asks: Vec<(&str, &str)> = questions.iter().step_by(11).map(|(_, text)| ("ben", text.as_str())).collect();
    for seen in look(&site, &asks) {
        assert!(seen.answered, "{:?}", seen.fault);
        let numbers: Vec<usize> = seen.scored.iter().map(|(_, groups)| groups.len()).collect();
        assert_eq!(numbers, [2], "the tier is asked once, for as many groups as the setting says");
    }
    let (store, collection) = store(&site);
    for group in store.groups(&collection).unwrap() {
        assert!(store.group(&collection, group).unwrap().unwrap().count <= 16 + 4);
    }
}

#[test]
fn two_compartments_make_one_ranking_and_one_never_shows_the_other() {
    let site = site::copy();
    let bodies = ["is tested on Mondays", "is tested by divers", "was painted blue", "is older than the ferry"];
    let mut lines = Vec::new();
    for (n, body) in bodies.iter().enumerate() {
        for compartment in ["engineering", "cryptography"] {
            let id = format!("{compartment}-{n}");
            let mut line = passage(&id, &id, &format!("The {compartment} bilge pump of the ferry {body}."));
            line["compartment"] = json!(compartment);
            lines.push(line);
        }
    }
    site.ingest(&lines);
    let seen = look(&site, &[("carla", QUESTION), ("ben", QUESTION)]);
    let [carla, ben] = &seen[..] else { panic!("{} replies", seen.len()) };
    let ranking = carla.retrieved();
    let collections: BTreeSet<&str> = ranking.iter().map(|reference| reference.collection.as_str()).collect();
    assert_eq!(collections, BTreeSet::from(["cryptography", "engineering"]));
    assert!(ranking.is_sorted_by(|a, b| a.closeness >= b.closeness), "{ranking:?}");
    // Each closeness is that of the text, whichever key it lies under.
    if let Some(model) = std::env::var_os("CASEMATE_MODEL_DIR").map(PathBuf::from) {
        let model = MiniLm::load(&model).unwrap();
        let opened = carla.opened();
        for reference in &ranking {
            let vectors = model.embed(&[QUESTION, opened[&reference.document].as_str()]).unwrap();
            let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
            let exact = (cosine * 1023.0).round();
            assert!((exact - f32::from(reference.closeness)).abs() <= 1.0, "{reference:?}: {exact}");
        }
    }
    assert!(ben.answered && !ben.retrieved().is_empty());
    let told = serde_json::to_string(&ben.calls).unwrap();
    assert!(!told.contains("cryptography"), "{told}");
}

#[test]
fn a_strategy_that_guesses_a_collections_name_gets_nothing_of_it() {
    let manifest = "name = \"greedy\"\nversion = \"0.1.0\"\nworld = \"retrieval-strategy\"\nsummary = \"Greedy.\"\n\
                    capabilities = [\"clusters\", \"keywords\", \"similarity\", \"vectors\"]\n";
    for (settings, told) in [
        (r#"{"forge": false}"#, "open=denied clusters=denied keywords=denied similarity=invalid"),
        (r#"{"forge": true}"#, "no-key"),
    ] {
        let site = site::copy();
        site.load_with(&component("tests/hostile", "greedy"), manifest, settings, 3600);
        site.configure("strategy = \"nearest\"", "strategy = \"greedy\"");
        let refused = site.ask("ben", QUESTION).expect(3);
        assert!(refused["operator"].as_str().unwrap().contains(told), "{refused}");
    }
}

/// What is seen of one question.
#[derive(Serialize, Deserialize)]
struct Seen {
    answered: bool,
    fault: Option<String>,
    /// Every capability call of strategy and agent.
    calls: Vec<Exchange>,
    /// What the tier was asked to score.
    scored: Vec<Scored>,
}

/// Collection and groups.
type Scored = (String, Vec<u32>);

impl Seen {
    /// What the strategy gave the agent.
    fn retrieved(&self) -> Vec<wit::Reference> {
        let answer = |exchange: &Exchange| match (&exchange.call, &exchange.answer) {
            (HostCall::Retrieve { .. }, HostAnswer::References(Ok(found))) => Some(found.clone()),
            _ => None,
        };
        self.calls.iter().find_map(answer).unwrap_or_else(|| panic!("nothing was retrieved: {:?}", self.fault))
    }

    /// The texts the agent read, by document.
    fn opened(&self) -> BTreeMap<String, String> {
        let passages = self.calls.iter().filter_map(|exchange| match &exchange.answer {
            HostAnswer::Passages(passages) => Some(passages),
            _ => None,
        });
        passages.flatten().flatten().map(|passage| (passage.info.document.clone(), passage.text.clone())).collect()
    }
}

const SITE: &str = "CASEMATE_TEST_SITE";
const ASKS: &str = "CASEMATE_TEST_ASKS";

/// Asks in a process of its own: a token's module is configured through the environment, before any thread starts.
fn look(site: &Site, asks: &[(&str, &str)]) -> Vec<Seen> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("asks.json");
    fs::write(&file, serde_json::to_vec(asks).unwrap()).unwrap();
    let config = SiteConfig::read(&site.dir).unwrap();
    let dir = fs::canonicalize(&site.dir).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["strategies::child", "--exact", "--ignored", "--nocapture"])
        .env(SITE, &dir)
        .env(ASKS, &file)
        .envs(config.hsm.environment.iter().map(|(name, value)| (name, value.replace("{site}", text(&dir)))))
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
    serde_json::from_slice(&fs::read(&file).unwrap()).unwrap()
}

/// The tier of this process, which notes what it is asked.
struct Counting {
    honest: Arc<dyn Scorer>,
    asked: Arc<Mutex<Vec<Scored>>>,
}

impl Scorer for Counting {
    fn classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError> {
        self.honest.classify(model, query)
    }

    fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError> {
        let groups = expected.iter().map(|group| group.group).collect();
        self.asked.lock().unwrap().push((collection.to_string(), groups));
        self.honest.score(collection, query, expected)
    }
}

#[test]
#[ignore = "run by other tests of this file in a process of its own"]
fn child() {
    let (Some(dir), Some(file)) = (std::env::var_os(SITE).map(PathBuf::from), std::env::var_os(ASKS)) else { return };
    let asks: Vec<(String, String)> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let seen = runtime.block_on(replies(&dir, &asks));
    fs::write(&file, serde_json::to_vec(&seen).unwrap()).unwrap();
}

async fn replies(dir: &Path, asks: &[(String, String)]) -> Vec<Seen> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&asked);
    let gate = Gate::open(dir).await.unwrap();
    let gate = Arc::new(gate.scored_by(|honest| Arc::new(Counting { honest, asked: shared })));
    let mut all = Vec::new();
    for (user, question) in asks {
        let token = fs::read_to_string(dir.join(format!("users/{user}.token"))).unwrap();
        let session = gate.session(token.trim()).await.unwrap();
        asked.lock().unwrap().clear();
        let reply = gate.ask(&session, question, Vec::new()).await.unwrap();
        // Recordings are written off the request's path: strategy and agent both are there in the end.
        let mut calls: Vec<Exchange> = Vec::new();
        for _ in 0..500 {
            calls = gate
                .journal()
                .recordings(reply.id)
                .unwrap()
                .into_iter()
                .flat_map(|kept| kept.runs)
                .flat_map(|run| run.exchanges)
                .collect();
            if calls.iter().any(|exchange| matches!(exchange.call, HostCall::Retrieve { .. })) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answered = matches!(reply.outcome, Outcome::Answered { .. });
        all.push(Seen { answered, fault: reply.fault, calls, scored: asked.lock().unwrap().clone() });
        gate.close(&session).await.unwrap();
    }
    all
}
