//! Local registries as cargo reads them: `NAME-VERSION.crate` files beside an `index/` (the Cargo book, Source Replacement and
//! Registry Index). Cargo compares each file with the index, and the index with the lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{copy, packages, text, write};
use crate::shell;

/// SHA-256 of every crate from a registry, by name and version: the lock file's.
pub struct Lock(BTreeMap<(String, String), String>);

impl Lock {
    /// Reads `Cargo.lock`.
    pub fn read(path: &Path) -> Result<Self, String> {
        let lock = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut sums = BTreeMap::new();
        for block in lock.split("[[package]]") {
            let value = |key: &str| {
                let lines = block.lines().filter_map(|line| line.split_once(" = "));
                lines.filter(|(found, _)| *found == key).map(|(_, value)| value.trim_matches('"').to_owned()).next()
            };
            if let (Some(name), Some(version), Some(sum)) = (value("name"), value("version"), value("checksum")) {
                sums.insert((name, version), sum);
            }
        }
        Ok(Self(sums))
    }

    /// The sum of a package of `cargo metadata`; `None` for our own.
    pub fn sum(&self, package: &Value) -> Option<&str> {
        let key = (package["name"].as_str()?.to_owned(), package["version"].as_str()?.to_owned());
        package["source"].is_string().then(|| self.0.get(&key).map(String::as_str))?
    }
}

/// Every crate of the lock file.
pub fn everything(metadata: &Value, lock: &Lock, out: &Path) -> Result<(), String> {
    let all = packages(metadata);
    let mut registry = Registry::new(out);
    for package in all.values().filter(|package| package["source"].is_string()) {
        registry.add(package, lock)?;
    }
    registry.finish()
}

/// The SDK, and every crate that it is compiled from: all that a policy team needs.
pub fn sdk(metadata: &Value, lock: &Lock, out: &Path) -> Result<(), String> {
    let all = packages(metadata);
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let nodes: BTreeMap<&str, &Value> = nodes.filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let sdk = all.iter().find(|(_, package)| package["name"] == "casemate-sdk");
    let (id, sdk) = sdk.ok_or("cargo metadata names no casemate-sdk")?;
    let mut registry = Registry::new(out);
    let (mut open, mut seen) = (vec![*id], BTreeSet::new());
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let package = all.get(id).ok_or("cargo metadata is not whole")?;
        if package["source"].is_string() {
            registry.add(package, lock)?;
        }
        for dependency in nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            if kinds.into_iter().any(|kind| kind["kind"] != "dev") {
                open.extend(dependency["pkg"].as_str());
            }
        }
    }
    let file = packed(sdk)?;
    let (sum, _) = shell::capture(Command::new("sha256sum").arg(&file))?;
    let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
    registry.put(sdk, &file, &sum)?;
    registry.finish()
}

struct Registry<'a> {
    out: &'a Path,
    /// Lines of the index by file.
    index: BTreeMap<PathBuf, BTreeSet<String>>,
    /// What `sha256sum --check` reads.
    sums: String,
}

impl<'a> Registry<'a> {
    fn new(out: &'a Path) -> Self {
        Self { out, index: BTreeMap::new(), sums: String::new() }
    }

    fn add(&mut self, package: &Value, lock: &Lock) -> Result<(), String> {
        let sum = lock.sum(package).ok_or_else(|| format!("no checksum for {}", package["id"]))?;
        self.put(package, &fetched(package)?, sum)
    }

    fn put(&mut self, package: &Value, file: &Path, sum: &str) -> Result<(), String> {
        let (name, version) = (word(package, "name"), word(package, "version"));
        copy(file, &self.out.join(format!("{name}-{version}.crate")))?;
        self.sums.push_str(&format!("{sum}  {name}-{version}.crate\n"));
        self.index.entry(index_path(name)).or_default().insert(line(package, sum).to_string());
        Ok(())
    }

    /// Writes the index, after every file was compared with its sum.
    fn finish(self) -> Result<(), String> {
        let list = self.out.join("sums");
        write(&list, self.sums.as_bytes())?;
        let check = Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", "sums"])
            .current_dir(self.out)
            .output()
            .map_err(text)?;
        if !check.status.success() {
            return Err(format!("crates are not as locked: {}", String::from_utf8_lossy(&check.stdout)));
        }
        fs::remove_file(list).map_err(text)?;
        for (path, lines) in self.index {
            let lines: String = lines.into_iter().map(|line| line + "\n").collect();
            write(&self.out.join("index").join(path), lines.as_bytes())?;
        }
        Ok(())
    }
}

/// The file that cargo downloaded: beside the folder that it unpacked it to.
fn fetched(package: &Value) -> Result<PathBuf, String> {
    let missing = || format!("{} was not fetched; `cargo fetch --locked` brings it", package["id"]);
    let unpacked = Path::new(word(package, "manifest_path")).parent().ok_or_else(missing)?;
    let registry = unpacked.parent().ok_or_else(missing)?;
    let name = format!("{}-{}.crate", word(package, "name"), word(package, "version"));
    let cache = registry.parent().and_then(Path::parent).zip(registry.file_name());
    let cached = cache.map(|(home, registry)| home.join("cache").join(registry).join(name)).ok_or_else(missing)?;
    if cached.exists() { Ok(cached) } else { Err(missing()) }
}

/// The SDK as `cargo package` packs it.
fn packed(sdk: &Value) -> Result<PathBuf, String> {
    let target = shell::work().join("sdk-package");
    shell::run(
        shell::cargo()
            .args(["package", "--package", "casemate-sdk", "--quiet", "--offline", "--locked"])
            .args(["--no-verify", "--allow-dirty", "--exclude-lockfile", "--target-dir"])
            .arg(&target),
    )?;
    Ok(target.join("package").join(format!("casemate-sdk-{}.crate", word(sdk, "version"))))
}

/// Where the index keeps a crate (the Cargo book, Registry Index, index files).
fn index_path(name: &str) -> PathBuf {
    let name = name.to_lowercase();
    match name.len() {
        1 | 2 => PathBuf::from(format!("{}/{name}", name.len())),
        3 => PathBuf::from(format!("3/{}/{name}", &name[..1])),
        _ => PathBuf::from(format!("{}/{}/{name}", &name[..2], &name[2..4])),
    }
}

/// One line of the index (the Cargo book, Registry Index, JSON schema). Development dependencies are in it, because features may name
/// them; cargo does not look for them.
fn line(package: &Value, sum: &str) -> Value {
    let crates_io = "https://github.com/rust-lang/crates.io-index";
    let ours = !package["source"].is_string();
    let dependencies: Vec<Value> = package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|dependency| {
            let renamed = dependency["rename"].as_str();
            json!({
                "name": renamed.unwrap_or(word(dependency, "name")),
                "package": renamed.map(|_| word(dependency, "name")),
                "req": dependency["req"], "features": dependency["features"], "optional": dependency["optional"],
                "default_features": dependency["uses_default_features"], "target": dependency["target"],
                "kind": dependency["kind"].as_str().unwrap_or("normal"),
                // The SDK is in a registry of ours, what it needs in the public one.
                "registry": ours.then_some(crates_io),
            })
        })
        .collect();
    json!({
        "name": package["name"], "vers": package["version"], "deps": dependencies, "cksum": sum,
        "features": {}, "features2": package["features"], "yanked": false, "links": package["links"], "v": 2,
        "rust_version": package["rust_version"],
    })
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_index_are_those_of_the_book() {
        for (name, path) in [
            ("a", "1/a"),
            ("cc", "2/cc"),
            ("hex", "3/h/hex"),
            ("Inflector", "in/fl/inflector"),
            ("serde", "se/rd/serde"),
        ] {
            assert_eq!(index_path(name), Path::new(path));
        }
    }

    #[test]
    fn a_dependency_under_another_name_keeps_both() {
        let package = json!({"name": "a", "version": "1.0.0", "source": "registry+x", "features": {}, "links": null, "dependencies": [
            {"name": "real", "rename": "nick", "req": "^1", "features": [], "optional": false, "uses_default_features": true,
             "target": null, "kind": null},
            {"name": "tests-only", "rename": null, "req": "^1", "features": [], "optional": false, "uses_default_features": true,
             "target": null, "kind": "dev"}]});
        let line = line(&package, "00");
        assert_eq!(line["deps"][1]["kind"], "dev");
        assert_eq!((&line["deps"][0]["name"], &line["deps"][0]["package"]), (&json!("nick"), &json!("real")));
    }
}
