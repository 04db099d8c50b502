//! A ceremony at the command line, as the guide has it.

use std::fs;
use std::path::Path;

use crate::guest::root;
use crate::site::{Ended, Site, text};

fn rehearsed(plan: &Path, out: &Path) -> Ended {
    Site::at(out.join("site")).casemate(&["ceremony", "rehearse", text(plan), "--out", text(out), "--yes"])
}

#[test]
fn the_plan_of_the_guide_is_rehearsed_verified_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rehearsal");
    let plan = root().join("docs/samples/ceremony-plan.toml");
    let site = Site::at(out.join("site"));
    let checked = site.casemate(&["ceremony", "plan", "check", text(&plan)]).expect(0);
    let done = rehearsed(&plan, &out).expect(0);
    assert_eq!((&done["plan"], &done["signatures"]), (&checked["plan"], &2.into()));

    let transcript = out.join("ceremony/transcript.json");
    let verify = |plan: &Path| site.casemate(&["ceremony", "verify", text(&transcript), "--plan", text(plan)]);
    let verified = verify(&plan).expect(0);
    assert_eq!((&verified["digest"], &verified["this-program"]), (&done["digest"], &true.into()));
    let page = site.plain(&["ceremony", "print", text(&transcript)]);
    assert_eq!(page, fs::read_to_string(out.join("ceremony/transcript.txt")).unwrap());
    assert!(page.contains("SIGNED BY   ana") && page.contains("SIGNED BY   bo"), "{page}");

    // Each step stands in the log before and after, and each key operation.
    let records = site.records();
    let steps = checked["steps"].as_array().unwrap().len();
    for state in ["begun:", "done:"] {
        let of_state = records.iter().filter(|record| {
            record["action"] == "ceremony"
                && record["detail"].as_str().is_some_and(|detail| detail.contains(" step ") && detail.contains(state))
        });
        assert_eq!(of_state.count(), steps, "{state}");
    }
    let made = records.iter().filter(|record| record["operation"] == "ceremony generate on primary").count();
    assert_eq!(made, 5);

    // A changed plan neither verifies nor goes on.
    let changed = folder.path().join("changed.toml");
    fs::write(&changed, fs::read_to_string(&plan).unwrap().replace("names, version 1", "names, version 2")).unwrap();
    let other = verify(&changed);
    assert!(other.code == 4 && other.text.contains("this transcript is of plan"), "{}", other.text);
    let (bindings, ceremony) = (out.join("bindings.toml"), out.join("ceremony"));
    let resume = |plan: &Path| {
        let plan =
            ["ceremony", "resume", text(plan), "--bindings", text(&bindings), "--folder", text(&ceremony), "--yes"];
        site.casemate(&plan)
    };
    let refused = resume(&changed);
    assert!(refused.code == 4 && refused.text.contains("the custodians approved"), "{}", refused.text);
    assert_eq!(resume(&plan).expect(0)["digest"], done["digest"]);

    // The approval is used up, and the log has no hole.
    let (statement, again) = (out.join("statement.json"), out.join("again"));
    let replayed = site.casemate(&[
        "ceremony",
        "run",
        text(&plan),
        "--bindings",
        text(&bindings),
        "--statement",
        text(&statement),
        "--folder",
        text(&again),
        "--yes",
    ]);
    assert!(replayed.code == 4 && replayed.text.contains("used before"), "{}", replayed.text);
    site.casemate(&["audit", "verify"]).expect(0);
}

#[test]
fn nobody_agrees_to_steps_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let plan = root().join("docs/samples/ceremony-plan.toml");
    let site = Site::at(folder.path().join("out/site"));
    let refused = site.casemate(&["ceremony", "rehearse", text(&plan), "--out", text(&folder.path().join("out"))]);
    assert!(refused.code == 2 && refused.text.contains("nobody is here to agree"), "{}", refused.text);
}

#[test]
fn the_bindings_of_the_guide_are_read_and_fit_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, bindings) =
        (root().join("docs/samples/ceremony-plan.toml"), root().join("docs/samples/ceremony-bindings.toml"));
    let site = crate::site::bare();
    let started = site.casemate(&[
        "ceremony",
        "run",
        text(&plan),
        "--bindings",
        text(&bindings),
        "--statement",
        "none.json",
        "--folder",
        text(folder.path()),
        "--yes",
    ]);
    // They are read; the roster that they name is not in the guide's folder.
    assert!(started.code == 1 && started.text.contains("roster.json"), "{}", started.text);
}
