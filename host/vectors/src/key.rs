//! Keys of the ordered back end: kind, collection, NUL (which no name contains), then fields of fixed length.

use casemate_types::CollectionName;

use crate::{DocumentId, Position, VectorsError};

/// What a key addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Version counter: the last version drawn. Survives deletion.
    Counter = b'c' as isize,
    /// Version in force and sealed manifest.
    Head = b'h' as isize,
    Group = b'g' as isize,
    Passage = b'p' as isize,
    /// Position to document.
    Slot = b's' as isize,
    /// Field and value to position.
    Token = b't' as isize,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [Self::Counter, Self::Head, Self::Group, Self::Passage, Self::Slot, Self::Token];
    /// What goes with a deleted collection.
    pub(crate) const CONTENT: [Self; 5] = [Self::Head, Self::Group, Self::Passage, Self::Slot, Self::Token];
}

pub(crate) fn prefix(kind: Kind, collection: &CollectionName) -> Vec<u8> {
    let mut key = vec![kind as u8];
    key.extend_from_slice(collection.as_str().as_bytes());
    key.push(0);
    key
}

pub(crate) fn group(collection: &CollectionName, group: u32) -> Vec<u8> {
    [prefix(Kind::Group, collection).as_slice(), &group.to_be_bytes()].concat()
}

pub(crate) fn passage(collection: &CollectionName, document: &DocumentId) -> Vec<u8> {
    [prefix(Kind::Passage, collection).as_slice(), document.as_bytes()].concat()
}

pub(crate) fn slot(collection: &CollectionName, position: Position) -> Vec<u8> {
    [prefix(Kind::Slot, collection).as_slice(), &position_bytes(position)].concat()
}

/// The part of a token key before the position. Lengths come first, so no pair is a prefix of another.
pub(crate) fn token_prefix(collection: &CollectionName, field: &str, value: &str) -> Vec<u8> {
    [
        prefix(Kind::Token, collection).as_slice(),
        &(field.len() as u32).to_be_bytes(),
        field.as_bytes(),
        &(value.len() as u32).to_be_bytes(),
        value.as_bytes(),
    ]
    .concat()
}

pub(crate) fn token(collection: &CollectionName, (field, value): &(String, String), position: Position) -> Vec<u8> {
    [token_prefix(collection, field, value).as_slice(), &position_bytes(position)].concat()
}

/// The position that a slot or token key ends in.
pub(crate) fn trailing_position(key: &[u8]) -> Result<Position, VectorsError> {
    let malformed = VectorsError::Malformed { what: "a key of the index" };
    let (_, tail) = key.split_last_chunk::<8>().ok_or(malformed)?;
    let [a, b, c, d, e, f, g, h] = *tail;
    Ok(Position { group: u32::from_be_bytes([a, b, c, d]), slot: u32::from_be_bytes([e, f, g, h]) })
}

/// The kind and collection of a key, if it is one of ours.
pub(crate) fn parse(key: &[u8]) -> Option<(Kind, CollectionName)> {
    let (first, rest) = key.split_first()?;
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == *first)?;
    let name = rest.split(|byte| *byte == 0).next()?;
    (name.len() < rest.len()).then_some(())?;
    Some((kind, std::str::from_utf8(name).ok()?.parse().ok()?))
}

/// The prefixes under which a key is looked for: none, its kind, its kind and collection, and a token's field and value.
/// A database without an order of its own may index these instead.
pub fn scopes(key: &[u8]) -> Vec<&[u8]> {
    let mut ends = vec![0, 1.min(key.len())];
    if let Some(nul) = key.iter().position(|byte| *byte == 0) {
        ends.push(nul + 1);
        if key.first() == Some(&(Kind::Token as u8)) && key.len() >= nul + 1 + 8 {
            ends.push(key.len() - 8);
        }
    }
    ends.into_iter().filter_map(|end| key.get(..end)).collect()
}

fn position_bytes(position: Position) -> [u8; 8] {
    (u64::from(position.group) << 32 | u64::from(position.slot)).to_be_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_parse_back_and_foreign_ones_do_not() {
        let alpha: CollectionName = "alpha".parse().unwrap();
        let position = Position { group: 7, slot: 255 };
        let key = token(&alpha, &("f".into(), "v".into()), position);
        assert_eq!(parse(&key).unwrap(), (Kind::Token, alpha.clone()));
        assert_eq!(trailing_position(&key).unwrap(), position);
        for key in [b"".as_slice(), b"g", b"zalpha\0", b"galpha", b"gAlpha\0", b"g\0"] {
            assert!(parse(key).is_none(), "{key:?}");
        }
        assert!(!prefix(Kind::Group, &"alphabet".parse().unwrap()).starts_with(&prefix(Kind::Group, &alpha)));
    }

    #[test]
    fn every_prefix_that_is_asked_for_is_among_the_scopes() {
        let alpha: CollectionName = "alpha".parse().unwrap();
        let position = Position { group: 7, slot: 255 };
        let token = token(&alpha, &("f".into(), "v".into()), position);
        for prefix in [Vec::new(), vec![b't'], prefix(Kind::Token, &alpha), token_prefix(&alpha, "f", "v")] {
            assert!(scopes(&token).contains(&prefix.as_slice()), "{prefix:?}");
        }
        let group = group(&alpha, 7);
        assert_eq!(scopes(&group), [b"".as_slice(), b"g", b"galpha\0"]);
        assert_eq!(scopes(b""), [b"", b""]);
    }

    #[test]
    fn tokens_are_not_prefixes_of_each_other() {
        let c: CollectionName = "c".parse().unwrap();
        assert!(!token_prefix(&c, "ab", "c").starts_with(&token_prefix(&c, "a", "b")));
        assert!(!token_prefix(&c, "a", "bc").starts_with(&token_prefix(&c, "a", "b")));
    }
}
