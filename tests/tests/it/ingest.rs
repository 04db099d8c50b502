//! Documents as people have them: folders of several kinds, hostile files, an ingest that is killed; and quality by judgements.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::corpus;
use crate::site::{self, Site, passage, program, text};

/// A PDF of one page with one line of text, as ISO 32000-1 section 7.5 lays it out.
fn pdf(line: &str) -> Vec<u8> {
    let content = format!("BT /F1 12 Tf 72 720 Td ({line}) Tj ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>".to_owned(),
        format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned(),
    ];
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        places.push(out.len());
        writeln!(out, "{} 0 obj\n{object}\nendobj", number + 1).unwrap();
    }
    let table = out.len();
    write!(out, "xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).unwrap();
    places.iter().for_each(|place| writeln!(out, "{place:010} 00000 n ").unwrap());
    write!(out, "trailer << /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n", objects.len() + 1).unwrap();
    out
}

fn ingest(site: &Site, folder: &Path, more: &[&str]) -> site::Ended {
    let place = ["ingest", text(folder), "--as", "carla", "--compartment", "engineering", "--label", "internal"];
    site.casemate(&[&place[..], more].concat())
}

fn answer(site: &Site, question: &str) -> String {
    site.casemate(&["ask", question, "--as", "ben"]).expect(0)["outcome"]["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_folder_of_markdown_text_html_pdf_and_beir_lines_is_found_again() {
    let (site, folder) = (site::copy(), tempfile::tempdir().unwrap());
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("one.md", b"The gantry crane of pier one lifts forty tonnes.");
    write("two.txt", b"The slipway of yard two was tarred in April.");
    write(
        "three.html",
        b"<html><head><title>T</title><style>p { color: red }</style><script>var hidden = 'moonlight';</script></head>\
          <body><p>The <b>capstan</b> of quay three is greased with tallow &amp; wax.</p></body></html>",
    );
    write("four.pdf", &pdf("The hydraulic lock of basin four closes in ninety seconds."));
    write("five.jsonl", b"{\"_id\": \"b5\", \"title\": \"Beacons\", \"text\": \"The beacon of reef five blinks twice.\", \"metadata\": {}}\n");
    let done = ingest(&site, folder.path(), &[]).expect(0);
    assert_eq!((&done["added"], &done["unchanged"]), (&json!(5), &json!(0)));
    for (question, wanted) in [
        ("What does the gantry crane of pier one lift?", "forty tonnes"),
        ("When was the slipway of yard two tarred?", "April"),
        ("What is the capstan of quay three greased with?", "tallow & wax"),
        ("How long does the hydraulic lock of basin four take to close?", "ninety seconds"),
        ("How does the beacon of reef five blink?", "twice"),
    ] {
        assert!(answer(&site, question).contains(wanted), "{question}: {}", answer(&site, question));
    }
    assert!(!answer(&site, "Is there moonlight?").contains("moonlight"), "a script was read as text");
    // Once more: nothing to do, nothing twice.
    let again = ingest(&site, folder.path(), &[]).expect(0);
    assert_eq!((&again["added"], &again["replaced"], &again["unchanged"]), (&json!(0), &json!(0), &json!(5)));
    fs::write(folder.path().join("two.txt"), "The slipway of yard two was tarred in May.").unwrap();
    let changed = ingest(&site, folder.path(), &[]).expect(0);
    assert_eq!((&changed["replaced"], &changed["unchanged"]), (&json!(1), &json!(4)));
    assert!(answer(&site, "When was the slipway of yard two tarred?").contains("May"));
}

#[test]
fn hostile_files_are_named_and_bring_nothing_in() {
    let site = site::copy();
    let nested = format!("<html>{}deep{}</html>", "<div>".repeat(30_000), "</div>".repeat(30_000));
    let endless: Vec<u8> = pdf("x").into_iter().chain(std::iter::repeat_n(b'(', 1 << 20)).collect();
    let hostile: [(&str, Vec<u8>); 6] = [
        ("empty.pdf", Vec::new()),
        ("words.pdf", b"this is no pdf".to_vec()),
        ("cut.pdf", pdf("cut off").into_iter().take(120).collect()),
        ("scanned.pdf", pdf("")),
        ("nothing.html", b"<html><body><script>only()</script></body></html>".to_vec()),
        ("binary.html", vec![0xff; 4096]),
    ];
    for (name, bytes) in &hostile {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("good.md"), "The winch of pier six is new.").unwrap();
        fs::write(folder.path().join(name), bytes).unwrap();
        let refused = ingest(&site, folder.path(), &[]);
        if refused.code == 0 {
            // Bytes that a browser would show as something are text, however odd.
            assert_eq!(*name, "binary.html", "{}", refused.text);
            continue;
        }
        assert!(refused.text.contains(name), "{name}: {}", refused.text);
        let done = ingest(&site, folder.path(), &["--skip-unreadable"]).expect(0);
        assert!(done["added"] == 1 || done["unchanged"] == 1, "{name}: {done}");
    }
    // Whatever the parser does with these, it does it in its own process: the command ends, by itself.
    for (name, bytes) in [("nested.html", nested.into_bytes()), ("endless.pdf", endless)] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), bytes).unwrap();
        let ended = ingest(&site, folder.path(), &[]);
        assert!((0..=2).contains(&ended.code), "{name}: {}", ended.text);
    }
}

/// Looked at from outside, while it waits for its file.
#[test]
fn what_parses_html_and_pdf_is_locked_down_before_it_reads() {
    let mut child =
        Command::new(program()).args(["extract", "html"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let filters = |process: &str| -> u32 {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    };
    let locked = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        filters(&child.id().to_string()) > filters("self")
    });
    assert!(locked, "it was never locked down");
    child.stdin.take().unwrap().write_all(b"<p>Waiting.</p>").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "Waiting.");
}

/// `kill -9` at random moments: calling again brings in the rest, and nothing is there twice.
#[test]
fn an_ingest_that_is_killed_is_finished_by_the_same_command() {
    let (site, folder) = (site::copy(), tempfile::tempdir().unwrap());
    let lines: String = (0..1500)
        .map(|number| {
            let body = format!("Mooring {number} of the harbour holds {} tonnes in a storm.", number * 3 + 7);
            format!("{}\n", passage(&format!("mooring-{number}"), &format!("Mooring {number}"), &body))
        })
        .collect();
    let path = folder.path().join("moorings.jsonl");
    fs::write(&path, lines).unwrap();
    let mut kills = 0;
    for milliseconds in [400, 700, 900, 1100, 1400, 1800] {
        let arguments = ["ingest", text(&path), "--as", "carla"];
        let mut child = site.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "no run was cut off");
    let last = site.casemate(&["ingest", text(&path), "--as", "carla"]).expect(0);
    let count = |name: &str| last[name].as_u64().unwrap();
    assert_eq!(count("added") + count("replaced") + count("unchanged"), 1500, "{last}");
    let again = site.casemate(&["ingest", text(&path), "--as", "carla"]).expect(0);
    assert_eq!((&again["unchanged"], &again["added"], &again["replaced"]), (&json!(1500), &json!(0), &json!(0)));
    assert!(answer(&site, "How many tonnes does mooring 1234 of the harbour hold in a storm?").contains("3709"));
}

#[test]
fn quality_is_measured_side_by_side_from_files_of_beir_and_trec() {
    let (site, folder) = (site::shared(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    let known: Vec<_> = corpus::PASSAGES.iter().filter(|passage| passage.1 == "engineering").take(12).collect();
    // Each passage's first sentence asks for it.
    let question = |body: &str| body.split_inclusive('.').next().unwrap().to_owned();
    let beir: String = known
        .iter()
        .enumerate()
        .map(|(n, p)| format!("{}\n", json!({ "_id": format!("q{n}"), "text": question(p.4) })))
        .collect();
    fs::write(path("queries.jsonl"), beir).unwrap();
    let tsv: String = known.iter().enumerate().map(|(n, p)| format!("q{n}\t{}\t1\n", p.0)).collect();
    fs::write(path("qrels.tsv"), format!("query-id\tcorpus-id\tscore\n{tsv}")).unwrap();
    let measure = |queries: &str, qrels: &str| -> Value {
        let (queries, qrels) = (path(queries), path(qrels));
        let files = ["eval", "--queries", text(&queries), "--qrels", text(&qrels)];
        site.casemate(&[&files[..], &["--as", "ben", "--compartment", "engineering"]].concat()).expect(0)
    };
    let found = measure("queries.jsonl", "qrels.tsv");
    assert_eq!((found["queries"].as_u64(), found["missing"].as_u64()), (Some(12), Some(0)), "{found}");
    for measure in ["ndcg-10", "recall", "mrr"] {
        let (cipher, plain) =
            (found["encrypted"][measure].as_f64().unwrap(), found["plaintext"][measure].as_f64().unwrap());
        assert!((cipher - plain).abs() < 5e-4, "{measure}: {found}");
        assert!(plain > 0.8, "{measure}: {found}");
    }
    // Of nineteen passages, those at tenth and eleventh place are both far away and nearly as far: noise may swap some.
    assert!((0.9..=1.0).contains(&found["overlap-10"].as_f64().unwrap()), "{found}");
    // The same in TREC's formats.
    let topics: String = known
        .iter()
        .enumerate()
        .map(|(n, p)| format!("<top>\n<num> Number: q{n}\n<title> {}\n</top>\n", question(p.4)))
        .collect();
    fs::write(path("topics"), topics).unwrap();
    let one_word: Vec<_> = known.iter().enumerate().filter(|(_, p)| !p.0.contains(' ')).collect();
    let trec: String = one_word.iter().map(|(n, p)| format!("q{n} 0 {} 1\n", p.0)).collect();
    fs::write(path("qrels"), trec).unwrap();
    assert_eq!(measure("topics", "qrels")["queries"].as_u64(), Some(one_word.len() as u64));
    // Judgements of something else.
    fs::write(path("other.tsv"), "query-id\tcorpus-id\tscore\nx1\tDeadlines\t1\n").unwrap();
    let (queries, other) = (path("queries.jsonl"), path("other.tsv"));
    let refused = site.casemate(&[
        "eval",
        "--queries",
        text(&queries),
        "--qrels",
        text(&other),
        "--as",
        "ben",
        "--compartment",
        "engineering",
    ]);
    assert!(refused.code != 0 && refused.text.contains("no question"), "{}", refused.text);
}
