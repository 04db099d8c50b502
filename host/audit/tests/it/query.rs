//! The index finds what a walk over the log finds, and is never believed.

use std::fs;
use std::path::Path;

use casemate_audit::{Event, Index, Query, entries_from};
use casemate_types::{Digest, Generation};

use crate::support::{fill, open, real};

fn event(n: u64) -> Event {
    match n % 3 {
        0 => Event::KeyOperation {
            operation: "mask".into(),
            class: "fpe".into(),
            key_id: format!("k{}", n % 5),
            key_check: "00".into(),
            user: Some(format!("user{}", n % 7)),
            result: "ok".into(),
            version: None,
            by: None,
        },
        1 => Event::Bundle {
            action: "refused".into(),
            name: "spring".into(),
            version: n,
            digest: Digest::of(&[(n % 4) as u8]),
            signers: vec![],
            reason: n.is_multiple_of(2).then(|| "expired".into()),
            generation: Generation(n / 1000),
        },
        _ => Event::Site { action: "started".into(), detail: format!("with \"quotes\" and \\ {n}") },
    }
}

/// What a walk over every record finds.
fn walked(log: &Path, query: &Query) -> Vec<u64> {
    entries_from(log, 0)
        .unwrap()
        .filter(|(_, record)| query.matches(record.as_ref().unwrap()))
        .map(|(i, _)| i)
        .collect()
}

fn indexed(log: &Path, dir: &Path, query: &Query) -> Vec<u64> {
    let index = Index::open(log, dir, |_| {}).unwrap();
    let mut found = index.select(query).unwrap();
    found.extend(
        entries_from(log, index.end())
            .unwrap()
            .filter(|(_, record)| query.matches(record.as_ref().unwrap()))
            .map(|(index, _)| index),
    );
    found
}

fn queries() -> Vec<Query> {
    let text = |text: &str| Some(text.to_owned());
    let none = Query::default;
    vec![
        none(),
        Query { since_ms: Some(200_000), until_ms: Some(201_000), ..none() },
        Query { event: text("bundle"), ..none() },
        Query { user: text("user3"), ..none() },
        Query { user: text("nobody"), ..none() },
        Query { key: text("k2"), user: text("user1"), ..none() },
        Query { component: Some(Digest::of(&[2]).to_string()), ..none() },
        Query { generation: Some(1), reason: text("expired"), ..none() },
        Query { generation: Some(0), ..none() },
        Query { decision: text("deny"), ..none() },
        Query { policy: text("clearance"), ..none() },
    ]
}

#[test]
fn the_index_finds_what_a_walk_finds_as_the_log_grows() {
    let site = tempfile::tempdir().unwrap();
    let (dir, index) = (site.path().join("log"), site.path().join("index"));
    let log = open(&dir);
    let mut size = 0;
    for next in [10, 700, 701, 2000] {
        for n in size..next {
            log.append(real(n * 1000, event(n))).unwrap();
        }
        size = next;
        if next != 701 {
            log.checkpoint().unwrap();
        }
        for query in queries() {
            let found = walked(&dir, &query);
            assert_eq!(indexed(&dir, &index, &query), found, "{size}: {query:?}");
            assert!(
                size < 2000
                    || !found.is_empty()
                    || query.decision.is_some()
                    || query.policy.is_some()
                    || query.user.as_deref() == Some("nobody")
            );
        }
    }
}

#[test]
fn a_damaged_deleted_or_foreign_index_is_rebuilt() {
    let site = tempfile::tempdir().unwrap();
    let (dir, index) = (site.path().join("log"), site.path().join("index"));
    let log = open(&dir);
    (0..600).for_each(|n| _ = log.append(real(n, event(n))).unwrap());
    drop(log);
    let query = Query { event: Some("site".into()), ..Query::default() };
    let right = indexed(&dir, &index, &query);
    for (name, bytes) in [("state", b"nonsense".as_slice()), ("words", b"\x05\x00ab"), ("rows", b"")] {
        fs::write(index.join(name), bytes).unwrap();
        assert_eq!(indexed(&dir, &index, &query), right, "{name}");
    }
    fs::remove_dir_all(&index).unwrap();
    assert_eq!(indexed(&dir, &index, &query), right);
    // Beside another log.
    let other = site.path().join("other");
    let log = open(&other);
    fill(&log, 0, 1000);
    drop(log);
    assert_eq!(indexed(&other, &index, &query), Vec::<u64>::new());
    assert_eq!(indexed(&dir, &index, &query), right);
}

#[test]
fn a_row_that_lies_finds_no_record_that_does_not_match() {
    let site = tempfile::tempdir().unwrap();
    let (dir, index) = (site.path().join("log"), site.path().join("index"));
    let log = open(&dir);
    (0..512).for_each(|n| _ = log.append(real(n, event(n))).unwrap());
    drop(log);
    let query = Query { event: Some("site".into()), ..Query::default() };
    let right = indexed(&dir, &index, &query);
    let mut rows = fs::read(index.join("rows")).unwrap();
    let row = rows.len() / 512;
    // Record 0 is a key operation; its row now says what record 2's says.
    let lie = rows[2 * row..3 * row].to_vec();
    rows[..row].copy_from_slice(&lie);
    fs::write(index.join("rows"), rows).unwrap();
    let claimed = Index::open(&dir, &index, |_| {}).unwrap().select(&query).unwrap();
    assert_eq!(claimed.first(), Some(&0));
    let kept: Vec<u64> = claimed
        .into_iter()
        .filter(|index| query.matches(&entries_from(&dir, *index).unwrap().next().unwrap().1.unwrap()))
        .collect();
    assert_eq!(kept, right);
}
