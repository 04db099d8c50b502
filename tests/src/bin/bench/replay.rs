use std::process::Command;
use std::time::Instant;

use crate::fixture::{Fixture, program, root};
use crate::http::load_served;
use crate::report::{Baseline, Report};

/// Staging of a new version of a policy on what a served site recorded: opening the site, checking each recording against the log, each run
/// with the old component and with the new one, the signed report. Beside it the same site's live decisions.
pub fn run(report: &mut Report) {
    let fixture = Fixture::new();
    for plugin in ["clearance", "disclosure"] {
        fixture.load(plugin);
    }
    let live = load_served(&fixture, 64);
    let source = root().join("plugins/clearance");
    let bundle = fixture.folder.path().join("next.casemate");
    let path = bundle.to_str().unwrap();
    fixture.casemate(&["bundle", "build", source.to_str().unwrap(), "--bundle-version", "2", "--out", path]);
    for approver in ["ana", "bo"] {
        let key = fixture.site.join(format!("approvers/{approver}.key"));
        fixture.casemate(&["bundle", "sign", path, "--key", key.to_str().unwrap()]);
    }
    let json = |arguments: &[&str]| -> serde_json::Value {
        let mut command = Command::new(program());
        let output = command.arg("--json").arg("--site").arg(&fixture.site).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let change = json(&["change", "receive", path, "--as", "carla"]);
    let started = Instant::now();
    let staged = json(&["change", "stage", change["change"].as_str().unwrap()]);
    let seconds = started.elapsed().as_secs_f64();
    let replayed = staged["trial"]["replayed"].as_u64().unwrap();
    assert_eq!(staged["trial"]["counts"]["same"].as_u64(), Some(replayed), "{staged}");
    let rate = replayed as f64 / seconds;
    let baseline = Baseline { name: "live decisions over HTTP, durable, 64 connections", ratio: rate / live };
    report.row("replay", &format!("staging {replayed} recorded decisions"), rate, "decisions/s", Some(baseline));
}
