//! Thirty passages in two compartments, some with identifiers, one with words that occur nowhere else.

use serde_json::json;

/// Title, compartment, label, licence, text.
pub type Passage = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// The address that two passages share.
pub const ADDRESS: &str = "licences@harbour-works.example";
/// A card number with a good check digit.
pub const CARD: &str = "4111 1111 1111 1111";
/// An account number with good check digits.
pub const IBAN: &str = "DE89 3704 0044 0532 0130 00";
/// Words of one passage, of its title, source and metadata, that must appear in clear nowhere on disk.
pub const PLANTED: [&str; 4] = ["quokkazanzibar", "Sluicegatery", "marsupialworks", "kookaburra-licence"];

const E: &str = "engineering";
const C: &str = "cryptography";

/// All passages; the id of each is its title.
pub const PASSAGES: &[Passage] = &[
    (
        "Deadlines",
        E,
        "internal",
        "MIT",
        "A deadline says when a request stops being useful. Every service passes the deadline on to the services it calls. Work past its deadline is thrown away.",
    ),
    (
        "Connection pools",
        E,
        "internal",
        "MIT",
        "A connection pool keeps open database connections for reuse. Borrowing a connection from the pool is cheaper than opening one. An idle connection is closed after a while.",
    ),
    (
        "Retries",
        E,
        "internal",
        "Apache-2.0",
        "A failed call is retried with exponential backoff. Jitter keeps many clients from retrying at the same moment.",
    ),
    (
        "Ring buffers",
        E,
        "internal",
        "MIT",
        "A ring buffer overwrites its oldest element when it is full. Producers and consumers each keep an index of their own.",
    ),
    (
        "Log rotation",
        E,
        "internal",
        "MIT",
        "Log files are rotated every night and compressed. Rotated log files are kept for ninety days.",
    ),
    (
        "Backups",
        E,
        "internal",
        "Apache-2.0",
        "Backups are written to tape each week. A backup that was never restored is not a backup.",
    ),
    (
        "Time zones",
        E,
        "internal",
        "MIT",
        "Timestamps are stored in universal time. A time zone is applied only when a timestamp is shown.",
    ),
    (
        "Unicode",
        E,
        "internal",
        "MIT",
        "A character may be several code points. Text is normalised before it is compared.",
    ),
    (
        "Bloom filters",
        E,
        "internal",
        "BSD-3-Clause",
        "A Bloom filter answers whether an element may be in a set. It never forgets an element and sometimes reports one that was never added.",
    ),
    (
        "Caches",
        E,
        "internal",
        "MIT",
        "The cache evicts the entry that was used least recently. A cache entry carries the version it was made from.",
    ),
    ("Tracing", E, "internal", "MIT", "A span covers one unit of work. Spans of one request share a trace identifier."),
    (
        "Feature flags",
        E,
        "internal",
        "Apache-2.0",
        "A feature flag turns code on for some users first. Old feature flags are removed.",
    ),
    (
        "File locks",
        E,
        "internal",
        "MIT",
        "An advisory file lock is honoured by programs that ask for it. The lock ends with the process that holds it.",
    ),
    (
        "Thread pools",
        E,
        "internal",
        "MIT",
        "A thread pool runs tasks on a fixed number of threads. A blocking task gets a thread of its own.",
    ),
    (
        "Licence enquiries",
        E,
        "internal",
        "Apache-2.0",
        "Enquiries about a licence go by e-mail to licences@harbour-works.example in the first week.",
    ),
    (
        "Licence invoices",
        E,
        "internal",
        "Apache-2.0",
        "Invoices for a licence go by e-mail to licences@harbour-works.example in the last week.",
    ),
    (
        "Travel expenses",
        E,
        "internal",
        "MIT",
        "Travel expenses are charged to the company card 4111 1111 1111 1111 only.",
    ),
    (
        "Supplier payments",
        E,
        "internal",
        "MIT",
        "Suppliers receive their payments from the account DE89 3704 0044 0532 0130 00 each month.",
    ),
    (
        "Dry dock schedule",
        E,
        "confidential",
        "MIT",
        "The dry dock schedule moves the frigate overhaul to the third quarter.",
    ),
    (
        "Sluicegatery",
        E,
        "internal",
        "kookaburra-licence",
        "The quokkazanzibar valve opens the upper sluice when the tide turns.",
    ),
    (
        "Authenticated encryption",
        C,
        "secret",
        "MIT",
        "An authenticated cipher protects the integrity of a message as well as its secrecy. Decryption fails when the authentication tag does not match the message.",
    ),
    (
        "Nonces",
        C,
        "secret",
        "MIT",
        "A nonce is used once with a key. Repeating a nonce in counter mode reveals the exclusive or of two messages.",
    ),
    (
        "Key wrapping",
        C,
        "secret",
        "Apache-2.0",
        "Key wrapping protects a key under another key. The wrapped key carries an integrity check.",
    ),
    (
        "Signatures",
        C,
        "secret",
        "MIT",
        "A signature proves who wrote a message. Verification needs only the public key.",
    ),
    (
        "Merkle trees",
        C,
        "secret",
        "MIT",
        "A Merkle tree commits to many records with one hash. An inclusion proof shows that a record is under the root.",
    ),
    (
        "Password hashing",
        C,
        "secret",
        "BSD-3-Clause",
        "A password is hashed with a slow, memory-hard function. Each password has a salt of its own.",
    ),
    (
        "Timing leaks",
        C,
        "secret",
        "MIT",
        "Secret-dependent branches leak through timing. Constant-time code touches the same memory for every secret.",
    ),
    (
        "Random numbers",
        C,
        "secret",
        "MIT",
        "Keys come from the generator of the hardware module. A weak generator makes every key weak.",
    ),
    (
        "Format preservation",
        C,
        "secret",
        "MIT",
        "Format-preserving encryption keeps length and alphabet of a value. Small domains are replaced by tokens.",
    ),
    (
        "Lattices",
        C,
        "secret",
        "MIT",
        "Homomorphic encryption rests on noisy lattices. The noise grows with every operation on the ciphertext.",
    ),
];

/// The corpus as `casemate ingest` reads it.
pub fn json_lines() -> String {
    let line = |(title, compartment, label, licence, text): &Passage| {
        let source = if *title == "Sluicegatery" { "docs/marsupialworks.md".to_owned() } else { format!("{title}.md") };
        let line = json!({
            "id": title, "title": title, "source": source, "compartment": compartment, "label": label, "text": text,
            "metadata": { "licence": licence },
        });
        format!("{line}\n")
    };
    PASSAGES.iter().map(line).collect()
}
