//! `casemate hsm drill`: cuts the primary token off in mid-batch and watches the backup take over.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use casemate_gate::{Gate, SiteConfig};
use casemate_hsm::pair::{ScratchDrill, drill_with_scratch_key};
use casemate_hsm::{HsmError, Module, PairMember, Pin};
use zeroize::Zeroizing;

use crate::args::DrillOptions;
use crate::failure::{Failure, code};
use crate::{environment, init, output};

/// How long the primary may take to come back.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(site: &Path, options: &DrillOptions, json: bool) -> Result<ExitCode, Failure> {
    let drilled = if options.rehearsal { rehearse(options)? } else { drill_site(site, options)? };
    if json {
        output::json(&drilled)?;
    } else {
        print(&drilled)?;
    }
    Ok(if drilled.report.passed() { ExitCode::SUCCESS } else { ExitCode::from(code::VERIFICATION) })
}

/// The site's two tokens. The drill makes keys of its own in both and destroys them again.
fn drill_site(site: &Path, options: &DrillOptions) -> Result<ScratchDrill, Failure> {
    environment::require_site(site)?;
    let config = SiteConfig::read(site)?;
    let Some(backup) = &config.hsm.backup else {
        return Err(Failure::new("this site has no backup token: its site.toml has no [hsm.backup]")
            .hint("docs/keys.md, \"A pair of HSMs\"; or rehearse with --rehearsal"));
    };
    environment::set(site, &config)?;
    environment::lock_down()?;
    let primary = Place {
        module: Module::load(&site.join(&config.hsm.module))?,
        label: config.hsm.token_label.clone(),
        pin: site.join("pins/user"),
    };
    let backup = Place {
        module: Module::load(&site.join(&backup.module))?,
        label: backup.token_label.clone(),
        pin: site.join("pins/backup-user"),
    };
    let detail = format!("tokens `{}` and `{}`, {} values", primary.label, backup.label, options.values);
    let recorded = Gate::record_drill(site, "begun", &detail)?;
    if !recorded {
        eprintln!("The site is in use, so its log cannot say that keys of this drill are made and destroyed.");
    }
    let drilled = drill_with_scratch_key(|| primary.member(), || backup.member(), options.values, PATIENCE);
    if recorded {
        let result = match &drilled {
            Ok(drilled) => {
                let destroyed: Vec<String> = drilled
                    .destroyed
                    .iter()
                    .map(|gone| format!("{} in {}: {}", gone.key.id, gone.token, gone.summary()))
                    .collect();
                let passed = if drilled.report.passed() { "passed" } else { "not passed" };
                format!("{passed}; destroyed {}", destroyed.join("; "))
            }
            Err(error) => format!("failed: {error}"),
        };
        Gate::record_drill(site, "ended", &result)?;
    }
    Ok(drilled?)
}

/// Two new tokens in a temporary folder: the embedded one, and behind it SoftHSM where it is installed.
fn rehearse(options: &DrillOptions) -> Result<ScratchDrill, Failure> {
    const SOFTHSM: [&str; 3] = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let folder = Temporary::make()?;
    let embedded = init::embedded_module()?;
    let softhsm = SOFTHSM.iter().map(PathBuf::from).find(|path| path.exists());
    let slots = (1..=2).map(|slot| {
        let path = folder.0.join(format!("token{slot}.sql"));
        format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {path:?}\n")
    });
    let tokens = folder.0.join("softhsm");
    fs::create_dir(&tokens).map_err(|error| folder.fault(&error))?;
    let mut variables = Vec::new();
    for (variable, text) in [
        ("KRYOPTIC_CONF", slots.collect()),
        (
            "SOFTHSM2_CONF",
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display()),
        ),
    ] {
        let path = folder.0.join(variable);
        fs::write(&path, text).map_err(|error| folder.fault(&error))?;
        variables.push((variable.to_owned(), path.display().to_string()));
    }
    environment::set_variables(variables);
    environment::lock_down()?;
    let place = |module: &Path, label: &str| {
        let module = Module::load(module)?;
        let pin = Pin::random()?;
        module.initialise(label, &Pin::random()?, &pin)?;
        let path = folder.0.join(label);
        fs::write(&path, pin.expose_secret()).map_err(|error| folder.fault(&error))?;
        Ok::<_, Failure>(Place { module, label: label.to_owned(), pin: path })
    };
    let primary = place(&embedded, "drill primary")?;
    let backup = place(softhsm.as_deref().unwrap_or(&embedded), "drill backup")?;
    Ok(drill_with_scratch_key(|| primary.member(), || backup.member(), options.values, PATIENCE)?)
}

fn print(drilled: &ScratchDrill) -> Result<(), Failure> {
    let report = &drilled.report;
    output::line(&format!("primary {}, backup {}", report.primary, report.backup))?;
    output::line(&format!("the primary was cut off in mid-batch: {}", report.fault))?;
    output::line(&format!(
        "{} values encrypted before, through and after the outage: {} differ, {} lost, {} batch done again on the backup",
        report.values, report.different, report.lost, report.repeated
    ))?;
    output::line(&format!("gap until the next batch was served: {:.1} ms", report.gap_us as f64 / 1e3))?;
    output::line(&match report.fail_back_us {
        Some(us) => format!("the primary was back in service after {:.1} ms", us as f64 / 1e3),
        None => "the primary did not come back".to_owned(),
    })?;
    for destruction in &drilled.destroyed {
        let proofs = destruction.proofs.len();
        output::line(&format!("the drill's key is destroyed in {}: {proofs} proofs", destruction.token))?;
    }
    output::line(if report.passed() { "The drill passed." } else { "The drill FAILED." })
}

/// A token, and the file its PIN is read from at each login.
struct Place {
    module: Arc<Module>,
    label: String,
    pin: PathBuf,
}

impl Place {
    fn member(&self) -> PairMember {
        let (path, module, label) = (self.pin.clone(), Arc::clone(&self.module), self.label.clone());
        PairMember {
            module: self.module.path().to_owned(),
            token_label: self.label.clone(),
            pin: Box::new(move || {
                if module.token(&label)?.protected_authentication_path {
                    return Ok(None);
                }
                let text = Zeroizing::new(fs::read_to_string(&path).map_err(|_| HsmError::PinInvalid)?);
                Pin::new(text).map(Some)
            }),
            native_ff1: None,
        }
    }
}

/// A folder for one run, for this user only.
struct Temporary(PathBuf);

impl Temporary {
    fn make() -> Result<Self, Failure> {
        let folder = Self(std::env::temp_dir().join(format!("casemate-drill-{}", std::process::id())));
        fs::DirBuilder::new().mode(0o700).create(&folder.0).map_err(|error| folder.fault(&error))?;
        Ok(folder)
    }

    fn fault(&self, error: &std::io::Error) -> Failure {
        Failure::caused_by("cannot prepare the rehearsal", error).about(&self.0)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
