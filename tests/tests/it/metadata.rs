//! Typed metadata fields: what is refused, what is found, and what the store gets to see.

use std::fs;

use casemate_types::CollectionName;
use casemate_vectors::{PassageRecord, SledStore, VectorStore};
use serde_json::{Value, json};

use crate::site::{self, Site, passage, text, titles};

const QUESTION: &str = "When is the bilge of the ferry tested?";

const SCHEMA: &str = r#"[collections.engineering.fields]
year = { type = "integer", minimum = 1900, maximum = 2100 }
hull = { type = "integer", minimum = 0, maximum = 99999999 }
depth = { type = "integer" }
due = { type = "date" }
state = { type = "enumeration", values = ["draft", "final", "final, signed"] }
remark = "sealed"

[fields]
"#;

/// A site whose engineering collection has a schema.
fn typed() -> Site {
    let site = site::copy();
    site.configure("[fields]\n", SCHEMA);
    site
}

fn ship(id: &str, metadata: &Value) -> Value {
    let mut line = passage(id, id, &format!("The bilge of the ferry {id} is tested on Mondays."));
    line["metadata"] = metadata.clone();
    line
}

fn fleet(site: &Site) {
    site.ingest(&[
        ship("Alba", &json!({ "year": 1998, "hull": 1234567, "depth": -3, "due": "2026-03-01", "state": "draft", "remark": "zanzibarquokka" })),
        ship("Bora", &json!({ "year": "2007", "hull": "1234568", "depth": "12", "due": "2026-03-02", "state": "final" })),
        ship("Cleo", &json!({ "year": 2007, "hull": 99999999, "depth": 4000000000_i64, "due": "2027-01-01", "state": "final, signed" })),
        ship("Dora", &json!({ "licence": "MIT" })),
    ]);
}

fn ask(site: &Site, conditions: &[&str]) -> Vec<String> {
    let mut arguments = vec!["ask", QUESTION, "--as", "ben"];
    arguments.extend(conditions.iter().flat_map(|condition| ["--where", *condition]));
    let mut found = titles(&site.casemate(&arguments).expect(0));
    found.sort();
    found
}

#[test]
fn values_sets_and_ranges_find_what_they_should() {
    let site = typed();
    fleet(&site);
    for (conditions, wanted) in [
        (&["year=2007"][..], &["Bora", "Cleo"][..]),
        (&["year in 1998, 2007"], &["Alba", "Bora", "Cleo"]),
        (&["year>=1999"], &["Bora", "Cleo"]),
        (&["year >= 1998", "year <= 2006"], &["Alba"]),
        (&["hull=1234568"], &["Bora"]),
        (&["hull in 1234567,99999999"], &["Alba", "Cleo"]),
        (&["hull<=1234567"], &["Alba"]),
        (&["depth=-3"], &["Alba"]),
        (&["depth>=12"], &["Bora", "Cleo"]),
        (&["depth in 12,13"], &["Bora"]),
        (&["due>=2026-03-02", "due<=2026-12-31"], &["Bora"]),
        (&["due=2026-03-01"], &["Alba"]),
        (&[r"state in draft,final\, signed"], &["Alba", "Cleo"]),
        (&["state=final"], &["Bora"]),
        (&["remark=zanzibarquokka"], &["Alba"]),
        (&["remark=another"], &[]),
        (&["year>=2000", "state=final", "hull in 1234568"], &["Bora"]),
    ] {
        assert_eq!(ask(&site, conditions), wanted, "{conditions:?}");
    }
}

#[test]
fn values_of_another_type_are_refused_by_name_at_ingest() {
    let site = typed();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    for (metadata, named) in [
        (json!({ "year": "nineteen" }), "document `Alba`: metadata field `year`: a whole number from 1900 to 2100"),
        (json!({ "year": 1899 }), "`year`"),
        (json!({ "year": "02007" }), "`year`"),
        (json!({ "hull": -1 }), "`hull`: a whole number from 0 to 99999999"),
        (json!({ "due": "1 March" }), "`due`: a date as YYYY-MM-DD"),
        (json!({ "state": "Draft" }), "`state`: one of draft, final, final, signed"),
        (json!({ "colour": "red" }), "`colour`: the schema of `engineering` in site.toml has no such field"),
        (json!({ "year": 2.5 }), "metadata are texts or whole numbers"),
        (json!({ "crate>=": "a" }), "no filter could name it"),
    ] {
        fs::write(&path, format!("{}\n", ship("Alba", &metadata))).unwrap();
        let refused = site.casemate(&["ingest", text(&path), "--as", "carla"]);
        assert!(refused.code != 0 && refused.text.contains(named), "{metadata}: {}", refused.text);
    }
    // A collection without a schema of its own takes any field.
    let mut line = ship("Alba", &json!({ "colour": "red" }));
    line["compartment"] = json!("cryptography");
    site.ingest(&[line]);
}

#[test]
fn filters_that_no_collection_takes_are_the_callers_mistake() {
    let site = typed();
    for (condition, named) in [
        ("year>=soon", "a whole number from 1900 to 2100"),
        ("state=final,draft", "one of draft"),
        ("colour=red", "has no field `colour`"),
        ("licence>=MIT", "fields of type integer or date"),
        ("year>2000", "is no condition"),
        ("year", "is no condition"),
    ] {
        let refused = site.casemate(&["ask", QUESTION, "--as", "ben", "--where", condition]);
        assert!(refused.code != 0 && refused.text.contains(named), "{condition}: {}", refused.text);
    }
    // Of somebody who has a collection without a schema besides, where the field may be.
    assert!(titles(&site.casemate(&["ask", QUESTION, "--as", "carla", "--where", "colour=red"]).expect(0)).is_empty());
}

#[test]
fn fields_that_are_typed_or_sealed_later_are_still_filtered() {
    let site = site::copy();
    let mut line = ship("Alba", &json!({ "licence": "kept-secret", "year": "1998" }));
    line["label"] = json!("internal");
    site.ingest(&[line, ship("Bora", &json!({ "licence": "MIT", "year": "2007" }))]);
    site.configure("licence = \"token\"", "licence = \"sealed\"\nyear = { type = \"integer\" }");
    assert_eq!(ask(&site, &["licence=kept-secret"]), ["Alba"]);
    assert_eq!(ask(&site, &["year>=2000"]), ["Bora"]);
}

fn records(site: &Site) -> Vec<PassageRecord> {
    let store = SledStore::open(&site.dir.join("store")).unwrap();
    let collection: CollectionName = "engineering".parse().unwrap();
    let all = store.documents(&collection).unwrap();
    all.into_iter().map(|(_, document)| store.passage(&collection, &document).unwrap().unwrap()).collect()
}

#[test]
fn sealed_values_leave_no_trace_in_the_store_and_small_domains_only_tokens() {
    let site = typed();
    fleet(&site);
    let mut kinds: Vec<(String, String)> = records(&site)
        .into_iter()
        .flat_map(|record| record.metadata)
        .map(|(name, value)| (name, value[..2].to_owned()))
        .collect();
    kinds.sort();
    kinds.dedup();
    let kinds: Vec<(&str, &str)> = kinds.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(kinds, [("hull", "f:"), ("licence", "t:"), ("state", "t:"), ("year", "t:")]);
    for record in records(&site) {
        for (name, value) in record.metadata.iter().filter(|(name, _)| name == "hull") {
            let digits = value.strip_prefix("f:").unwrap();
            assert!(digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{name} {value}");
            assert!(!["01234567", "01234568", "99999999"].contains(&digits), "in clear: {value}");
        }
    }
    for path in site::files(&site.dir).iter().filter(|path| !path.ends_with("site.toml")) {
        let bytes = fs::read(path).unwrap();
        let found = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!found(b"zanzibarquokka") && !found(b"4000000000") && !found(b"\"due\""), "{}", path.display());
    }
}
