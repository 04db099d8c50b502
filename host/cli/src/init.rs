use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_gate::{Founding, SiteConfig};
use casemate_hsm::probe::Outcome;

use crate::args::InitOptions;
use crate::failure::Failure;
use crate::{custodian, environment, output};

mod ceremony;

const EXAMPLE: &str = include_str!("site.example.toml");
const SOFTHSM: &str = "libsofthsm2.so";
pub const EMBEDDED: &str = "libcasemate_softtoken.so";

pub fn run(site: &Path, options: &InitOptions, json: bool) -> Result<ExitCode, Failure> {
    check(options)?;
    // Everything that the transcript can be refused for without a token.
    let ceremony =
        options.from_ceremony.as_deref().map(|transcript| ceremony::verified(transcript, options)).transpose()?;
    let config_toml = match &options.config {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?,
        None => example(options)?,
    };
    let founding = match (&options.roster, &options.approval) {
        (Some(roster), Some(approval)) => {
            let roster = custodian::read_roster(site, Some(roster))?;
            Some(Founding { roster, approval: custodian::read_envelope(approval)? })
        }
        _ => None,
    };
    // Before anything is made: a configuration that cannot be read is refused below.
    if let Ok(config) = toml::from_str::<SiteConfig>(&config_toml) {
        crate::hsm::refuse_unfit(site, &config)?;
    }
    let before = Contents::of(site);
    casemate_gate::prepare(site, &config_toml)?;
    let config = SiteConfig::read(site)?;
    write_token_configuration(site, &config)?;
    environment::set(site, &config)?;
    environment::lock_down()?;

    let approvers: Vec<&str> = options.approvers.iter().map(String::as_str).collect();
    let progress = |step: &str| {
        if !json {
            let _ = output::line(&format!("  {step}"));
        }
    };
    let created = match &ceremony {
        None => casemate_gate::create(site, &config, &approvers, founding.as_ref(), &progress).map_err(Failure::from),
        Some(verified) => ceremony::taken(verified, site, &config, options).and_then(|taken| {
            casemate_gate::create_from(site, &config, &approvers, founding.as_ref(), taken, &progress)
                .map_err(Failure::from)
        }),
    };
    let created = created.map_err(|failure| {
        // A ceremony's tokens were not made here, and nothing was made in them.
        if ceremony.is_some() || software_below(site, &config) {
            before.restore(site);
            return failure;
        }
        failure.hint("a token that was initialised keeps its PINs, which are in pins/; erase it with its maker's tool before the next attempt")
    })?;
    if json {
        output::json(&serde_json::json!({
            "site": site,
            "rehearsal": created.rehearsal,
            "token": { "label": created.token.label, "model": created.token.model, "serial": created.token.serial },
            "backup": created.backup.as_ref().map(|token| serde_json::json!({ "label": token.label, "model": token.model, "serial": token.serial })),
            "probe": created.probe,
            "keys": created.keys.iter().map(|(name, key)| serde_json::json!({ "name": name, "class": key.class.to_string(), "check": key.check })).collect::<Vec<_>>(),
            "approvers": created.approvers,
            "log-key": created.verifier_key,
        }))?;
    } else {
        output::line(&format!(
            "\nSite `{}` is ready in {}.\n  token      {} {} (serial {})\n  probed     fit for profile {}; what the token does not enforce is compensated: {}\n  keys       {} made in tokens, none outside them\n  approvers  {} (two signatures a bundle)\n  log key    {}\n\n{}\nNext: build, sign and load plugins (`casemate plugin --help`), then `casemate ingest`.",
            config.name,
            site.display(),
            created.token.manufacturer.trim(),
            created.token.model.trim(),
            match &created.backup {
                Some(backup) => format!(
                    "{}), backup {} {} (serial {}",
                    created.token.serial.trim(),
                    backup.manufacturer.trim(),
                    backup.model.trim(),
                    backup.serial.trim()
                ),
                None => created.token.serial.trim().to_owned(),
            },
            created.probe.profile,
            created.probe.with(Outcome::Compensated).join(", "),
            created.keys.len(),
            created.approvers.join(", "),
            created.verifier_key,
            match created.rehearsal {
                true =>
                    "REHEARSAL: one person can open this site. PINs, credentials and approver keys lie in its folder, and every record says so.",
                false =>
                    "Nobody knows the PINs of its tokens: `casemate custodian open` opens it. Credentials and approver keys lie in its folder: hand them over.",
            },
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in the folders that `init` fills.
struct Contents(std::collections::BTreeSet<PathBuf>);

/// The folders with tokens, and what belongs to them. Findings of the probe stay, for whoever asks why.
const FILLED: [&str; 7] = ["approvers", "log", "pair.json", "pins", "token", "trust", "users"];

impl Contents {
    fn of(site: &Path) -> Self {
        let mut found = std::collections::BTreeSet::new();
        FILLED.iter().for_each(|name| walk(&site.join(name), &mut |path| found.extend([path.to_owned()])));
        Self(found)
    }

    /// Removes what came since, so that a refused `init` leaves no initialised token and no PIN behind.
    fn restore(&self, site: &Path) {
        let mut now = Vec::new();
        FILLED.iter().for_each(|name| walk(&site.join(name), &mut |path| now.push(path.to_owned())));
        // Files before the folders that hold them; folders go where they are empty.
        for path in now.iter().rev().filter(|path| !self.0.contains(*path)) {
            if fs::remove_file(path).is_err() {
                let _ = fs::remove_dir(path);
            }
        }
    }
}

/// Folders before what is in them.
fn walk(path: &Path, found: &mut dyn FnMut(&Path)) {
    if path.symlink_metadata().is_err() {
        return;
    }
    found(path);
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), found);
        }
    }
}

/// Whether each token is a software token whose storage is below the site's folder.
fn software_below(site: &Path, config: &SiteConfig) -> bool {
    let Ok(variables) = environment::variables(site, config) else { return false };
    let Ok(absolute) = environment::absolute(site) else { return false };
    let below = |wanted: &str, file: &str| {
        variables.iter().any(|(name, value)| name == wanted && *value == format!("{absolute}/token/{file}"))
    };
    let modules = [Some(&config.hsm.module), config.hsm.backup.as_ref().map(|backup| &backup.module)];
    modules.into_iter().flatten().all(|module| match module.file_name().and_then(|name| name.to_str()) {
        Some(EMBEDDED) => below("KRYOPTIC_CONF", "token.conf"),
        Some(SOFTHSM) => below("SOFTHSM2_CONF", "softhsm2.conf"),
        _ => false,
    })
}

/// What can be wrong with the options is found before the token is touched: keys in an HSM are not made twice.
fn check(options: &InitOptions) -> Result<(), Failure> {
    let distinct: std::collections::BTreeSet<&String> = options.approvers.iter().collect();
    if distinct.len() < 2 || distinct.len() != options.approvers.len() {
        return Err(Failure::new("--approvers needs at least two different people").with_code(2));
    }
    for name in &options.approvers {
        name.parse::<casemate_types::PluginName>().map_err(|_| {
            Failure::new(format!("`{name}` cannot name an approver: use lower-case letters, digits or `-`"))
                .with_code(2)
        })?;
    }
    match &options.model_dir {
        Some(dir) if !casemate_embed::MiniLm::present(dir) => Err(Failure::new(format!(
            "{} holds no sentence model: model.safetensors and tokenizer.json are wanted",
            dir.display()
        ))
        .with_code(2)),
        _ => Ok(()),
    }
}

/// The documented example, with this machine's module and model filled in.
fn example(options: &InitOptions) -> Result<String, Failure> {
    let module = match &options.module {
        Some(module) => module.clone(),
        None => embedded_module()?,
    };
    let mut environment = Vec::new();
    if options.module.is_none() {
        environment.push(r#"KRYOPTIC_CONF = "{site}/token/token.conf""#.to_owned());
    }
    for variable in &options.module_env {
        let (name, value) = environment::pair(variable)?;
        environment.push(format!("{name} = {}", toml::Value::String(value)));
    }
    let model = match &options.model_dir {
        Some(dir) => format!("model-dir = {}", toml::Value::String(utf8(dir)?)),
        None => "# model-dir = \"...\"    # without it the lexical embedder runs".to_owned(),
    };
    let backup = match &options.backup {
        Some(module) => backup(module, options)?,
        None => String::new(),
    };
    Ok(EXAMPLE
        .replace("{backup}", &backup)
        .replace("\"{module}\"", &toml::Value::String(utf8(&module)?).to_string())
        .replace("{environment}", &environment.join("\n"))
        .replace("{model-dir}", &model))
}

/// The second token of a pair. Software tokens that this program knows are configured below the site's folder.
fn backup(module: &Path, options: &InitOptions) -> Result<String, Failure> {
    let module = if module == Path::new("embedded") { embedded_module()? } else { module.to_owned() };
    let mut environment = Vec::new();
    if module.ends_with(EMBEDDED) && options.module.is_some() {
        environment.push(r#"KRYOPTIC_CONF = "{site}/token/token.conf""#.to_owned());
    }
    if module.ends_with(SOFTHSM) && !options.backup_env.iter().any(|pair| pair.starts_with("SOFTHSM2_CONF=")) {
        environment.push(r#"SOFTHSM2_CONF = "{site}/token/softhsm2.conf""#.to_owned());
    }
    for variable in &options.backup_env {
        let (name, value) = environment::pair(variable)?;
        environment.push(format!("{name} = {}", toml::Value::String(value)));
    }
    Ok(format!(
        "# The second token of a pair: see docs/keys.md, \"A pair of HSMs\".\n[hsm.backup]\nmodule = {}\ntoken-label = \"casemate backup\"\nenvironment = {{ {} }}\n\n",
        toml::Value::String(utf8(&module)?),
        environment.join(", ")
    ))
}

fn utf8(path: &Path) -> Result<String, Failure> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}

/// The embedded token lies beside this program.
pub fn embedded_module() -> Result<PathBuf, Failure> {
    let program =
        std::env::current_exe().map_err(|error| Failure::caused_by("cannot find this program's folder", &error))?;
    let module = program.with_file_name(EMBEDDED);
    if module.exists() {
        return Ok(module);
    }
    Err(Failure::new(format!("the embedded token {} is not there", module.display()))
        .hint("cargo build --release --package casemate-softtoken, or name your HSM's module with --module"))
}

/// What the software tokens read of files below the site's folder: the embedded one a slot for each token, SoftHSM a folder.
fn write_token_configuration(site: &Path, config: &SiteConfig) -> Result<(), Failure> {
    let fault = |error| Failure::caused_by("cannot write the token's configuration", &error);
    let absolute = environment::absolute(site)?;
    let modules = [Some(&config.hsm.module), config.hsm.backup.as_ref().map(|backup| &backup.module)];
    let slots: String = ["token.sqlite", "backup.sqlite"]
        .iter()
        .zip(&modules)
        .enumerate()
        .filter(|(_, (_, module))| module.is_some_and(|module| module.ends_with(EMBEDDED)))
        .map(|(slot, (file, _))| {
            let storage = toml::Value::String(format!("{absolute}/token/{file}"));
            format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {storage}\n")
        })
        .collect();
    if !slots.is_empty() {
        fs::write(site.join("token/token.conf"), slots).map_err(fault)?;
    }
    let softhsm = site.join("token/softhsm2.conf");
    let ours = environment::variables(site, config)?
        .into_iter()
        .any(|(name, value)| name == "SOFTHSM2_CONF" && value == format!("{absolute}/token/softhsm2.conf"));
    if ours && !softhsm.exists() {
        let folder = site.join("token/softhsm");
        fs::create_dir_all(&folder).map_err(fault)?;
        let text =
            format!("directories.tokendir = {absolute}/token/softhsm\nobjectstore.backend = file\nlog.level = ERROR\n");
        fs::write(&softhsm, text).map_err(fault)?;
    }
    Ok(())
}
