use std::process::{Command, Stdio};
use std::time::Instant;

use crate::fixture::{Fixture, program, root};
use crate::http::serve;
use crate::report::{Baseline, Report, percentile};

/// What a change takes from the command's start to its end: a new version becoming active, and the order of two that takes it back, on a
/// site that nobody serves and beside a server. The baseline is the compilation of the same component in the same run.
pub fn run(report: &mut Report) {
    let fixture = Fixture::new();
    fixture.load("disclosure");
    let compile = fixture.cold("clearance");
    report.row("change", "first activation, with the component's compilation", compile, "s", None);
    let mut version = 2;
    for (case, served) in [("nobody serves the site", false), ("beside a server", true)] {
        let server = served.then(|| serve(&fixture).0);
        let (mut activations, mut rollbacks) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            activations.push(activate(&fixture, version));
            rollbacks.push(roll_back(&fixture));
            version += 1;
        }
        let mut row = |what: &str, seconds: &mut Vec<f64>, at: f64, name: &str| {
            let seconds = percentile(seconds, at);
            let ratio = seconds / compile;
            let baseline = Baseline { name: "first activation", ratio };
            report.row("change", &format!("{what}, {case}, {name}"), seconds, "s", Some(baseline));
        };
        row("a new version becomes active", &mut activations, 0.5, "p50");
        row("rollback", &mut rollbacks, 0.5, "p50");
        row("rollback (bar 1)", &mut rollbacks, 1.0, "longest");
        if let Some(mut server) = server {
            let stopped = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
            assert!(stopped.success() && server.wait().unwrap().success(), "the server did not stop in good order");
        }
    }
}

/// Signs the version and times its activation.
fn activate(fixture: &Fixture, version: u64) -> f64 {
    let bundle = fixture.folder.path().join(format!("next-{version}.casemate"));
    let (path, number) = (bundle.to_str().unwrap(), version.to_string());
    let source = root().join("plugins/clearance");
    fixture.casemate(&["bundle", "build", source.to_str().unwrap(), "--bundle-version", &number, "--out", path]);
    for approver in ["ana", "bo"] {
        fixture.casemate(&["bundle", "sign", path, "--key", &key(fixture, approver)]);
    }
    timed(fixture, &["plugin", "load", path])
}

/// Has two sign the way back and times the order.
fn roll_back(fixture: &Fixture) -> f64 {
    let order = fixture.folder.path().join("order");
    let path = order.to_str().unwrap();
    let _ = std::fs::remove_file(&order);
    let ana = key(fixture, "ana");
    fixture.casemate(&["change", "rollback", "clearance", "--reason", "a benchmark", "--key", &ana, "--out", path]);
    fixture.casemate(&["change", "sign", path, "--key", &key(fixture, "bo")]);
    timed(fixture, &["change", "submit", path])
}

fn key(fixture: &Fixture, name: &str) -> String {
    fixture.site.join(format!("approvers/{name}.key")).to_str().unwrap().to_owned()
}

fn timed(fixture: &Fixture, arguments: &[&str]) -> f64 {
    let mut command = Command::new(program());
    command.arg("--site").arg(&fixture.site).args(arguments).stdout(Stdio::null());
    let started = Instant::now();
    assert!(command.status().unwrap().success(), "{arguments:?}");
    started.elapsed().as_secs_f64()
}
