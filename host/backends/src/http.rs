//! HTTP/1.1 with JSON on a socket that somebody else dialled: a request, its answer, nothing more. No redirects, no proxies, no names.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use casemate_tier::{Dial, Endpoint};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::BackendError;
use crate::pool::Pool;

const PATIENCE: Duration = Duration::from_secs(120);
const HEAD_LIMIT: u64 = 64 << 10;
const BODY_LIMIT: u64 = 1 << 30;

pub(crate) struct Http {
    endpoint: Endpoint,
    dial: Arc<dyn Dial>,
    /// A header that proves who asks.
    credential: Option<(&'static str, Zeroizing<String>)>,
    pool: Pool<BufReader<TcpStream>>,
}

impl Http {
    pub(crate) fn new(
        endpoint: Endpoint,
        dial: Arc<dyn Dial>,
        credential: Option<(&'static str, Zeroizing<String>)>,
        connections: usize,
    ) -> Self {
        Self { endpoint, dial, credential, pool: Pool::new(connections) }
    }

    /// Asks for something that may be asked for twice; the answer if it is a success.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, BackendError> {
        match self.ask(method, path, body)? {
            (200..=299, answer) => Ok(answer),
            (status, answer) => {
                Err(BackendError::Answer { status, words: answer.to_string().chars().take(512).collect() })
            }
        }
    }

    /// As [`Self::call`], with the status.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), BackendError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        loop {
            let mut lease = self.pool.lease()?;
            let fresh = lease.connection.is_none();
            let mut stream = match lease.connection.take() {
                Some(stream) => stream,
                None => self.connect()?,
            };
            match self.exchange(&mut stream, method, path, &body) {
                Ok((status, bytes, keep)) => {
                    if keep {
                        lease.connection = Some(stream);
                        lease.give_back();
                    }
                    let json = serde_json::from_slice(&bytes);
                    let json = json.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
                    return Ok((status, json));
                }
                Err(error) if fresh => return Err(error),
                // It lay idle, and the server may have died or hung up meanwhile.
                Err(_) => {}
            }
        }
    }

    fn connect(&self) -> Result<BufReader<TcpStream>, BackendError> {
        let socket: OwnedFd = self.dial.dial(&self.endpoint)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }

    /// Status, body, and whether the connection may be used again.
    fn exchange(
        &self,
        stream: &mut BufReader<TcpStream>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, Vec<u8>, bool), BackendError> {
        let mut head = Zeroizing::new(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        if let Some((name, value)) = &self.credential {
            head.push_str(&format!("{name}: {}\r\n", value.as_str()));
        }
        head.push_str("\r\n");
        stream.get_mut().write_all(head.as_bytes())?;
        stream.get_mut().write_all(body.as_bytes())?;
        read_answer(stream)
    }
}

fn read_answer(stream: &mut impl BufRead) -> Result<(u16, Vec<u8>, bool), BackendError> {
    let malformed = || BackendError::Http { what: "no answer of HTTP/1.1" };
    let mut head = Vec::new();
    let mut limited = stream.by_ref().take(HEAD_LIMIT);
    while !head.ends_with(b"\r\n\r\n") {
        if limited.read_until(b'\n', &mut head)? == 0 {
            return Err(malformed());
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(&head).map_err(|_| malformed())?;
    let (Some(status), true) = (answer.code, parsed.is_complete()) else { return Err(malformed()) };
    let header = |name: &str| {
        let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let keep = answer.version == Some(1) && !header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
    let body = match (header("transfer-encoding"), header("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => read_chunks(stream)?,
        (None, Some(length)) => read_exactly(stream, length.trim().parse().map_err(|_| malformed())?)?,
        (None, None) if status == 204 => Vec::new(),
        _ => return Err(malformed()),
    };
    Ok((status, body, keep))
}

/// Grows with what arrives, so a false length costs no memory.
fn read_exactly(stream: &mut impl BufRead, length: u64) -> Result<Vec<u8>, BackendError> {
    if length > BODY_LIMIT {
        return Err(BackendError::Http { what: "an answer that is too long" });
    }
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(BackendError::Http { what: "half an answer" }) }
}

fn read_chunks(stream: &mut impl BufRead) -> Result<Vec<u8>, BackendError> {
    let malformed = || BackendError::Http { what: "no chunks where chunks were announced" };
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| malformed())?;
        if body.len() as u64 + size > BODY_LIMIT {
            return Err(BackendError::Http { what: "an answer that is too long" });
        }
        body.extend(read_exactly(stream, size)?);
        // The end of the chunk; after the last one, of the trailers.
        while !read_line(stream)?.is_empty() {
            if size > 0 {
                return Err(malformed());
            }
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(stream: &mut impl BufRead) -> Result<String, BackendError> {
    let mut line = String::new();
    stream.take(HEAD_LIMIT).read_line(&mut line)?;
    let cut = BackendError::Http { what: "half an answer" };
    line.strip_suffix("\r\n").map(str::to_owned).ok_or(cut)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(bytes: &str) -> Result<(u16, Vec<u8>, bool), BackendError> {
        read_answer(&mut bytes.as_bytes())
    }

    #[test]
    fn answers_are_read_to_their_end_and_malformed_ones_are_refused() {
        let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}x").unwrap();
        assert_eq!(plain, (200, b"{}".to_vec(), true));
        let chunked = "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\nT: 1\r\n\r\n";
        assert_eq!(read(chunked).unwrap(), (404, b"abcd".to_vec(), false));
        for wrong in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        assert!(read(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(70_000))).is_err());
    }
}
