//! Verifying a bundle of 5 MiB, beside the SHA-256 of the same file.

use std::hint::black_box;
use std::time::Instant;

use casemate_bundle::{ApproverKey, BuildInput, TrustRoot};
use casemate_types::Digest;
use jiff::{SignedDuration, Timestamp};
use wasm_encoder::{Component, CustomSection};

use crate::report::{Baseline, Report, percentile};

const SIZE: usize = 5 << 20;
const ROUNDS: usize = 40;

pub fn run(report: &mut Report) {
    let keys = ["ana", "bo"].map(|name| ApproverKey::generate(name).unwrap());
    let now = Timestamp::now();
    let expires = now.checked_add(SignedDuration::from_hours(24)).unwrap();
    let root = TrustRoot::parse(&TrustRoot::create(&[&keys[0], &keys[1]], expires).unwrap()).unwrap();
    let mut component = Component::new();
    component.section(&CustomSection { name: "ballast".into(), data: vec![0x5a; SIZE].into() });
    let input = BuildInput {
        manifest_toml: "name='ballast'\nversion='1.0.0'\nworld='policy'\nsummary='s'\ncapabilities=[]",
        component: &component.finish(),
        settings_json: b"{}",
        version: 1,
        expires,
    };
    let draft = casemate_bundle::build(&root, input).unwrap();
    let bundle = keys.iter().fold(draft, |bundle, key| casemate_bundle::sign(&bundle, key, &root).unwrap());
    let mut verified = time(|| drop(black_box(casemate_bundle::verify(&bundle, &root, now).unwrap())));
    let mut hashed = time(|| {
        black_box(Digest::of(&bundle));
    });
    let (value, base) = (percentile(&mut verified, 0.5), percentile(&mut hashed, 0.5));
    report.row("bundle", "SHA-256 of the file, 5 MiB, p50", base, "ms", None);
    let baseline = Baseline { name: "SHA-256 of the file", ratio: value / base };
    report.row("bundle", "verify, 5 MiB, p50", value, "ms", Some(baseline));
    report.row("bundle", "verify, 5 MiB, p99", percentile(&mut verified, 0.99), "ms", None);
}

fn time(mut run: impl FnMut()) -> Vec<f64> {
    let once = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..ROUNDS).map(once).collect()
}
