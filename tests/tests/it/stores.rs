//! Sites whose store is a database: what reaches it, and several tiers over one of them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use base64::Engine;
use casemate_fhe::Params;
use casemate_fhe_owner::OwnerKey;
use casemate_inference::{ExpectedGroup, InferenceError, Scorer};
use casemate_tier::{Dial, Direct, Endpoint, Remote, Shared, TierError};
use casemate_types::CollectionName;
use casemate_vectors::{Change, GroupRecord, VectorStore};
use zeroize::Zeroizing;

use crate::corpus;
use crate::servers::{self, Kind, Loopback, Postgres, files};
use crate::site::{self, Site, program, text};
use crate::tier::{Tier, citations, holds};

/// Tiers over one database of a real server, and the corpus's site on top of them.
struct Over<S = Postgres> {
    server: S,
    config: PathBuf,
    site: Site,
}

/// A database that dies, comes back, and has files.
trait Server: Sized {
    fn kill(&mut self);
    fn start_again(&mut self);
    /// All that it wrote, after it was stopped.
    fn files(&mut self) -> Vec<u8>;
}

impl Server for Postgres {
    fn kill(&mut self) {
        self.kill();
    }

    fn start_again(&mut self) {
        self.start_again();
    }

    fn files(&mut self) -> Vec<u8> {
        self.stop();
        files(&self.folder.path().join("data"))
    }
}

impl Server for Loopback {
    fn kill(&mut self) {
        self.kill();
    }

    fn start_again(&mut self) {
        self.start_again();
    }

    fn files(&mut self) -> Vec<u8> {
        self.kill();
        files(&self.folder.path().join("data"))
    }
}

const QUESTION: &str = "What does a pool do?";

impl Over {
    fn new(inference: &str) -> Option<Self> {
        let server = Postgres::start()?;
        server.create("site");
        let config = server.config("site");
        Some(Self::with(server, config, inference))
    }
}

impl<S> Over<S> {
    /// Carries the shared site's store from its folder into the database, by the commands that an operator uses.
    fn with(server: S, config: PathBuf, inference: &str) -> Self {
        let over = Self { config, server, site: site::copy() };
        let folder = over.site.dir.with_file_name("old");
        fs::create_dir(&folder).unwrap();
        fs::rename(over.site.dir.join("store"), folder.join("store")).unwrap();
        let (socket, stream) = (folder.join("socket"), folder.join("export"));
        let old = Tier::start(&["--store", text(&folder.join("store")), "--unix", text(&socket)]);
        let of = |command: &str, endpoint: &str| {
            let done = Command::new(program()).args(["inference", command, endpoint]).arg(&stream).output().unwrap();
            assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        };
        of("export", &old.endpoint);
        old.kill();
        let new = over.tier("a");
        of("import", &new.endpoint);
        new.kill();
        over.site.configure("[chain]", &format!("[inference]\n{inference}\n\n[chain]"));
        over
    }

    /// A tier with a socket of this name beside the site.
    fn tier(&self, name: &str) -> Tier {
        let socket = self.site.dir.with_file_name(name);
        Tier::start(&["--backend", text(&self.config), "--unix", text(&socket)])
    }

    fn ask(&self) -> site::Ended {
        self.site.casemate(&["ask", QUESTION, "--as", "ana"])
    }
}

/// Whether `words` are there as they are, in hexadecimal, or in base64 wherever they begin in it.
fn holds_in_any_form(all: &[u8], words: &[u8]) -> bool {
    let base64 = (0..3).map(|offset| {
        let shifted = [&vec![0; offset], words].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(shifted).into_bytes();
        // What stands beside changes the first and the last characters.
        let end = text.len() - 4;
        text[if offset == 0 { 0 } else { 4 }..end].to_vec()
    });
    let mut forms: Vec<Vec<u8>> = vec![words.to_vec(), hex::encode(words).into_bytes()];
    forms.extend(base64);
    // The first byte first: there is much to look through.
    forms
        .iter()
        .any(|form| form.len() >= 8 && all.windows(form.len()).any(|window| window[0] == form[0] && window == form))
}

fn answers_and_its_files_hold_no_plaintext<S: Server>(mut over: Over<S>, password: &str) {
    let alone = site::copy().casemate(&["ask", QUESTION, "--as", "ana"]).expect(0);
    let tier = over.tier("a");
    assert_eq!(citations(&over.ask().expect(0)), citations(&alone));
    over.site.ingest(&[site::passage("more", "More", "A tidal mill grinds at every ebb.")]);
    // The server dies and comes back; the tier, which may dial nothing itself, finds it again.
    over.server.kill();
    assert_eq!(over.ask().code, 3);
    over.server.start_again();
    let answer = over.site.ask("ana", "What grinds at every ebb?").expect(0);
    assert!(answer.to_string().contains("tidal mill"), "{answer}");

    let all = over.server.files();
    // What the database does see is found: the search itself works.
    assert!(holds_in_any_form(&all, b"engineering\0"), "a key, which has the name of a collection");
    for words in corpus::PASSAGES.iter().map(|passage| passage.4).chain(["A tidal mill grinds at every ebb."]) {
        let words: String = words.chars().take(24).collect();
        assert!(!holds_in_any_form(&all, words.as_bytes()), "{words}");
    }
    for planted in corpus::PLANTED {
        assert!(!holds_in_any_form(&all, planted.as_bytes()), "{planted}");
    }
    for secret in ["users/ana.token", "users/carla.token", "pins/user"] {
        let secret = fs::read(over.site.dir.join(secret)).unwrap();
        assert!(!holds(&all, secret.trim_ascii()));
    }
    // The tier's arguments and environment are public to the machine.
    let process = format!("/proc/{}", tier.child.id());
    for public in ["cmdline", "environ"] {
        let public = fs::read(format!("{process}/{public}")).unwrap();
        assert!(!holds(&public, password.as_bytes()), "the database's password is in public");
    }
}

#[test]
fn a_site_over_postgres_answers_as_one_with_its_own_store_and_the_databases_files_hold_no_plaintext() {
    if let Some(over) = Over::new("store = \"unix:../a\"") {
        answers_and_its_files_hold_no_plaintext(over, servers::PASSWORD);
    }
}

fn over_loopback(kind: Kind) {
    let Some(server) = Loopback::start(kind) else { return };
    let config = server.config("site", false);
    let over = Over::with(server, config, "store = \"unix:../a\"");
    answers_and_its_files_hold_no_plaintext(over, servers::PASSWORD);
}

#[test]
fn a_site_over_qdrants_engine_answers_as_one_with_its_own_store_and_its_files_hold_no_plaintext() {
    over_loopback(Kind::Qdrant);
}

#[test]
fn a_site_over_chroma_answers_as_one_with_its_own_store_and_its_files_hold_no_plaintext() {
    over_loopback(Kind::Chroma);
}

#[test]
fn a_site_goes_on_when_the_tier_that_kept_its_store_dies_and_another_has_the_database() {
    let Some(over) = Over::new("store = [\"unix:../a\", \"unix:../b\"]") else { return };
    let (a, b) = (over.tier("a"), over.tier("b"));
    let before = citations(&over.ask().expect(0));
    a.kill();
    assert_eq!(citations(&over.ask().expect(0)), before);
    over.site.ingest(&[site::passage("more", "More", "A tidal mill grinds at every ebb.")]);
    // What was written through one is what the other answers with.
    let _a = over.tier("a");
    b.kill();
    let answer = over.site.ask("ana", "What grinds at every ebb?").expect(0);
    assert!(answer.to_string().contains("tidal mill"), "{answer}");
}

/// Dials, and tells of it.
struct Tells(Mutex<Sender<Endpoint>>);

impl Dial for Tells {
    fn dial(&self, endpoint: &Endpoint) -> Result<OwnedFd, TierError> {
        let socket = Direct.dial(endpoint)?;
        let _ = self.0.lock().unwrap().send(endpoint.clone());
        Ok(socket)
    }
}

fn signal(name: &str, tier: &Tier) {
    assert!(Command::new("kill").arg(name).arg(tier.child.id().to_string()).status().unwrap().success());
}

/// The owner plays here. A tier stops, is asked for its share, and dies with the query in its hands.
#[test]
fn a_query_is_answered_whole_when_one_of_two_tiers_over_one_database_dies_in_mid_search() {
    const GROUPS: u32 = 24;
    let Some(server) = Postgres::start() else { return };
    server.create("shared");
    let (config, folder) = (server.config("shared"), tempfile::tempdir().unwrap());
    let start = |name: &str| Tier::start(&["--backend", text(&config), "--unix", text(&folder.path().join(name))]);
    let (a, b) = (start("a"), start("b"));
    let endpoint = |tier: &Tier| tier.endpoint.parse::<Endpoint>().unwrap();
    let (send, dialled) = channel();
    let dial: Arc<dyn Dial> = Arc::new(Tells(Mutex::new(send)));
    let remote = |tier: &Tier| Arc::new(Remote::new(endpoint(tier), None, Arc::clone(&dial)).unwrap());
    let (to_a, to_b) = (remote(&a), remote(&b));

    let alpha: CollectionName = "alpha".parse().unwrap();
    let owner = OwnerKey::from_seed(&Zeroizing::new([9; 32]), Params::new(16, 8).unwrap()).unwrap();
    let vector = |number: u32| -> Vec<f32> {
        let raw: Vec<f32> = (0..16).map(|place| ((number * 31 + place) as f32 * 0.7).sin()).collect();
        let norm = raw.iter().map(|value| value * value).sum::<f32>().sqrt();
        raw.iter().map(|value| value / norm).collect()
    };
    // Each change goes through another tier.
    let store = |remote: &Remote, numbers: std::ops::Range<u32>, shift: u32| -> Vec<ExpectedGroup> {
        let version = remote.reserve_version(&alpha).unwrap();
        let record = |number: u32| {
            let ciphertext = owner.encrypt_group(&[vector(number + shift).as_slice()]).unwrap().to_bytes();
            GroupRecord { version, count: 1, ciphertext }
        };
        let put_groups: Vec<_> = numbers.map(|number| (number, record(number))).collect();
        let digest = |(group, record): &(u32, GroupRecord)| ExpectedGroup {
            group: *group,
            version,
            digest: record.digest(&alpha, *group),
        };
        let expected = put_groups.iter().map(digest).collect();
        remote.apply(&alpha, Change { version, put_groups, ..Change::default() }).unwrap();
        expected
    };
    let old = store(&to_a, 0..GROUPS, 0);

    let question = vector(500);
    let whole = |tiers: &Shared, expected: &[ExpectedGroup], shift: u32| -> Result<(), InferenceError> {
        let (query, secret) = owner.query(&question).unwrap();
        let tolerance = secret.tolerance();
        let scores = tiers.score(&alpha, &query, expected)?;
        let found = secret.decrypt(&scores, &vec![1; expected.len()]).unwrap();
        for (number, found) in (0..).zip(&found) {
            let exact: f32 = vector(number + shift).iter().zip(&question).map(|(a, b)| a * b).sum();
            assert!((found[0] - exact).abs() <= tolerance, "group {number}: {} is not {exact}", found[0]);
        }
        assert_eq!(found.len(), expected.len());
        Ok(())
    };
    let both = || Shared::new([remote(&a), remote(&b)]);
    whole(&both(), &old, 0).unwrap();
    // Nothing stale: what one tier wrote, the other scores at once, though it still has the old groups in memory.
    let new = store(&to_b, 0..GROUPS, 1000);
    whole(&both(), &new, 1000).unwrap();
    for tiers in [Shared::new([Arc::clone(&to_a)]), Shared::new([Arc::clone(&to_b)])] {
        whole(&tiers, &new, 1000).unwrap();
    }

    while dialled.try_recv().is_ok() {}
    let tiers = both();
    signal("-STOP", &b);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| whole(&tiers, &new, 1000));
        // It took the connection, and will never answer.
        let of_b = endpoint(&b);
        while dialled.recv().unwrap() != of_b {}
        b.kill();
        asked.join().unwrap().unwrap();
    });
    // The one that is left goes on with all of it; with none left there is no answer, and no half of one.
    whole(&tiers, &new, 1000).unwrap();
    a.kill();
    assert!(whole(&tiers, &new, 1000).is_err());
}

/// `engineering` of the corpus, in other words so that it is stored anew.
fn engineering() -> Vec<serde_json::Value> {
    let lines = corpus::json_lines();
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line["compartment"] == "engineering")
        .map(|mut line| {
            line["title"] = format!("{} again", line["title"].as_str().unwrap()).into();
            line
        })
        .collect()
}

const CANDIDATES: &str = "[candidates]\nceiling = \"confidential\"\n[candidates.compartments.engineering]\nleakage = \"distances\"\nbeta = 1.5\ncount = 8\n\n";

/// What candidate mode costs: whoever reads the database, and has the public model, tells which of the texts that he can think of are in
/// it. The attack succeeds, which is why the mode is off.
#[test]
fn candidate_mode_answers_and_tells_the_databases_administrator_what_the_passages_say() {
    use casemate_embed::Embedder;

    let Some(model) = std::env::var_os("CASEMATE_MODEL_DIR").filter(|model| !model.is_empty()) else {
        eprintln!("SKIPPED: no sentence model here (CASEMATE_MODEL_DIR)");
        return;
    };
    let Some(over) = Over::new("store = \"unix:../a\"") else { return };
    let _tier = over.tier("a");
    let hints = |columns: &str| {
        let found = over.server.sql("site", &format!("SELECT {columns} FROM casemate_hints_1"));
        String::from_utf8(found.stdout).unwrap()
    };
    // Off by default: there is nothing of the kind.
    over.site.ingest(&[site::passage("more", "More", "A tidal mill grinds at every ebb.")]);
    assert_eq!(hints("count(*)"), "");
    let before = citations(&over.ask().expect(0));

    over.site.configure("[chain]", &format!("{CANDIDATES}[chain]"));
    let passages = engineering();
    over.site.ingest(&passages);
    let found = citations(&over.ask().expect(0));
    assert_eq!(found.as_array().unwrap().len(), before.as_array().unwrap().len());
    assert!(found[0].to_string().contains("again"), "{found}");
    let leaks = over.site.records().into_iter().filter(|record| record["action"] == "leakage-distances").count();
    assert_eq!(leaks, 1);

    // The attacker's: the model, which is public, and sentences that he can think of.
    let model = casemate_embed::MiniLm::load(std::path::Path::new(&model)).unwrap();
    let guesses: Vec<&str> = corpus::PASSAGES.iter().map(|passage| passage.4).collect();
    let guessed = model.embed(&guesses).unwrap();
    let hints: Vec<Vec<f32>> = hints("hint")
        .lines()
        .map(|line| line.trim_matches(['[', ']']).split(',').map(|value| value.parse().unwrap()).collect())
        .collect();
    assert!(hints.len() >= passages.len());
    let mut recovered = std::collections::BTreeSet::new();
    for hint in &hints {
        let norm = hint.iter().map(|value| value * value).sum::<f32>().sqrt();
        let cosine = |vector: &Vec<f32>| vector.iter().zip(hint).map(|(a, b)| a * b).sum::<f32>() / norm;
        let (best, text) = guessed.iter().map(cosine).zip(&guesses).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        if best > 0.8 {
            println!("recovered with cosine {best:.3}: {text}");
            recovered.insert(*text);
        }
    }
    let stored = |text: &&str| passages.iter().any(|passage| passage["text"] == **text);
    assert!(recovered.iter().all(stored), "a passage that is not there");
    println!("recovered {} of {} passages from perturbed vectors alone", recovered.len(), passages.len());
    assert!(
        recovered.len() * 10 >= passages.len() * 9,
        "the attack that the documentation shows does not work any more"
    );
}

#[test]
fn candidate_mode_is_refused_for_state_secrets_without_an_index_above_its_ceiling_and_unnamed() {
    let refused = |site: &Site, part: &str| {
        let ended = site.casemate(&["ask", QUESTION, "--as", "ana"]);
        assert_ne!(ended.code, 0, "{part}");
        assert!(ended.text.contains(part), "{part}: {}", ended.text);
    };
    let site = site::copy();
    site.configure("[chain]", &format!("{CANDIDATES}[chain]"));
    refused(&site, "needs an index");
    site.configure("[chain]", "[inference]\nstore = \"unix:nobody\"\n\n[chain]");
    site.configure("beta = 1.5", "beta = 5.0");
    refused(&site, "beta is 0 to 4");
    site.configure("beta = 5.0", "beta = 1.5");
    site.configure("leakage = \"distances\"\n", "");
    refused(&site, "missing field `leakage`");
    site.configure("beta = 1.5", "leakage = \"nothing\"");
    refused(&site, "unknown variant `nothing`");
    site.configure("leakage = \"nothing\"", "leakage = \"distances\"");
    site.configure("[candidates.compartments.engineering]", "[candidates.compartments.nowhere]");
    refused(&site, "which is no compartment");
    site.configure("[candidates.compartments.nowhere]", "[candidates.compartments.engineering]");
    site.configure("profile = \"rehearsal\"", "profile = \"government\"");
    refused(&site, "profile `government` refuses it");

    let Some(over) = Over::new("store = \"unix:../a\"") else { return };
    let _tier = over.tier("a");
    over.site.configure("[chain]", &format!("{}[chain]", CANDIDATES.replace("confidential", "public")));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("more.jsonl");
    fs::write(&path, site::passage("more", "More", "A tidal mill grinds at every ebb.").to_string()).unwrap();
    let ended = over.site.casemate(&["ingest", text(&path), "--as", "carla"]);
    assert_ne!(ended.code, 0);
    assert!(ended.text.contains("up to label public"), "{}", ended.text);
    assert_eq!(over.server.sql("site", "SELECT count(*) FROM casemate_hints_1").stdout, b"");
}
