//! The software bill of materials of the whole workspace: CycloneDX 1.6 (ECMA-424), JSON. No time and no random serial number, so equal
//! inputs give equal bytes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::packages;
use super::registry::Lock;

/// The document, one line a member, with a component for each package of the lock file and the graph between them.
pub fn cyclonedx(metadata: &Value, lock: &Lock) -> Result<String, String> {
    let all = packages(metadata);
    let references: BTreeMap<&str, String> = all.iter().map(|(id, package)| (*id, purl(package))).collect();
    let mut components: Vec<Value> = all.values().map(|package| component(package, lock)).collect();
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let mut dependencies = Vec::new();
    for node in metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let reference = |id: &Value| id.as_str().and_then(|id| references.get(id)).cloned();
        let mut on: Vec<String> =
            node["deps"].as_array().into_iter().flatten().filter_map(|dep| reference(&dep["pkg"])).collect();
        on.sort_unstable();
        on.dedup();
        dependencies.push(json!({ "ref": reference(&node["id"]), "dependsOn": on }));
    }
    dependencies.sort_by_key(|dependency| dependency["ref"].to_string());
    let version = env!("CARGO_PKG_VERSION");
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": "casemate", "name": "casemate", "version": version,
                "licenses": [{ "expression": "Apache-2.0" }],
            },
        },
        "components": components, "dependencies": dependencies,
    });
    serde_json::to_string_pretty(&document).map(|text| text + "\n").map_err(|error| error.to_string())
}

fn component(package: &Value, lock: &Lock) -> Value {
    let mut component = json!({
        "type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"],
        "purl": purl(package),
    });
    if let Some(sum) = lock.sum(package) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    if let Some(licence) = package["license"].as_str() {
        // Older manifests write `/` where SPDX has `OR`.
        component["licenses"] = json!([{ "expression": licence.replace(" / ", " OR ").replace('/', " OR ") }]);
    }
    component
}

/// The package URL (purl specification, type `cargo`): `+` of a version is escaped in it.
fn purl(package: &Value) -> String {
    let word = |key: &str| package[key].as_str().unwrap_or_default().replace('+', "%2B");
    format!("pkg:cargo/{}@{}", word("name"), word("version"))
}
