//! The plug is pulled at every point of a ceremony, one after the other; each start goes on from what the last kill left.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::ground::{Ground, die, play_own_role};
use crate::world::World;

const TEST: &str = "crash::kill_9_at_every_step_ends_in_the_same_result";

/// More points than the plan has; the count is checked below.
const MOST: usize = 200;

#[test]
fn kill_9_at_every_step_ends_in_the_same_result() {
    if play_own_role(play) {
        return;
    }
    every_step_is_killed(&Ground::ready(TEST));
}

#[test]
fn kill_9_at_every_step_between_two_makes_ends_in_the_same_result() {
    if play_own_role(play) {
        return;
    }
    let test = "crash::kill_9_at_every_step_between_two_makes_ends_in_the_same_result";
    if let Some(ground) = Ground::of_makes(test, &["primary", "vault"]) {
        every_step_is_killed(&ground);
    }
}

fn every_step_is_killed(ground: &Ground) {
    let kills = (0..MOST).take_while(|_| ground.play_or_die("go on")).count();
    let died = fs::read_to_string(ground.path().join("died")).unwrap();
    assert_eq!(died.lines().count(), kills);
    // Four points for each of 16 steps and the log's and journal's, and those within steps.
    assert!((80..MOST).contains(&kills), "{kills} kills:\n{died}");
    for point in
        ["generated 7", "wrapped 10", "admitted primary 10", "shares names 0", "recovered names 0", "signed ana 0"]
    {
        assert!(died.lines().any(|line| line == point), "{point} was not reached:\n{died}");
    }
    ground.play("look");
}

fn play(role: &str, folder: &Path) {
    let world = World::at(folder);
    if role == "look" {
        let verified = world.assert_finished();
        assert!(verified.transcript.steps.iter().all(|step| step.attempts > 1));
        // A ceremony that is over stays what it is.
        let digest = world.transcript().digest();
        assert_eq!(world.resume().unwrap().digest(), digest);
        return;
    }
    let path = folder.join("died");
    let died = fs::read_to_string(&path).unwrap_or_default();
    let mut reached = |point: &str| {
        if !died.lines().any(|line| line == point) {
            let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
            file.write_all(format!("{point}\n").as_bytes()).unwrap();
            file.sync_all().unwrap();
            die();
        }
    };
    let begun = folder.join("ceremony/journal.jsonl").exists();
    world.carry_out(begun, &mut reached).unwrap();
}
