//! The byte form of every ciphertext: one header, then arrays whose lengths follow from it.
//!
//! Header, 52 bytes: `CMFH`, kind, version, block (u16), dimension (u32), bits of replies, bits of bodies, measure, zero, norm
//! bound (f32), parameter digest (32). Little endian.

use crate::{FheError, Measure, Params};

const MAGIC: &[u8; 4] = b"CMFH";
const VERSION: u8 = 2;
/// Bytes before the payload.
pub(crate) const HEADER: usize = 52;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Model,
    Query,
    Scores,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Group => "an encrypted group",
            Self::Model => "a model",
            Self::Query => "an encrypted query",
            Self::Scores => "encrypted scores",
        }
    }

    fn tag(self) -> u8 {
        match self {
            Self::Group => b'G',
            Self::Model => b'M',
            Self::Query => b'Q',
            Self::Scores => b'S',
        }
    }
}

/// Whether bytes begin as those of `kind` do.
pub(crate) fn is(kind: Kind, bytes: &[u8]) -> bool {
    bytes.strip_prefix(MAGIC).and_then(<[u8]>::first) == Some(&kind.tag())
}

pub(crate) fn header(kind: Kind, params: &Params, payload: usize) -> Vec<u8> {
    let (measure, bound) = params.measure().to_tag();
    let mut out = Vec::with_capacity(HEADER + payload);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[kind.tag(), VERSION]);
    out.extend_from_slice(&(params.block() as u16).to_le_bytes());
    out.extend_from_slice(&(params.dimension() as u32).to_le_bytes());
    out.extend_from_slice(&[params.reply_bits() as u8, params.body_bits() as u8, measure, 0]);
    out.extend_from_slice(&bound.to_le_bytes());
    out.extend_from_slice(params.digest().as_bytes());
    out
}

/// Appends values of `bits` bits each (at most 32), least significant first; the last byte is filled up with zeros.
pub(crate) fn pack(values: impl Iterator<Item = u32>, bits: u32, out: &mut Vec<u8>) {
    let (mut window, mut filled) = (0_u64, 0);
    for value in values {
        window |= u64::from(value) << filled;
        filled += bits;
        while filled >= 8 {
            out.push(window as u8);
            window >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(window as u8);
    }
}

/// The values that [`pack`] wrote into `bytes`.
pub(crate) fn unpack(bytes: &[u8], bits: u32, count: usize) -> Vec<u32> {
    let mask = (1_u64 << bits) - 1;
    let mut bytes = bytes.iter();
    let (mut window, mut filled) = (0_u64, 0);
    (0..count)
        .map(|_| {
            while filled < bits {
                window |= u64::from(bytes.next().copied().unwrap_or(0)) << filled;
                filled += 8;
            }
            let value = (window & mask) as u32;
            window >>= bits;
            filled -= bits;
            value
        })
        .collect()
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
        let [reply_bits, body_bits, measure, zero] = reader.array()?;
        let bound = u32::from_le_bytes(reader.array()?);
        let params = Params::new(dimension, block)?
            .with_reply_bits(reply_bits.into())?
            .with_body_bits(body_bits.into())?
            .with_measure(Measure::from_tag(measure, bound)?);
        if zero != 0 || reader.array::<32>()? != *params.digest().as_bytes() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_values_come_back() {
        for bits in [12, 14, 16, 18, 20, 24, 32] {
            let mask = ((1_u64 << bits) - 1) as u32;
            let values: Vec<u32> = (0..37_u32).map(|n| n.wrapping_mul(0x9e37_79b9) & mask).chain([mask, 0]).collect();
            let mut bytes = vec![7];
            pack(values.iter().copied(), bits, &mut bytes);
            assert_eq!(bytes.len(), 1 + (values.len() * bits as usize).div_ceil(8), "{bits}");
            assert_eq!(unpack(&bytes[1..], bits, values.len()), values, "{bits}");
        }
    }
}
