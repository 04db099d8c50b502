//! The chain of reasons. Every check is made and printed, also after one has failed: an officer sees all that is missing.

use casemate_types::Profile;
use jiff::civil::Date;
use serde::Serialize;

use crate::snapshot::{Certificate, Configuration, ModuleKind, Standard, Status};
use crate::{ApprovedMode, FipsError, TokenFacts, VerifiedMode, VerifiedSnapshot};

/// What is asked.
pub struct Question<'a> {
    /// What the site is for.
    pub profile: Profile,
    /// The day.
    pub today: Date,
    /// The oldest snapshot that is taken, in days.
    pub max_age_days: u32,
    /// The newest snapshot date this site has accepted.
    pub floor: Option<Date>,
    /// The certificate the operator names; otherwise it is found by the token's names.
    pub certificate: Option<u32>,
    /// The token.
    pub token: &'a TokenFacts,
    /// What two people state about the token's mode, or why there is no statement to believe.
    pub mode: Result<&'a VerifiedMode, &'a FipsError>,
    /// The snapshot, or why there is none to believe.
    pub snapshot: Result<&'a VerifiedSnapshot, &'a FipsError>,
}

/// The answer: every check with its evidence.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// What the site is for.
    pub profile: Profile,
    /// The certificate, when one was found.
    pub certificate: Option<u32>,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it holds. What is not known does not.
    pub passed: bool,
    /// What was seen.
    pub evidence: String,
}

impl Verdict {
    /// Whether the token is a validated module for this profile. For `rehearsal` and `development` nothing is claimed, so it never is.
    pub fn validated(&self) -> bool {
        claims(self.profile) && self.checks.iter().all(|check| check.passed)
    }

    /// Whether a site of this profile may open with this token.
    pub fn admits(&self) -> bool {
        !claims(self.profile) || self.validated()
    }

    /// The checks that do not hold.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed)
    }
}

/// What the product asks of the module, by CAVP's names, and what for.
pub const NEEDED: &[(&str, &str)] = &[
    ("AES-ECB", "AES operations of FF1"),
    ("AES-GCM", "sealing"),
    ("AES-KW", "wrapping users' and compartments' keys"),
    ("EDDSA", "signing the audit log"),
    ("HMAC-SHA2-256", "keyed tokens"),
];

/// What may be said of format-preserving encryption here, whatever the certificate lists.
pub const FF1_BOUNDARY: &str = "AES key and AES operations inside the token; FF1 construction outside the boundary";

/// Judges. Never fails: what cannot be judged is a check that does not hold.
pub fn evaluate(question: &Question<'_>) -> Verdict {
    let mut chain = Chain { checks: Vec::new() };
    let token = question.token;
    chain.hardware(token);
    let mut certificate = None;
    match question.snapshot {
        Err(error) => {
            chain.add("snapshot signatures", false, error.to_string());
            chain.add("certificate", false, "unknown: there is no snapshot to believe");
        }
        Ok(verified) => {
            let signers: Vec<&str> = verified.signers().iter().map(String::as_str).collect();
            chain.add("snapshot signatures", true, format!("signed by {}", signers.join(" and ")));
            chain.snapshot(question, verified);
            certificate = chain.find(question, verified);
            if let Some(certificate) = certificate {
                chain.certificate(question.profile, verified.snapshot().date, question.today, certificate);
                chain.module(token, certificate);
            }
        }
    }
    chain.mode(question, certificate.map(|found| found.number));
    chain.claims(token, certificate);
    let checks = chain.checks;
    Verdict { profile: question.profile, certificate: certificate.map(|found| found.number), checks }
}

struct Chain {
    checks: Vec<Check>,
}

impl Chain {
    fn add(&mut self, name: &'static str, passed: bool, evidence: impl Into<String>) {
        self.checks.push(Check { name, passed, evidence: evidence.into() });
    }

    fn hardware(&mut self, token: &TokenFacts) {
        match token.software() {
            Some(why) => self.add("hardware", false, format!("{why}; software tokens are never called validated")),
            None if !token.hardware_slot => {
                self.add("hardware", false, "the slot does not say that it is hardware (CKF_HW_SLOT)");
            }
            None => self.add("hardware", true, "the slot says that it is hardware (CKF_HW_SLOT)"),
        }
    }

    fn snapshot(&mut self, question: &Question<'_>, verified: &VerifiedSnapshot) {
        let snapshot = verified.snapshot();
        self.add(
            "snapshot is real",
            !snapshot.sample,
            if snapshot.sample { "it is marked as a sample".to_owned() } else { format!("from {}", snapshot.source) },
        );
        let age = (question.today - snapshot.date).get_days();
        let date = snapshot.date;
        self.add(
            "snapshot age",
            (0..=i64::from(question.max_age_days)).contains(&i64::from(age)),
            if age < 0 {
                format!("{date} lies in the future")
            } else {
                format!("{date}, {age} days old; at most {} days", question.max_age_days)
            },
        );
        match question.floor {
            Some(floor) => self.add(
                "snapshot not rolled back",
                date >= floor,
                format!("{date}; this site has accepted the one of {floor}"),
            ),
            None => self.add("snapshot not rolled back", true, "the first one this site sees"),
        }
    }

    fn find<'a>(&mut self, question: &Question<'_>, verified: &'a VerifiedSnapshot) -> Option<&'a Certificate> {
        let list = &verified.snapshot().certificates;
        if let Some(number) = question.certificate {
            let found = list.iter().find(|certificate| certificate.number == number);
            let evidence = found.map_or(format!("{number} is not on the snapshot"), described);
            self.add("certificate", found.is_some(), evidence);
            return found;
        }
        let named: Vec<&Certificate> = list.iter().filter(|certificate| names(certificate, question.token)).collect();
        let (manufacturer, model) = (&question.token.manufacturer, &question.token.model);
        match named.as_slice() {
            [one] => {
                self.add("certificate", true, described(one));
                Some(one)
            }
            [] => {
                self.add("certificate", false, format!("no certificate names `{manufacturer}` `{model}`"));
                None
            }
            several => {
                let numbers: Vec<String> = several.iter().map(|found| found.number.to_string()).collect();
                let numbers = numbers.join(", ");
                self.add("certificate", false, format!("{numbers} all name this token; say which with --certificate"));
                None
            }
        }
    }

    fn certificate(&mut self, profile: Profile, date: Date, today: Date, certificate: &Certificate) {
        let (standard, name) = match certificate.standard {
            Standard::Fips140_2 => (false, "FIPS 140-2: historical since 2026-09-21, whatever its status says"),
            Standard::Fips140_3 => (true, "FIPS 140-3"),
        };
        self.add("standard", standard, name);
        let status = match certificate.status {
            Status::Active => "active",
            Status::Historical => "historical",
            Status::Pending => "pending: not validated yet",
            Status::Revoked => "revoked",
        };
        let active = certificate.status == Status::Active;
        self.add("status", active, format!("{status} on {date}"));
        // The certificate was valid before its sunset; both days count, the snapshot's and today.
        let sunset = certificate.sunset;
        let current = certificate.validated <= date && date < sunset && today < sunset;
        let validated = certificate.validated;
        self.add("validity", current, format!("validated {validated}, sunset {sunset}, today {today}"));
        let wanted = match profile {
            Profile::Development | Profile::Rehearsal => 1,
            Profile::Enterprise => 2,
            Profile::Government => 3,
        };
        let level = certificate.level;
        self.add("level", level >= wanted, format!("{level}; profile {profile} asks for {wanted}"));
        let software = certificate.kind == ModuleKind::Software;
        let kind = match certificate.kind {
            ModuleKind::Hardware => "hardware",
            ModuleKind::Firmware => "firmware",
            ModuleKind::Hybrid => "hybrid",
            ModuleKind::Software => "software: keys are not held by a device",
        };
        self.add("kind of module", !software, kind);
        let missing: Vec<String> = NEEDED
            .iter()
            .filter(|(algorithm, _)| !certificate.approved.contains(*algorithm))
            .map(|(algorithm, purpose)| format!("{algorithm} ({purpose})"))
            .collect();
        let needed: Vec<&str> = NEEDED.iter().map(|(algorithm, _)| *algorithm).collect();
        self.add(
            "approved services",
            missing.is_empty(),
            if missing.is_empty() { needed.join(", ") } else { format!("not among them: {}", missing.join(", ")) },
        );
    }

    fn module(&mut self, token: &TokenFacts, certificate: &Certificate) {
        let TokenFacts { manufacturer, model, hardware, firmware, .. } = token;
        self.add("model", names(certificate, token), format!("token says `{manufacturer}` `{model}`"));
        let tested = certificate.configurations.iter().find(|configuration| configuration.is(hardware, firmware));
        let evidence = match tested {
            Some(Configuration { hardware: tested, firmware: with, .. }) => {
                format!("token reports {hardware} and {firmware}: tested as {tested} with {with}")
            }
            None => {
                let all: Vec<String> = certificate
                    .configurations
                    .iter()
                    .map(|configuration| format!("{} with {}", configuration.hardware, configuration.firmware))
                    .collect();
                format!("token reports {hardware} and {firmware}; the certificate covers only {}", all.join(", "))
            }
        };
        self.add("hardware and firmware versions", tested.is_some(), evidence);
    }

    /// A certificate is about a module in its approved mode. Two people say that this one is, and the token does not contradict.
    fn mode(&mut self, question: &Question<'_>, certificate: Option<u32>) {
        let stated = match question.mode {
            Err(error) => Err(error.to_string()),
            Ok(verified) => {
                let statement = verified.statement();
                let signers: Vec<&str> = verified.signers().iter().map(String::as_str).collect();
                match statement.misses(question.token, certificate, question.today) {
                    Some(why) => Err(why),
                    None => Ok(format!(
                        "{} saw it on {}, good until {}: {}",
                        signers.join(" and "),
                        statement.checked,
                        statement.expires,
                        statement.seen
                    )),
                }
            }
        };
        let holds = stated.is_ok();
        self.add("mode statement", holds, stated.unwrap_or_else(|why| why));
        match question.token.approved_mode {
            ApprovedMode::Yes => self.add("approved mode", true, "the token says so"),
            ApprovedMode::No => self.add("approved mode", false, "the token could say so and does not"),
            ApprovedMode::CannotSay if holds => self.add(
                "approved mode",
                true,
                "the token's interface cannot say it (C_GetSessionValidationFlags, PKCS#11 3.2); two people do",
            ),
            ApprovedMode::CannotSay => self.add(
                "approved mode",
                false,
                "unknown: the token's interface cannot say it (C_GetSessionValidationFlags, PKCS#11 3.2), and nobody states it",
            ),
        }
    }

    /// A claim adds nothing. One that contradicts the certificate takes everything away.
    fn claims(&mut self, token: &TokenFacts, certificate: Option<&Certificate>) {
        if token.claims.is_empty() {
            return;
        }
        let told: Vec<String> = token
            .claims
            .iter()
            .map(|claim| format!("certificate `{}` level {}", claim.certificate.escape_debug(), claim.level))
            .collect();
        let told = told.join(", ");
        let (agrees, verdict) = match certificate {
            Some(found) => {
                let agrees = token.claims.iter().all(|claim| {
                    claim.certificate.trim_start_matches('#') == found.number.to_string()
                        && claim.level == u64::from(found.level)
                });
                (agrees, if agrees { "as the snapshot does" } else { "the snapshot says otherwise" })
            }
            None => (false, "a token's word about itself is no evidence"),
        };
        self.add("the token's own claim", agrees, format!("it claims {told}: {verdict}"));
    }
}

/// Whether sites of this profile say that their token is validated.
fn claims(profile: Profile) -> bool {
    matches!(profile, Profile::Enterprise | Profile::Government)
}

fn names(certificate: &Certificate, token: &TokenFacts) -> bool {
    certificate.token.manufacturer == token.manufacturer && certificate.token.models.contains(&token.model)
}

fn described(certificate: &Certificate) -> String {
    format!("{}, {} ({})", certificate.number, certificate.module_name, certificate.vendor)
}
