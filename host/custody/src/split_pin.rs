//! A token's USER PIN, put together from custodians' shares for one process.

use casemate_hsm::Pin;
use casemate_types::UserName;
use zeroize::Zeroizing;

use crate::CustodyError;
use crate::folder::{CustodyFolder, Generation, Phase};
use crate::roster::Roster;
use crate::session::{PIN_BYTES, Pins};
use crate::shares::{Collector, OpenShare, SecretKind};
use crate::text::TokenSerial;

/// The USER PIN of a token that nobody knows, while the process lives that custodians opened the token for.
///
/// Made from the shares of a threshold of custodians alone, each checked against its commitment.
pub struct SplitPin {
    serial: TokenSerial,
    generation: Generation,
    custodians: Vec<UserName>,
    pin: Zeroizing<[u8; PIN_BYTES]>,
}

impl SplitPin {
    /// Puts a PIN together, and takes its shares out of `shares`, which may hold those of other tokens as well.
    ///
    /// # Errors
    /// [`CustodyError::PinsUnsettled`] while a change of PINs is unfinished; as [`Collector`]. Shares of older PINs are nobody's.
    pub fn put_together(
        folder: &CustodyFolder,
        roster: &Roster,
        shares: &mut Vec<OpenShare>,
    ) -> Result<Self, CustodyError> {
        let missing = || CustodyError::malformed("the custody folder", "it has no journal: no token was initialised");
        let journal = folder.journal()?.ok_or_else(missing)?;
        let serial = journal.token_serial.ok_or_else(missing)?;
        // Until the first change the new PINs are nobody's; from then on both may be needed, and a session knows which.
        if !matches!(journal.phase, Phase::Settled | Phase::Prepared) {
            return Err(CustodyError::PinsUnsettled { label: journal.token_label });
        }
        let generation = journal.generation;
        let set = folder.set(SecretKind::UserPin, generation)?;
        let digest = set.digest()?;
        let mut collector = Collector::new(&set, roster, generation.0)?;
        let mut custodians = Vec::new();
        let (own, others) = std::mem::take(shares).into_iter().partition(|share| share.set_digest() == digest);
        *shares = others;
        for share in own {
            let custodian = share.custodian().clone();
            collector.enter(share)?;
            custodians.push(custodian);
        }
        let secret = collector.combine()?;
        let pin = <[u8; PIN_BYTES]>::try_from(&secret[..]).map_err(|_| CustodyError::SecretMismatch)?;
        Ok(Self { serial, generation, custodians, pin: Zeroizing::new(pin) })
    }

    /// The token.
    pub fn serial(&self) -> &TokenSerial {
        &self.serial
    }

    /// Which PINs of the token these are.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whose shares it was put together from.
    pub fn custodians(&self) -> &[UserName] {
        &self.custodians
    }

    /// The PIN.
    ///
    /// # Errors
    /// As [`Pin::new`].
    pub fn pin(&self) -> Result<Pin, CustodyError> {
        Pins::pin(&self.pin)
    }
}
