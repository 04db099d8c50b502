//! Asking the custodians of a site for an operation, and giving what they signed.

use std::path::{Path, PathBuf};

use casemate_custody::{Approved, Envelope, NonceFile, PersonId, QuorumBackend, Statement, Verifier, files};
use casemate_gate::{Gate, KeyRequest};
use clap::Args;

use super::args::{RequestOptions, TierName};
use super::{SiteLog, nonces, now, read_roster, request};
use crate::failure::Failure;

/// Where a site has custodians, two of them sign what makes or gives keys: ask with --ask, then do it with --statement.
#[derive(Args)]
pub struct Consent {
    /// Write the statement that custodians have to sign to this file, and do nothing else.
    #[arg(long, value_name = "FILE", requires = "requester", conflicts_with = "statement")]
    ask: Option<PathBuf>,
    /// With --ask: who asks; this person's signature does not count.
    #[arg(long, value_name = "PERSON", requires = "ask")]
    requester: Option<PersonId>,
    /// What the custodians signed. It is good for once.
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    /// The roster; custody/roster.json of the site otherwise.
    #[arg(long, value_name = "FILE")]
    roster: Option<PathBuf>,
    /// By what means two people are needed on the site's tokens.
    #[arg(long, value_enum, default_value = "approvals-only")]
    tier: TierName,
}

impl Consent {
    /// The approval that was given, or that none was; nothing where the request was only written.
    pub fn given(
        &self,
        site: &Path,
        gate: &Gate,
        wanted: &KeyRequest,
        json: bool,
    ) -> Result<Option<Option<Approved<Statement>>>, Failure> {
        match (&self.ask, &self.statement, &self.requester) {
            (Some(out), _, Some(requester)) => {
                let wanted = gate.wanted(wanted)?;
                gate.journal().checkpoint()?;
                let tokens = wanted.tokens.iter().map(|serial| serial.parse()).collect::<Result<_, _>>()?;
                let options = RequestOptions {
                    operation: wanted.operation,
                    key: Some(wanted.key.id.to_string()),
                    class: Some(wanted.key.class.to_string()),
                    version: None,
                    tokens,
                    template: None,
                    subject: Some(wanted.subject),
                    until: None,
                    reason: wanted.reason,
                    requester: requester.clone(),
                    not_before: None,
                    hours: 24,
                    roster: self.roster.clone(),
                    out: out.clone(),
                };
                request(site, &options, json)?;
                Ok(None)
            }
            (_, Some(statement), _) => approve(site, gate, statement, self.roster.as_deref(), self.tier)
                .map(|(approved, _)| Some(Some(approved))),
            _ => Ok(Some(None)),
        }
    }
}

/// Verifies what custodians signed against the site's log as it is signed now, and uses it up.
pub fn approve(
    site: &Path,
    gate: &Gate,
    statement: &Path,
    roster: Option<&Path>,
    tier: TierName,
) -> Result<(Approved<Statement>, SiteLog), Failure> {
    let roster = read_roster(site, roster)?;
    // What was recorded up to now counts, and only what is under a checkpoint does.
    gate.journal().checkpoint()?;
    let log = SiteLog::open(site)?;
    let tier: QuorumBackend = tier.into();
    let verifier = Verifier {
        site: &gate.config().name,
        roster: &roster,
        tier,
        profile: gate.config().profile,
        max_head_age: Verifier::MAX_HEAD_AGE,
    };
    let envelope = Envelope::parse(&files::read(statement)?)?;
    let mut ledger = NonceFile::open(&nonces(site))?;
    let approved = verifier.approve(&envelope, now()?, &log, &mut ledger)?;
    Ok((approved, log))
}
