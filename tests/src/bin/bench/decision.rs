use std::sync::Arc;
use std::time::Instant;

use casemate_engine::{CacheKey, Engine, EngineOptions, Invocation, NoServices, Plugin, wit};
use casemate_types::Decision;

use crate::fixture::Fixture;
use crate::report::{Baseline, Report, percentile};

const WARM_UP: usize = 2_000;
const RUNS: usize = 20_000;

/// A fresh instance per decision, two host calls, limits and deadline armed; without the log append.
pub fn run(report: &mut Report) {
    let fixture = Fixture::new();
    let bundle = fixture.rule();
    let cache = fixture.folder.path().join("cache");
    let engine = Engine::new(&EngineOptions::default(), Some((&cache, CacheKey::new(&[7; 32])))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let plugin = runtime.block_on(Plugin::load(&engine, &bundle)).unwrap();
    let request = request();
    let invocation = Invocation { claims: request.claims.clone(), now_ms: 1, services: Arc::new(NoServices) };

    let mut micros = Vec::with_capacity(RUNS);
    runtime.block_on(async {
        for run in 0..WARM_UP + RUNS {
            let started = Instant::now();
            let evaluated = plugin.evaluate(&request, invocation.clone()).await;
            let elapsed = started.elapsed().as_secs_f64() * 1e6;
            assert_eq!(evaluated.outcome, Ok(Decision::Allow));
            assert_eq!(evaluated.trace.exchanges.len(), 2);
            if run >= WARM_UP {
                micros.push(elapsed);
            }
        }
    });

    // The same rule as native code, so that the cost of isolation is seen.
    let mut native = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        std::hint::black_box(native_rule(std::hint::black_box(&request)));
        native.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let native = percentile(&mut native, 0.5).max(0.01);
    for (case, share) in [("fresh instance, two host calls, p50", 0.5), ("fresh instance, two host calls, p99", 0.99)] {
        let value = percentile(&mut micros, share);
        report.row(
            "decision",
            case,
            value,
            "us",
            Some(Baseline { name: "the rule in native code", ratio: value / native }),
        );
    }
}

fn native_rule(request: &wit::Request) -> bool {
    let claims = request.claims.clone();
    claims.clearance as u8 >= wit::Level::Internal as u8 && request.text.len() <= 20_000
}

fn request() -> wit::Request {
    wit::Request {
        phase: wit::Phase::Request,
        claims: wit::Claims {
            user: "ana".to_owned(),
            clearance: wit::Level::Secret,
            roles: vec!["analyst".to_owned()],
            groups: vec![],
            departments: vec!["cryptography".to_owned()],
            compartments: vec!["engineering".to_owned(), "cryptography".to_owned()],
        },
        action: "evaluate".to_owned(),
        text: "Which of our suppliers may see the drawings of the new hull, and until when may they keep them on their machines?".to_owned(),
        passage: None,
        attributes: vec![],
    }
}
