//! Who dials. A process that is locked down cannot: another one, started before, dials the listed endpoints for it and hands over
//! the connected socket (`SCM_RIGHTS`, unix(7)).
//!
//! ```text
//! gate: number of the endpoint (u8) ->   broker: dials
//!       <- 0 and the socket, or 1 and why not
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::{Endpoint, TierError};

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(15);
const WORDS: usize = 512;

/// Connects to tiers.
pub trait Dial: Send + Sync {
    /// A connected socket, of the kind that the endpoint has.
    ///
    /// # Errors
    /// [`TierError::Unreachable`], [`TierError::Broker`].
    fn dial(&self, endpoint: &Endpoint) -> Result<OwnedFd, TierError>;
}

static INSTALLED: OnceLock<Arc<dyn Dial>> = OnceLock::new();

/// Makes `dial` what every later [`dialler`] is: a lock-down holds for the whole process, and so does who dials for it.
///
/// # Errors
/// [`TierError::Broker`] where one is installed already.
pub fn install_dialler(dial: Arc<dyn Dial>) -> Result<(), TierError> {
    INSTALLED.set(dial).map_err(|_| TierError::Broker { reason: "is installed already".to_owned() })
}

/// Who dials for this process: the one that was installed, or the process itself.
pub fn dialler() -> Arc<dyn Dial> {
    INSTALLED.get().map_or_else(|| Arc::new(Direct) as Arc<dyn Dial>, Arc::clone)
}

/// Dials from this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Dial for Direct {
    fn dial(&self, endpoint: &Endpoint) -> Result<OwnedFd, TierError> {
        connect(endpoint).map_err(|source| TierError::Unreachable { endpoint: endpoint.clone(), source })
    }
}

fn connect(endpoint: &Endpoint) -> io::Result<OwnedFd> {
    match endpoint {
        Endpoint::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        Endpoint::Loopback(port) => {
            Ok(TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, *port).into(), CONNECT)?.into())
        }
        Endpoint::Tls { host, port } => {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(stream.into());
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

/// Lets another process dial, over the socket that connects the two.
#[derive(Debug)]
pub struct Broker {
    endpoints: Vec<Endpoint>,
    stream: Mutex<UnixStream>,
}

impl Broker {
    /// A broker at the other end of `stream` that was given the same list, at most 256 endpoints.
    ///
    /// # Errors
    /// [`TierError::Broker`] where the socket cannot be set up.
    pub fn new(endpoints: Vec<Endpoint>, stream: UnixStream) -> Result<Self, TierError> {
        let set = stream.set_read_timeout(Some(ANSWER)).and_then(|()| stream.set_write_timeout(Some(ANSWER)));
        set.map_err(|error| TierError::Broker { reason: format!("cannot be spoken to ({error})") })?;
        Ok(Self { endpoints, stream: Mutex::new(stream) })
    }
}

impl Dial for Broker {
    fn dial(&self, endpoint: &Endpoint) -> Result<OwnedFd, TierError> {
        let known = self.endpoints.iter().position(|known| known == endpoint).and_then(|at| u8::try_from(at).ok());
        let number =
            known.ok_or_else(|| TierError::Broker { reason: format!("was started without {endpoint} on its list") })?;
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: io::Error| TierError::Broker { reason: format!("does not answer ({error})") };
        stream.write_all(&[number]).map_err(gone)?;
        let (answer, socket) = receive(&stream).map_err(gone)?;
        match (answer.split_first(), socket) {
            (Some((0, _)), Some(socket)) => Ok(socket),
            (Some((1, words)), None) => {
                let source = io::Error::other(String::from_utf8_lossy(words).into_owned());
                Err(TierError::Unreachable { endpoint: endpoint.clone(), source })
            }
            _ => Err(TierError::Broker { reason: "is gone".to_owned() }),
        }
    }
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = [0; 1 + WORDS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => sockets.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let socket = sockets.next();
    Ok((bytes.get(..received.bytes).unwrap_or_default().to_vec(), socket))
}

/// The broker's own loop: dials what it is asked for among `endpoints`, until the other side ends.
///
/// # Errors
/// The socket's.
pub fn answer_dials(mut stream: UnixStream, endpoints: &[Endpoint]) -> io::Result<()> {
    let mut number = [0];
    while stream.read(&mut number)? == 1 {
        let asked = endpoints.get(usize::from(number[0]));
        let dialled = asked.ok_or_else(|| io::Error::other("no such endpoint")).and_then(connect);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let answer = match &dialled {
            Ok(_) => vec![0],
            Err(error) => std::iter::once(1).chain(error.to_string().bytes().take(WORDS)).collect(),
        };
        let sockets = [dialled.as_ref().map_or_else(|_| stream.as_fd(), AsFd::as_fd)];
        if dialled.is_ok() && !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("no room for a socket"));
        }
        rustix::net::sendmsg(&stream, &[IoSlice::new(&answer)], &mut ancillary, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_broker_dials_its_list_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let listed = Endpoint::Unix(folder.path().join("listed"));
        let absent = Endpoint::Unix(folder.path().join("absent"));
        let other = Endpoint::Unix(folder.path().join("other"));
        let listener = UnixListener::bind(folder.path().join("listed")).unwrap();
        let _other = UnixListener::bind(folder.path().join("other")).unwrap();
        let list = vec![listed.clone(), absent.clone()];
        let (ours, theirs) = UnixStream::pair().unwrap();
        let broker = Broker::new(list.clone(), ours).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| answer_dials(theirs, &list).unwrap());
            for _ in 0..3 {
                let mut socket = UnixStream::from(broker.dial(&listed).unwrap());
                socket.write_all(b"x").unwrap();
                let mut byte = [0];
                listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
                assert_eq!(&byte, b"x");
                assert!(matches!(broker.dial(&absent), Err(TierError::Unreachable { .. })));
                assert!(matches!(broker.dial(&other), Err(TierError::Broker { .. })));
            }
            // Past the list, by a gate that lies.
            broker.stream.lock().unwrap().write_all(&[7]).unwrap();
            let (answer, socket) = receive(&broker.stream.lock().unwrap()).unwrap();
            assert!(answer.starts_with(&[1]) && socket.is_none());
            drop(broker);
        });
    }
}
