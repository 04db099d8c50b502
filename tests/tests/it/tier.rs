//! `casemate inference serve` as a real process under a real gate: it answers, dies, comes back, and knows nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use casemate_fhe_owner::OwnerKey;
use casemate_tier::{Direct, Endpoint, Remote};
use casemate_types::CollectionName;
use casemate_vectors::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorStore};
use serde_json::{Value, json};

use crate::corpus;
use crate::serve::Served;
use crate::site::{self, Site, program, text};

/// A tier in its own process; killed when dropped.
struct Tier {
    child: Child,
    /// As `site.toml` names it.
    endpoint: String,
}

impl Tier {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(program())
            .args(["--json", "inference", "serve"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap_or_default();
        let endpoint = started["listening"][0].as_str().unwrap_or_default().to_owned();
        let tier = Self { child, endpoint };
        assert!(!tier.endpoint.is_empty(), "{arguments:?}: {line}");
        tier
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy of the shared site whose store lies in a folder of the tier's.
struct Split {
    site: Site,
    tier: PathBuf,
}

impl Split {
    fn new(inference: &str) -> Self {
        let site = site::copy();
        let tier = site.dir.with_file_name("tier");
        fs::create_dir(&tier).unwrap();
        fs::rename(site.dir.join("store"), tier.join("store")).unwrap();
        site.configure("[chain]", &format!("[inference]\n{inference}\n\n[chain]"));
        Self { site, tier }
    }

    fn over_unix() -> Self {
        Self::new("store = \"unix:../tier/socket\"")
    }

    fn start(&self) -> Tier {
        Tier::start(&["--store", text(&self.tier.join("store")), "--unix", text(&self.tier.join("socket"))])
    }

    fn ask(&self) -> site::Ended {
        self.site.casemate(&["ask", "What does a pool do?", "--as", "ana"])
    }
}

fn ask_served(served: &Served) -> String {
    let answer = served.post("/v1/ask", "ana", &json!({ "question": "What does a pool do?" }));
    answer.body["outcome"]["outcome"].as_str().unwrap_or_default().to_owned()
}

fn citations(answer: &Value) -> Value {
    let citations = &answer["outcome"]["citations"];
    assert!(citations.as_array().is_some_and(|found| !found.is_empty()), "{answer}");
    citations.clone()
}

#[test]
fn a_site_on_a_tier_answers_as_one_with_its_own_store_and_takes_documents() {
    let alone = site::shared().casemate(&["ask", "What does a pool do?", "--as", "ana"]).expect(0);
    let split = Split::over_unix();
    let _tier = split.start();
    assert_eq!(citations(&split.ask().expect(0)), citations(&alone));
    let more = split.site.dir.with_file_name("more.jsonl");
    fs::write(&more, site::passage("more", "More", "A tidal mill grinds at every ebb.").to_string()).unwrap();
    split.site.casemate(&["ingest", text(&more), "--as", "ana"]).expect(0);
    let answer = split.site.casemate(&["ask", "What grinds at every ebb?", "--as", "ana"]).expect(0);
    assert!(answer.to_string().contains("tidal mill"), "{answer}");
    assert!(!split.site.dir.join("store").exists());
}

#[test]
fn a_tier_that_is_gone_denies_and_a_served_site_finds_it_again() {
    let split = Split::over_unix();
    let refused = split.ask();
    assert_eq!(refused.code, 3, "{}", refused.text);
    assert!(refused.text.contains("reach the inference tier at unix:"), "{}", refused.text);

    let tier = split.start();
    let served = Served::of(Site::at(split.site.dir.clone()));
    assert_eq!(ask_served(&served), "answered");
    tier.kill();
    assert_eq!(ask_served(&served), "denied");
    // The served process can open no socket: its broker dials.
    let _again = split.start();
    assert_eq!(ask_served(&served), "answered");
}

#[test]
fn a_second_store_beside_the_tiers_is_refused() {
    let split = Split::over_unix();
    let _tier = split.start();
    fs::create_dir(split.site.dir.join("store")).unwrap();
    let refused = split.ask();
    assert_eq!(refused.code, 4);
    assert!(refused.text.contains("[inference]"), "{}", refused.text);
}

/// One tier keeps the store, two score, all over mutual TLS; one of the two dies without a word.
#[test]
fn tiers_over_mutual_tls_share_the_work_of_one_that_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, tier, gate) = (folder.path().join("ca"), folder.path().join("tier"), folder.path().join("gate"));
    let run = |arguments: &[&str]| {
        let done = Command::new(program()).args(["inference", "ca"]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["init", text(&ca)]);
    run(&["issue", "--ca", text(&ca), "--tier", "--host", "localhost", "--out", text(&tier)]);
    run(&["issue", "--ca", text(&ca), "--gate", "--out", text(&gate)]);
    let split = Split::new("store = \"unix:placeholder\"");
    let listen = ["--tls", "127.0.0.1:0", "--certificates", text(&tier)];
    let port = |tier: &Tier| tier.endpoint.rsplit_once(':').unwrap().1.to_owned();
    let store = split.tier.join("store");
    let keeper = Tier::start(&[&["--store", text(&store)], &listen[..]].concat());
    let of_keeper = format!("tls:localhost:{}", port(&keeper));
    let scores = || Tier::start(&[&["--store-of", of_keeper.as_str()], &listen[..]].concat());
    let (one, other) = (scores(), scores());
    let named = format!(
        "store = \"{of_keeper}\"\nscore = [\"tls:localhost:{}\", \"tls:localhost:{}\"]\ncertificates = \"{}\"",
        port(&one),
        port(&other),
        text(&gate)
    );
    split.site.configure("store = \"unix:placeholder\"", &named);
    let alone = site::shared().casemate(&["ask", "What does a pool do?", "--as", "ana"]).expect(0);
    assert_eq!(citations(&split.ask().expect(0)), citations(&alone));
    one.kill();
    assert_eq!(citations(&split.ask().expect(0)), citations(&alone));
    other.kill();
    assert_eq!(split.ask().code, 3);
}

/// Every readable byte of a process.
fn memory(process: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" r") && !line.contains("[v")) {
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let from = u64::from_str_radix(from, 16).unwrap();
        let length = u64::from_str_radix(to, 16).unwrap() - from;
        // A region may be gone, or not be readable after all.
        if memory.seek(SeekFrom::Start(from)).is_ok() {
            let _ = (&mut memory).take(length).read_to_end(&mut all);
        }
    }
    all
}

/// Every byte of a folder's files.
fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.extend(fs::read(path).unwrap()) }
    }
    all
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    assert!(needle.len() >= 8);
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The owner plays here, with keys that this test knows; the tier scores for it. Then its memory and files are searched.
#[test]
fn memory_and_files_of_a_tier_hold_no_plaintext_vector_query_or_key() {
    let folder = tempfile::tempdir().unwrap();
    let (store, socket) = (folder.path().join("store"), folder.path().join("socket"));
    let tier = Tier::start(&["--store", text(&store), "--unix", text(&socket)]);
    let remote = Remote::new(Endpoint::Unix(socket), None, std::sync::Arc::new(Direct)).unwrap();
    let planted = Planted::send(&remote);

    let (mut memory, files) = (memory(tier.child.id()), files(&store));
    assert!(memory.len() > 1 << 20 && files.len() > 1 << 10);
    // What a tier does see is found: the search itself works.
    assert!(
        holds(&memory, planted.collection.as_str().as_bytes()) && holds(&files, planted.collection.as_str().as_bytes())
    );
    assert!(holds(&files, &planted.ciphertext[64..128]), "the ciphertext");
    // And in this process, which holds all of it, everything is.
    let here = self::memory(std::process::id());
    memory.extend(files);
    for (what, secret) in planted.secrets() {
        assert!(holds(&here, &secret), "{what} is not even here");
        assert!(!holds(&memory, &secret), "{what} is with the tier");
    }
}

struct Planted {
    collection: CollectionName,
    seed: [u8; 32],
    vector: Vec<f32>,
    question: Vec<f32>,
    passage: String,
    ciphertext: Vec<u8>,
}

impl Planted {
    /// Encrypts a vector and a passage, stores them with the tier, and has a query scored.
    fn send(remote: &Remote) -> Self {
        use casemate_fhe::Params;
        use casemate_fhe_owner::DataKey;
        use casemate_inference::{ExpectedGroup, Scorer};
        use zeroize::Zeroizing;

        let collection: CollectionName = "planted-collection".parse().unwrap();
        let seed = std::array::from_fn(|place| (place as u8).wrapping_mul(37) ^ 0xa5);
        let unit = |phase: f32| -> Vec<f32> {
            let raw: Vec<f32> = (0..384).map(|place| (place as f32 * 0.37 + phase).sin()).collect();
            let norm = raw.iter().map(|value| value * value).sum::<f32>().sqrt();
            raw.iter().map(|value| value / norm).collect()
        };
        let (vector, question) = (unit(0.1), unit(0.2));
        let passage = "The reserve fuel lies under the third pier.".to_owned();
        let owner = OwnerKey::from_seed(&Zeroizing::new(seed), Params::default()).unwrap();
        let key = DataKey::from_bytes(&Zeroizing::new(seed)).unwrap();
        let group = owner.encrypt_group(&[&vector]).unwrap();
        let version = remote.reserve_version(&collection).unwrap();
        let record = GroupRecord { version, count: 1, ciphertext: group.to_bytes() };
        let (digest, ciphertext) = (record.digest(&collection, 0), record.ciphertext.clone());
        let sealed = key.seal("a passage", &[b"planted"], passage.as_bytes()).unwrap();
        let position = Position { group: 0, slot: 0 };
        let put_passages =
            vec![(DocumentId::from_bytes([1; 16]), PassageRecord { position, metadata: Vec::new(), sealed })];
        let change = Change { version, put_groups: vec![(0, record)], put_passages, ..Change::default() };
        remote.apply(&collection, change).unwrap();
        let (query, secret) = owner.query(&question).unwrap();
        let expected = [ExpectedGroup { group: 0, version, digest }];
        let scores = remote.score(&collection, &query, &expected).unwrap();
        let cosine: f32 = vector.iter().zip(&question).map(|(a, b)| a * b).sum();
        let tolerance = secret.tolerance();
        let found = secret.decrypt(&scores, &[1]).unwrap();
        assert!((found[0][0] - cosine).abs() <= tolerance, "{} is not {cosine}", found[0][0]);
        Self { collection, seed, vector, question, passage, ciphertext }
    }

    fn secrets(&self) -> [(&'static str, Vec<u8>); 5] {
        [
            ("the key's seed", self.seed.to_vec()),
            ("half of the key's seed", self.seed[..16].to_vec()),
            ("the vector", floats(&self.vector[..8])),
            ("the question's vector", floats(&self.question[..8])),
            ("the passage", self.passage.as_bytes().to_vec()),
        ]
    }
}

/// The same behind a whole site: nothing of the corpus, of the users' credentials or of the token's PIN.
#[test]
fn memory_of_a_sites_tier_holds_no_passage_credential_or_pin() {
    let split = Split::over_unix();
    let tier = split.start();
    split.ask().expect(0);
    let mut all = memory(tier.child.id());
    assert!(holds(&all, b"engineering"), "the name of a collection, which a tier does see");
    all.extend(files(&split.tier.join("store")));
    for passage in corpus::PASSAGES {
        // Long enough not to stand in the program's own help.
        let words: String = passage.4.chars().take(48).collect();
        assert!(!holds(&all, words.as_bytes()), "{words}");
    }
    for secret in ["users/ana.token", "users/carla.token", "pins/user"] {
        let secret = fs::read(split.site.dir.join(secret)).unwrap();
        assert!(!holds(&all, secret.trim_ascii()));
    }
}

/// Looked at from outside, in the running process.
#[test]
fn a_tier_is_locked_down_before_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let tier =
        Tier::start(&["--store", text(&folder.path().join("store")), "--unix", text(&folder.path().join("socket"))]);
    let status = |process: &str| fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let filters = |status: &str| -> u32 {
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    };
    let (its, own) = (status(&tier.child.id().to_string()), status("self"));
    assert!(filters(&its) > filters(&own), "{its}");
    assert!(its.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])), "{its}");
    // Its only sockets are the one that it was given.
    let sockets = fs::read_dir(format!("/proc/{}/fd", tier.child.id())).unwrap();
    let sockets = sockets.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    assert_eq!(sockets.filter(|target| target.to_string_lossy().starts_with("socket:")).count(), 1);
}
