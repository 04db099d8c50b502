//! Tokens whose PINs are split among the custodians: opened once for a ceremony, in its process, and given new PINs at its end.

use std::rc::Rc;
use std::sync::Arc;

use casemate_custody::session::{Custody, Leave, Opened};
use casemate_custody::{CustodyFolder, Generation, Roster};
use casemate_hsm::{Module, TokenInfo};

use crate::CeremonyError;
use crate::bindings::TokenBinding;
use crate::desk::Desk;

/// The tokens that are open.
pub struct Leases<'a> {
    roster: &'a Roster,
    held: Vec<Lease>,
}

struct Lease {
    role: String,
    folder: CustodyFolder,
    module: Arc<Module>,
    opened: Opened,
}

/// Whether the PINs of a token are split, by its folder: the folder has to be this token's.
pub(crate) fn is_split(binding: &TokenBinding, token: &TokenInfo) -> Result<bool, CeremonyError> {
    let Some(folder) = &binding.custody else { return Ok(false) };
    let journal = CustodyFolder::open(folder)?.journal()?;
    let serial = journal.and_then(|journal| journal.token_serial).filter(|serial| serial.same_device(&binding.serial));
    if serial.is_some() && token.initialised {
        return Ok(true);
    }
    Err(CeremonyError::bindings(format!("{} holds no shares of token {}", folder.display(), binding.serial)))
}

impl<'a> Desk<'a> {
    /// Whether a token of this ceremony has split PINs.
    pub fn has_split(&self) -> bool {
        self.bindings.tokens.values().any(|binding| binding.custody.is_some())
    }

    /// Logs in to each custodian's own token once: a PIN that was mistyped costs no approval.
    ///
    /// # Errors
    /// As the tokens answer.
    pub fn greet(&self) -> Result<(), CeremonyError> {
        self.custodians().cloned().collect::<Vec<_>>().iter().try_for_each(|name| self.custodian(name).map(drop))
    }

    /// Opens every token whose PINs are split, with the shares of the custodians who are here.
    ///
    /// # Errors
    /// As [`Custody::begin`]. What was opened before stays as it was: its PINs of before are in force.
    pub fn unlock(&self, leave: Leave<'_>) -> Result<Leases<'a>, CeremonyError> {
        let mut leases = Leases { roster: self.roster, held: Vec::new() };
        for (role, binding) in &self.bindings.tokens {
            let Some(path) = &binding.custody else { continue };
            let (module, token) = self.place(role)?;
            is_split(binding, &token)?;
            let folder = CustodyFolder::open(path)?;
            let needed = folder.journal()?.map(|journal| journal.needed()).unwrap_or_default();
            let mut shares = Vec::new();
            for name in self.custodians() {
                let (custodian, own) = self.custodian(name)?;
                for (kind, generation) in &needed {
                    shares.push(folder.share(*kind, *generation, name)?.open(custodian, &own)?);
                }
            }
            let custody = Custody { folder: &folder, module: &module, roster: self.roster, next_roster: self.roster };
            let opened = custody.begin(leave, shares, &mut |_| {})?;
            self.known.borrow_mut().insert(format!("token {role}"), Rc::new(opened.pin()?));
            leases.held.push(Lease { role: role.clone(), folder, module, opened });
        }
        Ok(leases)
    }
}

impl Leases<'_> {
    /// The roles of the tokens that are open.
    pub fn roles(&self) -> Vec<&str> {
        self.held.iter().map(|lease| lease.role.as_str()).collect()
    }

    /// Gives each token new PINs, whose shares are durable since it was opened. Says which generation is in force where.
    ///
    /// # Errors
    /// As [`Custody::replace`], the first one; the other tokens get theirs all the same.
    pub fn close(self, desk: &Desk<'_>) -> Result<Vec<(String, Generation)>, CeremonyError> {
        let (mut replaced, mut first) = (Vec::new(), None);
        for Lease { role, folder, module, opened } in self.held {
            desk.known.borrow_mut().remove(&format!("token {role}"));
            let custody = Custody { folder: &folder, module: &module, roster: self.roster, next_roster: self.roster };
            match custody.replace(opened, &mut |_| {}) {
                Ok(generation) => replaced.push((role, generation)),
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(replaced), |error| Err(error.into()))
    }
}
