//! The crate graph that the README draws is the one cargo builds, and it keeps keys, runtimes and networks apart.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::guest::root;

/// Host crates, highest first: an arrow may only point down.
const ORDER: [&str; 24] = [
    "xtask",
    "cli",
    "server",
    "gate",
    "backends",
    "tier",
    "inference",
    "vectors",
    "fhe-owner",
    "fhe",
    "engine",
    "change",
    "bundle",
    "ceremony",
    "audit",
    "embed",
    "custody",
    "fips",
    "hsm",
    "sandbox",
    "softtoken",
    "archive",
    "attest",
    "types",
];

fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    })
}

/// Members of the workspace by name.
fn members() -> BTreeMap<&'static str, &'static Value> {
    let ids: BTreeSet<&str> = texts(&metadata()["workspace_members"]);
    let packages = metadata()["packages"].as_array().unwrap().iter();
    packages.filter(|p| ids.contains(p["id"].as_str().unwrap())).map(|p| (p["name"].as_str().unwrap(), p)).collect()
}

fn texts(array: &'static Value) -> BTreeSet<&'static str> {
    array.as_array().unwrap().iter().map(|each| each.as_str().unwrap()).collect()
}

/// Names of the direct normal dependencies of a package.
fn direct(package: &'static Value) -> BTreeSet<&'static str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|each| each["kind"].is_null()).map(|each| each["name"].as_str().unwrap()).collect()
}

/// Host crates without their prefix, each with the host crates it depends on.
fn host() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let in_host =
        |package: &Value| package["manifest_path"].as_str().unwrap().starts_with(root().join("host").to_str().unwrap());
    let members = members();
    let short = |name: &'static str| name.strip_prefix("casemate-").unwrap_or(name);
    let host: BTreeSet<&str> = members.iter().filter(|(_, package)| in_host(package)).map(|(name, _)| *name).collect();
    host.iter()
        .map(|name| (short(name), direct(members[name]).intersection(&host).map(|each| short(each)).collect()))
        .collect()
}

/// Everything linked into `root` (normal dependencies): name and features of each package.
fn linked(root: &str) -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let nodes: BTreeMap<&str, &'static Value> =
        metadata()["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (n["id"].as_str().unwrap(), n)).collect();
    let names: BTreeMap<&str, &'static str> = metadata()["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut queue = vec![*names.iter().find(|(_, name)| **name == root).unwrap().0];
    let (mut seen, mut found) = (BTreeSet::new(), BTreeMap::<_, BTreeSet<_>>::new());
    while let Some(id) = queue.pop() {
        if !seen.insert(id) {
            continue;
        }
        found.entry(names[id]).or_default().extend(texts(&nodes[id]["features"]));
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            if dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()) {
                queue.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    found
}

#[test]
fn scoring_tier_links_no_key() {
    for tier in ["casemate-inference", "casemate-tier"] {
        let tier = linked(tier);
        assert!(tier.contains_key("casemate-fhe") && tier.contains_key("casemate-vectors"));
        for key in ["casemate-fhe-owner", "casemate-hsm", "cryptoki", "casemate-gate"] {
            assert!(!tier.contains_key(key), "the scoring tier links {key}");
        }
    }
}

#[test]
fn one_crate_sees_the_runtime_and_one_the_scheme() {
    let users = |dependency: &str| -> Vec<&str> {
        let uses = |package: &'static Value| {
            direct(package).iter().any(|each| *each == dependency || each.starts_with(&format!("{dependency}-")))
        };
        members().into_iter().filter(|(_, package)| uses(package)).map(|(name, _)| name).collect()
    };
    assert_eq!(users("wasmtime"), ["casemate-engine"]);
    assert_eq!(users("tfhe"), ["casemate-fhe"]);
}

#[test]
fn arrows_point_down() {
    let host = host();
    assert_eq!(host.keys().copied().collect::<BTreeSet<_>>(), ORDER.into_iter().collect(), "every crate has its place");
    let place = |name: &str| ORDER.iter().position(|each| *each == name).unwrap();
    for (from, targets) in &host {
        for to in targets {
            assert!(place(from) < place(to), "{from} -> {to} points up");
        }
    }
}

#[test]
fn guests_depend_on_nothing_of_the_host() {
    let members = members();
    let host = host();
    for (name, package) in &members {
        let ours: Vec<&str> = direct(package).into_iter().filter(|each| members.contains_key(each)).collect();
        let path = package["manifest_path"].as_str().unwrap();
        if path.contains("/plugins/") || path.contains("/tests/hostile/") {
            assert_eq!(ours, ["casemate-sdk"], "{name}");
        } else if *name == "casemate-sdk" {
            assert!(ours.is_empty(), "{ours:?}");
        } else if host.contains_key(name.strip_prefix("casemate-").unwrap_or(name)) {
            assert!(!ours.contains(&"casemate-sdk"), "{name} depends on the guests' side");
        }
    }
}

#[test]
fn readme_draws_the_real_graph() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("<!-- crate-graph -->").expect("README.md has no `<!-- crate-graph -->`");
    let block = after.split("```").nth(1).unwrap();
    let drawn: BTreeMap<&str, BTreeSet<&str>> = block
        .lines()
        .filter_map(|line| line.split_once("->"))
        .map(|(from, to)| (from.trim(), to.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()))
        .collect();
    assert_eq!(drawn, host());
}

#[test]
fn nothing_we_ship_is_an_http_client() {
    let shipped = linked("casemate-cli");
    assert!(shipped.contains_key("axum") && shipped.contains_key("wasmtime"));
    for client in ["reqwest", "ureq", "curl", "isahc", "attohttpc", "hickory-resolver", "native-tls", "openssl"] {
        assert!(!shipped.contains_key(client), "{client} is linked");
    }
    // TLS is for tiers, under the site's own authority: nobody else's is known.
    let speaks_tls = |name: &str| direct(members()[name]).contains("rustls");
    assert!(members().keys().copied().filter(|name| speaks_tls(name)).eq(["casemate-tier"]));
    for authorities in ["webpki-roots", "webpki-root-certs", "rustls-native-certs", "rustls-platform-verifier"] {
        assert!(!shipped.contains_key(authorities), "{authorities} is linked");
    }
    for (name, client) in [("hyper", "client"), ("hyper-util", "client"), ("hyper-util", "client-legacy")] {
        assert!(!shipped.get(name).is_some_and(|features| features.contains(client)), "{name} has feature {client}");
    }
}

/// FF3-1 is used through a permit, which only a verified approval of custodians makes (its type sees to that), and in no other way.
#[test]
fn nothing_but_a_permit_uses_ff3() {
    let mut callers = Vec::new();
    let mut folders = vec![root().join("host")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Tests make what they like.
            if path.is_dir() && !path.ends_with("tests") && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains("danger::") && text.contains("ff3_") {
                    callers.push(path.strip_prefix(root()).unwrap().display().to_string());
                }
            }
        }
    }
    callers.sort();
    assert_eq!(callers, ["host/custody/src/legacy.rs", "host/hsm/src/acvp.rs"]);
}
