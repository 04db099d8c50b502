use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much is demanded of what a site stands on. The default is the least that may hold keys at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// State secrets: what the token does not enforce by itself is not accepted.
    Government,
    /// Companies' secrets.
    Enterprise,
    /// Practice of the real thing, without protected data.
    #[default]
    Rehearsal,
    /// Work on the code.
    Development,
}

impl Profile {
    /// Every profile, strictest first.
    pub const ALL: [Self; 4] = [Self::Government, Self::Enterprise, Self::Rehearsal, Self::Development];
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Government => "government",
            Self::Enterprise => "enterprise",
            Self::Rehearsal => "rehearsal",
            Self::Development => "development",
        })
    }
}

/// A text that names no profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use government, enterprise, rehearsal or development")]
pub struct ParseProfileError;

impl FromStr for Profile {
    type Err = ParseProfileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|profile| profile.to_string() == text).ok_or(ParseProfileError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_it_is_written() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            assert_eq!(serde_json::to_value(profile).ok(), Some(profile.to_string().into()));
        }
        assert_eq!("Government".parse::<Profile>(), Err(ParseProfileError));
    }
}
