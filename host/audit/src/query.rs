//! Questions to the log: which records a filter keeps.

use std::borrow::Cow;

use serde::Deserialize;

/// A filter over records. What is `None` is not asked; a record must meet everything that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Not before this time, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Before this time.
    pub until_ms: Option<u64>,
    /// The kind of event, for instance `decision`.
    pub event: Option<String>,
    /// The user it concerns, as recorded.
    pub user: Option<String>,
    /// The policy that decided, or the plugin that ran.
    pub policy: Option<String>,
    /// The verdict: `allow`, `deny` or `transform`.
    pub decision: Option<String>,
    /// Identifier of the key that was used.
    pub key: Option<String>,
    /// Digest of the component or bundle, as recorded.
    pub component: Option<String>,
    /// The generation.
    pub generation: Option<u64>,
    /// The reason code.
    pub reason: Option<String>,
}

impl Query {
    /// Whether it keeps every record.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it keeps this record. Bytes that are no record are kept by the empty query only.
    pub fn matches(&self, record: &[u8]) -> bool {
        if self.is_empty() {
            return true;
        }
        let Some(facets) = Facets::of(record) else { return false };
        self.matches_time(facets.time_ms)
            && self.generation.is_none_or(|wanted| facets.generation == Some(wanted))
            && self.words().iter().zip(facets.words()).all(|(wanted, found)| {
                wanted.as_deref().is_none_or(|wanted| found.is_some_and(|found| found == wanted))
            })
    }

    pub(crate) fn matches_time(&self, time_ms: u64) -> bool {
        self.since_ms.is_none_or(|since| time_ms >= since) && self.until_ms.is_none_or(|until| time_ms < until)
    }

    /// What is asked of each column of [`Facets::words`].
    pub(crate) fn words(&self) -> [&Option<String>; WORDS] {
        [&self.event, &self.user, &self.policy, &self.decision, &self.key, &self.component, &self.reason]
    }
}

/// Columns of text in the index.
pub(crate) const WORDS: usize = 7;

/// What can be asked of a record, read without the rest of it. Kinds of records added later need no change here as long as they
/// keep these names.
#[derive(Debug, Deserialize)]
pub(crate) struct Facets<'a> {
    pub(crate) time_ms: u64,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(default, borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    policy: Option<Cow<'a, str>>,
    /// A run has a plugin where a decision has a policy.
    #[serde(default, borrow)]
    plugin: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    verdict: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    key_id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    component: Option<Cow<'a, str>>,
    /// Bundles have a digest where decisions have a component.
    #[serde(default, borrow)]
    digest: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    reason: Option<Cow<'a, str>>,
    /// Why a run gave no result.
    #[serde(default, borrow)]
    ended: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) generation: Option<u64>,
}

impl<'a> Facets<'a> {
    pub(crate) fn of(record: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(record).ok()
    }

    pub(crate) fn words(&self) -> [Option<&str>; WORDS] {
        [
            Some(&self.event),
            self.user.as_deref(),
            self.policy.as_deref().or(self.plugin.as_deref()),
            self.verdict.as_deref(),
            self.key_id.as_deref(),
            self.component.as_deref().or(self.digest.as_deref()),
            self.reason.as_deref().or(self.ended.as_deref()),
        ]
    }
}
