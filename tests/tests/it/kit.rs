//! The offline install package: what is wrong with one is named before anything of it runs, and what is right builds without a network.
//! The whole host from a kit is `cargo xtask kit --check`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::guest::root;
use crate::site::{self, Site, text};

/// A kit that two approvers signed, their public keys beside it, and the site whose approvers they are.
struct Made {
    kit: PathBuf,
    keys: PathBuf,
    site: Site,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("casemate-kit");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let (kit, keys, site) = (folder.join("kit"), folder.join("keys"), site::bare());
        make(&kit);
        for name in ["ana", "bo"] {
            sign(&site, &kit, name).expect(0);
        }
        site.casemate(&["kit", "keys", text(&keys)]).expect(0);
        Made { kit, keys, site }
    })
}

/// The kit for one test alone: one of them alters it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make(kit: &Path) {
    let release = site::program().parent().unwrap().to_owned();
    let mut xtask = Command::new(release.join("xtask"));
    xtask.args(["kit", "--built", "--out"]).arg(kit);
    // As cargo calls it.
    xtask.env("CARGO_MANIFEST_DIR", root().join("host/xtask")).env("CARGO_TARGET_DIR", release.parent().unwrap());
    let output = xtask.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", all(&output));
}

fn sign(site: &Site, kit: &Path, name: &str) -> site::Ended {
    let key = site.dir.join(format!("approvers/{name}.key"));
    site.casemate(&["kit", "sign", text(kit), "--key", text(&key)])
}

/// `install.sh` with these public keys.
fn install(kit: &Path, keys: &[PathBuf], options: &[&str]) -> Output {
    let mut install = Command::new("sh");
    install.arg(kit.join("install.sh"));
    for key in keys {
        install.arg("--key").arg(key);
    }
    // What cargo tells its tests is no part of a receiving machine.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO") || name == "RUSTUP_TOOLCHAIN") {
        install.env_remove(name);
    }
    install.args(options).stdin(Stdio::null()).output().unwrap()
}

fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn two(keys: &Path) -> [PathBuf; 2] {
    ["ana.pem", "bo.pem"].map(|name| keys.join(name))
}

#[test]
fn a_kit_builds_its_plugins_with_networking_cut_off_and_every_tampering_is_named() {
    let _alone = alone();
    let Made { kit, keys, site } = made();
    let build = tempfile::tempdir().unwrap();
    let installed = install(kit, &two(keys), &["--plugins-only", "--to", text(build.path())]);
    let said = all(&installed);
    assert!(installed.status.success(), "{said}");
    assert!(said.contains("networking is cut off") && said.contains("signed by 2"), "{said}");
    for plugin in ["clearance", "clustered", "disclosure", "diverse", "filtered", "hybrid", "librarian", "nearest"] {
        let module = build.path().join(format!("target/wasm32-unknown-unknown/plugin/{plugin}.wasm"));
        assert!(fs::read(module).unwrap().starts_with(b"\0asm"), "{plugin}");
    }
    // Every crate came from the kit: the build's own cache began empty.
    assert!(build.path().join("cargo-home/registry/src").exists());

    let refused = |keys: &[PathBuf], name: &str| {
        let output = install(kit, keys, &["--verify-only"]);
        assert_eq!(output.status.code(), Some(4), "{name}: {}", all(&output));
        assert!(all(&output).contains(name), "{name}: {}", all(&output));
    };
    let [ana, bo] = two(keys);
    refused(&[], "0 of the keys given");
    refused(std::slice::from_ref(&ana), "1 of the keys given");
    let copy = build.path().join("other-name.pem");
    fs::copy(&ana, &copy).unwrap();
    refused(&[ana.clone(), copy], "1 of the keys given");
    let stranger = site::fresh();
    let strange = build.path().join("strange");
    stranger.casemate(&["kit", "keys", text(&strange)]).expect(0);
    refused(&[ana.clone(), strange.join("bo.pem")], "1 of the keys given");

    let both = [ana, bo];
    let tampered = |file: &str, change: &dyn Fn(&mut Vec<u8>), name: &str| {
        let path = kit.join(file);
        let old = fs::read(&path).unwrap();
        let mut new = old.clone();
        change(&mut new);
        fs::write(&path, new).unwrap();
        refused(&both, name);
        if file != "SHA256SUMS" && !file.starts_with("signatures") {
            let signed = sign(site, kit, "ana");
            assert!(signed.code == 4 && signed.text.contains(file), "{}", signed.text);
        }
        fs::write(&path, old).unwrap();
    };
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let some_crate =
        fs::read_dir(kit.join("registry")).unwrap().flatten().find(|entry| entry.path().is_file()).unwrap();
    let some_crate = format!("registry/{}", some_crate.file_name().into_string().unwrap());
    for file in [&some_crate, "install.sh", "source/Cargo.lock", "plugins/clearance.wasm", "sbom.cdx.json"] {
        tampered(file, &flip, file);
    }
    tampered("source/Cargo.toml", &|bytes| bytes.clear(), "source/Cargo.toml");
    tampered("signatures/bo.sig", &flip, "1 of the keys given");
    // Sums that fit the altered files are no longer what was signed.
    tampered("SHA256SUMS", &flip, "0 of the keys given");
    tampered("SHA256SUMS", &|bytes| bytes.extend_from_slice(b"\n"), "0 of the keys given");

    let gone = build.path().join("gone");
    fs::rename(kit.join("Cargo.lock"), &gone).unwrap();
    refused(&both, "Cargo.lock");
    fs::rename(&gone, kit.join("Cargo.lock")).unwrap();
    fs::write(kit.join("source/build.rs"), "fn main() {}").unwrap();
    refused(&both, "not in SHA256SUMS: source/build.rs");
    fs::remove_file(kit.join("source/build.rs")).unwrap();
    symlink("/etc/passwd", kit.join("source/link")).unwrap();
    refused(&both, "source/link is a link");
    fs::remove_file(kit.join("source/link")).unwrap();
    assert!(install(kit, &both, &["--verify-only"]).status.success(), "restored");
}

#[test]
fn equal_inputs_give_a_kit_of_equal_bytes() {
    let _alone = alone();
    let Made { kit, site, .. } = made();
    let folder = tempfile::tempdir().unwrap();
    let second = folder.path().join("second");
    make(&second);
    let [one, other] = [kit, &second].map(|kit| fs::read_to_string(kit.join("SHA256SUMS")).unwrap());
    let differs: Vec<_> = one.lines().zip(other.lines()).filter(|(one, other)| one != other).collect();
    assert!(one == other, "{differs:?}");
    for name in ["ana", "bo"] {
        sign(site, &second, name).expect(0);
    }
    let archives = ["one.tar", "two.tar"].map(|name| folder.path().join(name));
    for archive in &archives {
        site.casemate(&["kit", "pack", text(&second), "--out", text(archive)]).expect(0);
    }
    assert!(fs::read(&archives[0]).unwrap() == fs::read(&archives[1]).unwrap());
    // Any tar reads it, and what it leaves is the kit.
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar").arg("xf").arg(&archives[0]).arg("-C").arg(&unpacked).status().unwrap();
    assert!(tar.success());
    let verified = install(&unpacked, &two(&made().keys), &["--verify-only"]);
    assert!(verified.status.success(), "{}", all(&verified));
}

#[test]
fn the_bill_of_materials_names_every_package_with_the_sum_of_the_lock_file() {
    let _alone = alone();
    let Made { kit, .. } = made();
    let bill: serde_json::Value = serde_json::from_slice(&fs::read(kit.join("sbom.cdx.json")).unwrap()).unwrap();
    assert_eq!((bill["bomFormat"].as_str(), bill["specVersion"].as_str()), (Some("CycloneDX"), Some("1.6")));
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let locked: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("checksum = ")).collect();
    let components = bill["components"].as_array().unwrap();
    let mut sums: Vec<&str> = components.iter().filter_map(|each| each["hashes"][0]["content"].as_str()).collect();
    let mut locked: Vec<&str> = locked.iter().map(|sum| sum.trim_matches('"')).collect();
    sums.sort_unstable();
    locked.sort_unstable();
    assert_eq!(sums, locked);
    let references: std::collections::BTreeSet<_> =
        components.iter().map(|each| each["bom-ref"].as_str().unwrap()).collect();
    for dependency in bill["dependencies"].as_array().unwrap() {
        assert!(references.contains(dependency["ref"].as_str().unwrap()), "{dependency}");
    }
}

/// A policy team has the kit's `sdk/` and no network; the receiving site has sources and SDK elsewhere, and another package cache.
#[test]
fn a_component_rebuilds_to_the_same_bytes_at_another_path_and_from_another_package_cache() {
    let Made { kit, .. } = made();
    let work = tempfile::tempdir().unwrap();
    let (here, there) = (work.path().join("here"), work.path().join("there/and/deeper"));
    fs::create_dir_all(&here).unwrap();
    fs::create_dir_all(&there).unwrap();
    let site = site::bare();
    let run = |folder: &Path, cache: &str, arguments: &[&str]| {
        let mut command = site.command(arguments);
        command.current_dir(folder).env("CARGO_HOME", work.path().join(cache)).env("CARGO_NET_OFFLINE", "true");
        command.env("CARGO_TARGET_DIR", folder.join("target")).output().unwrap()
    };
    let sdk = kit.join("sdk");
    for arguments in [&["plugin", "new", "strict", "--sdk", text(&sdk)][..], &["bundle", "build", "strict"]] {
        let output = run(&here, "cache-here", arguments);
        assert!(output.status.success(), "{}", all(&output));
    }
    let bundle = here.join("strict.casemate");

    let elsewhere = there.join("registry");
    copy(&sdk, &elsewhere);
    copy(&here.join("strict"), &there.join("strict"));
    let rebuild = ["plugin", "rebuild", text(&bundle), "strict", "--registry", text(&elsewhere)];
    let equal = run(&there, "cache-there", &rebuild);
    assert!(equal.status.success() && all(&equal).contains("\"equal\":true"), "{}", all(&equal));

    let source = there.join("strict/src/lib.rs");
    let changed = fs::read_to_string(&source).unwrap().replacen("\"word\"", "\"work\"", 1);
    assert_ne!(changed, fs::read_to_string(&source).unwrap());
    fs::write(&source, changed).unwrap();
    let differs = run(&there, "cache-there", &rebuild);
    assert_eq!(differs.status.code(), Some(4), "{}", all(&differs));
    for said in ["toolchain and packages are the same", "first section that differs"] {
        assert!(all(&differs).contains(said), "{}", all(&differs));
    }
    fs::remove_file(there.join("strict/Cargo.lock")).unwrap();
    let unlocked = run(&there, "cache-there", &rebuild);
    assert_eq!(unlocked.status.code(), Some(1), "without a lock file nothing is compared: {}", all(&unlocked));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
