use std::path::Path;
use std::process::ExitCode;

use casemate_gate::{Question, wit};
use casemate_types::Decision;

use crate::args::PolicyCommand;
use crate::failure::{Failure, code};
use crate::{environment, output};

pub fn run(site: &Path, command: PolicyCommand, json: bool) -> Result<ExitCode, Failure> {
    let PolicyCommand::Eval { text, user, phase, action, attribute } = command;
    environment::prepare(site)?;
    environment::lock_down()?;
    let attributes = attribute
        .iter()
        .map(|text| environment::pair(text).map(|(name, value)| wit::Field { name, value }))
        .collect::<Result<Vec<_>, _>>()?;
    environment::block_on(environment::with_session(site, &user, |gate, session| async move {
        let question = Question { phase, action, text, passage: None, attributes };
        let (id, decided) = gate.evaluate(&session, question).await?;
        let policy = decided.policy.as_ref().map(ToString::to_string);
        if json {
            output::json(&serde_json::json!({
                "id": id, "decision": decided.decision, "policy": policy, "record": decided.index
            }))?;
        } else {
            let by = policy.map_or_else(String::new, |policy| format!(" by policy `{policy}`"));
            let line = match &decided.decision {
                Decision::Allow => format!("ALLOWED{by}"),
                Decision::Deny { reason, message } => format!("DENIED{by}: {reason}\n  {message}"),
                Decision::Transform { obligations } => format!(
                    "ALLOWED{by} with obligations:\n{}",
                    obligations.iter().map(|o| format!("  {o:?}")).collect::<Vec<_>>().join("\n")
                ),
            };
            let rehearsal = if gate.journal().rehearsal() { " (rehearsal)" } else { "" };
            if let Some(fault) = &decided.fault {
                output::line(&format!("{line}\n  operator: {}", output::plain(fault)))?;
            } else {
                output::line(&line)?;
            }
            output::line(&format!("  decision {id} is record {} of the audit log{rehearsal}", decided.index))?;
        }
        Ok(match decided.decision {
            Decision::Deny { .. } => ExitCode::from(code::DENIED),
            _ => ExitCode::SUCCESS,
        })
    }))
}
