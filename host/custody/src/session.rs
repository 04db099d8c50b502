//! Opening the custody token: PINs put together, used once, replaced.
//!
//! Runs in a process of its own ([`crate::process`]), because a PKCS#11 login is the process's and because PINs are in its
//! memory. The order makes every crash harmless: new shares are durable before the first PIN changes, the journal says before
//! each change which PIN may already be the new one, and old shares are removed when both are. Whatever fails up to and
//! including the work leaves the old shares in force. The folder may have been written by somebody else meanwhile: a change that
//! was cut off is finished only with shares that a session with the old PINs wrote.

use std::sync::Arc;

use casemate_hsm::{HsmError, Keyring, Module, Pin};
use casemate_types::UserName;
use zeroize::Zeroizing;

use crate::approval::Approved;
use crate::entropy::{Entropy, TokenEntropy, array};
use crate::envelope::Signed;
use crate::folder::{CustodyFolder, Generation, Journal, Phase};
use crate::roster::Roster;
use crate::shares::{Collector, OpenShare, SealedShare, SecretKind, ShareSet, SplitOf, split};
use crate::split_pin::SplitPin;
use crate::statement::Statement;
use crate::succession::Succession;
use crate::token::serial_of;
use crate::{CustodyError, text::TokenSerial};

/// Bytes of a PIN before it is written in hexadecimal.
pub(crate) const PIN_BYTES: usize = 32;

/// What has just been done, durably. For transcripts, and for tests that pull the plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The journal names a change that an earlier process did not finish; it is being finished or undone.
    Resuming(Phase),
    /// The shares of the next generation are written.
    SharesWritten,
    /// The journal says `prepared`.
    Prepared,
    /// The custody token is initialised.
    TokenInitialised,
    /// The work is done.
    Worked,
    /// The journal says `changing-user`.
    ChangingUser,
    /// The USER PIN is the new one.
    UserPinChanged,
    /// The journal says `changing-so`.
    ChangingSo,
    /// The SO PIN is the new one.
    SoPinChanged,
    /// The new PINs are in force; their shares are the only ones.
    Settled,
    /// The old shares are removed.
    OldRemoved,
    /// The work failed: the old PINs stay in force.
    Aborted,
}

/// By what right a token is opened.
#[derive(Clone, Copy)]
pub enum Leave<'a> {
    /// An approval that was used for this.
    Approved(&'a Approved<Statement>),
    /// One that was used before, by a ceremony that goes on with it.
    Standing(&'a Signed<Statement>),
    /// That of the custodians who are here with their tokens, to open a site for one command: whoever has enough shares of a token's
    /// PINs may open this token and no other. What the command does is asked of them besides.
    Present,
}

impl Leave<'_> {
    fn permits(self, token: &TokenSerial) -> Result<(), CustodyError> {
        let statement = match self {
            Self::Approved(approved) => return approved.permits_token(token),
            Self::Standing(signed) => signed.document(),
            Self::Present => return Ok(()),
        };
        if statement.tokens.iter().any(|named| named.same_device(token)) {
            return Ok(());
        }
        Err(CustodyError::NotApproved { what: "token", approved: statement.operation })
    }
}

/// A token whose PINs this process has, for once.
pub struct Opened {
    journal: Journal,
    serial: TokenSerial,
    custodians: Vec<UserName>,
    pins: Pins,
    next: Pins,
}

impl Opened {
    /// The user's PIN.
    ///
    /// # Errors
    /// As [`Pin::new`].
    pub fn pin(&self) -> Result<Pin, CustodyError> {
        self.pins.user()
    }
}

/// The custody token and who guards it.
pub struct Custody<'a> {
    /// The folder with journal and shares.
    pub folder: &'a CustodyFolder,
    /// The PKCS#11 module that has the token.
    pub module: &'a Arc<Module>,
    /// The custodians, at the time of the last split.
    pub roster: &'a Roster,
    /// The custodians from now on: another roster after a change of roster, otherwise the same.
    pub next_roster: &'a Roster,
}

impl Custody<'_> {
    /// Initialises a fresh token as the custody token: random PINs, split before the token has them.
    ///
    /// `entropy` makes the first PINs: a custodian's token where possible, because the token itself cannot be asked yet.
    ///
    /// # Errors
    /// [`CustodyError::AlreadyInitialised`] when the folder has a token already; as [`Module::initialise`].
    pub fn initialise(
        &self,
        label: &str,
        entropy: &mut dyn Entropy,
        observe: &mut dyn FnMut(Step),
    ) -> Result<TokenSerial, CustodyError> {
        if let Some(journal) = self.folder.journal()? {
            // A first attempt that was cut off before it reached the token may be made again.
            let begun = journal.phase == Phase::Initialising && journal.token_label == label;
            if !(begun && matches!(self.module.token(label), Err(HsmError::TokenMissing { .. }))) {
                return Err(CustodyError::AlreadyInitialised { label: journal.token_label });
            }
        }
        let pins = Pins::draw(entropy)?;
        let mut journal = Journal::first(label);
        self.write_shares(&pins, journal.generation, label, None, entropy)?;
        observe(Step::SharesWritten);
        self.folder.write_journal(&journal)?;
        observe(Step::Prepared);
        let token = self.module.initialise(label, &pins.so()?, &pins.user()?)?;
        observe(Step::TokenInitialised);
        let serial: TokenSerial = token.serial.parse()?;
        journal.token_serial = Some(serial.clone());
        journal.phase = Phase::Settled;
        self.folder.write_journal(&journal)?;
        observe(Step::Settled);
        Ok(serial)
    }

    /// Opens the token with the custodians' shares, does the work, and replaces both PINs.
    ///
    /// `shares` are those that [`Journal::needed`] asks for, of at least the threshold of custodians. The work must not keep keys
    /// of the keyring it is given.
    ///
    /// # Errors
    /// As [`Custody::begin`] and [`Custody::replace`]; what the work returns. The old shares stay in force unless the last [`Step`] was one
    /// of a changed PIN; the next session then finishes the change.
    pub fn run<T>(
        &self,
        approved: &Approved<Statement>,
        shares: Vec<OpenShare>,
        work: impl FnOnce(&Arc<Keyring>) -> Result<T, CustodyError>,
        observe: &mut dyn FnMut(Step),
    ) -> Result<T, CustodyError> {
        let mut opened = self.begin(Leave::Approved(approved), shares, observe)?;
        let ring = Keyring::open(Arc::clone(self.module), &opened.journal.token_label, &opened.pin()?)?;
        let result = work(&ring);
        // The login ends here, if the work kept no key; the change of PINs checks that it has.
        drop(ring);
        let worked = match result {
            Ok(worked) => worked,
            Err(error) => {
                // The first error is the one to report; what is left of the draft is removed by the next session otherwise.
                if self.abandon(&mut opened.journal).is_ok() {
                    observe(Step::Aborted);
                }
                return Err(error);
            }
        };
        observe(Step::Worked);
        self.replace(opened, observe)?;
        Ok(worked)
    }

    /// Puts the PINs in force together, and makes the shares of the next ones durable. Whoever gets the answer logs in with
    /// [`Opened::pin`], and ends with [`Custody::replace`]; a process that dies before leaves the PINs of before in force.
    ///
    /// # Errors
    /// [`CustodyError::NotApproved`] unless the statement names this token; [`CustodyError::ForgedGeneration`] when the folder wants
    /// PINs finished that no session made; [`CustodyError::Superseded`] when the token has later PINs; as [`Collector`]; as the token answers.
    pub fn begin(
        &self,
        leave: Leave<'_>,
        shares: Vec<OpenShare>,
        observe: &mut dyn FnMut(Step),
    ) -> Result<Opened, CustodyError> {
        let mut journal = self.folder.journal()?.ok_or_else(|| {
            CustodyError::malformed("the custody folder", "it has no journal: no custody token was initialised")
        })?;
        let serial = serial_of(self.module, &journal.token_label)?;
        if let Some(expected) = journal.token_serial.as_ref().filter(|expected| !expected.same_device(&serial)) {
            let (expected, found) = (expected.to_string(), serial.to_string());
            return Err(CustodyError::CustodyTokenMismatch { expected, found });
        }
        leave.permits(&serial)?;
        let mut custodians: Vec<UserName> = shares.iter().map(|share| share.custodian().clone()).collect();
        custodians.sort();
        custodians.dedup();
        let mut collected = self.collect(&journal, shares)?;
        self.folder.sweep(&journal.needed().into_iter().map(|(_, generation)| generation).collect::<Vec<_>>())?;
        let pins = self.resume(&mut journal, &serial, &mut collected, observe)?;

        let ring = match Keyring::open(Arc::clone(self.module), &journal.token_label, &pins.user()?) {
            Err(HsmError::PinIncorrect) => {
                let (label, generation) = (journal.token_label, journal.generation.0);
                return Err(CustodyError::Superseded { label, generation });
            }
            opened => opened?,
        };
        let mut entropy = TokenEntropy(ring);
        let next = Pins::draw(&mut entropy)?;
        self.write_shares(&next, journal.generation.next(), serial.as_str(), Some(&pins), &mut entropy)?;
        observe(Step::SharesWritten);
        self.enter(&mut journal, Phase::Prepared)?;
        observe(Step::Prepared);
        Ok(Opened { journal, serial, custodians, pins, next })
    }

    /// Replaces both PINs of a token that was opened. Nobody may be logged in to it.
    ///
    /// # Errors
    /// As the token answers; the next session then finishes the change.
    pub fn replace(&self, opened: Opened, observe: &mut dyn FnMut(Step)) -> Result<Generation, CustodyError> {
        Ok(self.hand_over(opened, observe)?.generation())
    }

    /// As [`Custody::replace`], and gives the new USER PIN for the process that the token is opened for. What the custodians showed is
    /// worth nothing from here on; the shares of the new PINs were shown to nobody, and the new SO PIN ends with this process.
    ///
    /// # Errors
    /// As [`Custody::replace`].
    pub fn hand_over(&self, mut opened: Opened, observe: &mut dyn FnMut(Step)) -> Result<SplitPin, CustodyError> {
        self.enter(&mut opened.journal, Phase::ChangingUser)?;
        observe(Step::ChangingUser);
        self.change(&mut opened.journal, &opened.pins, &opened.next, observe)?;
        let Opened { journal, serial, custodians, next, .. } = opened;
        Ok(SplitPin::renewed(serial, journal.generation, custodians, next.user))
    }

    /// Finishes or undoes what an earlier process left, and gives the PINs in force.
    fn resume(
        &self,
        journal: &mut Journal,
        serial: &TokenSerial,
        collected: &mut Collected,
        observe: &mut dyn FnMut(Step),
    ) -> Result<Pins, CustodyError> {
        let (now, next) = (journal.generation, journal.generation.next());
        if journal.phase != Phase::Settled {
            observe(Step::Resuming(journal.phase));
        }
        match journal.phase {
            Phase::Settled => {}
            Phase::Prepared => {
                self.abandon(journal)?;
                observe(Step::Aborted);
            }
            Phase::Initialising => {
                let pins = Pins {
                    user: collected.take(SecretKind::UserPin, now)?,
                    so: collected.take(SecretKind::SoPin, now)?,
                };
                // Initialising sets the SO PIN first; the USER PIN may still be missing.
                self.module.reset_user_pin(&journal.token_label, &pins.so()?, &pins.user()?)?;
                journal.token_serial = Some(serial.clone());
                self.enter(journal, Phase::Settled)?;
                observe(Step::Settled);
                return Ok(pins);
            }
            Phase::ChangingUser | Phase::ChangingSo => {
                let mut both = |generation| -> Result<Pins, CustodyError> {
                    let user = collected.take(SecretKind::UserPin, generation)?;
                    Ok(Pins { user, so: collected.take(SecretKind::SoPin, generation)? })
                };
                let (old, new) = (both(now)?, both(next)?);
                self.check_succession(&old, next)?;
                self.change(journal, &old, &new, observe)?;
                return Ok(new);
            }
        }
        Ok(Pins { user: collected.take(SecretKind::UserPin, now)?, so: collected.take(SecretKind::SoPin, now)? })
    }

    /// From `changing-user` or `changing-so` to `settled`, whichever PINs the token has.
    fn change(
        &self,
        journal: &mut Journal,
        old: &Pins,
        new: &Pins,
        observe: &mut dyn FnMut(Step),
    ) -> Result<(), CustodyError> {
        let label = journal.token_label.clone();
        if journal.phase == Phase::ChangingUser {
            match self.module.change_user_pin(&label, &old.user()?, &new.user()?) {
                Ok(()) => {}
                // Changed by the process that was cut off, or by somebody else: the new PIN tells.
                Err(HsmError::PinIncorrect) => self.check_user(&label, new)?,
                Err(other) => return Err(other.into()),
            }
            observe(Step::UserPinChanged);
            self.enter(journal, Phase::ChangingSo)?;
            observe(Step::ChangingSo);
        } else {
            // The journal may be wrong about it, and with the SO PIN changed there would be no way back.
            self.check_user(&label, new)?;
        }
        match self.module.change_so_pin(&label, &old.so()?, &new.so()?) {
            Ok(()) => {}
            Err(HsmError::PinIncorrect) => self.check_so(&label, new)?,
            Err(other) => return Err(other.into()),
        }
        observe(Step::SoPinChanged);
        self.check_user(&label, new)?;
        self.check_so(&label, new)?;
        let dead = journal.generation;
        journal.generation = dead.next();
        self.enter(journal, Phase::Settled)?;
        observe(Step::Settled);
        self.folder.remove_generation(dead)?;
        observe(Step::OldRemoved);
        Ok(())
    }

    /// Refuses to change a PIN to one that no session made.
    fn check_succession(&self, old: &Pins, next: Generation) -> Result<(), CustodyError> {
        let forged = CustodyError::ForgedGeneration { generation: next.0 };
        let sets = [self.folder.set(SecretKind::UserPin, next)?, self.folder.set(SecretKind::SoPin, next)?];
        let proof = self.folder.succession(next)?.ok_or(forged)?;
        proof.check(old, next, sets.each_ref())
    }

    fn check_user(&self, label: &str, pins: &Pins) -> Result<(), CustodyError> {
        match Keyring::open(Arc::clone(self.module), label, &pins.user()?) {
            Ok(_) => Ok(()),
            Err(HsmError::PinIncorrect) => Err(CustodyError::PinsDead { pin: "USER" }),
            Err(other) => Err(other.into()),
        }
    }

    fn check_so(&self, label: &str, pins: &Pins) -> Result<(), CustodyError> {
        match self.module.check_so_pin(label, &pins.so()?) {
            Ok(()) => Ok(()),
            Err(HsmError::PinIncorrect) => Err(CustodyError::PinsDead { pin: "SO" }),
            Err(other) => Err(other.into()),
        }
    }

    /// Back from `prepared`: the old shares were in force all the time.
    fn abandon(&self, journal: &mut Journal) -> Result<(), CustodyError> {
        self.enter(journal, Phase::Settled)?;
        self.folder.remove_generation(journal.generation.next())
    }

    fn enter(&self, journal: &mut Journal, phase: Phase) -> Result<(), CustodyError> {
        journal.phase = phase;
        self.folder.write_journal(journal)
    }

    fn write_shares(
        &self,
        pins: &Pins,
        generation: Generation,
        about: &str,
        before: Option<&Pins>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), CustodyError> {
        let mut one = |kind, secret: &[u8]| -> Result<(ShareSet, Vec<SealedShare>), CustodyError> {
            split(secret, SplitOf { kind, about, epoch: generation.0 }, self.next_roster, entropy)
        };
        let splits = [one(SecretKind::UserPin, &pins.user[..])?, one(SecretKind::SoPin, &pins.so[..])?];
        let sets = splits.each_ref().map(|(set, _)| set);
        let proof = before.map(|before| Succession::prove(before, generation, sets)).transpose()?;
        self.folder.write_generation(generation, &splits, proof.as_ref())
    }

    /// Sorts the shares by what they are of, checks each, and puts together what the journal needs.
    fn collect(&self, journal: &Journal, shares: Vec<OpenShare>) -> Result<Collected, CustodyError> {
        let needed = journal.needed();
        let mut piles: Vec<Vec<OpenShare>> = needed.iter().map(|_| Vec::new()).collect();
        for share in shares {
            let place =
                needed.iter().position(|(kind, generation)| *kind == share.kind() && generation.0 == share.epoch());
            match place.and_then(|place| piles.get_mut(place)) {
                Some(pile) => pile.push(share),
                None => {
                    let current = journal.generation.0;
                    return Err(CustodyError::OlderEpoch { found: share.epoch(), current });
                }
            }
        }
        let mut pins = Vec::new();
        for ((kind, generation), pile) in needed.into_iter().zip(piles) {
            let set = self.folder.set(kind, generation)?;
            let roster = if generation == journal.generation { self.roster } else { self.next_roster };
            let mut collector = Collector::new(&set, roster, generation.0)?;
            for share in pile {
                collector.enter(share)?;
            }
            let secret = collector.combine()?;
            let pin = <[u8; PIN_BYTES]>::try_from(&secret[..]).map_err(|_| CustodyError::SecretMismatch)?;
            pins.push((kind, generation, Zeroizing::new(pin)));
        }
        Ok(Collected(pins))
    }
}

/// PINs by kind and generation.
struct Collected(Vec<(SecretKind, Generation, Zeroizing<[u8; PIN_BYTES]>)>);

impl Collected {
    fn take(&mut self, kind: SecretKind, generation: Generation) -> Result<Zeroizing<[u8; PIN_BYTES]>, CustodyError> {
        let place = self.0.iter().position(|(k, g, _)| (*k, *g) == (kind, generation));
        place.map(|place| self.0.swap_remove(place).2).ok_or(CustodyError::TooFewShares { found: 0, wanted: 2 })
    }
}

/// Both PINs of one generation.
pub(crate) struct Pins {
    pub(crate) user: Zeroizing<[u8; PIN_BYTES]>,
    pub(crate) so: Zeroizing<[u8; PIN_BYTES]>,
}

impl Pins {
    fn draw(entropy: &mut dyn Entropy) -> Result<Self, CustodyError> {
        Ok(Self { user: Zeroizing::new(array(entropy)?), so: Zeroizing::new(array(entropy)?) })
    }

    fn user(&self) -> Result<Pin, CustodyError> {
        Self::pin(&self.user)
    }

    fn so(&self) -> Result<Pin, CustodyError> {
        Self::pin(&self.so)
    }

    /// 64 hexadecimal digits, which every token takes.
    pub(crate) fn pin(bytes: &[u8; PIN_BYTES]) -> Result<Pin, CustodyError> {
        Ok(Pin::new(hex::encode(bytes))?)
    }
}
