//! The custody token: PINs that are used once, and a plug that is pulled at every step.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use casemate_custody::session::{Custody, Leave, Step};
use casemate_custody::*;
use casemate_hsm::{HsmError, KeyClass, KeyRef, Keyring, Pin};

use crate::harness::{Ground, again, die, play_own_role};
use crate::tokens::World;

const LABEL: &str = "custody";

/// Every step of a session at which the process is killed.
const STEPS: [Step; 9] = [
    Step::SharesWritten,
    Step::Prepared,
    Step::Worked,
    Step::ChangingUser,
    Step::UserPinChanged,
    Step::ChangingSo,
    Step::SoPinChanged,
    Step::Settled,
    Step::OldRemoved,
];

/// Every step of the initialisation at which it is killed.
const FIRST_STEPS: [Step; 3] = [Step::SharesWritten, Step::Prepared, Step::TokenInitialised];

#[test]
fn one_time_pins_hold_on_the_software_token() {
    if !play_own_role(play) {
        one_time_pins(&Ground::software_token("session::one_time_pins_hold_on_the_software_token"));
    }
}

#[test]
fn one_time_pins_hold_on_softhsm() {
    if play_own_role(play) {
        return;
    }
    if let Some(ground) = Ground::softhsm("session::one_time_pins_hold_on_softhsm") {
        one_time_pins(&ground);
    }
}

#[test]
fn kill_9_at_every_step_leaves_one_set_valid_on_the_software_token() {
    if !play_own_role(play) {
        killed(&Ground::software_token("session::kill_9_at_every_step_leaves_one_set_valid_on_the_software_token"));
    }
}

#[test]
fn kill_9_at_every_step_leaves_one_set_valid_on_softhsm() {
    if play_own_role(play) {
        return;
    }
    if let Some(ground) = Ground::softhsm("session::kill_9_at_every_step_leaves_one_set_valid_on_softhsm") {
        killed(&ground);
    }
}

#[test]
fn what_an_opening_showed_is_worthless_on_the_software_token() {
    if !play_own_role(play) {
        openings(&Ground::software_token("session::what_an_opening_showed_is_worthless_on_the_software_token"));
    }
}

#[test]
fn what_an_opening_showed_is_worthless_on_softhsm() {
    if play_own_role(play) {
        return;
    }
    if let Some(ground) = Ground::softhsm("session::what_an_opening_showed_is_worthless_on_softhsm") {
        openings(&ground);
    }
}

/// A site is opened with the same steps, but for the work.
fn openings(ground: &Ground) {
    ground.play("setup");
    ground.play("openings");
    for step in STEPS.into_iter().filter(|step| *step != Step::Worked) {
        ground.play_killed(&format!("kill-opening {step:?}"));
        ground.play(&format!("recover-opening {step:?}"));
    }
}

fn one_time_pins(ground: &Ground) {
    ground.play("setup");
    ground.play("attacks");
    let said = ground.play("pipe");
    assert!(said.contains("from the pipe"), "{said}");
    // SoftHSM keeps what it knows of a PIN as long as a process has it loaded, so another process looks.
    ground.play("settled 6");
}

fn killed(ground: &Ground) {
    ground.play("setup");
    for step in STEPS {
        ground.play_killed(&format!("kill {step:?}"));
        ground.play(&format!("recover {step:?}"));
    }
    for step in FIRST_STEPS {
        ground.play_killed(&format!("kill-first {step:?}"));
        ground.play(&format!("recover-first {step:?}"));
    }
}

fn play(role: &str, module: &Path, folder: &Path) {
    let (role, step) = role.split_once(' ').unwrap_or((role, ""));
    if role == "setup" {
        let world = World::create(module, folder);
        initialise(&world, LABEL, &mut |_| {});
        return;
    }
    let world = World::load(module, folder);
    let kill = |at: Step| {
        if format!("{at:?}") == step {
            die();
        }
    };
    match role {
        "attacks" => attacks(&world),
        "pipe" => pipe(&world),
        "piped" => piped(&world),
        "settled" => assert_eq!(assert_settled(&world, LABEL).0.to_string(), step),
        "kill" => drop(run(&world, LABEL, &["ana", "bo"], &mut |at| kill(at))),
        "recover" => recover(&world, LABEL),
        "openings" => attacks_on_openings(&world),
        "kill-opening" => drop(hand_over(&world, &["ana", "bo"], &mut |at| kill(at))),
        "recover-opening" => recover_opening(&world),
        "kill-first" => initialise(&world, &format!("first {step}"), &mut |at| kill(at)),
        "recover-first" => recover_first(&world, &format!("first {step}")),
        other => panic!("{other}"),
    }
}

fn open_folder(world: &World, label: &str) -> CustodyFolder {
    CustodyFolder::open(&world.folder.join(format!("custody {label}"))).unwrap()
}

fn custody<'a>(world: &'a World, folder: &'a CustodyFolder) -> Custody<'a> {
    Custody { folder, module: &world.module, roster: &world.roster, next_roster: &world.roster }
}

fn initialise(world: &World, label: &str, observe: &mut dyn FnMut(Step)) {
    let folder = open_folder(world, label);
    // The first PINs come from a custodian's token.
    let mut entropy = TokenEntropy(Arc::clone(world.token("carla").keyring()));
    custody(world, &folder).initialise(label, &mut entropy, observe).unwrap();
}

/// What the journal asks for, opened by these custodians in their tokens.
fn shares(world: &World, folder: &CustodyFolder, names: &[&str]) -> Vec<OpenShare> {
    let needed = folder.journal().unwrap().unwrap().needed();
    let mut shares = Vec::new();
    for name in names {
        let (custodian, token) = (world.custodian(name), world.token(name));
        for (kind, generation) in &needed {
            let share = folder.share(*kind, *generation, &custodian.name).unwrap();
            shares.push(share.open(custodian, &token).unwrap());
        }
    }
    shares
}

fn generate(ring: &Arc<Keyring>) -> Result<KeyRef, CustodyError> {
    Ok(ring.generate(KeyClass::AtRest, "made in the session")?)
}

fn approved(world: &World, label: &str) -> Approved<Statement> {
    world.approve(Operation::OpenCustody, &serial_of(&world.module, label).unwrap())
}

fn run(world: &World, label: &str, names: &[&str], observe: &mut dyn FnMut(Step)) -> Result<KeyRef, CustodyError> {
    let folder = open_folder(world, label);
    let shares = shares(world, &folder, names);
    custody(world, &folder).run(&approved(world, label), shares, generate, observe)
}

/// A PIN as the shares of one generation give it.
fn pin_of(world: &World, folder: &CustodyFolder, kind: SecretKind, generation: Generation) -> Pin {
    let set = folder.set(kind, generation).unwrap();
    let mut collector = Collector::new(&set, &world.roster, generation.0).unwrap();
    for name in ["ana", "bo"] {
        let share = folder.share(kind, generation, &name.parse().unwrap()).unwrap();
        collector.enter(share.open(world.custodian(name), &world.token(name)).unwrap()).unwrap();
    }
    Pin::new(hex::encode(collector.combine().unwrap())).unwrap()
}

/// The folder is settled, holds one generation, and its PINs are the token's.
fn assert_settled(world: &World, label: &str) -> Generation {
    let folder = open_folder(world, label);
    let journal = folder.journal().unwrap().unwrap();
    assert_eq!(journal.phase, Phase::Settled);
    let path = world.folder.join(format!("custody {label}"));
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [format!("gen-{}", journal.generation.0), "journal.json".to_owned(), "lock".to_owned()]);
    let user = pin_of(world, &folder, SecretKind::UserPin, journal.generation);
    drop(Keyring::open(Arc::clone(&world.module), label, &user).unwrap());
    let so = pin_of(world, &folder, SecretKind::SoPin, journal.generation);
    world.module.check_so_pin(label, &so).unwrap();
    journal.generation
}

fn attacks(world: &World) {
    success_kills_the_old_shares(world);
    failure_leaves_the_old_shares_alive(world);
    one_custodian_alone_opens_nothing(world);
    old_shares_are_refused_by_name(world);
    an_approval_for_another_token_opens_nothing(world);
    a_forged_generation_is_refused(world);
    a_key_that_is_kept_stops_the_change(world);
    a_folder_has_one_token(world);
}

fn success_kills_the_old_shares(world: &World) {
    let folder = open_folder(world, LABEL);
    let before = folder.journal().unwrap().unwrap().generation;
    let user = pin_of(world, &folder, SecretKind::UserPin, before);
    let so = pin_of(world, &folder, SecretKind::SoPin, before);
    drop(folder);
    let mut steps = Vec::new();
    run(world, LABEL, &["bo", "carla"], &mut |step| steps.push(step)).unwrap();
    assert_eq!(steps, STEPS);
    assert_eq!(assert_settled(world, LABEL), before.next());

    let open = Keyring::open(Arc::clone(&world.module), LABEL, &user).map(drop);
    assert!(matches!(open, Err(HsmError::PinIncorrect)), "{open:?}");
    let reset = world.module.reset_user_pin(LABEL, &so, &user);
    assert!(matches!(reset, Err(HsmError::PinIncorrect)), "{reset:?}");
}

fn failure_leaves_the_old_shares_alive(world: &World) {
    let folder = open_folder(world, LABEL);
    let before = folder.journal().unwrap().unwrap();
    let mut steps = Vec::new();
    let failed: Result<(), _> = custody(world, &folder).run(
        &approved(world, LABEL),
        shares(world, &folder, &["ana", "bo"]),
        |_| Err(CustodyError::Random),
        &mut |step| steps.push(step),
    );
    assert!(matches!(failed, Err(CustodyError::Random)));
    assert_eq!(steps, [Step::SharesWritten, Step::Prepared, Step::Aborted]);
    assert_eq!(folder.journal().unwrap().unwrap(), before);
    drop(folder);
    assert_eq!(assert_settled(world, LABEL), before.generation);
}

fn one_custodian_alone_opens_nothing(world: &World) {
    let alone = run(world, LABEL, &["ana"], &mut |step| panic!("{step:?}"));
    assert!(matches!(alone, Err(CustodyError::TooFewShares { found: 1, wanted: 2 })), "{alone:?}");
    let twice = run(world, LABEL, &["ana", "ana"], &mut |step| panic!("{step:?}"));
    assert!(matches!(twice, Err(CustodyError::ShareTwice { .. })), "{twice:?}");
}

fn old_shares_are_refused_by_name(world: &World) {
    let folder = open_folder(world, LABEL);
    let old = shares(world, &folder, &["ana", "bo"]);
    drop(folder);
    run(world, LABEL, &["ana", "bo"], &mut |_| {}).unwrap();
    let folder = open_folder(world, LABEL);
    let refused = custody(world, &folder).run(&approved(world, LABEL), old, generate, &mut |step| panic!("{step:?}"));
    assert!(matches!(refused, Err(CustodyError::OlderEpoch { .. })), "{refused:?}");
}

fn an_approval_for_another_token_opens_nothing(world: &World) {
    let folder = open_folder(world, LABEL);
    let foreign = world.approve(Operation::OpenCustody, &world.custodian("ana").token_serial);
    let shares = shares(world, &folder, &["ana", "bo"]);
    let refused = custody(world, &folder).run(&foreign, shares, generate, &mut |step| panic!("{step:?}"));
    assert!(matches!(refused, Err(CustodyError::NotApproved { .. })), "{refused:?}");
}

/// Encrypts a PIN of mallory's own choice to the custodians, as anybody can, in place of what the folder has.
fn forge(world: &World, folder: &Path, kind: (SecretKind, &str), generation: Generation) {
    let serial = serial_of(&world.module, LABEL).unwrap();
    let of = SplitOf { kind: kind.0, about: serial.as_str(), epoch: generation.0 };
    let (set, shares) = split(&[0x66; 32], of, &world.roster, &mut SystemEntropy).unwrap();
    std::fs::write(folder.join(format!("{}.set.json", kind.1)), set.to_bytes().unwrap()).unwrap();
    for share in shares {
        let name = format!("{}.{}.share.json", kind.1, share.custodian());
        std::fs::write(folder.join(name), share.to_bytes().unwrap()).unwrap();
    }
}

/// Whoever can write the folder wants an honest session to give the token PINs of mallory's.
fn a_forged_generation_is_refused(world: &World) {
    let folder = world.folder.join(format!("custody {LABEL}"));
    let journal = folder.join("journal.json");
    let now = assert_settled(world, LABEL);
    let next = folder.join(format!("gen-{}", now.next().0));
    let honest = std::fs::read_to_string(&journal).unwrap();
    let proof_of_another = std::fs::read(folder.join(format!("gen-{}", now.0)).join("succession.json")).unwrap();
    for phase in ["changing-user", "changing-so"] {
        for proof in [None, Some(&proof_of_another)] {
            std::fs::create_dir(&next).unwrap();
            forge(world, &next, (SecretKind::UserPin, "user-pin"), now.next());
            forge(world, &next, (SecretKind::SoPin, "so-pin"), now.next());
            if let Some(proof) = proof {
                std::fs::write(next.join("succession.json"), proof).unwrap();
            }
            let forged = honest.replace("\"settled\"", &format!("\"{phase}\""));
            assert_ne!(forged, honest);
            std::fs::write(&journal, forged).unwrap();
            assert_forgery_is_refused(world, now);
            std::fs::remove_dir_all(&next).unwrap();
            std::fs::write(&journal, &honest).unwrap();
            // No PIN was changed.
            assert_eq!(assert_settled(world, LABEL), now);
        }
    }
}

fn assert_forgery_is_refused(world: &World, now: Generation) {
    let mut steps = Vec::new();
    let refused = run(world, LABEL, &["ana", "bo"], &mut |step| steps.push(step));
    let named = |generation| generation == now.next().0;
    assert!(matches!(refused, Err(CustodyError::ForgedGeneration { generation }) if named(generation)), "{refused:?}");
    assert!(matches!(steps[..], [Step::Resuming(_)]), "{steps:?}");
}

/// With a key the login lives on, and a PIN must not change behind it.
fn a_key_that_is_kept_stops_the_change(world: &World) {
    let folder = open_folder(world, LABEL);
    let before = folder.journal().unwrap().unwrap().generation;
    let mut kept = None;
    let shares_now = shares(world, &folder, &["ana", "bo"]);
    let stopped: Result<(), _> = custody(world, &folder).run(
        &approved(world, LABEL),
        shares_now,
        |ring| {
            kept = Some(ring.find(&generate(ring)?)?);
            Ok(())
        },
        &mut |_| {},
    );
    assert!(matches!(stopped, Err(CustodyError::Token(HsmError::AlreadyOpen { .. }))), "{stopped:?}");
    drop((kept, folder));
    // A genuine change was cut off: one PIN of it exchanged is as bad as both.
    let path = world.folder.join(format!("custody {LABEL}"));
    let next = path.join(format!("gen-{}", before.next().0));
    for kind in [(SecretKind::UserPin, "user-pin"), (SecretKind::SoPin, "so-pin")] {
        let genuine: Vec<_> = std::fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()).collect();
        let genuine: Vec<_> = genuine.into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
        forge(world, &next, kind, before.next());
        assert_forgery_is_refused(world, before);
        genuine.iter().for_each(|(bytes, path)| std::fs::write(path, bytes).unwrap());
    }
    // The journal says too much: with the SO PIN changed and the USER PIN not there would be no way on.
    let journal = std::fs::read_to_string(path.join("journal.json")).unwrap();
    std::fs::write(path.join("journal.json"), journal.replace("\"changing-user\"", "\"changing-so\"")).unwrap();
    let refused = run(world, LABEL, &["ana", "bo"], &mut |_| {});
    assert!(matches!(refused, Err(CustodyError::PinsDead { pin: "USER" })), "{refused:?}");
    std::fs::write(path.join("journal.json"), journal).unwrap();
    // The next session finishes the change, then makes its own.
    run(world, LABEL, &["ana", "bo"], &mut |_| {}).unwrap();
    assert_eq!(assert_settled(world, LABEL), before.next().next());
}

/// Opens the token for another process.
fn hand_over(world: &World, names: &[&str], observe: &mut dyn FnMut(Step)) -> Result<SplitPin, CustodyError> {
    let folder = open_folder(world, LABEL);
    let shares = shares(world, &folder, names);
    hand_over_with(world, &folder, shares, observe)
}

fn hand_over_with(
    world: &World,
    folder: &CustodyFolder,
    shares: Vec<OpenShare>,
    observe: &mut dyn FnMut(Step),
) -> Result<SplitPin, CustodyError> {
    let custody = custody(world, folder);
    let opened = custody.begin(Leave::Present, shares, observe)?;
    custody.hand_over(opened, observe)
}

fn attacks_on_openings(world: &World) {
    an_opening_kills_what_was_shown(world);
    old_shares_replayed_after_an_opening_are_refused(world);
    an_older_folder_put_back_after_an_opening_is_refused(world);
    altered_and_foreign_shares_open_nothing(world);
    a_pin_of_before_the_last_opening_is_refused(world);
}

fn an_opening_kills_what_was_shown(world: &World) {
    let before = assert_settled(world, LABEL);
    let folder = open_folder(world, LABEL);
    let old = [SecretKind::UserPin, SecretKind::SoPin].map(|kind| pin_of(world, &folder, kind, before));
    drop(folder);
    let mut steps = Vec::new();
    let pin = hand_over(world, &["carla", "bo"], &mut |step| steps.push(step)).unwrap();
    assert_eq!(steps, STEPS.into_iter().filter(|step| *step != Step::Worked).collect::<Vec<_>>());
    assert_eq!((pin.generation(), pin.is_renewed()), (before.next(), true));
    assert_eq!(pin.custodians().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["bo", "carla"]);
    // The other process gets the PIN in force through a pipe, and no other.
    let piped = SplitPin::from_pipe(&pin.expose_for_pipe().unwrap()).unwrap();
    drop(Keyring::open(Arc::clone(&world.module), LABEL, &piped.pin().unwrap()).unwrap());
    assert_eq!(assert_settled(world, LABEL), before.next());
    let [user, so] = old;
    let open = Keyring::open(Arc::clone(&world.module), LABEL, &user).map(drop);
    assert!(matches!(open, Err(HsmError::PinIncorrect)), "{open:?}");
    let reset = world.module.reset_user_pin(LABEL, &so, &user);
    assert!(matches!(reset, Err(HsmError::PinIncorrect)), "{reset:?}");
    let secret = hex::encode(pin.expose_for_pipe().unwrap());
    assert!(!format!("{pin:?}").contains(&secret[secret.len() - 80..]) && format!("{pin:?}").contains("secret"));
}

fn old_shares_replayed_after_an_opening_are_refused(world: &World) {
    let folder = open_folder(world, LABEL);
    let old = shares(world, &folder, &["ana", "bo"]);
    drop(folder);
    hand_over(world, &["ana", "bo"], &mut |_| {}).unwrap();
    let folder = open_folder(world, LABEL);
    let refused = hand_over_with(world, &folder, old, &mut |step| panic!("{step:?}"));
    assert!(matches!(refused, Err(CustodyError::OlderEpoch { .. })), "{refused:?}");
    for alone in [&["ana"][..], &["ana", "ana"]] {
        let shown = shares(world, &folder, alone);
        let refused = hand_over_with(world, &folder, shown, &mut |step| panic!("{step:?}"));
        assert!(
            matches!(
                refused,
                Err(CustodyError::TooFewShares { found: 1, wanted: 2 } | CustodyError::ShareTwice { .. })
            ),
            "{refused:?}"
        );
    }
}

/// A backup of the folder has everything that the opening before it had, and is worth nothing.
fn an_older_folder_put_back_after_an_opening_is_refused(world: &World) {
    let path = world.folder.join(format!("custody {LABEL}"));
    let backup = world.folder.join("backup");
    let before = assert_settled(world, LABEL);
    copy(&path, &backup);
    hand_over(world, &["ana", "bo"], &mut |_| {}).unwrap();
    let newest = world.folder.join("newest");
    copy(&path, &newest);
    std::fs::remove_dir_all(&path).unwrap();
    copy(&backup, &path);
    let refused = hand_over(world, &["ana", "bo"], &mut |step| panic!("{step:?}"));
    assert!(
        matches!(&refused, Err(CustodyError::Superseded { generation, .. }) if *generation == before.0),
        "{refused:?}"
    );
    std::fs::remove_dir_all(&path).unwrap();
    copy(&newest, &path);
    hand_over(world, &["ana", "carla"], &mut |_| {}).unwrap();
    assert_eq!(assert_settled(world, LABEL), before.next().next());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn altered_and_foreign_shares_open_nothing(world: &World) {
    let folder = open_folder(world, LABEL);
    let now = folder.journal().unwrap().unwrap();
    let good = || shares(world, &folder, &["ana", "bo"]);
    // One digit of a share on its way through the pipe.
    let mut shown = good();
    let line = String::from_utf8(shown.pop().unwrap().expose_for_pipe().unwrap().to_vec()).unwrap();
    let at = line.rfind('"').unwrap() - 1;
    let digit = if line[at..].starts_with('0') { "1" } else { "0" };
    shown.push(OpenShare::from_pipe(format!("{}{digit}{}", &line[..at], &line[at + 1..]).trim().as_bytes()).unwrap());
    let refused = hand_over_with(world, &folder, shown, &mut |step| panic!("{step:?}"));
    assert!(matches!(refused, Err(CustodyError::ShareCorrupted { .. })), "{refused:?}");
    // A share of the same epoch, custodian and kind of another token.
    let serial = world.custodian("ana").token_serial.clone();
    let of = SplitOf { kind: SecretKind::UserPin, about: serial.as_str(), epoch: now.generation.0 };
    let (_, foreign) = split(&[0x66; 32], of, &world.roster, &mut SystemEntropy).unwrap();
    let foreign = foreign.iter().find(|share| share.custodian().as_str() == "ana").unwrap();
    let mut shown = good();
    let place = shown.iter().position(|share| share.kind() == SecretKind::UserPin).unwrap();
    shown[place] = foreign.open(world.custodian("ana"), &world.token("ana")).unwrap();
    let refused = hand_over_with(world, &folder, shown, &mut |step| panic!("{step:?}"));
    assert!(matches!(refused, Err(CustodyError::ShareOfOtherSet { .. })), "{refused:?}");
    assert_eq!(folder.journal().unwrap().unwrap(), now);
    drop(folder);
    assert_eq!(assert_settled(world, LABEL), now.generation);
}

/// Two openings at once: the process that comes late is told, and the one that holds the site keeps others out.
fn a_pin_of_before_the_last_opening_is_refused(world: &World) {
    let late = hand_over(world, &["ana", "bo"], &mut |_| {}).unwrap();
    let pin = hand_over(world, &["ana", "bo"], &mut |_| {}).unwrap();
    let refused = late.hold(open_folder(world, LABEL));
    assert!(matches!(refused, Err(CustodyError::OpenedAnew { .. })), "{refused:?}");
    let held = pin.hold(open_folder(world, LABEL)).unwrap();
    let path = world.folder.join(format!("custody {LABEL}"));
    assert!(matches!(CustodyFolder::open(&path), Err(CustodyError::InUse { .. })));
    drop(held);
    assert!(CustodyFolder::open(&path).is_ok());
}

/// After a kill at whichever step, the custodians open the token with the one generation that is in force.
fn recover_opening(world: &World) {
    let journal = open_folder(world, LABEL).journal().unwrap().unwrap();
    let pin = hand_over(world, &["bo", "carla"], &mut |_| {}).unwrap();
    let changes = match journal.phase {
        Phase::ChangingUser | Phase::ChangingSo => 2,
        _ => 1,
    };
    assert_eq!(pin.generation().0, journal.generation.0 + changes, "from {:?}", journal.phase);
    assert_eq!(assert_settled(world, LABEL), pin.generation());
}

fn a_folder_has_one_token(world: &World) {
    let folder = open_folder(world, LABEL);
    for label in [LABEL, "another custody"] {
        let again = custody(world, &folder).initialise(label, &mut SystemEntropy, &mut |step| panic!("{step:?}"));
        assert!(matches!(again, Err(CustodyError::AlreadyInitialised { .. })), "{again:?}");
    }
}

/// The process that talks to the custodians never has a PIN: it hands the shares through a pipe.
fn pipe(world: &World) {
    let folder = open_folder(world, LABEL);
    let mut lines = Vec::new();
    for share in shares(world, &folder, &["carla", "ana"]) {
        lines.extend_from_slice(&share.expose_for_pipe().unwrap());
    }
    drop(folder);
    let test = std::thread::current().name().unwrap().to_owned();
    let said = process::call(again(&test, "piped"), &lines).unwrap();
    std::io::stdout().write_all(&said).unwrap();

    // What goes wrong there is told here.
    let Err(error) = process::call(again(&test, "piped"), b"no share\n") else { panic!("a session without shares") };
    assert!(error.to_string().contains("a share from the pipe"), "{error}");
}

fn piped(world: &World) {
    let hardening = process::harden().unwrap();
    assert!(hardening.core_dumps_off);
    let status = std::fs::read_to_string("/proc/self/limits").unwrap();
    let cores = status.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(cores.contains(" 0 "), "{cores}");
    if hardening.memory_locked {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find(|line| line.starts_with("VmLck")).unwrap();
        assert!(!locked.contains(" 0 kB"), "{locked}");
    }
    let request = process::read_request().unwrap();
    let shares = request.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let shares = shares.map(|line| OpenShare::from_pipe(line).unwrap()).collect();
    let folder = open_folder(world, LABEL);
    let key = custody(world, &folder).run(&approved(world, LABEL), shares, generate, &mut |_| {}).unwrap();
    println!("{} from the pipe", key.class);
}

fn recover(world: &World, label: &str) {
    let folder = open_folder(world, label);
    let journal = folder.journal().unwrap().unwrap();
    drop(folder);
    // Other custodians than those whose session was killed.
    run(world, label, &["bo", "carla"], &mut |_| {}).unwrap();
    let after = assert_settled(world, label);
    let changes = match journal.phase {
        Phase::ChangingUser | Phase::ChangingSo => 2,
        _ => 1,
    };
    assert_eq!(after.0, journal.generation.0 + changes, "from {:?}", journal.phase);
}

fn recover_first(world: &World, label: &str) {
    if world.module.token(label).is_err() {
        initialise(world, label, &mut |_| {});
    }
    run(world, label, &["bo", "carla"], &mut |_| {}).unwrap();
    assert_settled(world, label);
}
