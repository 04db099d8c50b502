use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use casemate_gate::Gate;
use casemate_sandbox::Profile;

use crate::args::ServeOptions;
use crate::failure::Failure;
use crate::{environment, output};

pub fn run(site: &Path, options: &ServeOptions, json: bool) -> Result<ExitCode, Failure> {
    if !options.listen.ip().is_loopback() {
        return Err(Failure::new(format!("{} is no loopback address: there is no TLS here", options.listen))
            .hint("--listen 127.0.0.1:8470")
            .with_code(2));
    }
    environment::prepare(site)?;
    let config = casemate_gate::SiteConfig::read(site)?;
    if config.audit.witness.is_some_and(|witness| witness.socket.is_some()) {
        return Err(Failure::new("a served site cannot connect to the witness's socket: its lock-down lets nothing connect")
            .hint("in site.toml, under [audit.witness], name a folder: directory = \"...\"; and `casemate witness serve --folder`"));
    }
    // The listener is bound first; after the lock-down no socket can be made, so nothing can connect out.
    let listener = TcpListener::bind(options.listen).map_err(|error| {
        Failure::caused_by(format!("cannot listen on {}", options.listen), &error)
            .hint("another port: --listen 127.0.0.1:PORT")
    })?;
    let address =
        listener.local_addr().map_err(|error| Failure::caused_by("cannot read the listener's address", &error))?;
    environment::lock_down_with(Profile::LoopbackListener)?;
    // The operator's log: what failed inside, which callers are never told.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    environment::block_on(async {
        let gate = Arc::new(Gate::open(site).await?);
        if json {
            output::json(&serde_json::json!({ "listening": address.to_string() }))?;
        } else {
            output::line(&format!(
                "Serving on http://{address} (loopback, bearer tokens; stop with Ctrl-C)\n  curl -H \"Authorization: Bearer $(cat {}/users/USER.token)\" http://{address}/v1/health",
                site.display()
            ))?;
        }
        casemate_server::serve(gate, listener)
            .await
            .map_err(|error| Failure::caused_by("the server stopped", &error))?;
        Ok(ExitCode::SUCCESS)
    })
}
