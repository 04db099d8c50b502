//! The main job on real parts, with a transcript that a newcomer understands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{corpus, setup, shell};

const PLUGINS: [&str; 4] = ["clearance", "disclosure", "librarian", "nearest"];

/// Sets everything up and runs the flow. A second run skips what is done.
pub fn run() -> Result<(), String> {
    let ready = setup::run()?;
    setup::build(&ready)?;
    let folder = shell::work().join("demo");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let demo = Demo { site: folder.join("site"), folder };
    println!("\nCASEMATE DEMO: a rehearsal site in {}", demo.site.display());
    let mut times = Vec::new();
    let mut timed = |what: &'static str, part: &dyn Fn() -> Result<(), String>| {
        let started = Instant::now();
        part().inspect(|()| times.push((what, started.elapsed())))
    };
    timed("token and keys", &|| demo.site(&ready))?;
    timed("plugins", &|| demo.plugins())?;
    timed("documents", &|| demo.documents())?;
    timed("four questions and their verification", &|| demo.questions())?;
    timed("three attacks", &|| demo.attacks())?;
    demo.closing(&ready, &times);
    Ok(())
}

struct Demo {
    folder: PathBuf,
    site: PathBuf,
}

impl Demo {
    fn site(&self, ready: &setup::Ready) -> Result<(), String> {
        step(
            "1",
            "A token is initialised and keys are made in it (softtoken, a PKCS#11 module, in the gate's process)",
        );
        if self.site.join("state.json").exists() {
            println!("   done before; remove {} to start afresh", self.folder.display());
            return Ok(());
        }
        // A site that was begun and not finished is no site.
        let _ = fs::remove_dir_all(&self.site);
        let mut init = self.casemate();
        init.args(["init", "--approvers", "ana,bo"]);
        if let Some(model) = &ready.model {
            init.arg("--model-dir").arg(model);
        }
        shell::run(&mut init)
    }

    fn plugins(&self) -> Result<(), String> {
        step("2", "Plugins are compiled, signed by two people, verified and loaded (wasmtime, in the gate's process)");
        let bundle = |name: &str| self.folder.join(format!("{name}.casemate"));
        for name in PLUGINS {
            if self.active(name)? {
                println!("   {name}: active already");
                continue;
            }
            let path = bundle(name);
            shell::run(
                self.casemate()
                    .args(["bundle", "build"])
                    .arg(shell::root().join("plugins").join(name))
                    .arg("--out")
                    .arg(&path),
            )?;
            for approver in ["ana", "bo"] {
                let key = self.site.join(format!("approvers/{approver}.key"));
                shell::run(self.casemate().args(["bundle", "sign"]).arg(&path).arg("--key").arg(key))?;
            }
            shell::run(self.casemate().args(["bundle", "verify"]).arg(&path))?;
            shell::run(self.casemate().args(["plugin", "load"]).arg(&path))?;
        }
        Ok(())
    }

    fn active(&self, name: &str) -> Result<bool, String> {
        let (list, _) = shell::capture(self.casemate().args(["plugin", "list"]))?;
        Ok(list.lines().any(|line| line.split_whitespace().next() == Some(name)))
    }

    fn documents(&self) -> Result<(), String> {
        step(
            "3",
            "A real corpus is embedded, encrypted and stored (gate: plaintext; store and scoring tier: ciphertext only)",
        );
        let done = self.folder.join("ingested");
        if done.exists() {
            println!("   done before");
            return Ok(());
        }
        let path = self.folder.join("corpus.jsonl");
        let corpus = corpus::write(&path)?;
        println!(
            "   {} passages from the documentation of {} crates; {} of them in compartment `cryptography`, the rest in `engineering`",
            corpus.passages, corpus.crates, corpus.restricted
        );
        shell::run(self.casemate().arg("ingest").arg(&path).args(["--as", "carla"]))?;
        fs::write(done, "").map_err(|error| error.to_string())
    }

    fn questions(&self) -> Result<(), String> {
        step("4", "An analyst with clearance asks, and gets an answer with citations");
        let question = "How does an authenticated cipher protect the integrity of a message?";
        self.ask("ana", question, 0, "")?;

        step("5", "The same question from someone without clearance");
        self.ask("ben", question, 3, "need-to-know")?;

        step("6", "A question whose answer holds identifiers: they come back masked, equal values staying equal");
        let contact = "Whom do I contact about Zama's patent license for commercial use?";
        self.ask("ana", contact, 0, "masked")?;

        step("7", "An auditor verifies the log and a receipt, without the HSM");
        let receipt = self.folder.join("receipt.txt");
        let (_, code) =
            shell::capture(self.casemate().args(["ask", question, "--as", "ana", "--receipt"]).arg(&receipt))?;
        expect(code, 0, "the receipt's question")?;
        shell::run(self.casemate().args(["audit", "verify"]))?;
        shell::run(self.casemate().args(["audit", "verify", "--receipt"]).arg(&receipt))
    }

    fn ask(&self, user: &str, question: &str, code: i32, holds: &str) -> Result<(), String> {
        println!("   {user}: {question}");
        let (answer, found) = shell::capture(self.casemate().args(["ask", question, "--as", user]))?;
        println!("{}", indent(&answer));
        expect(found, code, "the question")?;
        if answer.contains(holds) { Ok(()) } else { Err(format!("the answer does not hold `{holds}`")) }
    }

    fn attacks(&self) -> Result<(), String> {
        step("8", "One byte of the store, of a bundle and of the log is changed; each change is caught by name");
        let copy = self.folder.join("tampered");
        let attack = |what: &str, tool: &[&str], arguments: &[&str], named: &str| -> Result<(), String> {
            let _ = fs::remove_dir_all(&copy);
            copy_folder(&self.site, &copy)?;
            let mut attacker = Command::new(shell::binary("casemate-attacker"));
            shell::run(attacker.args(tool).arg(&copy))?;
            let mut victim = Command::new(shell::binary("casemate"));
            let (answer, code) = shell::capture(victim.arg("--site").arg(&copy).args(arguments))?;
            println!("   {what}:\n{}", indent(&answer));
            if code == 0 || !answer.contains(named) {
                return Err(format!("the change of {what} was not caught by name"));
            }
            Ok(())
        };
        let ask = ["ask", "How does an authenticated cipher protect the integrity of a message?", "--as", "ana"];
        attack("one byte of an encrypted group of vectors", &["store"], &ask, "group")?;
        attack("one byte of an active bundle", &["bundle"], &ask, "altered")?;
        attack("one byte of a record in the log", &["log"], &["audit", "verify"], "record")?;
        let _ = fs::remove_dir_all(&copy);
        Ok(())
    }

    fn closing(&self, ready: &setup::Ready, times: &[(&str, Duration)]) {
        let total: Duration = times.iter().map(|(_, time)| *time).sum();
        let times: Vec<String> =
            times.iter().map(|(what, time)| format!("{what} {:.1} s", time.as_secs_f64())).collect();
        let embedder =
            if ready.model.is_some() { "all-MiniLM-L6-v2 (in Rust, in the gate)" } else { "the lexical embedder" };
        println!(
            "\nDone in {:.0} s: {}.
   What ran where: keys in the token; plaintext only in the gate's process, one session at a time; embedding by {embedder};
   scoring on ciphertext; store, scoring tier and log hold no plaintext. This is a REHEARSAL: one person holds every PIN.
   Try next:
     {bin} --site {site} ask \"What does a connection pool do?\" --as ben
     {bin} --site {site} audit show --last 10
     {bin} --site {site} serve
     {bin} plugin new my-policy
   docs/operating.md explains each.",
            total.as_secs_f64(),
            times.join(", "),
            bin = shell::binary("casemate").display(),
            site = self.site.display(),
        );
    }

    fn casemate(&self) -> Command {
        let mut command = Command::new(shell::binary("casemate"));
        command.arg("--site").arg(&self.site).current_dir(shell::root());
        command
    }
}

fn step(number: &str, title: &str) {
    println!("\n{number}. {title}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("     {line}")).collect::<Vec<_>>().join("\n")
}

fn expect(found: i32, wanted: i32, what: &str) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} ended with exit code {found}, not {wanted}")) }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("cannot copy {}: {error}", from.display());
    fs::create_dir_all(to).map_err(fault)?;
    for entry in fs::read_dir(from).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map_err(fault)?;
        }
    }
    // The token's configuration names its storage by absolute path.
    let configuration = to.join("token/token.conf");
    if configuration.exists() {
        let text =
            format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = \"{}/token/token.sqlite\"\n", to.display());
        fs::write(configuration, text).map_err(fault)?;
    }
    Ok(())
}
