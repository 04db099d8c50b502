//! `casemate reindex`: a collection as `site.toml` has it now.

use std::path::Path;
use std::process::ExitCode;

use casemate_types::{CompartmentName, UserName};
use clap::Args;

use crate::failure::Failure;
use crate::{environment, output};

#[derive(Args)]
pub struct ReindexOptions {
    /// Whose collection.
    #[arg(long)]
    pub compartment: CompartmentName,
    /// On whose behalf; must hold the compartment's key.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
}

pub fn run(site: &Path, options: &ReindexOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let bar = crate::ingest::progress_bar(0, json);
    let done = environment::block_on(environment::with_session(site, &options.user, |gate, session| async move {
        let compartment = options.compartment.clone();
        let work = move || {
            gate.reindex(&session, &compartment, |done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            })
        };
        let done = tokio::task::spawn_blocking(work).await;
        Ok(done.map_err(|error| Failure::caused_by("the collection was not written anew", &error))??)
    }))?;
    if json {
        output::json(&done)?;
    } else {
        let kept = |kept: bool| if kept { "yes" } else { "no" };
        output::line(&format!(
            "{} passages in {} groups; clustered: {}; keywords: {}",
            done.passages,
            done.groups,
            kept(done.clustered),
            kept(done.keywords)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
