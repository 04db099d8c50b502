//! Rebuild and compare: what two people signed elsewhere is what the sources give here.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use casemate_types::Digest;
use wasmparser::{Parser, Payload};

use crate::bundle::read;
use crate::failure::{Failure, code};
use crate::output;
use crate::plugin::compile::{BUILT_WITH, BuiltWith, Sources, built_with, component};

/// Compiles `source` afresh and offline, and compares the component with that of `bundle` (a bundle, or a component in a file).
/// Nothing that was compiled before is used. Exit code 4 when they differ.
pub fn run(bundle: &Path, source: &Path, registry: Option<&Path>, json: bool) -> Result<ExitCode, Failure> {
    let theirs = component_in(bundle)?;
    // Cargo runs in the plugin's folder.
    let source = &fs::canonicalize(source)
        .map_err(|error| Failure::caused_by(format!("cannot find {}", source.display()), &error))?;
    let fresh = tempfile::tempdir().map_err(|error| Failure::caused_by("cannot make a folder to build in", &error))?;
    let sources =
        Sources { offline: true, registry: registry.map(Path::to_owned), target: Some(fresh.path().join("target")) };
    let ours = component(source, &sources)?;
    let (expected, found) = (Digest::of(&theirs), Digest::of(&ours));
    if expected == found {
        if json {
            output::json(&serde_json::json!({ "equal": true, "component": found }))?;
        } else {
            output::line(&format!("{} gives the component of {}: {found}", source.display(), bundle.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut failure = Failure::new(format!(
        "{} does not give the component of {}: {found} here, {expected} there",
        source.display(),
        bundle.display()
    ))
    .with_code(code::VERIFICATION)
    .hint("do not activate it; ask its builder for the sources, the lock file and the toolchain");
    for difference in differences(&theirs, &ours, &built_with(source, &sources)?) {
        failure = failure.because(difference);
    }
    Err(failure)
}

fn component_in(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read(path)?;
    if bytes.starts_with(b"\0asm") {
        return Ok(bytes);
    }
    casemate_bundle::component_of(&bytes).map_err(|error| Failure::from(error).about(path))
}

/// What differs, most telling first: toolchain, packages, then the first section.
fn differences(theirs: &[u8], ours: &[u8], here: &BuiltWith) -> Vec<String> {
    let mut found = Vec::new();
    match stated(theirs) {
        None => found.push("the bundle does not say what it was compiled with".to_owned()),
        Some(there) => {
            if there.rustc != here.rustc {
                found.push(format!("the toolchain: {} there, {} here", there.rustc, here.rustc));
            }
            if there.lock != here.lock {
                found.push("the lock file: other packages or versions of them".to_owned());
            }
            if found.is_empty() {
                found.push(
                    "toolchain and packages are the same: the sources differ, or are not what was signed".to_owned(),
                );
            }
        }
    }
    found.extend(first_difference(theirs, ours));
    found
}

/// What a component says it was compiled with.
fn stated(component: &[u8]) -> Option<BuiltWith> {
    Parser::new(0).parse_all(component).filter_map(Result::ok).find_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == BUILT_WITH => serde_json::from_slice(section.data()).ok(),
        _ => None,
    })
}

/// The first section, of the component or of a module in it, that is not the same, with its place in the bundle's component.
fn first_difference(theirs: &[u8], ours: &[u8]) -> Option<String> {
    let (there, here) = (sections(theirs), sections(ours));
    let place = there.iter().zip(&here).position(|(there, here)| there.name != here.name || there.bytes != here.bytes);
    let place = place.unwrap_or(there.len().min(here.len()));
    Some(match (there.get(place), here.get(place)) {
        (Some(there), Some(here)) if there.name == here.name => format!(
            "first section that differs: {} at byte {} ({} bytes there, {} here)",
            there.name,
            there.at,
            there.bytes.len(),
            here.bytes.len()
        ),
        (Some(there), Some(here)) => format!("at byte {} there is {}, here {}", there.at, there.name, here.name),
        (Some(there), None) => format!("at byte {} there is {}, here is nothing more", there.at, there.name),
        (None, Some(here)) => format!("there is nothing more, here {}", here.name),
        (None, None) => return None,
    })
}

struct Section<'a> {
    name: String,
    at: usize,
    bytes: &'a [u8],
}

/// Sections in order; those of an inner module or component follow its beginning. What does not parse ends the list.
fn sections(component: &[u8]) -> Vec<Section<'_>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
        let (name, range) = match &payload {
            Payload::CustomSection(section) => (format!("custom section `{}`", section.name()), section.range()),
            // The one section that is read function by function.
            Payload::CodeSectionStart { range, .. } => ("code section".to_owned(), range.clone()),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } | Payload::CodeSectionEntry(_) => continue,
            other => match other.as_section() {
                Some((id, range)) => (format!("section {id}"), range),
                None => continue,
            },
        };
        let (at, bytes) = (range.start, component.get(range).unwrap_or_default());
        found.push(Section { name, at, bytes });
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use wasm_encoder::{Component, CustomSection};

    use super::*;

    fn made(sections: &[(&str, &[u8])], built: Option<&BuiltWith>) -> Vec<u8> {
        let mut component = Component::new();
        for (name, data) in sections {
            component.section(&CustomSection { name: (*name).into(), data: (*data).into() });
        }
        if let Some(built) = built {
            let data = serde_json::to_vec(built).unwrap();
            component.section(&CustomSection { name: BUILT_WITH.into(), data: data.into() });
        }
        component.finish()
    }

    fn built(rustc: &str, lock: &[u8]) -> BuiltWith {
        BuiltWith { rustc: rustc.to_owned(), lock: Digest::of(lock) }
    }

    #[test]
    fn toolchain_lock_file_and_section_are_named_apart() {
        let here = built("rustc 2", b"packages");
        let ours = made(&[("a", b"1"), ("b", b"2")], Some(&here));
        let cases = [
            (built("rustc 1", b"packages"), "the toolchain: rustc 1 there, rustc 2 here"),
            (built("rustc 2", b"others"), "the lock file"),
            (built("rustc 2", b"packages"), "the sources differ"),
        ];
        for (there, named) in cases {
            let found = differences(&made(&[("a", b"1"), ("b", b"3")], Some(&there)), &ours, &here);
            assert!(found[0].contains(named), "{found:?}");
            assert!(found.last().unwrap().contains("custom section `b`"), "{found:?}");
        }
        let found = differences(&made(&[("a", b"1")], None), &ours, &here);
        assert!(found[0].contains("does not say"), "{found:?}");
        assert!(found.last().unwrap().contains("here custom section `b`"), "{found:?}");
    }

    #[test]
    fn garbage_for_a_component_is_a_difference_and_no_panic() {
        let here = built("rustc 2", b"packages");
        let ours = made(&[("a", b"1")], Some(&here));
        for end in 0..ours.len() {
            assert!(!differences(&ours[..end], &ours, &here).is_empty(), "{end}");
        }
    }
}
