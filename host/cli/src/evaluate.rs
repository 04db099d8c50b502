//! `casemate eval`: quality of retrieval by judgements in the formats of BEIR and TREC.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_gate::{Evaluation, JudgedQuery, Quality, Searched};
use casemate_types::{CompartmentName, UserName};
use clap::Args;
use serde::Deserialize;

use crate::failure::Failure;
use crate::{environment, output};

#[derive(Args)]
pub struct EvalOptions {
    /// Questions: BEIR's queries.jsonl (`_id`, `text`), lines of id, tab and text, or TREC topics (`<top>`).
    #[arg(long, value_name = "FILE")]
    pub queries: PathBuf,
    /// Judgements: BEIR's TSV (query-id, corpus-id, score), or TREC's (query, iteration, document, grade).
    #[arg(long, value_name = "FILE")]
    pub qrels: PathBuf,
    /// On whose behalf; must hold the compartment's key.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// The compartment that holds the documents, under the ids that the judgements name.
    #[arg(long)]
    pub compartment: CompartmentName,
    /// How many results count for recall and MRR; at least 10.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub k: u16,
    /// Search only so many of the closest groups, as the strategy `clustered` does. The collection must be clustered.
    #[arg(long, value_name = "GROUPS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub probes: Option<u16>,
    /// Measure the site's retrieval strategy, as `strategy` of site.toml names it, with at most 64 results. What it finds in other
    /// collections that the user may search does not count.
    #[arg(long, conflicts_with = "probes")]
    pub strategy: bool,
    /// Only the first N judged questions.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

pub fn run(site: &Path, options: &EvalOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let mut judged = judged(&options.queries, &options.qrels)?;
    judged.truncate(options.limit.unwrap_or(usize::MAX));
    let bar = crate::ingest::progress_bar(judged.len(), json);
    let evaluation =
        environment::block_on(environment::with_session(site, &options.user, |gate, session| async move {
            let (compartment, k) = (options.compartment.clone(), usize::from(options.k));
            let searched = match options.strategy {
                true => Searched::Strategy,
                false => Searched::Closest(options.probes.map(usize::from)),
            };
            let work = move || {
                gate.measure_retrieval(&session, &compartment, &judged, (k, searched), |done| {
                    bar.set_position(done as u64)
                })
            };
            let done = tokio::task::spawn_blocking(work).await;
            Ok(done.map_err(|error| Failure::caused_by("the evaluation ended", &error))??)
        }))?;
    if json {
        output::json(&evaluation)?
    } else {
        print(&evaluation)?
    }
    Ok(ExitCode::SUCCESS)
}

fn print(evaluation: &Evaluation) -> Result<(), Failure> {
    let Evaluation { queries, documents, k, encrypted, plaintext, .. } = evaluation;
    output::line(&format!("{queries} judged questions, {documents} documents"))?;
    if evaluation.unjudged > 0 || evaluation.missing > 0 {
        output::line(&format!(
            "{} questions without a relevant document left out; {} relevant documents are not in the collection",
            evaluation.unjudged, evaluation.missing
        ))?;
    }
    output::line(&format!("{:<12} {:>10} {:>10}", "", "encrypted", "plaintext"))?;
    let row = |name: &str, of: fn(&Quality) -> f64| {
        output::line(&format!("{name:<12} {:>10.4} {:>10.4}", of(encrypted), of(plaintext)))
    };
    row("nDCG@10", |quality| quality.ndcg_10)?;
    row(&format!("recall@{k}"), |quality| quality.recall)?;
    row(&format!("MRR@{k}"), |quality| quality.mrr)?;
    output::line(&format!("{:<12} {:>10.2} {:>10.2}", "ms a query", evaluation.encrypted_ms, evaluation.plaintext_ms))?;
    output::line(&format!(
        "{:.4} of the ten closest in clear are among the encrypted search's ten",
        evaluation.overlap_10
    ))
}

/// Questions with their judgements, in the order of the file of questions.
fn judged(queries: &Path, qrels: &Path) -> Result<Vec<JudgedQuery>, Failure> {
    let mut grades: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for (query, document, grade) in judgements(&read(qrels)?).map_err(|problem| in_file(qrels, &problem))? {
        grades.entry(query).or_default().insert(document, grade);
    }
    let questions = questions(&read(queries)?).map_err(|problem| in_file(queries, &problem))?;
    let judged: Vec<JudgedQuery> = questions
        .into_iter()
        .filter_map(|(id, text)| Some(JudgedQuery { text, grades: grades.remove(&id)? }))
        .collect();
    if judged.is_empty() {
        return Err(Failure::new(format!("no question of {} is judged in {}", queries.display(), qrels.display()))
            .hint("the ids of both files must be the same"));
    }
    Ok(judged)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))
}

fn in_file(path: &Path, problem: &str) -> Failure {
    Failure::new(format!("{}: {problem}", path.display())).with_code(2)
}

#[derive(Deserialize)]
struct BeirQuery {
    #[serde(rename = "_id")]
    id: String,
    text: String,
}

/// Id and text of each question.
fn questions(text: &str) -> Result<Vec<(String, String)>, String> {
    match text.trim_start().chars().next() {
        None => Err("the file is empty".to_owned()),
        Some('{') => lines(text)
            .map(|(number, line)| {
                let BeirQuery { id, text } = serde_json::from_str(line)
                    .map_err(|error| format!("line {number}: {error}; wanted are _id and text"))?;
                Ok((id, text))
            })
            .collect(),
        Some('<') => topics(text),
        Some(_) => lines(text)
            .map(|(number, line)| {
                let (id, text) = line
                    .split_once('\t')
                    .ok_or_else(|| format!("line {number}: an id, a tab and a text are wanted"))?;
                Ok((id.trim().to_owned(), text.trim().to_owned()))
            })
            .collect(),
    }
}

/// TREC topics: of each `<top>` the number and the title.
fn topics(text: &str) -> Result<Vec<(String, String)>, String> {
    let field = |topic: &str, name: &str| -> Option<String> {
        let (_, rest) = topic.split_once(&format!("<{name}>"))?;
        let value = rest.split('<').next().unwrap_or(rest);
        Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let topics = text.split("<top>").skip(1).zip(1..).map(|(topic, number)| {
        let topic = topic.split("</top>").next().unwrap_or(topic);
        let wanted = || format!("topic {number}: <num> and <title> are wanted");
        let id = field(topic, "num").ok_or_else(wanted)?;
        let title = field(topic, "title").filter(|title| !title.is_empty()).ok_or_else(wanted)?;
        Ok((id.trim_start_matches("Number:").trim().to_owned(), title))
    });
    topics.collect()
}

/// Query, document and grade of each judgement.
fn judgements(text: &str) -> Result<Vec<(String, String, i64)>, String> {
    let mut found = Vec::new();
    for (number, line) in lines(text) {
        let fields: Vec<&str> = if line.contains('\t') {
            line.split('\t').map(str::trim).collect()
        } else {
            line.split_whitespace().collect()
        };
        let (query, document, grade) = match fields[..] {
            [query, document, grade] | [query, _, document, grade] => (query, document, grade),
            _ => return Err(format!("line {number}: three fields (BEIR) or four (TREC) are wanted")),
        };
        match grade.parse() {
            Ok(grade) => found.push((query.to_owned(), document.to_owned(), grade)),
            // BEIR's first line names the columns.
            Err(_) if number == 1 => {}
            Err(_) => return Err(format!("line {number}: `{grade}` is no grade")),
        }
    }
    Ok(found)
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(number, line)| (number + 1, line)).filter(|(_, line)| !line.trim().is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_in_three_formats_and_damaged_ones_are_named() {
        let wanted = vec![("q1".to_owned(), "What is a pool?".to_owned()), ("q2".to_owned(), "And a lock?".to_owned())];
        let beir = "{\"_id\": \"q1\", \"text\": \"What is a pool?\", \"metadata\": {}}\n{\"_id\": \"q2\", \"text\": \"And a lock?\"}\n";
        assert_eq!(questions(beir).unwrap(), wanted);
        assert_eq!(questions("q1\tWhat is a pool?\n\nq2\tAnd a lock?\n").unwrap(), wanted);
        let trec = "<top>\n<num> Number: q1\n<title> What is\n a pool?\n<desc> long\n</top>\n<top><num>q2<title>And a lock?</top>";
        assert_eq!(questions(trec).unwrap(), wanted);
        for (broken, name) in
            [("", "empty"), ("{\"id\": 1}", "line 1"), ("q1 no tab", "line 1"), ("<top><num>3</top>", "topic 1")]
        {
            assert!(questions(broken).unwrap_err().contains(name), "{broken}");
        }
    }

    #[test]
    fn judgements_are_read_in_both_formats_and_damaged_ones_are_named() {
        let wanted = vec![("q1".to_owned(), "d 7".to_owned(), 2), ("q2".to_owned(), "d9".to_owned(), 0)];
        assert_eq!(judgements("query-id\tcorpus-id\tscore\nq1\td 7\t2\nq2\td9\t0\n").unwrap(), wanted);
        assert_eq!(judgements("q2 0 d9 0\n").unwrap(), wanted[1..]);
        for (broken, name) in [("q1 d7", "line 1"), ("q1\td7\t1\nq1\td8\tgood", "line 2: `good`")] {
            assert!(judgements(broken).unwrap_err().contains(name), "{broken}");
        }
    }
}
