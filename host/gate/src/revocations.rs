//! Revoking beside a running server: the command leaves a request in the site's folder, and the process that has the site open
//! carries it out. Whoever may write that folder may also replace `site.toml`, so a request gives nobody anything new.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_types::UserName;

use crate::GateError;
use crate::site::Gate;
use crate::state::write_private;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the process that has the site open to revoke a user, and waits until it has.
///
/// # Errors
/// [`GateError::InUse`] when that process does not answer; [`GateError::KeyOffice`] with its words when it refuses.
pub fn ask_to_revoke(site: &Path, name: &UserName, by: &str) -> Result<(), GateError> {
    let (request, refusal) = (request(site, name), refusal(site, name));
    let folder = site.join(FOLDER);
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| GateError::Io { action, path, source }
    };
    fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    // What an earlier request was told is not the answer to this one.
    if refusal.exists() {
        fs::remove_file(&refusal).map_err(io("remove", &refusal))?;
    }
    write_private(&request, by.as_bytes())?;
    let asked = Instant::now();
    while request.exists() {
        if asked.elapsed() > PATIENCE {
            fs::remove_file(&request).map_err(io("take back", &request))?;
            return Err(GateError::InUse { path: site.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    match fs::read_to_string(&refusal) {
        Ok(why) => {
            fs::remove_file(&refusal).map_err(io("remove", &refusal))?;
            Err(GateError::KeyOffice(why))
        }
        Err(_) => Ok(()),
    }
}

impl Gate {
    /// Carries out the revocations that were asked for. Returns who was revoked, and who was not and why.
    pub fn carry_out_revocations(&self) -> Vec<(UserName, Result<(), GateError>)> {
        let Ok(entries) = fs::read_dir(self.dir.join(FOLDER)) else { return Vec::new() };
        let named = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<UserName>().ok());
        named.map(|name| (name.clone(), self.carry_out(&name))).collect()
    }

    fn carry_out(&self, name: &UserName) -> Result<(), GateError> {
        let path = request(&self.dir, name);
        let by =
            fs::read_to_string(&path).map_err(|source| GateError::Io { action: "read", path: path.clone(), source })?;
        // What is written goes into the log: one short line of it.
        let by: String = by.chars().filter(|c| !c.is_control()).take(64).collect();
        let result = self.revoke(&by, name);
        if let Err(error) = &result {
            write_private(&refusal(&self.dir, name), error.to_string().as_bytes())?;
        }
        // Last, because it is what the other side waits for.
        fs::remove_file(&path).map_err(|source| GateError::Io { action: "remove", path, source })?;
        result
    }
}

const FOLDER: &str = "revocations";

fn request(site: &Path, name: &UserName) -> PathBuf {
    site.join(FOLDER).join(name.as_str())
}

/// No user's name has a dot, so this is nobody's request.
fn refusal(site: &Path, name: &UserName) -> PathBuf {
    site.join(FOLDER).join(format!("{name}.refused"))
}
