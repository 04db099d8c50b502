//! The demo's corpus: READMEs and crate documentation of our own dependencies, which lie in cargo's registry on every machine that
//! built us. Real text that nobody here wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::shell;

/// What was written.
pub struct Corpus {
    /// Passages in all.
    pub passages: usize,
    /// Crates they come from.
    pub crates: usize,
    /// Of the passages, those in compartment `cryptography`.
    pub restricted: usize,
}

/// A few thousand passages are enough to search in, and few enough to embed within two minutes on two cores.
const MAX_PASSAGES: usize = 2_400;
const MAX_PER_CRATE: usize = 20;

/// A passage has this many bytes at most, about what the sentence model reads at once.
const PASSAGE: usize = 700;
const SHORTEST: usize = 80;

/// Writes the corpus as JSON lines: compartment `cryptography` (as export-controlled) or `engineering` by the crates' own
/// categories, metadata from their manifests.
pub fn write(path: &Path) -> Result<Corpus, String> {
    let output = shell::cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    // One version of each crate, by name.
    let mut crates: BTreeMap<String, &Value> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten().filter(|package| package["source"].is_string())
    {
        crates.insert(text(package, "name"), package);
    }
    let mut lines = String::new();
    let mut corpus = Corpus { passages: 0, crates: 0, restricted: 0 };
    // Cryptography first, so that the limit never cuts the restricted compartment away.
    let (restricted, open): (Vec<_>, Vec<_>) = crates.values().partition(|package| is_cryptography(package));
    for (package, compartment, label) in restricted
        .into_iter()
        .map(|package| (package, "cryptography", "secret"))
        .chain(open.into_iter().map(|package| (package, "engineering", "internal")))
    {
        if corpus.passages >= MAX_PASSAGES {
            break;
        }
        let passages = passages_of(package);
        if passages.is_empty() {
            continue;
        }
        corpus.crates += 1;
        for (number, (source, passage)) in passages.into_iter().take(MAX_PER_CRATE).enumerate() {
            let name = text(package, "name");
            let line = json!({
                "id": format!("{name}#{number}"),
                "title": format!("{name} {}", text(package, "version")),
                "source": source,
                "compartment": compartment,
                "label": label,
                "text": passage,
                "metadata": {
                    "crate": name,
                    "version": text(package, "version"),
                    "licence": text(package, "license"),
                    "category": package["categories"][0].as_str().unwrap_or("none"),
                },
            });
            lines.push_str(&line.to_string());
            lines.push('\n');
            corpus.passages += 1;
            corpus.restricted += usize::from(compartment == "cryptography");
        }
    }
    fs::write(path, lines).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(corpus)
}

fn text(package: &Value, key: &str) -> String {
    package[key].as_str().unwrap_or_default().to_owned()
}

fn is_cryptography(package: &Value) -> bool {
    package["categories"].as_array().into_iter().flatten().any(|category| {
        category.as_str().is_some_and(|category| category.starts_with("cryptography") || category == "authentication")
    })
}

/// Passages of the README and of the crate documentation, each with its file.
fn passages_of(package: &Value) -> Vec<(String, String)> {
    let Some(folder) = Path::new(package["manifest_path"].as_str().unwrap_or_default()).parent() else {
        return Vec::new();
    };
    let name = format!("{}-{}", text(package, "name"), text(package, "version"));
    let readme = package["readme"].as_str().unwrap_or("README.md");
    let mut out = Vec::new();
    if let Ok(text) = fs::read_to_string(folder.join(readme)) {
        out.extend(cut(&text).into_iter().map(|passage| (format!("{name}/{readme}"), passage)));
    }
    if let Ok(text) = fs::read_to_string(folder.join("src/lib.rs")) {
        let docs: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        out.extend(cut(&docs.join("\n")).into_iter().map(|passage| (format!("{name}/src/lib.rs"), passage)));
    }
    out
}

/// Cuts Markdown at blank lines into passages of prose; badges, tables and code are left out.
fn cut(markdown: &str) -> Vec<String> {
    let mut passages = Vec::new();
    let mut passage = String::new();
    let mut in_code = false;
    let mut flush = |passage: &mut String| {
        if passage.len() >= SHORTEST {
            passages.push(std::mem::take(passage).trim().to_owned());
        }
        passage.clear();
    };
    for paragraph in markdown.split("\n\n") {
        let fences = paragraph.lines().filter(|line| line.trim_start().starts_with("```")).count();
        let code = in_code || fences > 0;
        in_code ^= fences % 2 == 1;
        let start = paragraph.trim_start();
        if code || start.starts_with(['|', '<', '!', '[', '#']) && !start.contains(". ") {
            continue;
        }
        let prose = paragraph.trim();
        if passage.len() + prose.len() > PASSAGE {
            flush(&mut passage);
        }
        passage.push_str(&prose.chars().take(PASSAGE).collect::<String>());
        passage.push_str("\n\n");
    }
    flush(&mut passage);
    passages
}
