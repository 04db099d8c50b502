//! The demo's attacker: somebody who can write to the site's disk. Changes one byte and says which.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let changed = match arguments.as_slice() {
        [what, site] if what == "store" => store(Path::new(site)),
        [what, site] if what == "bundle" => {
            first_file(&Path::new(site).join("bundles")).and_then(|file| flip_middle(&file))
        }
        [what, site] if what == "log" => {
            first_file(&Path::new(site).join("log/tile/entries")).and_then(|file| flip_middle(&file))
        }
        _ => Err("usage: casemate-attacker store|bundle|log SITE".to_owned()),
    };
    match changed {
        Ok(what) => {
            println!("   attacker: {what}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Changes one byte in the middle of the last encrypted group of the last collection. The database's own checksums are made good, as
/// somebody who can write the disk would.
fn store(site: &Path) -> Result<String, String> {
    let fault = |error: sled::Error| error.to_string();
    let database = sled::open(site.join("store")).map_err(fault)?;
    let mut last = None;
    for name in database.tree_names() {
        let tree = database.open_tree(&name).map_err(fault)?;
        if let Some(entry) = tree.scan_prefix(b"g").next_back() {
            let (key, value) = entry.map_err(fault)?;
            last = Some((tree, key, value));
        }
    }
    let (tree, key, value) = last.ok_or("the store holds no group")?;
    let mut value = value.to_vec();
    let middle = value.len() / 2;
    *value.get_mut(middle).ok_or("the group is empty")? ^= 1;
    tree.insert(&key, value).map_err(fault)?;
    database.flush().map_err(fault)?;
    Ok(format!("changed byte {middle} of an encrypted group"))
}

fn first_file(folder: &Path) -> Result<PathBuf, String> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    let first = entries.into_iter().next().ok_or_else(|| format!("{} is empty", folder.display()))?;
    if first.is_dir() { first_file(&first) } else { Ok(first) }
}

fn flip_middle(file: &Path) -> Result<String, String> {
    let mut bytes = fs::read(file).map_err(|error| error.to_string())?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).ok_or("the file is empty")? ^= 1;
    fs::write(file, bytes).map_err(|error| error.to_string())?;
    Ok(format!("changed byte {middle} of {}", file.display()))
}
