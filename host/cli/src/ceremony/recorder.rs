//! The site's audit log from a process of its own: the site's token may be behind a module that the ceremony uses as well,
//! and a module reads its environment once.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use casemate_audit::Event;
use casemate_ceremony::{AuditTrail, CeremonyError, Mark, marks};
use casemate_custody::AuditHead;
use casemate_gate::Gate;
use serde::{Deserialize, Serialize};

use crate::custodian::SiteLog;
use crate::environment;
use crate::failure::Failure;

/// One line to the recorder.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Append(Box<Event>),
    Checkpoint,
}

/// One line from it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done,
    Failed(String),
}

/// The process of `casemate ceremony recorder`: a line in, a record durable, a line out; ends with its input.
pub fn serve(site: &Path) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    environment::block_on(async {
        let gate = Gate::open_without_plugins(site)?;
        answer(&Answer::Done)?;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| Failure::caused_by("cannot read a request", &error))?;
            let request: Request =
                serde_json::from_str(&line).map_err(|error| Failure::caused_by("a request is malformed", &error))?;
            let done = match request {
                Request::Append(event) => gate.journal().record(*event).await.map(drop),
                Request::Checkpoint => gate.journal().checkpoint().map(drop),
            };
            answer(&done.map_or_else(|error| Answer::Failed(error.to_string()), |()| Answer::Done))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn answer(answer: &Answer) -> Result<(), Failure> {
    crate::output::json(answer)
}

/// The other end.
pub struct Recorder {
    site: PathBuf,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Recorder {
    /// Starts the process and waits until it has the site open.
    pub fn start(site: &Path) -> Result<Self, CeremonyError> {
        let fail = |error: std::io::Error| broken(&format!("its process does not start: {error}"));
        let program = std::env::current_exe().map_err(fail)?;
        let mut command = Command::new(program);
        command.arg("--site").arg(site).args(["ceremony", "recorder"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let shares = environment::hand_on(&mut command).map_err(|failure| broken(&failure.to_string()))?;
        let mut child = command.spawn().map_err(fail)?;
        drop(shares);
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(broken("its process has no pipes"));
        };
        let site = site.to_owned();
        let mut recorder = Self { site, child, requests: Some(input), answers: BufReader::new(output) };
        recorder.wait()?;
        Ok(recorder)
    }

    fn ask(&mut self, request: &Request) -> Result<(), CeremonyError> {
        let mut line = serde_json::to_vec(request).map_err(|error| broken(&error.to_string()))?;
        line.push(b'\n');
        let pipe = self.requests.as_mut().ok_or_else(|| broken("it is closed"))?;
        pipe.write_all(&line).and_then(|()| pipe.flush()).map_err(|error| broken(&error.to_string()))?;
        self.wait()
    }

    fn wait(&mut self) -> Result<(), CeremonyError> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| broken(&error.to_string()))?;
        match serde_json::from_str(&line) {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Failed(why)) => Err(broken(&why)),
            // It has said why on standard error.
            Err(_) => Err(broken("its process ended; is the site in use, or its token gone?")),
        }
    }
}

impl AuditTrail for Recorder {
    fn append(&mut self, event: Event) -> Result<(), CeremonyError> {
        self.ask(&Request::Append(Box::new(event)))
    }

    fn head(&mut self) -> Result<AuditHead, CeremonyError> {
        self.ask(&Request::Checkpoint)?;
        let log = SiteLog::open(&self.site).map_err(|failure| broken(&failure.to_string()))?;
        let (size, root) = log.head();
        Ok(AuditHead { size, root })
    }

    fn marks(&mut self, ceremony: &str) -> Result<Vec<Mark>, CeremonyError> {
        marks(&self.site.join("log"), ceremony)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The end of its input ends the process, which closes the log.
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}

fn broken(why: &str) -> CeremonyError {
    CeremonyError::Audit { why: why.to_owned() }
}
