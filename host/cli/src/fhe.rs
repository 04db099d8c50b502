use std::path::Path;
use std::process::ExitCode;

use casemate_fhe::{Params, instructions};
use serde::Serialize;

use crate::args::FheCommand;
use crate::failure::Failure;
use crate::{classify, output};

/// Encrypted search: what its settings cost; models over encrypted vectors.
pub fn run(site: &Path, command: FheCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        FheCommand::Classify(options) => classify::classify(site, &options, json),
        FheCommand::EncryptModel(options) => classify::encrypt(site, &options, json),
        FheCommand::Settings { dimension } => settings(dimension, json),
        FheCommand::Train(options) => classify::train(site, &options, json),
    }
}

/// One offered setting. Bytes are exact, per document of a full group where it says so; the error is the noise budget's.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    block: usize,
    body_bits: u32,
    reply_bits: u32,
    documents_per_group: usize,
    at_rest_per_document: f64,
    memory_per_document: f64,
    query: usize,
    reply_per_document: f64,
    score_error: f64,
    default: bool,
}

impl Row {
    fn new(params: &Params, default: &Params) -> Self {
        let per_document = |bytes: usize| bytes as f64 / params.documents_per_group() as f64;
        Self {
            block: params.block(),
            body_bits: params.body_bits(),
            reply_bits: params.reply_bits(),
            documents_per_group: params.documents_per_group(),
            at_rest_per_document: per_document(params.group_bytes()),
            memory_per_document: per_document(params.memory_bytes()),
            query: params.query_bytes(),
            reply_per_document: per_document(params.reply_bytes()),
            score_error: params.noise_budget().total(),
            default: params == default,
        }
    }
}

fn settings(dimension: usize, json: bool) -> Result<ExitCode, Failure> {
    let refuse = |error| Failure::caused_by("cannot list the settings", &error).with_code(2);
    let offered = Params::offered(dimension).map_err(refuse)?;
    let (block, reply) = (Params::default().block(), Params::default().reply_bits());
    let default = Params::new(dimension, block).and_then(|params| params.with_reply_bits(reply)).map_err(refuse)?;
    let rows: Vec<Row> = offered.iter().map(|params| Row::new(params, &default)).collect();
    if json {
        output::json(&serde_json::json!({ "dimension": dimension, "settings": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "Settings of encrypted search at {dimension} dimensions; scored with {} on this machine.\n",
        instructions()
    ))?;
    output::line("block  body  reply  docs a  at rest  in memory      query    reply    RMS error")?;
    output::line("   b   bits   bits   group   B/doc     B/doc          B    B/doc   of a score")?;
    for row in &rows {
        output::line(&format!(
            "{:>4}  {:>5}  {:>5}  {:>6}  {:>6.0}  {:>8.0}  {:>10}  {:>7.2}    {:.1e}{}",
            row.block,
            row.body_bits,
            row.reply_bits,
            row.documents_per_group,
            row.at_rest_per_document,
            row.memory_per_document,
            row.query,
            row.reply_per_document,
            row.score_error,
            if row.default { "  <- default" } else { "" },
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
