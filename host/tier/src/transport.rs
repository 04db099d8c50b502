//! A connected stream, whatever it runs over, and messages on it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::{ClientConnection, ServerConnection, StreamOwned};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TierError;

/// A connected stream.
pub(crate) enum Transport {
    Unix(UnixStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Transport {
    /// How long one read or write may take.
    pub(crate) fn set_patience(&self, read: Duration, write: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(read))?;
                stream.set_write_timeout(Some(write))
            }
            Self::Client(stream) => patience(&stream.sock, read, write),
            Self::Server(stream) => patience(&stream.sock, read, write),
        }
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<(), TierError> {
        let body =
            postcard::to_allocvec(message).map_err(|_| TierError::Protocol { what: "what cannot be encoded" })?;
        let size = body.len() as u64;
        let length = u32::try_from(body.len()).map_err(|_| TierError::TooLarge { size, limit: u32::MAX.into() })?;
        self.write_all(&length.to_be_bytes())?;
        self.write_all(&body)?;
        self.flush()?;
        Ok(())
    }

    /// Takes one message of at most `limit` bytes. `None` where the peer has ended the connection between two messages.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self, limit: u32) -> Result<Option<T>, TierError> {
        let mut length = [0; 4];
        if !self.first_byte(&mut length)? {
            return Ok(None);
        }
        self.read_exact(length.split_at_mut(1).1)?;
        let length = u32::from_be_bytes(length);
        if length > limit {
            return Err(TierError::TooLarge { size: length.into(), limit: limit.into() });
        }
        // Grows with what arrives, so that a false length costs no memory.
        let mut body = Vec::new();
        self.take(length.into()).read_to_end(&mut body)?;
        if body.len() != length as usize {
            return Err(TierError::Protocol { what: "a message that ends early" });
        }
        match postcard::take_from_bytes(&body) {
            Ok((message, [])) => Ok(Some(message)),
            Ok(_) => Err(TierError::Protocol { what: "bytes behind a message" }),
            Err(_) => Err(TierError::Protocol { what: "bytes that are no message" }),
        }
    }

    fn first_byte(&mut self, length: &mut [u8; 4]) -> Result<bool, TierError> {
        loop {
            match self.read(length.split_at_mut(1).0) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // TLS without its closing message: between two messages nothing was cut off.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn patience(stream: &TcpStream, read: Duration, write: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(read))?;
    stream.set_write_timeout(Some(write))
}

impl Read for Transport {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(out),
            Self::Client(stream) => stream.read(out),
            Self::Server(stream) => stream.read(out),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Client(stream) => stream.write(bytes),
            Self::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Client(stream) => stream.flush(),
            Self::Server(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sent(bytes: &[u8]) -> Result<Option<Vec<u8>>, TierError> {
        let (mut from, to) = UnixStream::pair().unwrap();
        from.write_all(bytes).unwrap();
        drop(from);
        Transport::Unix(to).receive(64)
    }

    #[test]
    fn a_message_arrives_and_malformed_ones_are_named() {
        assert_eq!(sent(&[0, 0, 0, 3, 2, 7, 8]).unwrap(), Some(vec![7, 8]));
        assert_eq!(sent(&[]).unwrap(), None);
        assert!(matches!(sent(&[0xff; 8]), Err(TierError::TooLarge { .. })), "a false length");
        assert!(matches!(sent(&[0, 0]), Err(TierError::Connection { .. })), "half a length");
        assert!(matches!(sent(&[0, 0, 0, 9, 2, 7]), Err(TierError::Protocol { .. })), "truncated");
        assert!(matches!(sent(&[0, 0, 0, 4, 2, 7, 8, 9]), Err(TierError::Protocol { .. })), "trailing bytes");
        assert!(matches!(sent(&[0, 0, 0, 2, 40, 7]), Err(TierError::Protocol { .. })), "no message");
    }
}
