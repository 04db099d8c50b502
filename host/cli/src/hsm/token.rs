//! `casemate hsm init-token`: a blank token gets its label and its two PINs.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_hsm::{Module, Pin};
use zeroize::Zeroizing;

use crate::args::InitTokenOptions;
use crate::failure::Failure;
use crate::{environment, init, output};

pub fn initialise(options: &InitTokenOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::set_pairs(&options.module_env)?;
    environment::lock_down()?;
    let path = if options.module == Path::new("embedded") { init::embedded_module()? } else { options.module.clone() };
    let module = Module::load(&path)?;
    let so_pin = pin("security officer's PIN", options.so_pin_file.as_deref(), options.so_pin_fd)?;
    let user_pin = pin("user's PIN", options.pin_file.as_deref(), options.pin_fd)?;
    if so_pin.expose_secret() == user_pin.expose_secret() {
        return Err(Failure::new("the two PINs are the same: whoever uses the token could then also reset it")
            .hint("give the security officer's PIN to another person")
            .with_code(2));
    }
    let token = module.initialise_this(options.serial.as_deref(), &options.label, &so_pin, &user_pin)?;
    if json {
        output::json(&serde_json::json!({ "label": token.label, "model": token.model, "serial": token.serial }))?;
    } else {
        output::line(&format!(
            "Token `{}` is initialised: {} {}, serial {}.\nNext: casemate hsm probe --module {} --token-label '{}' --pin-file FILE",
            token.label,
            token.manufacturer,
            token.model,
            token.serial,
            path.display(),
            token.label,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A new PIN, typed twice where there is a terminal.
fn pin(what: &str, file: Option<&Path>, descriptor: Option<u32>) -> Result<Pin, Failure> {
    let source = descriptor.map(|number| PathBuf::from(format!("/dev/fd/{number}")));
    if let Some(path) = source.as_deref().or(file) {
        return super::read_pin(path);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(format!("the {what} is wanted, and there is no terminal"))
            .hint("name a file or a file descriptor that holds it: --so-pin-file, --so-pin-fd, --pin-file, --pin-fd")
            .with_code(2));
    }
    let ask = |prompt: String| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .map_err(|error| Failure::caused_by("cannot read the PIN", &error))
    };
    let (first, second) = (ask(format!("New {what}: "))?, ask(format!("New {what}, again: "))?);
    if *first != *second {
        return Err(Failure::new(format!("the {what} was typed in two ways; nothing was changed")).with_code(2));
    }
    Ok(Pin::new(first)?)
}
