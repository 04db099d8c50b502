use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use casemate_gate::Document;
use casemate_types::{CompartmentName, Level};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::args::IngestOptions;
use crate::extract::{self, Kind};
use crate::failure::Failure;
use crate::{environment, output};

pub fn run(site: &Path, options: &IngestOptions, json: bool) -> Result<ExitCode, Failure> {
    let compartment = options.compartment.as_deref().map(parse_compartment).transpose()?;
    let documents = read_all(options, compartment.as_ref())?;
    environment::prepare(site)?;
    environment::lock_down()?;
    environment::block_on(environment::with_session(site, &options.user, |gate, session| async move {
        let ids = options.delete.clone();
        // Embedding and encryption use every core; the async runtime only waits.
        tokio::task::spawn_blocking(move || {
            if let (false, Some(compartment)) = (ids.is_empty(), compartment) {
                let deleted = gate.delete(&session, &compartment, &ids)?;
                return report_deleted(deleted, json);
            }
            let bar = progress_bar(documents.len(), json);
            let started = Instant::now();
            let ingested = gate.ingest(&session, &documents, |done| bar.set_position(done as u64))?;
            bar.finish_and_clear();
            if json {
                return output::json(&ingested);
            }
            let seconds = started.elapsed().as_secs_f64();
            output::line(&format!(
                "{} passages added, {} replaced, {} there already, in {seconds:.1} s ({:.0} a second), embedded by {}; only ciphertext was written",
                ingested.added,
                ingested.replaced,
                ingested.unchanged,
                documents.len() as f64 / seconds,
                ingested.embedder
            ))
        })
        .await
        .map_err(|error| Failure::caused_by("the ingest stopped", &error))??;
        Ok(ExitCode::SUCCESS)
    }))
}

fn report_deleted(deleted: usize, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&serde_json::json!({ "deleted": deleted }));
    }
    if deleted == 0 {
        return output::line("nothing deleted: the compartment holds no passage of these ids");
    }
    output::line(&format!("{deleted} passages deleted; their groups were encrypted anew"))
}

pub fn progress_bar(documents: usize, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(documents as u64);
    if let Ok(style) = ProgressStyle::with_template("  {wide_bar} {pos}/{len} passages, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn parse_compartment(text: &str) -> Result<CompartmentName, Failure> {
    text.parse().map_err(|error: casemate_types::NameError| Failure::new(error.to_string()).with_code(2))
}

fn read_all(options: &IngestOptions, compartment: Option<&CompartmentName>) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let label: Level = options.label.parse().map_err(|error: String| Failure::new(error).with_code(2))?;
    let all: Vec<PathBuf> =
        options.paths.iter().map(|path| files(path)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    for file in all {
        let place = || {
            let needed = || {
                Failure::new(format!("{} needs a compartment", file.display())).hint("--compartment NAME --label LEVEL")
            };
            compartment.ok_or_else(needed).map(|compartment| (compartment, label))
        };
        let text = match Kind::of(&file) {
            None => fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?,
            Some(kind) => match extract::text(&file, kind) {
                Err(error) if options.skip_unreadable => {
                    eprintln!("left out: {error}");
                    continue;
                }
                text => text?,
            },
        };
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            json_lines(&file, &text, place, &mut documents)?;
        } else {
            let (compartment, label) = place()?;
            passages(&file, &text, compartment, label, &mut documents);
        }
    }
    if documents.is_empty() && options.delete.is_empty() {
        return Err(Failure::new(format!(
            "there is nothing to ingest: no passage in the files, or no file of these kinds in the folders: {}",
            KINDS.join(", ")
        ))
        .with_code(2));
    }
    Ok(documents)
}

/// What is read, by the ends of names.
const KINDS: [&str; 7] = ["md", "txt", "jsonl", "html", "htm", "xhtml", "pdf"];

/// The files of a path: itself, or every file of a readable kind below it, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let readable = |path: &Path| {
        path.extension()
            .and_then(|end| end.to_str())
            .is_some_and(|end| KINDS.contains(&end.to_ascii_lowercase().as_str()))
    };
    if !path.is_dir() {
        if readable(path) || !path.exists() {
            return Ok(vec![path.to_owned()]);
        }
        return Err(Failure::new(format!("{} is none of: {}", path.display(), KINDS.join(", "))).with_code(2));
    }
    let mut found = Vec::new();
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| unreadable(path, &error))?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if readable(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::caused_by(format!("cannot read {}", path.display()), error)
}

/// A line of a BEIR corpus.
#[derive(Deserialize)]
struct Beir {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

fn json_lines<'a>(
    file: &Path,
    text: &str,
    place: impl Fn() -> Result<(&'a CompartmentName, Level), Failure>,
    documents: &mut Vec<Document>,
) -> Result<(), Failure> {
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |error: serde_json::Error| {
            Failure::caused_by(format!("{} line {}: not a document", file.display(), number + 1), &error)
                .hint("one JSON object a line: id, title, source, compartment, label, text, metadata; or BEIR's _id, title, text")
        };
        let value: serde_json::Value = serde_json::from_str(line).map_err(wrong)?;
        if value.get("_id").is_none() {
            documents.push(serde_json::from_value(value).map_err(wrong)?);
            continue;
        }
        let Beir { id, title, text } = serde_json::from_value(value).map_err(wrong)?;
        let (compartment, label) = place()?;
        let (source, compartment) = (file.display().to_string(), compartment.clone());
        // Titles are part of what is searched, as BEIR does it.
        let text = if title.is_empty() { text } else { format!("{title}. {text}") };
        documents.push(Document { id, title, source, compartment, label, text, metadata: BTreeMap::new() });
    }
    Ok(())
}

/// Longest passage cut from a file, in bytes: about what the sentence model reads at once.
const PASSAGE: usize = 900;

/// Cuts a file at blank lines into passages.
fn passages(file: &Path, text: &str, compartment: &CompartmentName, label: Level, documents: &mut Vec<Document>) {
    let title = file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let mut push = |passage: &str, number: usize| {
        documents.push(Document {
            id: format!("{}#{number}", file.display()),
            title: title.clone(),
            source: file.display().to_string(),
            compartment: compartment.clone(),
            label,
            text: passage.trim().to_owned(),
            metadata: BTreeMap::new(),
        });
    };
    let mut passage = String::new();
    let mut number = 0;
    for paragraph in text.split("\n\n").flat_map(cut).filter(|paragraph| !paragraph.trim().is_empty()) {
        if !passage.is_empty() && passage.len() + paragraph.len() > PASSAGE {
            push(&passage, number);
            number += 1;
            passage.clear();
        }
        passage.push_str(paragraph.trim());
        passage.push_str("\n\n");
    }
    if !passage.trim().is_empty() {
        push(&passage, number);
    }
}

/// Cuts an overlong paragraph at character boundaries.
fn cut(paragraph: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = paragraph;
    while rest.len() > PASSAGE {
        let mut at = PASSAGE;
        while !rest.is_char_boundary(at) {
            at -= 1;
        }
        let (piece, tail) = rest.split_at(at);
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlong_paragraphs_are_cut_on_character_boundaries_without_loss() {
        let text = "ü".repeat(PASSAGE);
        let pieces = cut(&text);
        assert!(pieces.iter().all(|piece| piece.len() <= PASSAGE));
        assert_eq!(pieces.concat(), text);
    }
}
