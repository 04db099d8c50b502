use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Cargo, as it called us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    // This crate lies two folders below the root; `cargo run` sets the variable afresh in every checkout.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("host/xtask"), PathBuf::from);
    here.ancestors().nth(2).map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where set-up and the demo keep their files.
pub fn work() -> PathBuf {
    target().join("casemate")
}

/// A program this workspace builds.
pub fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// Runs a command to its end with our input and output.
pub fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("failed: {command:?}")) }
}

/// Runs a command and returns what it printed, standard error included, and its exit code.
pub fn capture(command: &mut Command) -> Result<(String, i32), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((text, output.status.code().unwrap_or(-1)))
}

/// Whether a program is there.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
