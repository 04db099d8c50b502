//! A token's USER PIN on its way into the one process that custodians opened the token for.

use casemate_hsm::Pin;
use casemate_types::UserName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::CustodyError;
use crate::folder::{CustodyFolder, Generation, Phase};
use crate::roster::Roster;
use crate::session::{PIN_BYTES, Pins};
use crate::shares::{Collector, OpenShare, SecretKind, from_hex, to_hex};
use crate::text::TokenSerial;

/// The USER PIN of a token that nobody knows, while the process lives that custodians opened the token for.
pub struct SplitPin {
    serial: TokenSerial,
    generation: Generation,
    custodians: Vec<UserName>,
    renewed: bool,
    pin: Zeroizing<[u8; PIN_BYTES]>,
    /// Held as long as the PIN: nobody replaces it meanwhile.
    folder: Option<CustodyFolder>,
}

/// What the pipe from the session to the process carries, a line for each token.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Piped {
    format: Format,
    serial: TokenSerial,
    generation: Generation,
    custodians: Vec<UserName>,
    renewed: bool,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pin: Zeroizing<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
enum Format {
    #[serde(rename = "casemate opened token 1")]
    One,
}

impl SplitPin {
    /// The new PIN of a token whose PINs were replaced.
    pub(crate) fn renewed(
        serial: TokenSerial,
        generation: Generation,
        custodians: Vec<UserName>,
        pin: Zeroizing<[u8; PIN_BYTES]>,
    ) -> Self {
        Self { serial, generation, custodians, renewed: true, pin, folder: None }
    }

    /// Puts the PIN in force together without replacing it: for the token of a pair that is away, whose PINs cannot be changed now. `shares`
    /// are those of this token; the ones of its SO PIN stay unused.
    ///
    /// # Errors
    /// [`CustodyError::PinsUnsettled`] while a change of PINs is unfinished; as [`Collector`].
    pub fn put_together(folder: &CustodyFolder, roster: &Roster, shares: Vec<OpenShare>) -> Result<Self, CustodyError> {
        let missing = || CustodyError::malformed("the custody folder", "it has no journal: no token was initialised");
        let journal = folder.journal()?.ok_or_else(missing)?;
        let serial = journal.token_serial.ok_or_else(missing)?;
        // Until the first change the new PINs are nobody's; from then on both may be needed, and a session knows which.
        if !matches!(journal.phase, Phase::Settled | Phase::Prepared) {
            return Err(CustodyError::PinsUnsettled { label: journal.token_label });
        }
        let generation = journal.generation;
        let set = folder.set(SecretKind::UserPin, generation)?;
        let mut collector = Collector::new(&set, roster, generation.0)?;
        let mut custodians = Vec::new();
        for share in shares.into_iter().filter(|share| share.kind() == SecretKind::UserPin) {
            let custodian = share.custodian().clone();
            collector.enter(share)?;
            custodians.push(custodian);
        }
        let secret = collector.combine()?;
        let pin = <[u8; PIN_BYTES]>::try_from(&secret[..]).map_err(|_| CustodyError::SecretMismatch)?;
        Ok(Self { serial, generation, custodians, renewed: false, pin: Zeroizing::new(pin), folder: None })
    }

    /// The PIN in clear, for the pipe to the process that the token is opened for and nothing else: one line of JSON.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`].
    pub fn expose_for_pipe(&self) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        // Reserved in one go: a buffer that grows leaves copies behind. 32 custodians with names of 64 bytes fit.
        let mut out = Zeroizing::new(Vec::with_capacity(4096));
        let piped = Piped {
            format: Format::One,
            serial: self.serial.clone(),
            generation: self.generation,
            custodians: self.custodians.clone(),
            renewed: self.renewed,
            pin: Zeroizing::new(self.pin.to_vec()),
        };
        serde_json::to_writer(&mut *out, &piped).map_err(|_| CustodyError::Encoding)?;
        out.push(b'\n');
        Ok(out)
    }

    /// Reads one line of [`SplitPin::expose_for_pipe`].
    ///
    /// # Errors
    /// [`CustodyError::Malformed`].
    pub fn from_pipe(line: &[u8]) -> Result<Self, CustodyError> {
        let bad = || CustodyError::malformed("an opened token from the pipe", "it is not the expected JSON");
        let Piped { serial, generation, custodians, renewed, pin, .. } =
            serde_json::from_slice(line).map_err(|_| bad())?;
        let pin = <[u8; PIN_BYTES]>::try_from(&pin[..]).map(Zeroizing::new).map_err(|_| bad())?;
        Ok(Self { serial, generation, custodians, renewed, pin, folder: None })
    }

    /// Holds the folder of the token's shares as long as the PIN, so that no other opening replaces it meanwhile.
    ///
    /// # Errors
    /// [`CustodyError::CustodyTokenMismatch`] for the folder of another token; [`CustodyError::OpenedAnew`] when the PINs were replaced
    /// after this one was handed over.
    pub fn hold(mut self, folder: CustodyFolder) -> Result<Self, CustodyError> {
        let missing = || CustodyError::malformed("the custody folder", "it has no journal: no token was initialised");
        let journal = folder.journal()?.ok_or_else(missing)?;
        let serial = journal.token_serial.as_ref().ok_or_else(missing)?;
        if !serial.same_device(&self.serial) {
            let (expected, found) = (serial.to_string(), self.serial.to_string());
            return Err(CustodyError::CustodyTokenMismatch { expected, found });
        }
        if journal.generation != self.generation || !matches!(journal.phase, Phase::Settled | Phase::Prepared) {
            return Err(CustodyError::OpenedAnew { label: journal.token_label });
        }
        self.folder = Some(folder);
        Ok(self)
    }

    /// The token.
    pub fn serial(&self) -> &TokenSerial {
        &self.serial
    }

    /// Which PINs of the token these are.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whose shares the token was opened with.
    pub fn custodians(&self) -> &[UserName] {
        &self.custodians
    }

    /// Whether the PINs were replaced at this opening, so that the shares it took are worth nothing.
    pub fn is_renewed(&self) -> bool {
        self.renewed
    }

    /// The PIN.
    ///
    /// # Errors
    /// As [`Pin::new`].
    pub fn pin(&self) -> Result<Pin, CustodyError> {
        Pins::pin(&self.pin)
    }
}

impl std::fmt::Debug for SplitPin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SplitPin(token {}, generation {}, secret)", self.serial, self.generation.0)
    }
}
