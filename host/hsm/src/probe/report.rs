//! What was found, and what it means under a profile.

use aws_lc_rs::digest::{SHA256, digest};
use casemate_types::Profile;
use serde::{Deserialize, Serialize};

use super::lines::{LINES, LISTED, LISTED_RULES};
use crate::{HsmError, Module, TokenInfo};

/// What a token did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// An attack has no such way in; a mechanism is not there.
    Absent,
    /// The attack worked; the mechanism fails.
    Broken,
    /// The attack was refused; the mechanism works.
    Held,
    /// It would have locked a PIN or changed a login of a token in use.
    NotTried,
    /// A call that had to work failed, so nothing is known.
    Unknown,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Absent => "absent",
            Self::Broken => "broken",
            Self::Held => "held",
            Self::NotTried => "not tried",
            Self::Unknown => "unknown",
        })
    }
}

/// One line of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LineReport {
    /// Stable across versions, for instance `leak/wrap`.
    pub id: String,
    /// In words.
    pub title: String,
    /// What the token did.
    pub finding: Finding,
    /// In a sentence.
    pub detail: String,
    /// The calls and the token's answers: lengths and flags, never bytes.
    pub evidence: Vec<String>,
}

/// What a probe found out about one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Report {
    /// What the token says of itself.
    pub token: TokenInfo,
    /// What the library says of itself.
    pub library: String,
    /// Whether lines that lock PINs and change logins were run.
    pub scratch: bool,
    /// The lines, in the order in which they ran.
    pub lines: Vec<LineReport>,
}

/// Whether a line is about an attack or about a mechanism that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Attack,
    Need,
}

/// What a profile demands of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// May fail: Casemate uses the token so that it does not matter.
    Compensated,
    /// Has to hold.
    Must,
    /// May fail, at a cost.
    Warn,
}

/// What a finding means under a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The token does not hold, and need not: Casemate uses it accordingly.
    Compensated,
    /// The token must not hold keys under this profile.
    Failed,
    /// As it should be.
    Good,
    /// Not as it should be, without danger to keys.
    Warning,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Compensated => "compensated",
            Self::Failed => "FAILED",
            Self::Good => "ok",
            Self::Warning => "warning",
        })
    }
}

/// One line under a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The line.
    pub id: &'static str,
    /// What its finding means.
    pub outcome: Outcome,
    /// What compensates, or what it costs; empty where the line holds or fails.
    pub answer: &'static str,
}

/// A report under a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Under which profile.
    pub profile: Profile,
    /// Whether the token may hold keys.
    pub fit: bool,
    /// Every line.
    pub lines: Vec<Judged>,
}

impl Report {
    /// Whether the token may hold keys under `profile`. A line that is missing, unknown or of an unknown id counts as failed.
    pub fn judge(&self, profile: Profile) -> Judgement {
        let column = match profile {
            Profile::Government => 0,
            Profile::Enterprise => 1,
            Profile::Rehearsal | Profile::Development => 2,
        };
        let (listed_rules, listed_answer) = LISTED_RULES;
        let specs = LINES.iter().map(|spec| (spec.id, spec.kind, spec.rules, spec.answer));
        let lines: Vec<Judged> = specs
            .chain([(LISTED, Kind::Need, listed_rules, listed_answer)])
            .map(|(id, kind, rules, answer)| {
                let rule = rules.get(column).copied().unwrap_or(Rule::Must);
                let mut found = self.lines.iter().filter(|line| line.id == id).map(|line| line.finding);
                let outcome = match (found.next(), found.next()) {
                    (Some(finding), None) => outcome(finding, kind, rule),
                    _ => Outcome::Failed,
                };
                let explained = matches!(outcome, Outcome::Compensated | Outcome::Warning);
                Judged { id, outcome, answer: if explained { answer } else { "" } }
            })
            .collect();
        let fit = lines.iter().all(|line| line.outcome != Outcome::Failed);
        Judgement { profile, fit, lines }
    }

    /// SHA-256 over the findings, hexadecimal: equal for two probes that found the same.
    pub fn digest(&self) -> String {
        let text: String = self.lines.iter().map(|line| format!("{} {}\n", line.id, line.finding)).collect();
        hex::encode(digest(&SHA256, text.as_bytes()))
    }
}

/// What was not tried counts as broken: nothing is assumed in a token's favour. What is unknown fails always.
fn outcome(finding: Finding, kind: Kind, rule: Rule) -> Outcome {
    match (finding, kind) {
        (Finding::Unknown, _) => Outcome::Failed,
        (Finding::Held, _) | (Finding::Absent, Kind::Attack) => Outcome::Good,
        (Finding::Absent, Kind::Need) | (Finding::Broken | Finding::NotTried, _) => match rule {
            Rule::Compensated => Outcome::Compensated,
            Rule::Must => Outcome::Failed,
            Rule::Warn => Outcome::Warning,
        },
    }
}

impl Judgement {
    /// The lines with an outcome.
    pub fn with(&self, outcome: Outcome) -> Vec<&'static str> {
        self.lines.iter().filter(|line| line.outcome == outcome).map(|line| line.id).collect()
    }

    /// Nothing for a token that may hold keys.
    ///
    /// # Errors
    /// [`HsmError::TokenRefused`] names the lines that fail.
    pub fn require(&self) -> Result<(), HsmError> {
        if self.fit {
            return Ok(());
        }
        Err(HsmError::TokenRefused { lines: self.with(Outcome::Failed).join(", "), profile: self.profile })
    }
}

/// What a site keeps of a probe, so that another token, library or firmware is noticed when the site is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fingerprint {
    /// What the library says of itself.
    pub library: String,
    /// Who made the token.
    pub manufacturer: String,
    /// The model.
    pub model: String,
    /// The firmware version.
    pub firmware: String,
    /// The serial number.
    pub serial: String,
    /// Under which profile it was judged.
    pub profile: Profile,
    /// [`Report::digest`].
    pub verdict: String,
    /// Whether it may hold keys.
    pub fit: bool,
}

impl Fingerprint {
    /// Of a report and what it means.
    pub fn of(report: &Report, judgement: &Judgement) -> Self {
        Self {
            library: report.library.clone(),
            manufacturer: report.token.manufacturer.clone(),
            model: report.token.model.clone(),
            firmware: report.token.firmware.clone(),
            serial: report.token.serial.clone(),
            profile: judgement.profile,
            verdict: report.digest(),
            fit: judgement.fit,
        }
    }

    /// Whether the token with this label is the one that was probed, and found fit for this profile. Asks for names and
    /// versions only.
    ///
    /// # Errors
    /// [`HsmError::TokenChanged`], [`HsmError::TokenRefused`], [`HsmError::TokenUnprobed`] for another profile, or as
    /// [`Module::token`].
    pub fn check(&self, module: &Module, label: &str, profile: Profile) -> Result<(), HsmError> {
        let token = module.token(label)?;
        self.check_make(&module.library()?, &token)?;
        if token.serial != self.serial {
            return Err(HsmError::TokenChanged {
                what: "serial number",
                probed: self.serial.clone(),
                found: token.serial,
            });
        }
        if self.profile != profile {
            return Err(HsmError::TokenUnprobed { profile });
        }
        if self.fit { Ok(()) } else { Err(HsmError::TokenRefused { lines: "the last probe".to_owned(), profile }) }
    }

    /// Whether a token is of the probed make: library, manufacturer, model and firmware. The serial number may differ.
    ///
    /// # Errors
    /// [`HsmError::TokenChanged`].
    pub fn check_make(&self, library: &str, token: &TokenInfo) -> Result<(), HsmError> {
        let pairs = [
            ("library", &self.library, library),
            ("manufacturer", &self.manufacturer, token.manufacturer.as_str()),
            ("model", &self.model, token.model.as_str()),
            ("firmware", &self.firmware, token.firmware.as_str()),
        ];
        for (what, probed, found) in pairs {
            if probed != found {
                return Err(HsmError::TokenChanged { what, probed: probed.clone(), found: found.to_owned() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(finding: impl Fn(&str) -> Finding) -> Report {
        let ids = LINES.iter().map(|spec| spec.id).chain([LISTED]);
        let lines = ids.map(|id| LineReport {
            id: id.to_owned(),
            title: String::new(),
            finding: finding(id),
            detail: String::new(),
            evidence: Vec::new(),
        });
        let token = TokenInfo {
            label: "t".to_owned(),
            manufacturer: "m".to_owned(),
            model: "1".to_owned(),
            serial: "s".to_owned(),
            firmware: "1.0".to_owned(),
            initialised: true,
            user_pin_set: true,
            user_pin_locked: false,
            protected_authentication_path: false,
        };
        Report { token, library: "l 1.0".to_owned(), scratch: true, lines: lines.collect() }
    }

    fn except(id: &str, finding: Finding) -> Report {
        report(|other| if other == id { finding } else { Finding::Held })
    }

    #[test]
    fn a_token_that_leaks_is_refused_under_every_profile() {
        for id in ["leak/read", "leak/wrap", "leak/set", "leak/copy", "unwrap/as-asked", "stream/after-close"] {
            for profile in Profile::ALL {
                let judgement = except(id, Finding::Broken).judge(profile);
                assert!(!judgement.fit, "{id} {profile}");
                assert!(judgement.require().is_err_and(|error| error.to_string().contains(id)));
            }
        }
        for profile in Profile::ALL {
            assert!(report(|_| Finding::Held).judge(profile).fit);
        }
    }

    #[test]
    fn nothing_unknown_or_missing_passes_under_any_profile() {
        for spec in LINES {
            for profile in Profile::ALL {
                assert!(!except(spec.id, Finding::Unknown).judge(profile).fit, "{}", spec.id);
                let mut short = report(|_| Finding::Held);
                short.lines.retain(|line| line.id != spec.id);
                assert!(!short.judge(profile).fit, "{}", spec.id);
                let mut twice = report(|_| Finding::Held);
                twice.lines.extend(except(spec.id, Finding::Held).lines.into_iter().find(|line| line.id == spec.id));
                assert!(!twice.judge(profile).fit, "{}", spec.id);
            }
        }
    }

    #[test]
    fn what_was_not_tried_counts_as_broken() {
        for spec in LINES {
            for profile in Profile::ALL {
                let outcomes = [Finding::NotTried, Finding::Broken].map(|finding| {
                    except(spec.id, finding).judge(profile).lines.into_iter().find(|line| line.id == spec.id)
                });
                assert_eq!(outcomes[0], outcomes[1], "{} {profile}", spec.id);
            }
        }
        assert!(!except("pin/lock-out", Finding::NotTried).judge(Profile::Government).fit);
        assert!(except("pin/lock-out", Finding::NotTried).judge(Profile::Rehearsal).fit);
    }

    #[test]
    fn a_stricter_profile_never_accepts_more() {
        for spec in LINES {
            for finding in [Finding::Absent, Finding::Broken, Finding::Held, Finding::NotTried] {
                let fit = Profile::ALL.map(|profile| except(spec.id, finding).judge(profile).fit);
                assert!(fit.is_sorted(), "{} {finding}: {fit:?}", spec.id);
            }
        }
    }

    #[test]
    fn a_mechanism_that_is_not_there_is_a_need_unmet_and_an_attack_less() {
        assert!(!except("mechanism/aes-gcm", Finding::Absent).judge(Profile::Development).fit);
        assert!(except("derive/extract", Finding::Absent).judge(Profile::Government).fit);
    }

    #[test]
    fn every_compensation_is_named() {
        for spec in LINES {
            let explained = spec.rules.iter().any(|rule| *rule != Rule::Must);
            assert!(!explained || !spec.answer.is_empty(), "{}", spec.id);
        }
    }

    #[test]
    fn another_firmware_or_model_is_noticed() {
        let report = report(|_| Finding::Held);
        let print = Fingerprint::of(&report, &report.judge(Profile::Rehearsal));
        assert!(print.check_make("l 1.0", &report.token).is_ok());
        let changed = [
            ("l 1.1", report.token.clone()),
            ("l 1.0", TokenInfo { firmware: "1.1".to_owned(), ..report.token.clone() }),
            ("l 1.0", TokenInfo { model: "2".to_owned(), ..report.token.clone() }),
            ("l 1.0", TokenInfo { manufacturer: "n".to_owned(), ..report.token.clone() }),
        ];
        for (library, token) in changed {
            assert!(matches!(print.check_make(library, &token), Err(HsmError::TokenChanged { .. })));
        }
    }

    #[test]
    fn the_digest_is_of_the_findings() {
        assert_eq!(except("leak/wrap", Finding::Held).digest(), report(|_| Finding::Held).digest());
        assert_ne!(except("leak/wrap", Finding::Broken).digest(), report(|_| Finding::Held).digest());
    }
}
