//! Custodians at their terminals: from three blank tokens to a custody token whose PINs nobody knows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::site::{self, Site, text};

/// A site, and a module of four blank tokens beside it.
pub struct Desk {
    pub site: Site,
    folder: TempDir,
    environment: String,
}

impl Desk {
    fn new() -> Self {
        Self::at(site::bare())
    }

    /// A module of four blank tokens beside a site.
    pub fn at(site: Site) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let slots: String = (1..=4)
            .map(|slot| {
                let path = folder.path().join(format!("token{slot}.sql"));
                format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = {path:?}\n")
            })
            .collect();
        let configuration = folder.path().join("tokens.conf");
        fs::write(&configuration, slots).unwrap();
        let desk = Self { site, environment: format!("KRYOPTIC_CONF={}", configuration.display()), folder };
        for name in ["ana", "bo", "carla", "officer"] {
            desk.secret(name, &format!("the pin of {name}"));
        }
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn secret(&self, name: &str, pin: &str) {
        fs::write(self.path(&format!("{name}.pin")), format!("{pin}\n")).unwrap();
        fs::set_permissions(self.path(&format!("{name}.pin")), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// `casemate custodian ARGUMENTS`, with `@name` standing for a file of this desk.
    pub fn custodian(&self, arguments: &str, token: bool) -> site::Ended {
        let mut all = vec!["custodian".to_owned()];
        all.extend(arguments.split(' ').map(|argument| match argument.split_once('@') {
            Some((before, name)) => format!("{before}{}", self.path(name).display()),
            None => argument.to_owned(),
        }));
        if token {
            all.extend(["--module-env".to_owned(), self.environment.clone()]);
        }
        self.site.casemate(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn enrol(&self, name: &str) -> Value {
        let arguments = format!(
            "enrol --name {name} --person p-{name} --token {name} --pin-file @{name}.pin --initialise \
             --so-pin-file @officer.pin --out @{name}.card"
        );
        self.custodian(&arguments, true).expect(0)
    }

    fn request(&self, serial: &str, out: &str) -> Value {
        let arguments =
            format!("request --operation open-custody --on {serial} --reason test --requester p-77 --out @{out}");
        self.custodian(&arguments, false).expect(0)
    }

    pub fn approve(&self, name: &str, statement: &str) -> site::Ended {
        self.custodian(&format!("approve @{statement} --as {name} --token {name} --pin-file @{name}.pin --yes"), true)
    }

    fn renew(&self, statement: &str, names: [&str; 2]) -> site::Ended {
        let who: Vec<_> =
            names.iter().map(|name| format!("--custodian {name}={name} --pin-file {name}=@{name}.pin")).collect();
        self.custodian(&format!("token renew --statement @{statement} {}", who.join(" ")), true)
    }
}

#[test]
fn custodians_approve_and_renew_the_pins_of_the_custody_token() {
    let desk = Desk::new();
    for name in ["ana", "bo", "carla"] {
        let card = desk.enrol(name);
        assert_eq!(card[0]["person"], format!("p-{name}"));
    }
    let roster = desk.site.dir.join("custody/roster.json");
    let built = desk.custodian(&format!("roster build @ana.card @bo.card @carla.card --out {}", text(&roster)), false);
    assert!(built.text.contains("sha256:"), "{}", built.text);
    let digest = desk.custodian("roster show", false).expect(0)["digest"].as_str().unwrap().to_owned();
    desk.custodian(&format!("roster verify --digest {digest}"), false).expect(0);
    let other = format!("sha256:{}{}", if &digest[7..8] == "0" { "1" } else { "0" }, &digest[8..]);
    desk.custodian(&format!("roster verify --digest {other}"), false).expect(4);

    let made = desk.custodian("token init", true).expect(0);
    assert_eq!(made["generation"], 1);
    let serial = made["serial"].as_str().unwrap();

    // One custodian is not enough, twice is not two, and nobody signs unseen.
    desk.request(serial, "one.json");
    let unseen = desk.custodian("approve @one.json --as ana --token ana --pin-file @ana.pin", true);
    assert!(unseen.text.contains("nobody is here to confirm"), "{}", unseen.text);
    desk.approve("ana", "one.json").expect(0);
    let alone = desk.custodian("verify @one.json", false);
    assert!(alone.code == 4 && alone.text.contains("1 of 2 custodians signed"), "{}", alone.text);
    assert!(desk.approve("ana", "one.json").text.contains("signed twice"));
    let refused = desk.renew("one.json", ["ana", "bo"]);
    assert!(refused.code != 0 && refused.text.contains("1 of 2 custodians signed"), "{}", refused.text);
    desk.approve("bo", "one.json").expect(0);
    let verified = desk.custodian("verify @one.json", false).expect(0);
    assert_eq!(verified["approvers"][1]["name"], "bo");
    let weak = desk.custodian("verify @one.json --profile government --tier approvals-only", false);
    assert!(weak.code == 4 && weak.text.contains("approvals-only"), "{}", weak.text);

    // The PINs are used once; so is the approval.
    let renewed = desk.renew("one.json", ["carla", "ana"]).expect(0);
    assert_eq!(renewed["generation"], 2);
    assert_eq!(renewed["approval"]["tier"], "split-package-and-pin");
    assert_eq!(renewed["hardening"]["core-dumps-off"], true);
    let replayed = desk.renew("one.json", ["carla", "ana"]);
    assert!(replayed.code != 0 && replayed.text.contains("used before"), "{}", replayed.text);
    // Each session is announced in the log before it begins, and its end is there. A statement that is refused begins none.
    let custody: Vec<String> = desk
        .site
        .records()
        .iter()
        .filter(|record| record["action"] == "custody")
        .map(|record| record["detail"].as_str().unwrap().split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(custody, ["begun", "done", "begun", "done", "begun", "failed"]);
    let shares = desk.custodian("shares list", false).expect(0);
    assert_eq!(shares["shares"].as_array().unwrap().len(), 6);
    assert!(shares["shares"].as_array().unwrap().iter().all(|share| share["epoch"] == 2 && share["file"].is_string()));

    // A share of another set among them is named.
    let folder = desk.site.dir.join("custody/token/gen-2");
    let mut stray: Value = serde_json::from_slice(&fs::read(folder.join("so-pin.ana.share.json")).unwrap()).unwrap();
    stray["header"]["set-digest"] = format!("sha256:{}", "0".repeat(64)).into();
    fs::write(folder.join("so-pin.stray.share.json"), stray.to_string()).unwrap();
    let strays = desk.custodian("shares list", false);
    assert!(strays.code == 4 && strays.text.contains("so-pin.stray.share.json"), "{}", strays.text);
    no_pin_is_in_any_file(&desk);

    // Nobody notes by hand that something was done, and a forged statement begins nothing.
    desk.request(serial, "forged.json");
    let forged = desk.custodian("record --statement @forged.json", true);
    assert!(forged.code != 0 && forged.text.contains("0 of 2 custodians signed"), "{}", forged.text);
    // A ledger that is gone is not begun again by the way.
    fs::remove_file(desk.site.dir.join("custody/nonces")).unwrap();
    let again = desk.custodian("token init --folder @elsewhere --label other", true);
    assert!(again.code == 4 && again.text.contains("used could be used again"), "{}", again.text);
    assert!(!desk.site.dir.join("custody/nonces").exists());
}

/// PINs of custodians are in their files alone; those of the custody token are nowhere.
#[track_caller]
fn no_pin_is_in_any_file(desk: &Desk) {
    for path in site::files(&desk.site.dir.join("custody")) {
        let bytes = fs::read(&path).unwrap();
        for name in ["ana", "bo", "carla", "officer"] {
            let pin = format!("the pin of {name}");
            assert!(!bytes.windows(pin.len()).any(|window| window == pin.as_bytes()), "{}", path.display());
        }
    }
}

#[test]
fn a_pin_file_that_others_can_read_is_refused() {
    let desk = Desk::new();
    fs::set_permissions(desk.path("ana.pin"), fs::Permissions::from_mode(0o644)).unwrap();
    let arguments = "enrol --name ana --person p-ana --token ana --pin-file @ana.pin --initialise --so-pin-file \
                     @officer.pin --out @ana.card";
    let refused = desk.custodian(arguments, true);
    assert!(refused.code == 1 && refused.text.contains("can be read by others"), "{}", refused.text);
    assert!(!Path::new(&desk.path("ana.card")).exists());
}
