//! `casemate bundle` as people use it: build, read with foreign tools, compare, and change who may approve.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::guest::root;
use crate::site::{self, Site, text};

const UNVERIFIED: i32 = 4;
const EXPIRES: &str = "2036-01-01T00:00:00Z";

fn build(site: &Site, plugin: &str, out: &Path, more: &[&str]) -> Value {
    let source = root().join("plugins").join(plugin);
    let build = ["bundle", "build", text(&source), "--out", text(out), "--expires", EXPIRES];
    site.casemate(&[build.as_slice(), more].concat()).expect(0)
}

fn sign(site: &Site, bundle: &Path) {
    for approver in ["ana", "bo"] {
        let key = site.dir.join(format!("approvers/{approver}.key"));
        site.casemate(&["bundle", "sign", text(bundle), "--key", text(&key)]).expect(0);
    }
}

/// The tool's standard output, or `None` where the tool is not installed.
#[track_caller]
fn tool(command: &mut Command) -> Option<String> {
    match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        output => {
            let output = output.unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
    }
}

fn statement(folder: &Path, name: &str) -> Value {
    let envelope: Value = serde_json::from_slice(&fs::read(folder.join("evidence").join(name)).unwrap()).unwrap();
    assert_eq!(envelope["payloadType"], "application/vnd.in-toto+json");
    serde_json::from_slice(&STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap()).unwrap()
}

#[test]
fn two_builders_compare_one_hash_and_foreign_tools_read_the_file() {
    let site = site::bare();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.casemate"), folder.path().join("two.casemate"));
    let first = build(&site, "clearance", &one, &[]);
    assert_eq!(first["digest"], build(&site, "clearance", &two, &[])["digest"]);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());

    let layout = folder.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let Some(_) = tool(Command::new("tar").arg("-xf").arg(&one).arg("-C").arg(&layout)) else {
        return eprintln!("no tar on this machine");
    };
    let component = first["component"].as_str().unwrap();
    let code = fs::read(layout.join("blobs").join(component.replace(':', "/"))).unwrap();
    assert!(code.starts_with(b"\0asm\x0d\0\x01\0"));

    let (provenance, bill) = (statement(&layout, "provenance.dsse.json"), statement(&layout, "sbom.dsse.json"));
    for statement in [&provenance, &bill] {
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(format!("sha256:{}", statement["subject"][0]["digest"]["sha256"].as_str().unwrap()), component);
    }
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    let rustc = provenance["predicate"]["runDetails"]["builder"]["version"]["rustc"].as_str().unwrap();
    assert!(rustc.starts_with("rustc 1."), "{rustc}");
    let bill = &bill["predicate"];
    assert_eq!((bill["bomFormat"].as_str(), bill["specVersion"].as_str()), (Some("CycloneDX"), Some("1.6")));
    let crates: Vec<&str> =
        bill["components"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert!(crates.contains(&"casemate-sdk") && crates.contains(&"wit-bindgen"), "{crates:?}");
    assert!(!crates.contains(&"wasmtime"), "only what the plugin is made of: {crates:?}");

    if std::env::var_os("CASEMATE_WITHOUT_SKOPEO").is_some() {
        return eprintln!("without skopeo the OCI layout is not read by a foreign tool");
    }
    // It checks each blob against its digest on the way.
    let copied = folder.path().join("copied");
    let (from, to) = (format!("oci:{}:0.1.0", layout.display()), format!("dir:{}", copied.display()));
    tool(Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to])).expect("skopeo");
    let manifest: Value = serde_json::from_slice(&fs::read(copied.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(manifest["layers"][0]["digest"], component);
    assert_eq!(fs::read(copied.join(component.trim_start_matches("sha256:"))).unwrap(), code);
}

#[test]
fn an_approver_sees_what_changes_before_signing() {
    let site = site::bare();
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.casemate");
    build(&site, "clearance", &old, &[]);
    let shown = site.casemate(&["bundle", "inspect", text(&old)]).expect(0);
    assert_eq!((shown["missing"].as_u64(), &shown["changes"]), (Some(2), &Value::Null), "nothing is active yet");
    sign(&site, &old);
    site.casemate(&["plugin", "load", text(&old)]).expect(0);

    // The next version wants more: a capability, time, and another setting.
    let source = folder.path().join("clearance");
    fs::create_dir(&source).unwrap();
    let manifest = fs::read_to_string(root().join("plugins/clearance/manifest.toml")).unwrap();
    assert!(manifest.contains("capabilities = []"));
    let manifest = manifest.replace("capabilities = []", "capabilities = [\"fpe\"]");
    fs::write(source.join("manifest.toml"), manifest).unwrap();
    fs::write(source.join("settings.json"), "{\"word\": \"other\"}").unwrap();
    let component = folder.path().join("component.wasm");
    let layout = folder.path().join("layout");
    fs::create_dir(&layout).unwrap();
    tool(Command::new("tar").arg("-xf").arg(&old).arg("-C").arg(&layout)).expect("tar");
    let digest = shown["component"].as_str().unwrap();
    fs::copy(layout.join("blobs").join(digest.replace(':', "/")), &component).unwrap();
    let new = folder.path().join("new.casemate");
    let build = ["bundle", "build", text(&source), "--out", text(&new), "--bundle-version", "2", "--component"];
    site.casemate(&[build.as_slice(), &[text(&component), "--replaces", digest]].concat()).expect(0);

    let shown = site.casemate(&["bundle", "inspect", text(&new)]).expect(0);
    assert_eq!(shown["replaces"], digest);
    let changes = &shown["changes"];
    assert_eq!(changes["gained"], serde_json::json!(["fpe"]));
    assert_eq!(changes["settings"]["word"][1], "other");
    assert_eq!((&changes["other-component"], &changes["new-dependencies"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(*changes, site.casemate(&["bundle", "diff", text(&old), text(&new)]).expect(0));
}

#[test]
fn evidence_of_another_component_is_not_packed() {
    let site = site::bare();
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.casemate");
    build(&site, "clearance", &old, &[]);
    tool(Command::new("tar").arg("-xf").arg(&old).arg("-C").arg(folder.path())).expect("tar");
    let report = folder.path().join("replay.dsse.json");
    fs::copy(folder.path().join("evidence/sbom.dsse.json"), &report).unwrap();
    let out = folder.path().join("new.casemate");
    build(&site, "clearance", &out, &["--evidence", text(&report)]);
    let source = root().join("plugins/disclosure");
    let refused = ["bundle", "build", text(&source), "--out", text(&out), "--evidence", text(&report)];
    let refused = site.command(&refused).output().unwrap();
    assert_eq!(refused.status.code(), Some(UNVERIFIED));
    let printed = String::from_utf8([refused.stdout, refused.stderr].concat()).unwrap();
    assert!(printed.contains("another bundle"), "{printed}");
}

/// A key under a passphrase, and what `trust-root draft --add` takes.
fn new_key(site: &Site, folder: &Path, name: &str, more: &[&str]) -> (PathBuf, String) {
    let path = folder.join(format!("{name}.key"));
    let arguments = ["bundle", "key", name, "--out", text(&path), "--passphrase-fd", "0"];
    let made = with_passphrase(site, &[arguments.as_slice(), more].concat(), "a passphrase of dee\n");
    assert!(made.0, "{}", made.1);
    let made: Value = serde_json::from_str(&made.1).unwrap();
    (path, format!("{name}={}", made["key"].as_str().unwrap()))
}

/// Runs with the passphrase on standard input: whether it succeeded, and what it printed.
fn with_passphrase(site: &Site, arguments: &[&str], passphrase: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passphrase");
    fs::write(&file, passphrase).unwrap();
    let output = site.command(arguments).stdin(fs::File::open(&file).unwrap()).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

#[test]
fn who_may_approve_changes_by_the_old_and_the_new_together() {
    let site = site::bare();
    let folder = tempfile::tempdir().unwrap();
    let (dee_key, dee) = new_key(&site, folder.path(), "dee", &["--p256"]);
    let next = folder.path().join("next.json");
    let path = text(&next);
    let draft = ["bundle", "trust-root", "draft", "--out", path, "--add", &dee];
    site.casemate(&draft).expect(0);
    let ana = site.dir.join("approvers/ana.key");
    let bo = site.dir.join("approvers/bo.key");
    site.casemate(&["bundle", "trust-root", "accept", path]).expect(UNVERIFIED);
    let wrong = ["bundle", "trust-root", "sign", path, "--key", text(&dee_key), "--passphrase-fd", "0"];
    let (done, printed) = with_passphrase(&site, &wrong, "another passphrase\n");
    assert!(!done && printed.contains("passphrase is wrong") && !printed.contains("another passphrase\n"), "{printed}");
    // The new approver and one old one are too few of the old.
    assert!(with_passphrase(&site, &wrong, "a passphrase of dee\n").0);
    site.casemate(&["bundle", "trust-root", "sign", path, "--key", text(&ana)]).expect(0);
    site.casemate(&["bundle", "trust-root", "accept", path]).expect(UNVERIFIED);
    assert_eq!(site.casemate(&["bundle", "trust-root", "show"]).expect(0)["version"], 1);
    site.casemate(&["bundle", "trust-root", "sign", path, "--key", text(&bo)]).expect(0);
    let accepted = site.casemate(&["bundle", "trust-root", "accept", path]).expect(0);
    assert_eq!((accepted["version"].as_u64(), accepted["approvers"].as_array().map(Vec::len)), (Some(2), Some(3)));
    // The same file again is no step forward.
    site.casemate(&["bundle", "trust-root", "accept", path]).expect(UNVERIFIED);

    let bundle = folder.path().join("clearance.casemate");
    build(&site, "clearance", &bundle, &[]);
    let by_dee = ["bundle", "sign", text(&bundle), "--key", text(&dee_key), "--passphrase-fd", "0"];
    assert!(with_passphrase(&site, &by_dee, "a passphrase of dee\n").0);
    site.casemate(&["bundle", "sign", text(&bundle), "--key", text(&bo)]).expect(0);
    let verified = site.casemate(&["bundle", "verify", text(&bundle)]).expect(0);
    assert_eq!(verified["signers"], serde_json::json!(["bo", "dee"]));
    site.casemate(&["plugin", "load", text(&bundle)]).expect(0);
}

/// Runs with a file as descriptor 3.
fn with_secret(site: &Site, arguments: &[&str], secret: &Path) -> site::Ended {
    let command = site.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 3<\"$SECRET\""]).arg(command.get_program()).args(command.get_args());
    let output = shell.env("SECRET", secret).current_dir(root()).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let text = format!("{arguments:?}\n{stdout}{}", String::from_utf8_lossy(&output.stderr));
    site::Ended { code: output.status.code().unwrap_or(-1), json, text }
}

/// Dee's key is made in a token, comes in by a new root, and signs there.
fn an_approver_signs_in_a_token(module: &str, variable: &str, folder: &Path, algorithm: &str) {
    let site = site::bare();
    fs::create_dir(folder.join(algorithm)).unwrap();
    let path = |name: &str| folder.join(algorithm).join(name);
    let (pin, officer) = (path("pin"), path("officer"));
    fs::write(&pin, "the pin of dee").unwrap();
    fs::write(&officer, "the pin of the officer").unwrap();
    let token = ["--module", module, "--module-env", variable, "--label", algorithm];
    let pins = ["--pin-file", text(&pin), "--so-pin-file", text(&officer)];
    site.casemate(&[&["hsm", "init-token"], &token[..], &pins].concat()).expect(0);

    let key = path("dee.key");
    let new = ["bundle", "key", "dee", "--out", text(&key), "--passphrase-fd", "3"];
    let token = ["--token", module, "--module-env", variable, "--token-label", algorithm];
    let kind: &[&str] = if algorithm == "ecdsa-p256" { &["--p256"] } else { &[] };
    let made = with_secret(&site, &[new.as_slice(), &token, kind].concat(), &pin).expect(0);
    assert_eq!(made["algorithm"], algorithm);
    let public = made["key"].as_str().unwrap();
    let file = fs::read_to_string(&key).unwrap();
    assert!(!file.contains("pin") && !file.contains("pkcs8"), "nothing secret: {file}");

    let next = path("next.json");
    let add = format!("dee={public}");
    let draft = ["bundle", "trust-root", "draft", "--out", text(&next), "--add", &add, "--remove", "bo"];
    site.casemate(&draft).expect(0);
    for approver in ["ana", "bo"] {
        let key = site.dir.join(format!("approvers/{approver}.key"));
        site.casemate(&["bundle", "trust-root", "sign", text(&next), "--key", text(&key)]).expect(0);
    }
    let by_dee = ["--key", text(&key), "--passphrase-fd", "3"];
    with_secret(&site, &[&["bundle", "trust-root", "sign", text(&next)], &by_dee[..]].concat(), &pin).expect(0);
    site.casemate(&["bundle", "trust-root", "accept", text(&next)]).expect(0);

    let bundle = path("clearance.casemate");
    build(&site, "clearance", &bundle, &[]);
    let ana = site.dir.join("approvers/ana.key");
    site.casemate(&["bundle", "sign", text(&bundle), "--key", text(&ana)]).expect(0);
    let sign = [&["bundle", "sign", text(&bundle)], &by_dee[..]].concat();
    // Somebody who has the file and not the PIN; then the token is gone.
    let wrong = path("wrong");
    fs::write(&wrong, "another pin").unwrap();
    let refused = with_secret(&site, &sign, &wrong);
    assert!(refused.code != 0 && refused.text.contains("the PIN is wrong"), "{}", refused.text);
    let lost = path("lost.key");
    fs::write(&lost, file.replace(&format!("\"label\": \"{algorithm}\""), "\"label\": \"eve\"")).unwrap();
    let elsewhere = ["bundle", "sign", text(&bundle), "--key", text(&lost), "--passphrase-fd", "3"];
    let refused = with_secret(&site, &elsewhere, &pin);
    assert!(refused.code != 0 && refused.text.contains("eve"), "{}", refused.text);
    site.casemate(&["bundle", "verify", text(&bundle)]).expect(UNVERIFIED);

    assert_eq!(with_secret(&site, &sign, &pin).expect(0)["missing"], 0);
    let verified = site.casemate(&["bundle", "verify", text(&bundle)]).expect(0);
    assert_eq!(verified["signers"], serde_json::json!(["ana", "dee"]));
}

#[test]
fn an_approver_signs_with_a_key_that_an_own_token_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("tokens.conf");
    let storage = folder.path().join("token.sql");
    let slot = |number, storage| format!("[[slots]]\nslot = {number}\ndbtype = \"sqlite\"\ndbargs = {storage:?}\n");
    let second = folder.path().join("second.sql");
    fs::write(&configuration, slot(1, &storage) + &slot(2, &second)).unwrap();
    let variable = format!("KRYOPTIC_CONF={}", text(&configuration));
    for algorithm in ["ed25519", "ecdsa-p256"] {
        an_approver_signs_in_a_token("embedded", &variable, folder.path(), algorithm);
    }
}

#[test]
fn an_approver_signs_with_a_key_in_softhsm() {
    if std::env::var_os("CASEMATE_WITHOUT_SOFTHSM").is_some() {
        return eprintln!("left out: SoftHSM2 is not installed here (CASEMATE_WITHOUT_SOFTHSM)");
    }
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("objects");
    fs::create_dir(&objects).unwrap();
    let configuration = folder.path().join("softhsm2.conf");
    let lines = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", text(&objects));
    fs::write(&configuration, lines).unwrap();
    let variable = format!("SOFTHSM2_CONF={}", text(&configuration));
    for algorithm in ["ed25519", "ecdsa-p256"] {
        an_approver_signs_in_a_token("/usr/lib/softhsm/libsofthsm2.so", &variable, folder.path(), algorithm);
    }
}
