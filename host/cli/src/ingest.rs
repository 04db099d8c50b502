use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use casemate_gate::Document;
use casemate_types::{CompartmentName, Level};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::IngestOptions;
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
                "{} passages added, {} replaced, in {seconds:.1} s ({:.0} a second), embedded by {}; only ciphertext was written",
                ingested.added,
                ingested.replaced,
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
    for path in &options.paths {
        for file in files(path)? {
            let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
            if file.extension().is_some_and(|extension| extension == "jsonl") {
                json_lines(&file, &text, &mut documents)?;
            } else {
                let compartment = compartment.ok_or_else(|| {
                    Failure::new(format!("{} needs a compartment", file.display()))
                        .hint("--compartment NAME --label LEVEL")
                })?;
                let label: Level = options.label.parse().map_err(|error: String| Failure::new(error).with_code(2))?;
                passages(&file, &text, compartment, label, &mut documents);
            }
        }
    }
    if documents.is_empty() && options.delete.is_empty() {
        return Err(Failure::new(
            "there is nothing to ingest: no passage in the files, or no .md, .txt or .jsonl in the folders",
        )
        .with_code(2));
    }
    Ok(documents)
}

/// The files of a path: itself, or every Markdown, text and JSON-lines file below it, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let readable = |path: &Path| path.extension().is_some_and(|e| e == "md" || e == "txt" || e == "jsonl");
    if !path.is_dir() {
        if readable(path) || !path.exists() {
            return Ok(vec![path.to_owned()]);
        }
        return Err(Failure::new(format!("{} is neither .md, .txt nor .jsonl", path.display())).with_code(2));
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

fn json_lines(file: &Path, text: &str, documents: &mut Vec<Document>) -> Result<(), Failure> {
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let document = serde_json::from_str(line).map_err(|error| {
            Failure::caused_by(format!("{} line {}: not a document", file.display(), number + 1), &error)
                .hint("one JSON object a line: id, title, source, compartment, label, text, metadata")
        })?;
        documents.push(document);
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
