use casemate_types::{CollectionName, Digest};
use serde::{Deserialize, Serialize};

/// What a collection consists of, as its owner knows it. Sealed before it is stored; the tier that scores is given its
/// entries with each query, so that an old, altered or foreign group is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GroupManifest {
    /// The collection.
    pub collection: CollectionName,
    /// The version of the change that stored this manifest.
    pub version: u64,
    /// The groups, in the order they are scored.
    pub groups: Vec<GroupEntry>,
}

/// One group of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GroupEntry {
    /// Number of the group.
    pub group: u32,
    /// The version in which it was encrypted.
    pub version: u64,
    /// Documents in it.
    pub count: u32,
    /// [`GroupRecord::digest`](crate::GroupRecord::digest) of its record.
    pub digest: Digest,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn manifest_round_trips_and_unknown_fields_are_refused() {
        let manifest = GroupManifest {
            collection: "alpha".parse().unwrap(),
            version: 4,
            groups: vec![GroupEntry { group: 0, version: 3, count: 17, digest: Digest::of(b"x") }],
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<GroupManifest>(&text).unwrap(), manifest);
        assert!(serde_json::from_str::<GroupManifest>(&text.replacen('{', "{\"extra\":1,", 1)).is_err());
    }
}
