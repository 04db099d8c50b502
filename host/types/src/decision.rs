use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CompartmentName, Reason, UserName};

/// A classification level, lowest first. No read up: a reader's clearance must reach the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// May leave the building.
    #[default]
    Public,
    /// For everyone inside.
    Internal,
    /// For those with a need.
    Confidential,
    /// The highest level.
    Secret,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Public, Self::Internal, Self::Confidential, Self::Secret];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Secret => "secret",
        })
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|level| level.to_string() == text)
            .ok_or_else(|| format!("`{text}` is not a level: use public, internal, confidential or secret"))
    }
}

/// What the host vouches for about the user of a session. Minted by the host, never by a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Claims {
    /// The user.
    pub user: UserName,
    /// The highest label the user may read.
    pub clearance: Level,
    /// Roles, for instance `analyst`.
    #[serde(default)]
    pub roles: BTreeSet<String>,
    /// Groups, for instance `team-red`.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Departments, for instance `engineering`.
    #[serde(default)]
    pub departments: BTreeSet<String>,
    /// The compartments whose keys this session holds.
    #[serde(default)]
    pub compartments: BTreeSet<CompartmentName>,
}

/// Where in the request flow a policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before anything else happens.
    Request,
    /// For each passage, before an agent sees it.
    Retrieval,
    /// For each capability call whose manifest asks for it.
    Action,
    /// For the answer, before it leaves.
    Response,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Retrieval => "retrieval",
            Self::Action => "action",
            Self::Response => "response",
        })
    }
}

/// What a policy, or a chain of them, says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Decision {
    /// Go on unchanged.
    Allow,
    /// Stop, and say why.
    Deny {
        /// Machine-readable reason.
        reason: Reason,
        /// One sentence for the user. Holds no protected data.
        message: String,
    },
    /// Go on, provided the host carries these out.
    Transform {
        /// In the order given.
        obligations: Vec<Obligation>,
    },
}

/// Something the host must do before the request goes on. A policy asks; it never touches a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "obligation", rename_all = "kebab-case")]
pub enum Obligation {
    /// No passage above this label may be used.
    CapClassification {
        /// The highest label allowed.
        level: Level,
    },
    /// Record the decision at this level.
    LogAt {
        /// The level.
        level: LogLevel,
    },
    /// Replace each span by format-preserving encryption, so that equal values stay equal.
    MaskSpans {
        /// Byte ranges of the text under decision; sorted and disjoint after normalisation.
        spans: Vec<Span>,
    },
    /// The user must authenticate again by this method.
    RequireStepUp {
        /// For instance `smartcard`.
        method: String,
    },
}

/// A half-open range of UTF-8 bytes, on character boundaries, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// What it is, for instance `email`. Used as the tweak, so equal values of one kind stay equal.
    pub kind: String,
}

/// How loudly a decision is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The default.
    Info,
    /// Worth a look.
    Notice,
    /// Worth an alarm.
    Alert,
}
