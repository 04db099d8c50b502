//! The plan: what is done, in which order. Its bytes are hashed as they are, so `sha256sum` says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use casemate_hsm::KeyClass;
use casemate_types::{Digest, UserName};
use serde::Deserialize;

use crate::CeremonyError;

/// More steps than two people carry out in a day.
const MAX_STEPS: usize = 200;

/// A plan that was read and found consistent.
#[derive(Debug)]
pub struct Plan {
    file: PlanFile,
    digest: Digest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    #[serde(rename = "format")]
    _format: PlanFormat,
    name: String,
    purpose: String,
    tokens: BTreeMap<String, Role>,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
enum PlanFormat {
    #[serde(rename = "casemate ceremony plan 1")]
    One,
}

/// A token of the plan. Which one it is, the bindings say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    purpose: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Step {
    /// Split the key's package, which opens in its `escrow-for` token only, among the custodians.
    Escrow {
        /// The key.
        key: String,
        /// Which split of this key it is; shares of a lower one are refused.
        #[serde(default = "first")]
        epoch: u64,
    },
    /// List every object of a token, and stop if there is one.
    Fresh {
        /// The token.
        token: String,
    },
    /// Make a key. On several tokens, or with `escrow-for`, it is born extractable for the moment in which it is wrapped for each;
    /// otherwise it is generated in place.
    Generate {
        /// Its name in this plan.
        key: String,
        /// What it is for.
        class: KeyClass,
        /// Its label in the tokens.
        label: String,
        /// The tokens that hold it. It is born in the first.
        on: Vec<String>,
        /// The token in which its escrow opens.
        escrow_for: Option<String>,
    },
    /// Make a user's key-encryption key and wrap compartment keys under it.
    Issue {
        /// The user.
        user: UserName,
        /// Compartment keys of this plan.
        keys: Vec<String>,
        /// The kek-wrapping key of this plan, in the token of the compartment keys.
        under: String,
    },
    /// Try a token by doing what an attacker would, and stop if it gives keys away.
    Probe {
        /// The token.
        token: String,
    },
    /// Write down what the people in the room did or saw.
    Record {
        /// In words.
        text: String,
    },
    /// Put the custodians' shares together in the token of the escrow, compare the check value, and destroy the copy.
    Recover {
        /// The key.
        key: String,
        /// Leave the copy there.
        #[serde(default)]
        keep: bool,
    },
    /// Make a token's transport pair: keys wrapped under it come into this token only.
    Transport {
        /// The token.
        token: String,
    },
}

fn first() -> u64 {
    1
}

impl Plan {
    /// Reads a plan (TOML) and checks that its steps make sense in their order.
    ///
    /// # Errors
    /// [`CeremonyError::Malformed`], also for an unknown key; [`CeremonyError::PlanInvalid`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CeremonyError> {
        let bad = |why: String| CeremonyError::Malformed { what: "a ceremony's plan", why };
        let text = std::str::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
        let file: PlanFile = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        check(&file)?;
        Ok(Self { file, digest: Digest::of(bytes) })
    }

    /// SHA-256 of the file: what custodians approve, as the subject of their statement.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What the plan calls itself.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// Why it is carried out.
    pub fn purpose(&self) -> &str {
        &self.file.purpose
    }

    /// The tokens' roles, and what each is for.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.file.tokens.iter().map(|(name, role)| (name.as_str(), role.purpose.as_str()))
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.file.steps
    }

    /// The step that makes a key: its class, label, tokens and where its escrow opens.
    pub(crate) fn generation(&self, name: &str) -> Option<(KeyClass, &[String], Option<&str>)> {
        self.file.steps.iter().find_map(|step| match step {
            Step::Generate { key, class, on, escrow_for, .. } if key == name => {
                Some((*class, on.as_slice(), escrow_for.as_deref()))
            }
            _ => None,
        })
    }
}

impl fmt::Display for Step {
    /// What people read before they press Enter, and what the transcript says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Escrow { key, epoch } => {
                write!(f, "escrow key {key} (epoch {epoch}): split its package among the custodians")
            }
            Self::Fresh { token } => write!(f, "list every object of token {token}; stop unless it is empty"),
            Self::Generate { key, class, label, on, escrow_for } => {
                write!(f, "generate key {key} of class {class}, label `{label}`, on {}", on.join(", "))?;
                match escrow_for {
                    Some(token) => write!(f, "; wrap it for escrow in {token}"),
                    None => Ok(()),
                }
            }
            Self::Issue { user, keys, under } => {
                write!(f, "issue to user {user}: {}, wrapped under a key of its own under {under}", keys.join(", "))
            }
            Self::Probe { token } => write!(f, "probe token {token}: try to get keys out of it"),
            Self::Record { text } => write!(f, "write down: {text}"),
            Self::Recover { key, keep: false } => {
                write!(f, "rehearse recovery of key {key} from the custodians' shares; destroy the copy")
            }
            Self::Recover { key, keep: true } => write!(f, "recover key {key} from the custodians' shares; keep it"),
            Self::Transport { token } => write!(f, "make the transport pair of token {token}"),
        }
    }
}

/// What a plan has made so far.
#[derive(Default)]
struct Made<'a> {
    probed: BTreeSet<&'a str>,
    written: BTreeSet<&'a str>,
    transports: BTreeSet<&'a str>,
    keys: BTreeMap<&'a str, (KeyClass, &'a [String], Option<&'a str>)>,
    escrowed: BTreeSet<&'a str>,
    recovered: BTreeSet<&'a str>,
    issued: BTreeSet<&'a str>,
}

fn check(file: &PlanFile) -> Result<(), CeremonyError> {
    let whole = |why: String| CeremonyError::PlanInvalid { step: None, why };
    if !is_name(&file.name) {
        return Err(whole("its name is not 1 to 32 lower-case letters, digits or `-`".to_owned()));
    }
    for text in std::iter::once(&file.purpose).chain(file.tokens.values().map(|role| &role.purpose)) {
        check_text(text).map_err(&whole)?;
    }
    if let Some(role) = file.tokens.keys().find(|role| !is_name(role)) {
        return Err(whole(format!("`{role}` is no name for a token")));
    }
    if file.steps.is_empty() || file.steps.len() > MAX_STEPS {
        return Err(whole(format!("it has {} steps, not 1 to {MAX_STEPS}", file.steps.len())));
    }
    let mut made = Made::default();
    for (index, step) in file.steps.iter().enumerate() {
        check_step(file, &mut made, step).map_err(|why| CeremonyError::PlanInvalid { step: Some(index + 1), why })?;
    }
    for (key, (_, _, escrow)) in &made.keys {
        if escrow.is_some() && !made.escrowed.contains(key) {
            return Err(whole(format!("key `{key}` is wrapped for escrow and never escrowed")));
        }
        if escrow.is_some() && !made.recovered.contains(key) {
            return Err(whole(format!(
                "recovery of key `{key}` is not rehearsed; an escrow that was never opened is none"
            )));
        }
    }
    Ok(())
}

fn check_step<'a>(file: &PlanFile, made: &mut Made<'a>, step: &'a Step) -> Result<(), String> {
    let role = |token: &str| {
        if file.tokens.contains_key(token) { Ok(()) } else { Err(format!("the plan has no token `{token}`")) }
    };
    match step {
        Step::Probe { token } => {
            role(token)?;
            made.probed.insert(token);
        }
        Step::Fresh { token } => {
            role(token)?;
            if made.written.contains(token.as_str()) {
                return Err(format!("token `{token}` is not empty any more at this step"));
            }
        }
        Step::Transport { token } => {
            role(token)?;
            probed(made, token)?;
            made.written.insert(token);
            if !made.transports.insert(token) {
                return Err(format!("token `{token}` has its transport pair already"));
            }
        }
        Step::Generate { key, class, label, on, escrow_for } => {
            check_text(label)?;
            check_generation(file, made, key, *class, on, escrow_for.as_deref())?;
            made.written.extend(on.iter().map(String::as_str));
            made.keys.insert(key, (*class, on.as_slice(), escrow_for.as_deref()));
        }
        Step::Escrow { key, epoch } => {
            let (_, _, escrow) = known(made, key)?;
            if escrow.is_none() {
                return Err(format!("key `{key}` was made without `escrow-for`; it cannot leave its tokens any more"));
            }
            if *epoch == 0 || *epoch > 1 << 32 {
                return Err("an epoch is 1 or more".to_owned());
            }
            if !made.escrowed.insert(key) {
                return Err(format!("key `{key}` is escrowed already"));
            }
        }
        Step::Recover { key, .. } => {
            known(made, key)?;
            if !made.escrowed.contains(key.as_str()) {
                return Err(format!("key `{key}` is not escrowed at this step"));
            }
            if !made.recovered.insert(key) {
                return Err(format!("key `{key}` is recovered already"));
            }
        }
        Step::Issue { user, keys, under } => {
            let (class, on, _) = known(made, under)?;
            if class != KeyClass::KekWrapping {
                return Err(format!("key `{under}` is of class {class}, not kek-wrapping"));
            }
            if keys.is_empty() {
                return Err("it issues nothing".to_owned());
            }
            for key in keys {
                let (class, held, _) = known(made, key)?;
                if class != KeyClass::Compartment || !held.iter().all(|token| on.contains(token)) {
                    return Err(format!("key `{key}` is no compartment key in the token of `{under}`"));
                }
            }
            if !made.issued.insert(user.as_str()) {
                return Err(format!("user `{user}` is issued a key already"));
            }
        }
        Step::Record { text } => check_text(text)?,
    }
    Ok(())
}

fn check_generation(
    file: &PlanFile,
    made: &Made<'_>,
    key: &str,
    class: KeyClass,
    on: &[String],
    escrow_for: Option<&str>,
) -> Result<(), String> {
    if !is_name(key) {
        return Err(format!("`{key}` is no name for a key: 1 to 32 lower-case letters, digits or `-`"));
    }
    if made.keys.contains_key(key) {
        return Err(format!("key `{key}` is made already"));
    }
    if matches!(class, KeyClass::Transport | KeyClass::SyncKekDestination | KeyClass::SyncKekSource | KeyClass::UserKek)
        || matches!(class, KeyClass::ApproverSigning | KeyClass::CustodianShares | KeyClass::CustodianSigning)
    {
        return Err(format!("keys of class {class} are not made by `generate`"));
    }
    let distinct: BTreeSet<&String> = on.iter().collect();
    if on.is_empty() || distinct.len() != on.len() {
        return Err(format!("key `{key}` needs at least one token, and each once"));
    }
    if escrow_for.is_some_and(|token| on.iter().any(|other| other == token)) {
        return Err(format!("key `{key}` is escrowed for a token that holds it; nothing could be rehearsed"));
    }
    let born = on.len() > 1 || escrow_for.is_some();
    if born && !class.is_replicable() {
        return Err(format!("a key of class {class} belongs to one token and cannot be escrowed"));
    }
    for token in on.iter().map(String::as_str).chain(escrow_for) {
        if !file.tokens.contains_key(token) {
            return Err(format!("the plan has no token `{token}`"));
        }
        probed(made, token)?;
        if born && !made.transports.contains(token) {
            return Err(format!("token `{token}` has no transport pair at this step"));
        }
    }
    Ok(())
}

fn known<'a>(made: &Made<'a>, key: &str) -> Result<(KeyClass, &'a [String], Option<&'a str>), String> {
    made.keys.get(key).copied().ok_or_else(|| format!("key `{key}` is not made at this step"))
}

fn probed(made: &Made<'_>, token: &str) -> Result<(), String> {
    if made.probed.contains(token) {
        return Ok(());
    }
    Err(format!("token `{token}` is not probed at this step; no key goes into a token before"))
}

fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What is printed must look as it is.
fn check_text(text: &str) -> Result<(), String> {
    let plain = |c: char| !c.is_control() && (c.is_ascii() || c.is_alphanumeric());
    if !text.trim().is_empty() && text.len() <= 500 && text.chars().all(plain) {
        return Ok(());
    }
    Err("its texts are one line each, of letters, digits and ASCII signs, at most 500 bytes".to_owned())
}
