//! Natively, the capabilities: the same signatures as the generated imports, answered by the scripted host.

use super::{Host, KeyPurpose, call};
use crate::{CapabilityError, Field, Reference};

/// Who the request is for.
pub mod session {
    use crate::Claims;

    /// The claims of the session's user.
    pub fn current() -> Claims {
        super::call("session.current", |host| host.claims.clone())
    }
}

/// Time, as a recorded input.
pub mod clock {
    /// Milliseconds since 1970-01-01 UTC at which the request was accepted.
    pub fn now() -> u64 {
        super::call("clock.now", |host| host.now)
    }
}

/// Randomness, as a recorded input.
pub mod random {
    use crate::CapabilityError;

    /// `count` random bytes, at most 1,024.
    pub fn bytes(count: u32) -> Result<Vec<u8>, CapabilityError> {
        super::call("random.bytes", |host| super::random_bytes(host, count))
    }
}

/// The site's operational log.
pub mod log {
    use crate::LogLevel;

    /// One line; cut at 1,024 characters.
    pub fn write(level: LogLevel, message: &str) {
        super::call("log.write", |host| {
            host.log.then(|| host.seen.log.push((level, message.chars().take(1024).collect())))
        })
    }
}

/// Format-preserving encryption. The stand-in shifts each character by one: length and alphabet stay.
pub mod fpe {
    pub use crate::bindings::casemate::plugin::fpe::{Alphabet, Item};

    use super::{KeyPurpose, call, open_key};
    use crate::CapabilityError;

    /// A handle of an FPE key.
    #[derive(Debug)]
    pub struct Key(());

    impl Key {
        /// Opens a key by its site name.
        pub fn open(name: &str) -> Result<Self, CapabilityError> {
            call("fpe.open", |host| open_key(host, name, |purpose| purpose == KeyPurpose::Fpe)).map(|_| Self(()))
        }

        /// Its version: 1 here.
        pub fn version(&self) -> u64 {
            1
        }

        /// Encrypts up to 1,024 items, all or nothing.
        pub fn encrypt(&self, items: &[Item]) -> Result<Vec<String>, CapabilityError> {
            call("fpe.encrypt", |_| Some(shift(items, 1)))
        }

        /// The inverse.
        pub fn decrypt(&self, items: &[Item]) -> Result<Vec<String>, CapabilityError> {
            call("fpe.decrypt", |_| Some(shift(items, -1)))
        }
    }

    fn shift(items: &[Item], by: isize) -> Result<Vec<String>, CapabilityError> {
        if items.len() > 1024 {
            return Err(CapabilityError::Invalid("more than 1,024 items".to_owned()));
        }
        items.iter().enumerate().map(|(index, item)| shift_one(index, item, by)).collect()
    }

    fn shift_one(index: usize, item: &Item, by: isize) -> Result<String, CapabilityError> {
        let (alphabet, shortest) = match item.alphabet {
            Alphabet::Digits => (&ALPHABET[..10], 6),
            Alphabet::Base36 => (&ALPHABET[..36], 4),
            Alphabet::Base62 => (ALPHABET, 4),
        };
        let invalid = |rule: &str| Err(CapabilityError::Invalid(format!("item {index}: {rule}")));
        if item.text.chars().count() < shortest {
            return invalid("fewer than 1,000,000 possible values");
        }
        if item.tweak.len() > 64 {
            return invalid("tweak above 64 bytes");
        }
        let shifted = item.text.bytes().map(|byte| {
            let at = alphabet.iter().position(|&letter| letter == byte)? as isize;
            Some(char::from(alphabet[(at + by).rem_euclid(alphabet.len() as isize) as usize]))
        });
        shifted.collect::<Option<String>>().map_or_else(|| invalid("a character outside the alphabet"), Ok)
    }

    const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
}

/// The HSM, by handle. The stand-ins give answers of the right length.
pub mod hsm {
    pub use crate::bindings::casemate::plugin::hsm::KeyInfo;

    use super::{KeyPurpose, call, open_key, random_bytes};
    use crate::CapabilityError;

    /// A handle of a signing or MAC key.
    #[derive(Debug)]
    pub struct Key {
        name: String,
        purpose: KeyPurpose,
    }

    impl Key {
        /// Opens a key by its site name.
        pub fn open(name: &str) -> Result<Self, CapabilityError> {
            call("hsm.open", |host| open_key(host, name, |purpose| purpose != KeyPurpose::Fpe))
                .map(|purpose| Self { name: name.to_owned(), purpose })
        }

        /// What may be known about it.
        pub fn info(&self) -> KeyInfo {
            let purpose = if self.purpose == KeyPurpose::Signing { "signing" } else { "mac" };
            call("hsm.info", |_| {
                Some(KeyInfo { name: self.name.clone(), purpose: purpose.to_owned(), check: "000000".to_owned() })
            })
        }

        /// 64 bytes in place of a signature.
        pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CapabilityError> {
            call("hsm.sign", |_| Some(self.digest(KeyPurpose::Signing, message, 64)))
        }

        /// 32 bytes in place of a MAC.
        pub fn mac(&self, message: &[u8]) -> Result<Vec<u8>, CapabilityError> {
            call("hsm.mac", |_| Some(self.digest(KeyPurpose::Mac, message, 32)))
        }

        fn digest(&self, purpose: KeyPurpose, message: &[u8], size: usize) -> Result<Vec<u8>, CapabilityError> {
            if self.purpose != purpose {
                return Err(CapabilityError::Invalid("the key has another purpose".to_owned()));
            }
            if message.len() > 64 << 10 {
                return Err(CapabilityError::Invalid("message above 64 KiB".to_owned()));
            }
            let mut out = vec![0_u8; size];
            for (index, byte) in self.name.bytes().chain(message.iter().copied()).enumerate() {
                out[index % size] = out[index % size].rotate_left(3) ^ byte;
            }
            Ok(out)
        }
    }

    /// `count` bytes, at most 1,024. Granted by `Host::random`.
    pub fn random(count: u32) -> Result<Vec<u8>, CapabilityError> {
        call("hsm.random", |host| random_bytes(host, count))
    }
}

/// Encrypted vector search.
pub mod vectors {
    use super::call;
    use crate::{CapabilityError, Field, Reference};

    /// A collection the session may search.
    #[derive(Debug)]
    pub struct Collection {
        name: String,
        documents: u64,
    }

    impl Collection {
        /// Opens by name.
        pub fn open(name: &str) -> Result<Self, CapabilityError> {
            call("vectors.open", |host| {
                let found = host.collections.as_ref()?.iter().find(|(each, _)| each == name);
                Some(found.map(|(_, found)| found.as_ref().map_or(0, |list| list.len() as u64)))
            })
            .map(|documents| Self { name: name.to_owned(), documents })
            .ok_or_else(|| CapabilityError::NotFound(name.to_owned()))
        }

        /// The name.
        pub fn name(&self) -> String {
            self.name.clone()
        }

        /// Number of passages.
        pub fn documents(&self) -> u64 {
            self.documents
        }
    }

    /// An embedded question.
    #[derive(Debug)]
    pub struct Query(());

    impl Query {
        /// Embeds `text`, at most 16 KiB.
        pub fn embed(text: &str) -> Result<Self, CapabilityError> {
            call("vectors.embed", |host| host.collections.as_ref().map(|_| ()));
            if text.len() > 16 << 10 {
                return Err(CapabilityError::Invalid("text above 16 KiB".to_owned()));
            }
            Ok(Self(()))
        }
    }

    /// Names of the collections the session may search.
    pub fn collections() -> Vec<String> {
        call("vectors.collections", |host| {
            Some(host.collections.as_ref()?.iter().map(|(name, _)| name.clone()).collect())
        })
    }

    /// The first `k` of what the script says is found. The script decides what a filter lets through.
    pub fn search(
        collection: &Collection,
        _query: &Query,
        _filter: &[Field],
        k: u32,
    ) -> Result<Vec<Reference>, CapabilityError> {
        if !(1..=256).contains(&k) {
            return Err(CapabilityError::Invalid("k must be 1 to 256".to_owned()));
        }
        call("vectors.search", |host| {
            let found = host.collections.as_ref()?.iter().find(|(name, _)| *name == collection.name)?;
            Some(found.1.clone())
        })
        .map(|mut found| {
            found.truncate(k as usize);
            found
        })
    }
}

/// Search in the closest parts of a collection.
pub mod clusters {
    use super::{call, found};
    use crate::{CapabilityError, Field, Reference};

    /// The first `k` of what the script says is found.
    pub fn search(
        collection: &str,
        _question: &str,
        _filter: &[Field],
        k: u32,
        probes: u32,
    ) -> Result<Vec<Reference>, CapabilityError> {
        if !(1..=256).contains(&k) || !(1..=64).contains(&probes) {
            return Err(CapabilityError::Invalid("k must be 1 to 256, probes 1 to 64".to_owned()));
        }
        call("clusters.search", |host| found(host.clusters.as_ref()?, collection, k))
    }
}

/// Search by keyed words.
pub mod keywords {
    use super::{call, found};
    use crate::{CapabilityError, Field, Reference};

    /// The first `k` of what the script says is found.
    pub fn search(collection: &str, _text: &str, _filter: &[Field], k: u32) -> Result<Vec<Reference>, CapabilityError> {
        if !(1..=256).contains(&k) {
            return Err(CapabilityError::Invalid("k must be 1 to 256".to_owned()));
        }
        call("keywords.search", |host| found(host.keywords.as_ref()?, collection, k))
    }
}

/// How close passages are to each other.
pub mod similarity {
    use super::call;
    use crate::{CapabilityError, Reference};

    /// Closeness of each of up to 64 passages to each, row by row.
    pub fn closeness(references: &[Reference]) -> Result<Vec<u16>, CapabilityError> {
        call("similarity.closeness", |host| {
            let measure = host.similarity.as_ref()?;
            if references.len() > 64 {
                return Some(Err(CapabilityError::Invalid("more than 64 passages".to_owned())));
            }
            let row = |a| references.iter().map(move |b| measure(a, b).min(1023));
            Some(Ok(references.iter().flat_map(row).collect()))
        })
    }
}

/// Sealed passages.
pub mod records {
    use super::call;
    use crate::{CapabilityError, Passage, Reference};

    /// Opens up to 64 passages, one answer each, in order.
    pub fn open(references: &[Reference]) -> Vec<Result<Passage, CapabilityError>> {
        call("records.open", |host| {
            let passages = host.passages.as_ref()?;
            let answer = |wanted: &Reference| {
                let is_wanted =
                    |each: &Reference| (&each.collection, &each.document) == (&wanted.collection, &wanted.document);
                let found = passages.iter().find(|(each, _)| is_wanted(each));
                found.map_or_else(
                    || Err(CapabilityError::NotFound(wanted.document.clone())),
                    |(_, answer)| answer.clone(),
                )
            };
            Some(references.iter().map(answer).collect())
        })
    }
}

/// The site's retrieval strategy.
pub mod retrieval {
    use super::call;
    use crate::{CapabilityError, Field, Reference};

    /// The first `k` of what the script answers.
    pub fn retrieve(_question: &str, _filter: &[Field], k: u32) -> Result<Vec<Reference>, CapabilityError> {
        if !(1..=64).contains(&k) {
            return Err(CapabilityError::Invalid("k must be 1 to 64".to_owned()));
        }
        call("retrieval.retrieve", |host| host.retrieved.clone()).map(|mut found| {
            found.truncate(k as usize);
            found
        })
    }
}

/// The local sentence model.
pub mod inference {
    use super::call;
    use crate::CapabilityError;

    /// Closeness of each text to the question, 0 to 1023. At most 256 texts of 4 KiB.
    pub fn closeness(question: &str, texts: &[String]) -> Result<Vec<u16>, CapabilityError> {
        call("inference.closeness", |host| {
            let measure = host.closeness.as_ref()?;
            if texts.len() > 256 || texts.iter().any(|text| text.len() > 4 << 10) {
                return Some(Err(CapabilityError::Invalid("more than 256 texts of 4 KiB".to_owned())));
            }
            Some(Ok(texts.iter().map(|text| measure(question, text).min(1023)).collect()))
        })
    }
}

/// Remarks in the record of the decision at hand.
pub mod audit {
    use super::{CapabilityError, Field, call};

    /// Adds a remark; at most 8 a decision, name 64 and value 256 characters.
    pub fn annotate(name: &str, value: &str) -> Result<(), CapabilityError> {
        call("audit.annotate", |host| {
            host.audit.then(|| {
                if host.seen.annotations.len() >= 8 || name.chars().count() > 64 || value.chars().count() > 256 {
                    return Err(CapabilityError::Invalid(
                        "at most 8 remarks, name 64, value 256 characters".to_owned(),
                    ));
                }
                host.seen.annotations.push(Field { name: name.to_owned(), value: value.to_owned() });
                Ok(())
            })
        })
    }
}

/// Small state of this plugin alone.
pub mod kv {
    use super::call;
    use crate::CapabilityError;

    /// The value of `key`, if there is one.
    pub fn get(key: &str) -> Result<Option<Vec<u8>>, CapabilityError> {
        call("kv.get", |host| Some(Ok(host.kv.as_ref()?.get(key).cloned())))
    }

    /// Sets it; at most 128 characters a key, 4 KiB a value and 1,024 keys.
    pub fn set(key: &str, value: &[u8]) -> Result<(), CapabilityError> {
        call("kv.set", |host| {
            let state = host.kv.as_mut()?;
            let full = state.len() >= 1024 && !state.contains_key(key);
            if full || key.chars().count() > 128 || value.len() > 4 << 10 {
                return Some(Err(CapabilityError::Invalid("key 128 characters, value 4 KiB, 1,024 keys".to_owned())));
            }
            state.insert(key.to_owned(), value.to_vec());
            Some(Ok(()))
        })
    }

    /// Removes it; removing what is not there is no error.
    pub fn delete(key: &str) -> Result<(), CapabilityError> {
        call("kv.delete", |host| {
            host.kv.as_mut()?.remove(key);
            Some(Ok(()))
        })
    }
}

/// What the script says of a collection; one it does not name is `denied`, as in the contract.
fn found(
    script: &[(String, Result<Vec<Reference>, CapabilityError>)],
    collection: &str,
    k: u32,
) -> Option<Result<Vec<Reference>, CapabilityError>> {
    let found = script.iter().find(|(name, _)| name == collection).map(|(_, found)| found.clone());
    Some(found.unwrap_or_else(|| Err(CapabilityError::Denied("no-key".to_owned()))).map(|mut found| {
        found.truncate(k as usize);
        found
    }))
}

fn random_bytes(host: &Host, count: u32) -> Option<Result<Vec<u8>, CapabilityError>> {
    let bytes = host.random.as_ref()?;
    if count > 1024 {
        return Some(Err(CapabilityError::Invalid("more than 1,024 bytes".to_owned())));
    }
    Some(Ok(bytes.iter().copied().cycle().take(count as usize).collect()))
}

/// No key at all means that the capability is not granted; another name is `denied`, as in the contract.
fn open_key(host: &Host, name: &str, fits: impl Fn(KeyPurpose) -> bool) -> Option<Result<KeyPurpose, CapabilityError>> {
    host.keys.values().any(|&purpose| fits(purpose)).then(|| match host.keys.get(name) {
        Some(&purpose) if fits(purpose) => Ok(purpose),
        _ => Err(CapabilityError::Denied(name.to_owned())),
    })
}
