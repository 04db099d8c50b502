//! A secret split among custodians: a public description of the set, and one sealed share for each custodian.

use casemate_types::{Digest, UserName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::entropy::{Entropy, array};
use crate::envelope::Document;
use crate::roster::{Custodian, Roster};
use crate::sealed::Sealed;
use crate::text::{TokenSerial, check_words};
use crate::token::CustodianToken;
use crate::{CustodyError, json, shamir};

/// A wrapped key has a few hundred bytes.
const MAX_SECRET: usize = 16 << 10;

/// What was split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// A key wrapped for one HSM: put together, it is still a package that only this HSM opens.
    Package,
    /// The custody token's SO PIN.
    SoPin,
    /// The custody token's USER PIN.
    UserPin,
}

impl SecretKind {
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::SoPin => "so-pin",
            Self::UserPin => "user-pin",
        }
    }
}

/// What a split is for.
#[derive(Debug, Clone, Copy)]
pub struct SplitOf<'a> {
    /// What is split.
    pub kind: SecretKind,
    /// What it is about, for people and for comparison: a key identifier, a token's serial number.
    pub about: &'a str,
    /// Rises with each split of the same thing; a share of a lower one is refused.
    pub epoch: u64,
}

/// The public description of one split. Custodians sign it in ceremonies, like every [`Document`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ShareSet {
    format: SetFormat,
    /// Random; distinguishes two splits that agree in everything else.
    #[serde(with = "json::hex_array")]
    set: [u8; 16],
    kind: SecretKind,
    about: String,
    site: String,
    epoch: u64,
    roster: Digest,
    threshold: u8,
    #[serde(with = "json::hex_array")]
    salt: [u8; 32],
    /// Salted digest of the secret.
    secret: Digest,
    /// Position in this list, counted from 1, is the share's index.
    shares: Vec<Commitment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SetFormat {
    #[serde(rename = "casemate share set 1")]
    One,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Commitment {
    custodian: UserName,
    token_serial: TokenSerial,
    commitment: Digest,
}

impl Document for ShareSet {
    const PAYLOAD_TYPE: &'static str = "application/vnd.casemate.share-set+json";
    const NAME: &'static str = "a share set";

    fn check(&self) -> Result<(), CustodyError> {
        check_words("what a share set is about (visible text, at most 128 bytes)", &self.about, 128)?;
        let threshold = usize::from(self.threshold);
        if threshold < 2 || threshold > self.shares.len() {
            return Err(CustodyError::Threshold { threshold: self.threshold, custodians: self.shares.len() });
        }
        Ok(())
    }
}

impl ShareSet {
    /// Reads a description; it has to be canonical.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`], [`CustodyError::Threshold`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CustodyError> {
        let set: Self = json::decode_canonical(Self::NAME, bytes)?;
        set.check()?;
        Ok(set)
    }

    /// The file: canonical JSON.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CustodyError> {
        json::canonical(self)
    }

    /// SHA-256 of the canonical JSON; each sealed share is bound to it.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`].
    pub fn digest(&self) -> Result<Digest, CustodyError> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    /// What was split.
    pub fn kind(&self) -> SecretKind {
        self.kind
    }

    /// What it is about.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Which split of this thing it is.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many shares are needed.
    pub fn threshold(&self) -> usize {
        usize::from(self.threshold)
    }

    /// Who holds a share, with its commitment.
    pub fn holders(&self) -> impl Iterator<Item = (&UserName, Digest)> {
        self.shares.iter().map(|share| (&share.custodian, share.commitment))
    }

    fn commitment(&self, index: u8, blind: &[u8; 32], share: &[u8]) -> Digest {
        Digest::of_parts(&[b"casemate share commitment 1\0", &self.set, &[index], blind, share])
    }
}

/// One custodian's share, encrypted to the key in this custodian's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SealedShare {
    header: Header,
    sealed: Sealed,
}

/// What everybody may know about a share. Associated data of its encryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Header {
    format: ShareFormat,
    #[serde(with = "json::hex_array")]
    set: [u8; 16],
    set_digest: Digest,
    kind: SecretKind,
    site: String,
    epoch: u64,
    index: u8,
    custodian: UserName,
    token_serial: TokenSerial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ShareFormat {
    #[serde(rename = "casemate share 1")]
    One,
}

/// A decrypted share. It can be neither printed nor copied.
pub struct OpenShare {
    header: Header,
    blind: Zeroizing<[u8; 32]>,
    share: Zeroizing<Vec<u8>>,
}

/// Splits a secret among all custodians of a roster.
///
/// # Errors
/// [`CustodyError::Sharing`] for a secret that is empty or longer than 16 KiB; [`CustodyError::Sealing`]; as the source of
/// randomness fails.
pub fn split(
    secret: &[u8],
    of: SplitOf<'_>,
    roster: &Roster,
    entropy: &mut dyn Entropy,
) -> Result<(ShareSet, Vec<SealedShare>), CustodyError> {
    if secret.len() > MAX_SECRET {
        return Err(CustodyError::Sharing { action: "split a secret" });
    }
    let shares = shamir::split(secret, roster.threshold(), roster.custodians().len(), entropy)?;
    let salt = array(entropy)?;
    let mut set = ShareSet {
        format: SetFormat::One,
        set: array(entropy)?,
        kind: of.kind,
        about: of.about.to_owned(),
        site: roster.site().to_owned(),
        epoch: of.epoch,
        roster: roster.digest(),
        // A roster's threshold is read from one byte.
        threshold: u8::try_from(roster.threshold()).map_err(|_| CustodyError::Encoding)?,
        salt,
        secret: Digest::salted(&salt, secret),
        shares: Vec::new(),
    };
    let mut contents = Vec::new();
    for (custodian, share) in roster.custodians().iter().zip(&shares) {
        let (Some((&index, _)), blind) = (share.split_first(), array::<32>(entropy)?) else {
            return Err(CustodyError::Sharing { action: "split a secret" });
        };
        set.shares.push(Commitment {
            custodian: custodian.name.clone(),
            token_serial: custodian.token_serial.clone(),
            commitment: set.commitment(index, &blind, share),
        });
        contents.push((custodian, index, Zeroizing::new([&blind[..], share].concat())));
    }
    set.check()?;
    let set_digest = set.digest()?;
    let sealed = contents.into_iter().map(|(custodian, index, content)| {
        let header = Header {
            format: ShareFormat::One,
            set: set.set,
            set_digest,
            kind: set.kind,
            site: set.site.clone(),
            epoch: set.epoch,
            index,
            custodian: custodian.name.clone(),
            token_serial: custodian.token_serial.clone(),
        };
        let sealed = Sealed::seal(&custodian.shares, &json::canonical(&header)?, &content, entropy)?;
        Ok(SealedShare { header, sealed })
    });
    let sealed = sealed.collect::<Result<Vec<_>, CustodyError>>()?;
    Ok((set, sealed))
}

impl SealedShare {
    /// Reads a share file.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`], also for a truncated file.
    pub fn parse(bytes: &[u8]) -> Result<Self, CustodyError> {
        json::decode("a share", bytes)
    }

    /// The file.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CustodyError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|_| CustodyError::Encoding)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Whose it is.
    pub fn custodian(&self) -> &UserName {
        &self.header.custodian
    }

    /// What it is a share of.
    pub fn kind(&self) -> SecretKind {
        self.header.kind
    }

    /// Which split it belongs to.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// Digest of the set it belongs to.
    pub fn set_digest(&self) -> Digest {
        self.header.set_digest
    }

    /// Decrypts the share in the custodian's token.
    ///
    /// # Errors
    /// [`CustodyError::ShareOfAnother`] when the token or the custodian is not the one it was made for;
    /// [`CustodyError::ShareAltered`] when a byte of it was changed; or as the token answers.
    pub fn open(&self, custodian: &Custodian, token: &dyn CustodianToken) -> Result<OpenShare, CustodyError> {
        let header = &self.header;
        let another = || CustodyError::ShareOfAnother { custodian: header.custodian.clone() };
        if header.custodian != custodian.name
            || !header.token_serial.same_device(&custodian.token_serial)
            || !header.token_serial.same_device(token.serial())
        {
            return Err(another());
        }
        let altered = || CustodyError::ShareAltered { custodian: header.custodian.clone() };
        let key = token.open(&custodian.shares, &self.sealed.key)?.ok_or_else(altered)?;
        let content = self.sealed.open(&key, &json::canonical(header)?).ok_or_else(altered)?;
        let (blind, share) = content.split_first_chunk::<32>().ok_or_else(altered)?;
        Ok(OpenShare { header: header.clone(), blind: Zeroizing::new(*blind), share: Zeroizing::new(share.to_vec()) })
    }
}

/// What the pipe to a session process carries.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Piped {
    header: Header,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    content: Zeroizing<Vec<u8>>,
}

pub(crate) fn to_hex<S: Serializer>(bytes: &Zeroizing<Vec<u8>>, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&Zeroizing::new(hex::encode(&bytes[..])))
}

pub(crate) fn from_hex<'de, D: Deserializer<'de>>(input: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
    let text = String::deserialize(input).map(Zeroizing::new)?;
    hex::decode(&text[..]).map(Zeroizing::new).map_err(|_| de::Error::custom("expected hexadecimal digits"))
}

impl OpenShare {
    /// Which set it belongs to.
    pub fn set_digest(&self) -> Digest {
        self.header.set_digest
    }

    /// Whose it is.
    pub fn custodian(&self) -> &UserName {
        &self.header.custodian
    }

    /// What it is a share of.
    pub fn kind(&self) -> SecretKind {
        self.header.kind
    }

    /// Which split it belongs to.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// The share in clear, for the pipe to a session process and nothing else: one line of JSON.
    ///
    /// # Errors
    /// [`CustodyError::Encoding`].
    pub fn expose_for_pipe(&self) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let content = Zeroizing::new([&self.blind[..], &self.share[..]].concat());
        // Reserved in one go: a buffer that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(2048 + 2 * content.len()));
        let piped = Piped { header: self.header.clone(), content };
        serde_json::to_writer(&mut *out, &piped).map_err(|_| CustodyError::Encoding)?;
        out.push(b'\n');
        Ok(out)
    }

    /// Reads one line of [`OpenShare::expose_for_pipe`].
    ///
    /// # Errors
    /// [`CustodyError::Malformed`].
    pub fn from_pipe(line: &[u8]) -> Result<Self, CustodyError> {
        let bad = || CustodyError::malformed("a share from the pipe", "it is not the expected JSON");
        let piped: Piped = serde_json::from_slice(line).map_err(|_| bad())?;
        let (blind, share) = piped.content.split_first_chunk::<32>().ok_or_else(bad)?;
        Ok(Self { header: piped.header, blind: Zeroizing::new(*blind), share: Zeroizing::new(share.to_vec()) })
    }
}

impl std::fmt::Debug for OpenShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenShare({} of {}, secret)", self.header.index, self.header.custodian)
    }
}

/// Takes shares of one set, each checked when it is entered, and puts them together.
pub struct Collector<'a> {
    set: &'a ShareSet,
    digest: Digest,
    entered: Vec<OpenShare>,
}

impl<'a> Collector<'a> {
    /// Begins to collect. `roster` is the one the set was split for, `epoch` the current one of the thing that was split.
    ///
    /// # Errors
    /// [`CustodyError::OtherSite`], [`CustodyError::SetOfOtherRoster`], [`CustodyError::OlderEpoch`].
    pub fn new(set: &'a ShareSet, roster: &Roster, epoch: u64) -> Result<Self, CustodyError> {
        set.check()?;
        if set.site != roster.site() {
            return Err(CustodyError::OtherSite { site: roster.site().to_owned() });
        }
        if set.roster != roster.digest() || set.threshold() != roster.threshold() {
            return Err(CustodyError::SetOfOtherRoster);
        }
        if set.epoch != epoch {
            return Err(CustodyError::OlderEpoch { found: set.epoch, current: epoch });
        }
        Ok(Self { set, digest: set.digest()?, entered: Vec::new() })
    }

    /// Enters a share. Returns how many are still missing.
    ///
    /// # Errors
    /// [`CustodyError::OlderEpoch`], [`CustodyError::ShareOfOtherSet`], [`CustodyError::ShareOfAnother`],
    /// [`CustodyError::ShareTwice`], [`CustodyError::ShareCorrupted`] when the commitment does not fit.
    pub fn enter(&mut self, share: OpenShare) -> Result<usize, CustodyError> {
        let (set, header) = (self.set, &share.header);
        let custodian = header.custodian.clone();
        if header.kind == set.kind && header.site == set.site && header.epoch != set.epoch {
            return Err(CustodyError::OlderEpoch { found: header.epoch, current: set.epoch });
        }
        if header.set != set.set || header.set_digest != self.digest || header.kind != set.kind {
            return Err(CustodyError::ShareOfOtherSet { custodian });
        }
        let place = usize::from(header.index).checked_sub(1).and_then(|place| set.shares.get(place));
        let Some(place) = place.filter(|place| place.custodian == header.custodian) else {
            return Err(CustodyError::ShareOfAnother { custodian });
        };
        // The first byte is the x-coordinate: with another one, the share would count as somebody else's.
        let fits = share.share.first() == Some(&header.index)
            && set.commitment(header.index, &share.blind, &share.share) == place.commitment;
        if !fits {
            return Err(CustodyError::ShareCorrupted { custodian });
        }
        if self.entered.iter().any(|other| other.header.index == header.index) {
            return Err(CustodyError::ShareTwice { custodian });
        }
        self.entered.push(share);
        Ok(self.set.threshold().saturating_sub(self.entered.len()))
    }

    /// The secret.
    ///
    /// # Errors
    /// [`CustodyError::TooFewShares`]; [`CustodyError::SecretMismatch`] when it is not what was split.
    pub fn combine(self) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let wanted = self.set.threshold();
        if self.entered.len() < wanted {
            return Err(CustodyError::TooFewShares { found: self.entered.len(), wanted });
        }
        let shares: Vec<&[u8]> = self.entered.iter().map(|share| &share.share[..]).collect();
        let secret = shamir::combine(&shares)?;
        if Digest::salted(&self.set.salt, &secret) == self.set.secret {
            Ok(secret)
        } else {
            Err(CustodyError::SecretMismatch)
        }
    }
}
