use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use casemate_hsm::acvp::{GroupReport, VectorSet};
use casemate_hsm::{HsmError, Keyring, Module, Pin};
use zeroize::Zeroizing;

use crate::args::FpeOptions;
use crate::failure::{Failure, code};
use crate::{environment, init, output};

const SCRATCH: &str = "vectors";

pub fn run(options: &FpeOptions, json: bool) -> Result<ExitCode, Failure> {
    let texts = options.vectors.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
    // A file that cannot be run is refused before a token is made or opened.
    let set = VectorSet::read(&texts).map_err(failed)?;
    // Removed on drop, after the keyring.
    let folder = tempfile::tempdir().map_err(|error| Failure::caused_by("cannot make a temporary folder", &error))?;
    let (keyring, token) = open(options, folder.path())?;
    let groups = set.run(&keyring).map_err(failed)?;
    report(&set, &token, &groups, json)?;
    let clean = groups.iter().all(GroupReport::is_clean);
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(code::VERIFICATION) })
}

/// The keyring, and a name for the token.
fn open(options: &FpeOptions, folder: &Path) -> Result<(Arc<Keyring>, String), Failure> {
    if let (Some(module), Some(label), Some(pin)) = (&options.module, &options.token_label, &options.pin_file) {
        let variables = options.module_env.iter().map(|variable| environment::pair(variable));
        environment::set_variables(variables.collect::<Result<Vec<_>, _>>()?);
        environment::lock_down()?;
        let pin = Pin::new(read(pin)?).map_err(failed)?;
        let module = Module::load(module).map_err(failed)?;
        return Ok((Keyring::open(module, label, &pin).map_err(failed)?, label.clone()));
    }
    let module = init::embedded_module()?;
    let storage = folder.join("token.sqlite");
    let storage = storage.to_str().ok_or_else(|| Failure::new("the temporary folder's path is not UTF-8"))?;
    let configuration = folder.join("token.conf");
    let text =
        format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {}\n", toml::Value::String(storage.to_owned()));
    fs::write(&configuration, text)
        .map_err(|error| Failure::caused_by("cannot write the scratch token's configuration", &error))?;
    environment::set_variables([("KRYOPTIC_CONF".to_owned(), configuration.to_string_lossy().into_owned())]);
    environment::lock_down()?;
    let module = Module::load(&module).map_err(failed)?;
    let pin = Pin::random().map_err(failed)?;
    module.initialise(SCRATCH, &Pin::random().map_err(failed)?, &pin).map_err(failed)?;
    Ok((Keyring::open(module, SCRATCH, &pin).map_err(failed)?, "a scratch token of the embedded module".to_owned()))
}

fn report(set: &VectorSet, token: &str, groups: &[GroupReport], json: bool) -> Result<(), Failure> {
    let sum = |count: fn(&GroupReport) -> usize| groups.iter().map(count).sum::<usize>();
    let (passed, below, failed) = (sum(|g| g.passed), sum(|g| g.below_floor), sum(|g| g.failed.len()));
    if json {
        return output::json(&serde_json::json!({
            "algorithm": set.algorithm(),
            "token": token,
            "passed": passed,
            "below-floor": below,
            "failed": failed,
            "groups": groups,
        }));
    }
    output::line(&format!("{} in {token}", set.algorithm()))?;
    for group in groups {
        let GroupReport { group: id, direction, key_bits, radix, passed, below_floor, failed } = group;
        output::line(&format!(
            "  group {id:<4} {direction}  AES-{key_bits}  radix {radix:<6} {passed:>5} passed {below_floor:>4} below the floor {:>4} failed",
            failed.len()
        ))?;
        for (test, reason) in failed {
            output::line(&format!("    vector {test}: {reason}"))?;
        }
    }
    output::line(&format!("{passed} passed, {below} refused below the floor of 1,000,000 values, {failed} failed"))
}

fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))
}

fn failed(error: HsmError) -> Failure {
    Failure::caused_by("cannot run the vectors", &error)
}
