//! Every way in which a component can misbehave has an answer of its own, and the host works on afterwards.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use casemate_bundle::VerifiedBundle;
use casemate_engine::{
    CacheKey, Engine, EngineOptions, Evaluated, Exchange, HostAnswer, HostCall, Invocation, LoadError, NoServices,
    Plugin, Refusal, Services, wit,
};
use casemate_types::{Decision, Obligation, PluginName, Reason};
use tokio::sync::OnceCell;

use crate::{guest, handmade};

const GUEST: &str = "tests/hostile";
const TIME_MS: u64 = 1_500;
const MEMORY: usize = 16 << 20;
const CALLS: u32 = 64;
const CAPABILITIES: [&str; 7] = ["audit", "clock", "hsm", "inference", "kv", "log", "random"];

fn manifest(name: &str, capabilities: &[&str]) -> String {
    let keys = if capabilities.contains(&"hsm") { "keys = [\"granted\"]" } else { "" };
    format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\nworld = \"policy\"\nsummary = \"Attacks its host.\"\n\
         capabilities = {capabilities:?}\n{keys}\n[limits]\nmemory-bytes = {MEMORY}\ntime-ms = {TIME_MS}\nhost-calls = {CALLS}\n"
    )
}

fn hostile() -> VerifiedBundle {
    guest::bundle(&guest::component(GUEST, ""), &manifest("hostile", &CAPABILITIES), "{}")
}

/// One engine for all attacks, so that each test also shows that the others left it whole.
struct Host {
    engine: Engine,
    attacker: Plugin,
    _cache: tempfile::TempDir,
}

async fn host() -> &'static Host {
    static HOST: OnceCell<Host> = OnceCell::const_new();
    HOST.get_or_init(|| async {
        let cache = tempfile::tempdir().unwrap();
        let engine = Engine::new(&EngineOptions::default(), Some((cache.path(), CacheKey::new(&[7; 32])))).unwrap();
        let attacker = Plugin::load(&engine, &hostile()).await.unwrap();
        Host { engine, attacker, _cache: cache }
    })
    .await
}

fn request(action: &str, text: &str) -> wit::Request {
    wit::Request {
        phase: wit::Phase::Request,
        claims: claims(),
        action: action.to_owned(),
        text: text.to_owned(),
        passage: None,
        attributes: Vec::new(),
    }
}

fn claims() -> wit::Claims {
    wit::Claims {
        user: "ana".to_owned(),
        clearance: wit::Level::Secret,
        roles: Vec::new(),
        groups: Vec::new(),
        departments: Vec::new(),
        compartments: Vec::new(),
    }
}

async fn run_with(action: &str, text: &str, services: Arc<dyn Services>) -> Evaluated<Decision> {
    let host = host().await;
    let invocation = Invocation { claims: claims(), now_ms: 42, services };
    let evaluated = host.attacker.evaluate(&request(action, text), invocation.clone()).await;
    let after = host.attacker.evaluate(&request("ok", text), invocation).await;
    assert_eq!(after.outcome, Ok(Decision::Allow), "an honest request after `{action}`");
    evaluated
}

async fn run(action: &str, text: &str) -> Result<Decision, Refusal> {
    run_with(action, text, Arc::new(NoServices)).await.outcome
}

fn denial(outcome: Result<Decision, Refusal>) -> (String, String) {
    match outcome {
        Ok(Decision::Deny { reason, message }) => (reason.to_string(), message),
        other => panic!("not a denial of the component: {other:?}"),
    }
}

async fn refused_load(bundle: &VerifiedBundle) -> LoadError {
    let host = host().await;
    let error = Plugin::load(&host.engine, bundle).await.err().expect("it was loaded");
    assert_eq!(run("ok", "").await, Ok(Decision::Allow), "an honest request after the refusal");
    error
}

#[tokio::test]
async fn endless_loop_is_stopped() {
    let refusal = run("loop", "").await.unwrap_err();
    assert_eq!(refusal, Refusal::Deadline { limit_ms: TIME_MS });
    assert_eq!(refusal.reason(), Reason::deadline());
}

#[tokio::test]
async fn endless_loop_at_start_is_stopped() {
    let bundle = guest::bundle(&guest::component(GUEST, "start-loop"), &manifest("hostile", &CAPABILITIES), "{}");
    let error = refused_load(&bundle).await;
    assert!(matches!(error, LoadError::Describe { source: Refusal::Deadline { limit_ms: TIME_MS }, .. }), "{error:?}");
}

#[tokio::test]
async fn memory_bomb_is_stopped() {
    let refusal = run("memory-bomb", "").await.unwrap_err();
    assert_eq!(refusal, Refusal::MemoryLimit { limit: MEMORY, unit: "bytes of memory" });
    assert_eq!(refusal.reason(), Reason::memory_limit());
}

#[tokio::test]
async fn table_bomb_is_stopped() {
    let component = handmade::policy_that_grows_a_table(1, 500);
    let bundle = guest::bundle(&component, &manifest("hostile", &[]), "{}");
    let invocation = Invocation { claims: claims(), now_ms: 42, services: Arc::new(NoServices) };
    let attacker = Plugin::load(&host().await.engine, &bundle).await.unwrap();
    let refusal = attacker.evaluate(&request("grow", ""), invocation).await.outcome.unwrap_err();
    assert_eq!(refusal, Refusal::MemoryLimit { limit: 1024, unit: "table elements" });
    assert_eq!(refusal.reason(), Reason::memory_limit());
    assert_eq!(run("ok", "").await, Ok(Decision::Allow), "an honest request after the table bomb");
}

#[tokio::test]
async fn table_that_begins_too_large_is_refused() {
    let component = handmade::policy_that_grows_a_table(1025, 0);
    let error = refused_load(&guest::bundle(&component, &manifest("hostile", &[]), "{}")).await;
    let LoadError::Describe { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source, Refusal::MemoryLimit { limit: 1024, unit: "table elements" });
}

#[tokio::test]
async fn deep_recursion_is_stopped() {
    let refusal = run("deep-recursion", "").await.unwrap_err();
    assert_eq!(refusal, Refusal::StackOverflow);
    assert_eq!(refusal.reason(), Reason::stack_overflow());
}

#[tokio::test]
async fn giant_return_value_is_refused() {
    let refusal = run("giant-return", "").await.unwrap_err();
    assert!(matches!(refusal, Refusal::OutputLimit { .. } | Refusal::MalformedOutput { .. }), "{refusal:?}");
}

#[tokio::test]
async fn output_a_little_too_large_is_measured_and_named() {
    let long = "x".repeat(40_000);
    let refusal = run("echo", &long).await.unwrap_err();
    assert_eq!(refusal, Refusal::OutputLimit { size: 80_000, limit: 65_536 });
    assert_eq!(refusal.reason(), Reason::output_limit());
}

#[tokio::test]
async fn host_call_flood_is_stopped() {
    for attack in ["host-call-flood", "log-flood", "handle-flood"] {
        let evaluated = run_with(attack, "granted", Arc::new(Site::default())).await;
        assert_eq!(evaluated.outcome, Err(Refusal::CallBudget { limit: CALLS }), "{attack}");
        assert_eq!(evaluated.trace.exchanges.len(), CALLS as usize, "{attack}");
    }
}

#[tokio::test]
async fn flood_of_calls_that_are_refused_is_stopped() {
    let evaluated = run_with("refused-flood", "", Arc::new(Site::default())).await;
    assert_eq!(evaluated.outcome, Err(Refusal::CallBudget { limit: CALLS }));
    // None of them reached a service.
    assert!(evaluated.trace.exchanges.is_empty());
}

#[tokio::test]
async fn bytes_flood_is_stopped() {
    let refusal = run("stall", "").await.unwrap_err();
    assert!(matches!(refusal, Refusal::ByteBudget { .. }), "{refusal:?}");
    assert_eq!(refusal.reason(), Reason::byte_budget());
    // One megabyte a line: what is moved counts, not what is kept of it.
    let evaluated = run_with("host-bytes-flood", "", Arc::new(Site::default())).await;
    assert!(matches!(evaluated.outcome, Err(Refusal::ByteBudget { .. })), "{:?}", evaluated.outcome);
    for exchange in &evaluated.trace.exchanges {
        assert!(matches!(&exchange.call, HostCall::Log { message, .. } if message.len() <= 1024));
    }
}

#[tokio::test]
async fn log_lines_cannot_be_forged() {
    let evaluated = run_with("log-flood", "", Arc::new(Site::default())).await;
    let HostCall::Log { message, .. } = &evaluated.trace.exchanges[0].call else { panic!("another call") };
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

#[tokio::test]
async fn trap_is_a_denial() {
    for attack in ["trap", "panic", "shadow-stack"] {
        let refusal = run(attack, "the protected text").await.unwrap_err();
        assert!(matches!(refusal, Refusal::Trap(_)), "{attack}: {refusal:?}");
        assert_eq!(refusal.reason(), Reason::trap());
        assert!(!refusal.to_string().contains("protected"), "{attack}: {refusal}");
    }
}

#[tokio::test]
async fn undeclared_import_is_refused_by_name() {
    for left_out in CAPABILITIES {
        let granted: Vec<&str> = CAPABILITIES.into_iter().filter(|name| *name != left_out).collect();
        let bundle = guest::bundle(&guest::component(GUEST, ""), &manifest("hostile", &granted), "{}");
        match refused_load(&bundle).await {
            LoadError::UndeclaredImport { plugin, import } => {
                assert_eq!((plugin.as_str(), import), ("hostile", format!("casemate:plugin/{left_out}@0.1.0")));
            }
            other => panic!("{left_out}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn wasi_import_is_refused_by_name() {
    let bundle = guest::bundle(&guest::component(GUEST, "wasi-import"), &manifest("hostile", &CAPABILITIES), "{}");
    match refused_load(&bundle).await {
        LoadError::UndeclaredImport { import, .. } => assert!(import.starts_with("wasi:sockets/"), "{import}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_world_is_refused() {
    let bundle = guest::bundle(&guest::component(GUEST, "wrong-world"), &manifest("hostile", &CAPABILITIES), "{}");
    match refused_load(&bundle).await {
        LoadError::WrongWorld { world, problem, .. } => {
            assert_eq!(world, "policy");
            assert!(problem.contains("evaluate"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn settings_of_the_wrong_type_are_refused() {
    const DISCLOSURE: &str = "name = \"disclosure\"\nversion = \"0.1.0\"\nworld = \"policy\"\nsummary = \"Masks.\"\n\
                              capabilities = []\n[limits]\ntime-ms = 1500\n";
    let component = guest::component("plugins/disclosure", "");
    for (settings, name) in [
        (r#"{"kinds": "email"}"#, "kinds"),
        (r#"{"kinds": ["email", 7]}"#, "kinds"),
        (r#"{"kinds": ["email"], "deny-kinds": true}"#, "deny-kinds"),
        (r#"{"kinds": ["email"], "colour": "red"}"#, "colour"),
    ] {
        let error = refused_load(&guest::bundle(&component, DISCLOSURE, settings)).await;
        assert!(matches!(&error, LoadError::Settings { setting, .. } if setting == name), "{settings}: {error:?}");
    }
    let good = guest::bundle(&component, DISCLOSURE, r#"{"kinds": ["email"], "deny-kinds": []}"#);
    assert!(Plugin::load(&host().await.engine, &good).await.is_ok());
}

#[tokio::test]
async fn forged_host_reason_is_stripped() {
    let (reason, _) = denial(run("forge-reason", "").await);
    assert_eq!(reason, "deadline");
    let (reason, message) = denial(run("echo", &format!("host:host:Trap\n\0{}", "y".repeat(2_000))).await);
    assert!(reason.starts_with("rapyyy") && reason.len() <= 64, "{reason}");
    assert!(message.chars().count() <= 512 && !message.chars().any(char::is_control), "{message:?}");
}

#[tokio::test]
async fn bad_spans_are_malformed() {
    for attack in ["bad-spans-outside", "bad-spans-boundary", "bad-spans-reversed", "bad-spans-empty"] {
        let refusal = run(attack, "é and more").await.unwrap_err();
        assert!(matches!(refusal, Refusal::MalformedOutput { .. }), "{attack}: {refusal:?}");
        assert_eq!(refusal.reason(), Reason::malformed_output());
    }
    for attack in ["bad-spans-flood", "obligation-flood"] {
        let refusal = run(attack, "0123456789").await.unwrap_err();
        assert!(
            matches!(refusal, Refusal::MalformedOutput { .. } | Refusal::OutputLimit { .. }),
            "{attack}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn overlapping_spans_are_allowed() {
    match run("bad-spans-overlap", "0123456789").await {
        Ok(Decision::Transform { obligations }) => {
            assert!(matches!(&obligations[..], [Obligation::MaskSpans { spans }] if spans.len() == 3));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn huge_random_request_is_an_error() {
    for attack in ["random-huge", "kv-flood", "audit-flood", "foreign-key"] {
        let evaluated = run_with(attack, "not-granted", Arc::new(Site::default())).await;
        assert_eq!(denial(evaluated.outcome).0, "refused", "{attack}");
        // What the border refuses reaches no service.
        assert!(evaluated.trace.exchanges.iter().all(|e| matches!(e.call, HostCall::Annotate { .. })), "{attack}");
    }
}

#[tokio::test]
async fn host_call_that_never_returns_is_ended_by_the_deadline() {
    let evaluated = run_with("state", "", Arc::new(Silence)).await;
    assert_eq!(evaluated.outcome, Err(Refusal::Deadline { limit_ms: TIME_MS }));
}

#[tokio::test]
async fn answer_of_the_wrong_kind_ends_the_component() {
    let evaluated = run_with("state", "", Arc::new(Replay::new(vec![HostAnswer::Count(1)]))).await;
    assert_eq!(evaluated.outcome, Err(Refusal::CapabilityFailed { action: "kv.get" }));
}

#[tokio::test]
async fn memory_of_one_run_is_gone_in_the_next() {
    // Only what the host keeps survives: without it the second run knows nothing of the first.
    let site = Arc::new(Site::default());
    assert_eq!(run_with("state", "first", site.clone()).await.outcome, Ok(Decision::Allow));
    assert_eq!(denial(run_with("state", "second", site).await.outcome).1, "first");
    assert_eq!(run_with("state", "third", Arc::new(Site::default())).await.outcome, Ok(Decision::Allow));
}

#[tokio::test]
async fn recorded_exchanges_replay_to_the_same_decision() {
    let site = Arc::new(Site::default());
    run_with("state", "remember this", site.clone()).await.outcome.unwrap();
    let original = run_with("state", "second", site).await;
    assert_eq!(denial(original.outcome.clone()).1, "remember this");

    // Through the form in which recordings are kept.
    let kept = serde_json::to_vec(&original.trace.exchanges).unwrap();
    let mut exchanges: Vec<Exchange> = serde_json::from_slice(&kept).unwrap();
    assert_eq!(exchanges, original.trace.exchanges);
    let answers = |exchanges: &[Exchange]| exchanges.iter().map(|exchange| exchange.answer.clone()).collect();
    let replayed = run_with("state", "second", Arc::new(Replay::new(answers(&exchanges)))).await;
    assert_eq!(replayed.outcome, original.outcome);
    assert_eq!(replayed.trace.exchanges, original.trace.exchanges);

    exchanges[0].answer = HostAnswer::Value(Ok(Some(b"something else".to_vec())));
    let altered = run_with("state", "second", Arc::new(Replay::new(answers(&exchanges)))).await;
    assert_ne!(altered.outcome, original.outcome);
}

/// A small site in memory: state per plugin, every key there, every remark taken.
#[derive(Default)]
struct Site(Mutex<HashMap<String, Vec<u8>>>);

#[async_trait]
impl Services for Site {
    async fn call(&self, plugin: &PluginName, call: &HostCall) -> HostAnswer {
        let mut kept = self.0.lock().unwrap();
        match call {
            HostCall::KvGet { key } => HostAnswer::Value(Ok(kept.get(&format!("{plugin}/{key}")).cloned())),
            HostCall::KvSet { key, value } => {
                kept.insert(format!("{plugin}/{key}"), value.clone());
                HostAnswer::Unit(Ok(()))
            }
            _ => HostAnswer::Unit(Ok(())),
        }
    }
}

/// Never answers.
struct Silence;

#[async_trait]
impl Services for Silence {
    async fn call(&self, _: &PluginName, _: &HostCall) -> HostAnswer {
        std::future::pending().await
    }
}

/// Answers from a record, in order.
struct Replay(Mutex<std::vec::IntoIter<HostAnswer>>);

impl Replay {
    fn new(answers: Vec<HostAnswer>) -> Self {
        Self(Mutex::new(answers.into_iter()))
    }
}

#[async_trait]
impl Services for Replay {
    async fn call(&self, _: &PluginName, _: &HostCall) -> HostAnswer {
        self.0.lock().unwrap().next().expect("the component asks what it asked before")
    }
}
