//! `casemate fhe train`, `encrypt-model` and `classify`: models over encrypted vectors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_gate::{Classified, MAX_MODEL_BYTES, Model};
use casemate_types::{CompartmentName, PluginName, UserName};
use clap::Args;

use crate::failure::Failure;
use crate::{environment, output};

#[derive(Args)]
pub struct TrainOptions {
    /// Labelled texts, one a line: the label, a tab, the text.
    pub labelled: PathBuf,
    /// On whose behalf.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// Where the model goes. It is as secret as the texts.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct EncryptOptions {
    /// A model whose weights are in clear.
    pub model: PathBuf,
    /// On whose behalf; must hold the compartment's key.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// Who holds this compartment's key can use the model, and read it.
    #[arg(long)]
    pub compartment: CompartmentName,
    /// Where the encrypted model goes.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct ClassifyOptions {
    /// The model: weights in clear, or encrypted for a compartment whose key the user holds.
    #[arg(long, value_name = "FILE", required_unless_present = "signed", conflicts_with = "signed")]
    pub model: Option<PathBuf>,
    /// The model that two people signed, loaded as a bundle of kind `model` with this subject.
    #[arg(long, value_name = "NAME")]
    pub signed: Option<PluginName>,
    /// On whose behalf.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// The texts.
    #[arg(required_unless_present = "texts_from", conflicts_with = "texts_from")]
    pub texts: Vec<String>,
    /// A file of texts, one a line.
    #[arg(long, value_name = "FILE")]
    pub texts_from: Option<PathBuf>,
}

pub fn train(site: &Path, options: &TrainOptions, json: bool) -> Result<ExitCode, Failure> {
    let labelled = labelled(&options.labelled)?;
    refuse_overwriting(&options.out)?;
    let trained = with_gate(site, &options.user, move |gate, session| Ok(gate.train_model(session, &labelled)?))?;
    write(&options.out, &trained.model)?;
    let (classes, digest) = (trained.model.classes(), trained.model.tier().digest());
    if json {
        output::json(&serde_json::json!({
            "model": options.out, "digest": digest, "classes": classes, "texts": trained.texts,
            "held-out-accuracy": trained.held_out,
        }))?;
    } else {
        output::line(&format!(
            "{}: {} classes ({}) from {} texts; {:.1} % right in texts that were held out (five folds)",
            options.out.display(),
            classes.len(),
            classes.join(", "),
            trained.texts,
            100.0 * trained.held_out
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn encrypt(site: &Path, options: &EncryptOptions, json: bool) -> Result<ExitCode, Failure> {
    let model = read(&options.model)?;
    refuse_overwriting(&options.out)?;
    let compartment = options.compartment.clone();
    let hidden =
        with_gate(site, &options.user, move |gate, session| Ok(gate.encrypt_model(session, &compartment, &model)?))?;
    write(&options.out, &hidden)?;
    let said = format!("{}: encrypted for `{}`", options.out.display(), options.compartment);
    if json {
        output::json(&serde_json::json!({ "model": options.out, "digest": hidden.tier().digest(), "done": said }))?;
    } else {
        output::line(&said)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn classify(site: &Path, options: &ClassifyOptions, json: bool) -> Result<ExitCode, Failure> {
    let given = options.model.as_deref().map(read).transpose()?;
    let signed = options.signed.clone();
    let texts = match &options.texts_from {
        Some(path) => lines(path)?,
        None => options.texts.clone(),
    };
    let asked = texts.clone();
    let found = with_gate(site, &options.user, move |gate, session| {
        let texts: Vec<&str> = asked.iter().map(String::as_str).collect();
        let model = match (given, signed) {
            (Some(model), _) => model,
            (None, Some(name)) => gate.signed_model(&name)?,
            (None, None) => return Err(Failure::new("name a model: --model or --signed").with_code(2)),
        };
        Ok(gate.classify(session, &model, &texts)?)
    })?;
    if json {
        output::json(&serde_json::json!({ "classified": found }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (text, found) in texts.iter().zip(&found) {
        output::line(&line(text, found))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Class, probability, and the beginning of the text.
fn line(text: &str, found: &Classified) -> String {
    let probability =
        found.probability.map(|probability| format!(" {:5.1} %", 100.0 * probability)).unwrap_or_default();
    let close = if found.close { "  (within the error of encryption)" } else { "" };
    format!("{:<20}{probability}  {}{close}", found.class, text.chars().take(80).collect::<String>())
}

/// Does work of the gate in a session, with the network closed.
fn with_gate<T: Send + 'static>(
    site: &Path,
    user: &UserName,
    work: impl FnOnce(&casemate_gate::Gate, &casemate_gate::Session) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    environment::block_on(environment::with_session(site, user, |gate, session| async move {
        let done = tokio::task::spawn_blocking(move || work(&gate, &session)).await;
        done.map_err(|error| Failure::caused_by("the work ended", &error))?
    }))
}

fn read(path: &Path) -> Result<Model, Failure> {
    let failed = |error| Failure::caused_by(format!("cannot read {}", path.display()), &error);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_MODEL_BYTES as u64 {
        let problem = format!("{} has {length} bytes; a model has at most {MAX_MODEL_BYTES}", path.display());
        return Err(Failure::new(problem).with_code(2));
    }
    Model::from_bytes(&fs::read(path).map_err(failed)?).map_err(|error| Failure::from(error).about(path).with_code(2))
}

/// Writes a model for this account alone.
fn write(path: &Path, model: &Model) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error| Failure::caused_by(format!("cannot write {}", path.display()), &error);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&model.to_bytes()?).and_then(|()| file.sync_all()).map_err(failed)
}

fn refuse_overwriting(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::new(format!("{} is there already", path.display())).hint("name another file with --out"));
    }
    Ok(())
}

fn lines(path: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// Label and text of each line.
fn labelled(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let lines = lines(path)?;
    let split = |(number, line): (usize, &String)| match line.split_once('\t') {
        Some((label, text)) if !label.trim().is_empty() && !text.trim().is_empty() => {
            Ok((label.trim().to_owned(), text.trim().to_owned()))
        }
        _ => Err(Failure::new(format!("{}: text {} is not label, tab, text", path.display(), number + 1)).with_code(2)),
    };
    lines.iter().enumerate().map(split).collect()
}
