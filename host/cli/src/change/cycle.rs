//! The way of a change into a site: received, staged, approved, active.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_bundle::Difference;
use casemate_gate::{ChangeLine, Gate, GateError, Request, StagingReport};
use casemate_types::{Digest, UserName};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::bundle::args::KeyOptions;
use crate::bundle::{changes, signer};
use crate::failure::Failure;
use crate::{environment, output};

#[derive(Args)]
pub struct ReceiveOptions {
    /// The bundle, signed by two.
    bundle: PathBuf,
    /// Who asks for it: a user of the site, who cannot approve it.
    #[arg(long = "as", value_name = "USER")]
    user: UserName,
}

#[derive(Args)]
pub struct ApproveOptions {
    /// The change, as `list` shows it, or the first digits of it.
    change: String,
    /// The digest that `show` printed under "approve": what you have read. Nothing else is signed.
    #[arg(long, value_name = "DIGEST")]
    seen: Digest,
    /// Why a request may be allowed that was denied, as REQUEST=WHY. One for each that `show` lists.
    #[arg(long, value_name = "REQUEST=WHY")]
    reason: Vec<String>,
    #[command(flatten)]
    key: KeyOptions,
}

#[derive(Args)]
pub struct ShadowOptions {
    /// The change, as `list` shows it, or the first digits of it.
    change: String,
    /// Begin. Ends with the server, or by `--off`.
    #[arg(long, conflicts_with = "off")]
    on: bool,
    /// End.
    #[arg(long)]
    off: bool,
}

pub fn receive(site: &Path, options: &ReceiveOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let raw = crate::bundle::read(&options.bundle)?;
    let line = environment::block_on(environment::with_session(site, &options.user, |gate, session| async move {
        Ok(gate.receive_change(&session, &raw).await?)
    }));
    let line =
        line.map_err(|error| error.hint("a site that is served takes it at POST /v1/changes, with the user's token"))?;
    say(&line, json)
}

pub fn list(site: &Path, json: bool) -> Result<ExitCode, Failure> {
    let lines = casemate_gate::changes_of(site)?;
    if json {
        output::json(&lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    if lines.is_empty() {
        output::line("no change is under way")?;
    }
    for line in &lines {
        output::line(&words(line))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn show(site: &Path, change: &str, json: bool) -> Result<ExitCode, Failure> {
    let content = find(site, change)?;
    let (line, seen, report) = casemate_gate::change_of(site, content)?;
    let digest = seen.as_ref().map(casemate_change::cycle::Seen::digest).transpose()?;
    if json {
        output::json(&serde_json::json!({ "change": line, "seen": seen, "approve": digest, "report": report }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&words(&line))?;
    if let Some(report) = &report {
        say_report(report)?;
    }
    if let (Some(seen), Some(digest)) = (&seen, digest) {
        output::line(&format!("changes against generation {}", seen.generation))?;
        say_difference(&seen.difference)?;
        output::line(&format!(
            "settings {}, report {}, until {}\napprove {digest}\n  casemate change approve {} --seen {digest} --key FILE{}",
            seen.settings,
            seen.report,
            seen.expires,
            content.hex().get(..12).unwrap_or_default(),
            seen.newly_allowed.iter().map(|request| format!(" --reason {request}=WHY")).collect::<String>(),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As `bundle diff` says it. A document is shown value by value by `bundle inspect`.
fn say_difference(difference: &Value) -> Result<(), Failure> {
    if let Ok(difference) = serde_json::from_value::<Difference>(difference.clone()) {
        return changes(&difference);
    }
    match difference {
        Value::Null => output::line("  nothing of this name was active: all of it is new"),
        document => output::line(&format!(
            "  {}; each value: `casemate bundle inspect` of the bundle",
            output::plain(&document.to_string())
        )),
    }
}

pub fn stage(site: &Path, change: &str, json: bool) -> Result<ExitCode, Failure> {
    let content = find(site, change)?;
    environment::prepare(site)?;
    environment::lock_down()?;
    let report = environment::block_on(async {
        match Gate::open(site).await {
            Ok(gate) => {
                let bar = if json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
                if let Ok(style) = ProgressStyle::with_template("  {pos} runs replayed, {per_sec}") {
                    bar.set_style(style);
                }
                let report = gate.stage_change(content, |done| bar.set_position(done)).await;
                bar.finish_and_clear();
                Ok::<_, Failure>(report?)
            }
            Err(GateError::InUse { .. }) => asked(site, Request::Stage, content),
            Err(error) => Err(error.into()),
        }
    })?;
    if json {
        output::json(&report)?;
    } else {
        say_report(&report)?;
        output::line("next: each approver reads `casemate change show` and approves")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn shadow(site: &Path, options: &ShadowOptions, json: bool) -> Result<ExitCode, Failure> {
    let content = find(site, &options.change)?;
    if options.on || options.off {
        let request = if options.on { Request::Shadow } else { Request::Unshadow };
        casemate_gate::ask_beside(site, request, content.to_string().as_bytes()).map_err(|error| match error {
            GateError::InUse { .. } => Failure::new("no server answers: a shadow runs beside `casemate serve`"),
            error => error.into(),
        })?;
    }
    let summary = casemate_gate::shadow_of(site, content)?;
    if json {
        output::json(&summary)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("{} live runs were done by both", summary.runs))?;
    for request in &summary.newly_allowed {
        output::line(&format!("  WOULD BE ALLOWED {request}"))?;
    }
    for (outcome, count) in &summary.counts {
        output::line(&format!("  {} {count}", serde_json::json!(outcome).as_str().unwrap_or_default()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn approve(site: &Path, options: &ApproveOptions, json: bool) -> Result<ExitCode, Failure> {
    let content = find(site, &options.change)?;
    let pairs = options.reason.iter().map(|text| environment::pair(text));
    let reasons: BTreeMap<String, String> = pairs.collect::<Result<_, _>>()?;
    let key = signer(site, &options.key)?;
    let line = casemate_gate::approve_change(site, content, options.seen, reasons, &key)?;
    say(&line, json)
}

pub fn activate(site: &Path, change: &str, json: bool) -> Result<ExitCode, Failure> {
    let content = find(site, change)?;
    environment::prepare(site)?;
    environment::lock_down()?;
    let active: Value = environment::block_on(async {
        match Gate::open_without_plugins(site) {
            Ok(gate) => Ok(serde_json::json!(gate.activate_change(content).await?)),
            Err(GateError::InUse { .. }) => asked(site, Request::Activate, content),
            Err(error) => Err(Failure::from(error)),
        }
    })?;
    if json {
        output::json(&active)?;
    } else {
        let name = active["name"].as_str().unwrap_or_default();
        output::line(&format!("{name} {} is active in generation {}", active["version"], active["generation"]))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the process that has the site open.
fn asked<T: serde::de::DeserializeOwned>(site: &Path, request: Request, content: Digest) -> Result<T, Failure> {
    let reply = casemate_gate::ask_beside(site, request, content.to_string().as_bytes())?;
    serde_json::from_value(reply).map_err(|error| Failure::caused_by("the server's answer is none", &error))
}

/// The one change whose digest begins so.
fn find(site: &Path, text: &str) -> Result<Digest, Failure> {
    environment::require_site(site)?;
    let wanted = text.trim_start_matches("sha256:");
    let changes = casemate_gate::changes_of(site)?;
    let mut found = changes.iter().filter(|line| wanted.len() >= 8 && line.change.hex().starts_with(wanted));
    match (found.next(), found.next()) {
        (Some(line), None) => Ok(line.change),
        (None, _) => Err(Failure::new(format!("there is no change `{text}`"))
            .hint("casemate change list; at least eight digits say which one")),
        (Some(_), Some(_)) => Err(Failure::new(format!("more than one change begins with `{text}`"))),
    }
}

fn say(line: &ChangeLine, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(line)?
    } else {
        output::line(&words(line))?
    }
    Ok(ExitCode::SUCCESS)
}

fn words(line: &ChangeLine) -> String {
    let approvers = if line.approvers.is_empty() {
        String::new()
    } else {
        format!(", approved by {}", line.approvers.join(" and "))
    };
    let problem = line.problem.as_ref().map(|why| format!("\n  {}", output::plain(why))).unwrap_or_default();
    let (change, name, version, state) = (line.change.hex(), &line.name, line.version, &line.state);
    format!(
        "{} {name} {version}: {state}, asked for by {}{approvers}{problem}",
        change.get(..12).unwrap_or_default(),
        line.requester
    )
}

fn say_report(report: &StagingReport) -> Result<(), Failure> {
    output::line(&format!(
        "staging report of {} for `{}`, {} version {}, against generation {}; counts until {}",
        report.made, report.site, report.name, report.version, report.generation, report.expires
    ))?;
    if let Some(why) = &report.not_replayed {
        output::line(&format!("  nothing was replayed: {why}"))?;
    }
    if let Some(trial) = &report.trial {
        output::line(&trial.lines(&report.name).join("\n"))?;
    }
    Ok(())
}
