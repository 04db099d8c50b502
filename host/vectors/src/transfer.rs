//! The export stream: magic, then records of key length, value length (u32, big endian), key and value; a record without
//! key ends it, followed by the SHA-256 of all bytes before. The checksum finds damage, not forgery: groups and passages
//! are authenticated by their owner.

use std::io::{self, BufReader, BufWriter, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};

use crate::VectorsError;
use crate::database::Each;
use crate::key;

const MAGIC: &[u8; 16] = b"casemate store 1";
/// The longest key: two tokens of 65,535 bytes and a few fields.
const MAX_KEY: usize = 200_000;
const MAX_VALUE: usize = (1 << 30) + 1024 * 1024 * 16;

pub(crate) fn write(
    to: &mut dyn Write,
    entries: impl FnOnce(&mut Each<'_>) -> Result<(), VectorsError>,
) -> Result<(), VectorsError> {
    let mut out = Hashing { inner: BufWriter::new(to), hash: Context::new(&SHA256) };
    let failed = |source: io::Error| VectorsError::Backend { action: "write an export", source: Box::new(source) };
    out.put(MAGIC).map_err(failed)?;
    entries(&mut |key, value| {
        for part in [&(key.len() as u32).to_be_bytes(), &(value.len() as u32).to_be_bytes(), key, value] {
            out.put(part).map_err(failed)?;
        }
        Ok(())
    })?;
    out.put(&[0; 8]).map_err(failed)?;
    let Hashing { mut inner, hash } = out;
    inner.write_all(hash.finish().as_ref()).and_then(|()| inner.flush()).map_err(failed)
}

pub(crate) fn read(
    from: &mut dyn Read,
    mut each: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), VectorsError>,
) -> Result<(), VectorsError> {
    let mut input = Hashing { inner: BufReader::new(from), hash: Context::new(&SHA256) };
    if input.take_array::<16>()? != *MAGIC {
        return Err(VectorsError::Import { reason: "this is no export of a store" });
    }
    loop {
        let key_len = u32::from_be_bytes(input.take_array()?) as usize;
        let value_len = u32::from_be_bytes(input.take_array()?) as usize;
        if (key_len, value_len) == (0, 0) {
            break;
        }
        if key_len > MAX_KEY || value_len > MAX_VALUE {
            return Err(VectorsError::Import { reason: "a record is longer than any the store writes" });
        }
        let (key, value) = (input.take(key_len)?, input.take(value_len)?);
        if key::parse(&key).is_none() {
            return Err(VectorsError::Import { reason: "a record has a key the store does not use" });
        }
        each(key, value)?;
    }
    let Hashing { mut inner, hash } = input;
    let mut sum = [0; 32];
    inner.read_exact(&mut sum).map_err(|_| TRUNCATED)?;
    if sum != *hash.finish().as_ref() {
        return Err(VectorsError::Import { reason: "the checksum does not match" });
    }
    match inner.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(VectorsError::Import { reason: "there are bytes behind the checksum" }),
    }
}

const TRUNCATED: VectorsError = VectorsError::Import { reason: "the stream ends early" };

struct Hashing<T> {
    inner: T,
    hash: Context,
}

impl<T: Write> Hashing<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashing<T> {
    fn take_array<const LEN: usize>(&mut self) -> Result<[u8; LEN], VectorsError> {
        let mut out = [0; LEN];
        self.inner.read_exact(&mut out).map_err(|_| TRUNCATED)?;
        self.hash.update(&out);
        Ok(out)
    }

    /// Grows with what arrives, so a false length costs no memory.
    fn take(&mut self, len: usize) -> Result<Vec<u8>, VectorsError> {
        let mut out = Vec::new();
        let read = self.inner.by_ref().take(len as u64).read_to_end(&mut out).map_err(|_| TRUNCATED)?;
        if read != len {
            return Err(TRUNCATED);
        }
        self.hash.update(&out);
        Ok(out)
    }
}
