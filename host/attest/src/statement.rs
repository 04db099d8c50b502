use std::collections::BTreeMap;

use casemate_types::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AttestError, Envelope};

/// The payload type of an in-toto Statement in DSSE.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The type that every Statement of version 1 names.
pub const STATEMENT_V1: &str = "https://in-toto.io/Statement/v1";

/// An in-toto Statement v1: what is said (`predicate`, of `predicate_type`) about which files (`subject`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    /// What it is about. Never empty.
    pub subject: Vec<Subject>,
    /// A URI that says how to read `predicate`.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said.
    #[serde(default)]
    pub predicate: Value,
}

/// One file that a Statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Digests in lower-case hexadecimal, by algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// A file by SHA-256.
    pub fn new(name: &str, digest: Digest) -> Self {
        Self { name: name.to_owned(), digest: [("sha256".to_owned(), digest.hex())].into() }
    }

    /// Whether it is the file of that digest.
    pub fn is(&self, digest: Digest) -> bool {
        self.digest.get("sha256") == Some(&digest.hex())
    }
}

impl Statement {
    /// A Statement.
    pub fn new(subject: Vec<Subject>, predicate_type: &str, predicate: Value) -> Self {
        Self { kind: STATEMENT_V1.to_owned(), subject, predicate_type: predicate_type.to_owned(), predicate }
    }

    /// The Statement in an envelope, whoever signed.
    ///
    /// # Errors
    /// [`AttestError::WrongType`], [`AttestError::Malformed`] for anything but a Statement v1 with a subject and a predicate type.
    pub fn of<K>(envelope: &Envelope<K>) -> Result<Self, AttestError> {
        if envelope.payload_type() != IN_TOTO {
            let found = envelope.payload_type().chars().take(80).collect();
            return Err(AttestError::WrongType { found, wanted: IN_TOTO });
        }
        let bad = |why: String| AttestError::Malformed { what: "an in-toto Statement", why };
        let statement: Self = serde_json::from_slice(envelope.payload()).map_err(|error| bad(error.to_string()))?;
        if statement.kind != STATEMENT_V1 {
            return Err(bad(format!("its `_type` is not {STATEMENT_V1}")));
        }
        if statement.subject.is_empty() || statement.predicate_type.is_empty() {
            return Err(bad("it has no subject or no predicate type".to_owned()));
        }
        Ok(statement)
    }

    /// An envelope of it that nobody has signed. Members are in alphabetical order, so equal statements are equal bytes.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] for a predicate that is no JSON.
    pub fn envelope<K>(&self) -> Result<Envelope<K>, AttestError> {
        let bad =
            |error: serde_json::Error| AttestError::Malformed { what: "an in-toto Statement", why: error.to_string() };
        // serde_json's maps are sorted: through a value, members are in order whatever the struct's order.
        let value = serde_json::to_value(self).map_err(bad)?;
        Ok(Envelope::new(IN_TOTO, serde_json::to_vec(&value).map_err(bad)?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_statement_is_read_as_written_and_nothing_else_is() {
        let subject = Subject::new("component.wasm", Digest::of(b"code"));
        assert!(subject.is(Digest::of(b"code")) && !subject.is(Digest::of(b"other")));
        let statement = Statement::new(vec![subject], "https://example.com/p/v1", json!({"b": 1, "a": [true]}));
        let envelope: Envelope = statement.envelope().unwrap();
        assert!(
            envelope.payload().starts_with(b"{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicate\":{\"a\":")
        );
        assert_eq!(Statement::of(&envelope).unwrap(), statement);

        let of =
            |kind: &str, value: Value| Statement::of(&Envelope::<String>::new(kind, value.to_string().into_bytes()));
        let good: Value = serde_json::from_slice(envelope.payload()).unwrap();
        assert!(of(IN_TOTO, good.clone()).is_ok());
        assert!(matches!(of("text/plain", good.clone()), Err(AttestError::WrongType { .. })));
        for (member, value) in [
            ("_type", json!("https://in-toto.io/Statement/v0.1")),
            ("subject", json!([])),
            ("predicateType", json!("")),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            assert!(matches!(of(IN_TOTO, bad), Err(AttestError::Malformed { .. })), "{member}");
        }
    }
}
