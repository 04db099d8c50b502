//! The byte form of every ciphertext: one header, then arrays whose lengths follow from it.
//!
//! Header, 44 bytes: `CMFH`, kind, version, block (u16), dimension (u32), parameter digest (32). Little endian.

use crate::{FheError, Params};

const MAGIC: &[u8; 4] = b"CMFH";
const VERSION: u8 = 1;
const HEADER: usize = 44;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Query,
    Scores,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Group => "an encrypted group",
            Self::Query => "an encrypted query",
            Self::Scores => "encrypted scores",
        }
    }

    fn tag(self) -> u8 {
        match self {
            Self::Group => b'G',
            Self::Query => b'Q',
            Self::Scores => b'S',
        }
    }
}

pub(crate) fn header(kind: Kind, params: &Params, payload: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[kind.tag(), VERSION]);
    out.extend_from_slice(&(params.block() as u16).to_le_bytes());
    out.extend_from_slice(&(params.dimension() as u32).to_le_bytes());
    out.extend_from_slice(params.digest().as_bytes());
    out
}

/// Reads fields off the front of a slice; every shortfall is a [`FheError::Length`].
pub(crate) struct Reader<'a> {
    kind: Kind,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the header and returns its parameters.
    pub(crate) fn open(kind: Kind, bytes: &'a [u8]) -> Result<(Params, Self), FheError> {
        let what = kind.name();
        let mut reader = Self { kind, total: bytes.len(), rest: bytes };
        if reader.array::<4>()? != *MAGIC || reader.array::<1>()? != [kind.tag()] {
            return Err(FheError::BadMagic { what });
        }
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(FheError::Version { what, version });
        }
        let block = usize::from(u16::from_le_bytes(reader.array()?));
        let dimension = u32::from_le_bytes(reader.array()?) as usize;
        let params = Params::new(dimension, block)?;
        if reader.array::<32>()? != *params.digest().as_bytes() {
            return Err(FheError::ForeignScheme { what });
        }
        Ok((params, reader))
    }

    pub(crate) fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], FheError> {
        let mut out = [0; LEN];
        out.copy_from_slice(self.take(LEN)?);
        Ok(out)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FheError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.length(len))?;
        self.rest = rest;
        Ok(head)
    }

    /// Exactly `len` bytes must be left; returns them.
    pub(crate) fn last(self, len: usize) -> Result<&'a [u8], FheError> {
        if self.rest.len() == len { Ok(self.rest) } else { Err(self.length(len)) }
    }

    fn length(&self, wanted: usize) -> FheError {
        let expected = (self.total - self.rest.len()).saturating_add(wanted);
        FheError::Length { what: self.kind.name(), expected, actual: self.total }
    }
}
