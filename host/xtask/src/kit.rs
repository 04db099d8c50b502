//! `cargo xtask kit`: the offline install package. Gathers; `casemate kit` seals, signs and packs what was gathered.

mod registry;
mod sbom;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{setup, shell};

const PLUGINS: [&str; 8] =
    ["clearance", "clustered", "disclosure", "diverse", "filtered", "hybrid", "librarian", "nearest"];
const WASM: &str = "wasm32-unknown-unknown";

/// What was asked for.
#[derive(Default)]
struct Options {
    out: Option<PathBuf>,
    keys: Vec<PathBuf>,
    model: bool,
    pack: bool,
    check: bool,
    built: bool,
}

/// Makes the kit in a folder; `--pack` makes one file of it, `--check` installs from it with networking cut off.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let out = std::path::absolute(options.out.clone().unwrap_or_else(|| shell::work().join("kit"))).map_err(text)?;
    let ready = if options.built { setup::Ready::default() } else { setup::run()? };
    if !options.built {
        setup::build(&ready)?;
    }
    // What is there already could end up in the kit.
    if out.exists() {
        let ours = out.join("install.sh").exists() || fs::read_dir(&out).map_err(text)?.next().is_none();
        if !ours {
            return Err(format!("{} is there and is no kit; name another folder with --out", out.display()));
        }
        fs::remove_dir_all(&out).map_err(text)?;
    }
    fs::create_dir_all(&out).map_err(text)?;
    println!("== the kit in {}", out.display());
    let metadata = metadata()?;
    let lock = registry::Lock::read(&shell::root().join("Cargo.lock"))?;
    source(&out.join("source"))?;
    registry::everything(&metadata, &lock, &out.join("registry"))?;
    registry::sdk(&metadata, &lock, &out.join("sdk"))?;
    toolchain(&out.join("toolchain"))?;
    plugins(&out.join("plugins"))?;
    if options.model {
        let model = ready.model.clone().or_else(|| std::env::var_os("CASEMATE_MODEL_DIR").map(PathBuf::from));
        let model = model.ok_or("--model: there is no sentence model here; `cargo xtask setup` fetches it")?;
        for file in ["model.safetensors", "tokenizer.json"] {
            copy(&model.join(file), &out.join("model").join(file))?;
        }
    }
    write(&out.join("sbom.cdx.json"), sbom::cyclonedx(&metadata, &lock)?.as_bytes())?;
    write(&out.join("install.sh"), include_bytes!("kit/install.sh"))?;
    copy(&shell::root().join("Cargo.lock"), &out.join("Cargo.lock"))?;
    shell::run(casemate(&["kit", "seal"]).arg(&out))?;
    for key in &options.keys {
        shell::run(casemate(&["kit", "sign"]).arg(&out).arg("--key").arg(key))?;
    }
    if options.check {
        check(&out)?;
    }
    if options.pack {
        let file = out.with_extension("tar");
        let _ = fs::remove_file(&file);
        shell::run(casemate(&["kit", "pack"]).arg(&out).arg("--out").arg(&file))?;
    }
    if options.keys.is_empty() {
        println!("   It is not signed: `casemate kit sign {} --key KEY`, by two approvers.", out.display());
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut path = || rest.next().map(PathBuf::from).ok_or(format!("{argument} needs a path"));
        match argument.as_str() {
            "--out" => options.out = Some(path()?),
            "--key" => options.keys.push(path()?),
            "--model" => options.model = true,
            "--pack" => options.pack = true,
            "--check" => options.check = true,
            // The programs are there already.
            "--built" => options.built = true,
            other => return Err(format!("unknown option {other}; kit takes --out, --key, --model, --pack, --check")),
        }
    }
    Ok(options)
}

/// Every file that git knows, as it lies here. Links are followed: a kit holds none.
fn source(out: &Path) -> Result<(), String> {
    let root = shell::root();
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output().map_err(text)?;
    if !listed.status.success() {
        return Err("git ls-files failed: a kit is made from a checkout".to_owned());
    }
    for name in String::from_utf8(listed.stdout).map_err(text)?.split('\0').filter(|name| !name.is_empty()) {
        let from = root.join(name);
        if from.exists() {
            copy(&from, &out.join(name))?;
        }
    }
    Ok(())
}

/// Which toolchain, and its library for plugins with its licences.
fn toolchain(out: &Path) -> Result<(), String> {
    let (version, _) = shell::capture(Command::new("rustc").arg("-vV"))?;
    let (cargo, _) = shell::capture(shell::cargo().arg("--version"))?;
    write(&out.join("rustc.txt"), format!("{version}{cargo}").as_bytes())?;
    write(&out.join("NOTES.md"), include_bytes!("kit/notes.md"))?;
    let (sysroot, _) = shell::capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = Path::new(sysroot.trim());
    copy(&sysroot.join("lib/rustlib").join(WASM), &out.join("rust-std").join(WASM))?;
    let notices = sysroot.join("share/doc/rust");
    for file in fs::read_dir(&notices).map_err(|error| format!("{}: {error}", notices.display()))?.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with("COPYRIGHT") || name.starts_with("LICENSE") || name == "licenses" {
            copy(&file.path(), &out.join("rust-std").join(name))?;
        }
    }
    Ok(())
}

fn plugins(out: &Path) -> Result<(), String> {
    fs::create_dir_all(out).map_err(text)?;
    for name in PLUGINS {
        let folder = shell::root().join("plugins").join(name);
        let file = out.join(format!("{name}.wasm"));
        shell::run(casemate(&["plugin", "component", "--offline"]).arg(&folder).arg("--out").arg(file))?;
    }
    Ok(())
}

/// Verifies and builds everything from the kit, as a receiving site would, with two keys made for it.
fn check(kit: &Path) -> Result<(), String> {
    let work = shell::work().join("kit-check");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(text)?;
    let site = work.join("site");
    shell::run(casemate(&["init", "--approvers", "ana,bo"]).arg("--site").arg(&site))?;
    shell::run(casemate(&["kit", "keys"]).arg(work.join("keys")).arg("--site").arg(&site))?;
    for name in ["ana", "bo"] {
        let key = site.join(format!("approvers/{name}.key"));
        shell::run(casemate(&["kit", "sign"]).arg(kit).arg("--key").arg(key))?;
    }
    let mut install = Command::new("sh");
    install.arg(kit.join("install.sh")).arg("--to").arg(work.join("build")).env_remove("CARGO");
    for name in ["ana", "bo"] {
        install.arg("--key").arg(work.join(format!("keys/{name}.pem")));
    }
    let done = shell::run(&mut install);
    // The throw-away signatures must not go out with the kit.
    for name in ["ana", "bo"] {
        fs::remove_file(kit.join(format!("signatures/{name}.sig"))).map_err(text)?;
    }
    done
}

fn casemate(arguments: &[&str]) -> Command {
    let mut command = Command::new(shell::binary("casemate"));
    command.args(arguments).current_dir(shell::root());
    command
}

fn metadata() -> Result<Value, String> {
    let output = shell::cargo().args(["metadata", "--format-version", "1", "--locked"]).output().map_err(text)?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(text)
}

/// The packages of `cargo metadata` by id.
fn packages(metadata: &Value) -> BTreeMap<&str, &Value> {
    let all = metadata["packages"].as_array().into_iter().flatten();
    all.filter_map(|package| Some((package["id"].as_str()?, package))).collect()
}

/// A file, or a folder with all that is in it; links are followed.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if !from.is_dir() {
        let bytes = fs::read(from).map_err(|error| format!("cannot read {}: {error}", from.display()))?;
        return write(to, &bytes);
    }
    for entry in fs::read_dir(from).map_err(text)?.flatten() {
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, bytes))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
