use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casemate_fhe::{EncryptedQuery, TierModel};
use casemate_inference::{ExpectedGroup, InferenceError, Scorer, Tier};
use casemate_types::{CollectionName, Digest};
use casemate_vectors::{DocumentId, VectorStore, VectorsError};
use rustls::{ServerConnection, StreamOwned};
use serde_bytes::ByteBuf;

use crate::authority::Role;
use crate::limits::{Client, Clients, Turnstile};
use crate::tls::{ServerTls, role};
use crate::transport::Transport;
use crate::wire::{CHUNK, Expected, Failed, PROTOCOL, Reply, Request, SCORED_AT_A_TIME};
use crate::{Limits, TierError};

/// Answers gates: scores, and keeps the store unless another tier does.
pub struct TierServer {
    scorer: Tier,
    store: Arc<dyn VectorStore>,
    keeps_store: bool,
    limits: Limits,
    connections: AtomicUsize,
    clients: Clients,
    turnstile: Turnstile,
}

impl TierServer {
    /// A tier over `store` with `memory` bytes for prepared groups. One that does not keep the store itself only scores.
    pub fn new(store: Arc<dyn VectorStore>, keeps_store: bool, memory: usize, limits: Limits) -> Self {
        let scorer = Tier::new(Arc::clone(&store), memory);
        Self {
            scorer,
            store,
            keeps_store,
            limits,
            connections: AtomicUsize::new(0),
            clients: Clients::default(),
            turnstile: Turnstile::default(),
        }
    }

    /// Serves a Unix socket until it fails. Whoever can open the socket is taken for a gate.
    ///
    /// # Errors
    /// The listener's.
    pub fn serve_unix(self: &Arc<Self>, listener: &UnixListener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.start(move |server| server.answer_unix(stream)),
                Err(error) => survive(error)?,
            }
        }
    }

    /// Serves mutual TLS until the listener fails.
    ///
    /// # Errors
    /// The listener's.
    pub fn serve_tls(self: &Arc<Self>, listener: &TcpListener, tls: &ServerTls) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let tls = tls.clone();
                    self.start(move |server| server.answer_tls(stream, &tls));
                }
                Err(error) => survive(error)?,
            }
        }
    }

    /// One thread a connection. Beyond the limit a connection is closed at once: nothing is allocated for it.
    fn start(self: &Arc<Self>, answer: impl FnOnce(&Self) -> Result<(), TierError> + Send + 'static) {
        if self.connections.fetch_add(1, Ordering::SeqCst) >= self.limits.connections {
            self.connections.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(limit = self.limits.connections, "too many connections");
            return;
        }
        let server = Arc::clone(self);
        let started = std::thread::Builder::new().name("tier-connection".to_owned()).spawn(move || {
            let _counted = Counted(&server.connections);
            if let Err(error) = answer(&server) {
                tracing::warn!(error = crate::wire::words(&error), "connection ended");
            }
        });
        if started.is_err() {
            self.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn answer_unix(&self, stream: UnixStream) -> Result<(), TierError> {
        let account = rustix::net::sockopt::socket_peercred(&stream).map_err(io::Error::from)?.uid.as_raw();
        self.answer(Transport::Unix(stream), Client::Account(account), Role::Gate)
    }

    fn answer_tls(&self, mut stream: TcpStream, tls: &ServerTls) -> Result<(), TierError> {
        stream.set_read_timeout(Some(self.limits.stall))?;
        stream.set_write_timeout(Some(self.limits.stall))?;
        stream.set_nodelay(true)?;
        let refused = |error: rustls::Error| TierError::Tls { reason: error.to_string() };
        let mut connection = ServerConnection::new(Arc::clone(&tls.0)).map_err(refused)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        let role = role(connection.peer_certificates()).ok_or(TierError::WrongRole { expected: "a gate or a tier" })?;
        let certificate = connection.peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref).unwrap_or_default();
        let mut name = [0; 32];
        name.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref());
        let transport = Transport::Server(Box::new(StreamOwned::new(connection, stream)));
        self.answer(transport, Client::Certificate(name), role)
    }

    /// Answers one connection until the peer ends it.
    fn answer(&self, transport: Transport, client: Client, role: Role) -> Result<(), TierError> {
        let mut peer = Peer { transport, limits: &self.limits };
        let _place = match self.clients.enter(client, self.limits.per_client) {
            Ok(place) => place,
            Err(busy) => return peer.send(&Reply::Failed(Failed::Busy(busy.to_string()))),
        };
        match peer.receive(self.limits.stall)? {
            None => return Ok(()),
            Some(Request::Hello { protocol: PROTOCOL }) => peer.send(&Reply::Done)?,
            Some(_) => {
                let words =
                    format!("this tier speaks version {PROTOCOL} of the protocol; run the same release on both sides");
                return peer.send(&Reply::Failed(Failed::Refused(words)));
            }
        }
        while let Some(request) = peer.receive(self.limits.idle)? {
            let done = match self.refusal(&request, role) {
                Some(words) => Err(Refusal::Said(Failed::Refused(words.to_owned()))),
                None => self.act(request, &mut peer),
            };
            match done {
                Ok(()) => {}
                Err(Refusal::Said(failed)) => peer.send(&Reply::Failed(failed))?,
                Err(Refusal::Ended(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Why the peer may not ask this, if it may not.
    fn refusal(&self, request: &Request, role: Role) -> Option<&'static str> {
        match (request, role) {
            (Request::Hello { .. } | Request::Chunk(_) | Request::End, _) => Some("this message is out of turn"),
            (Request::Group(..), Role::Tier) if self.keeps_store => None,
            (_, Role::Tier) => Some("another tier may read groups and nothing else"),
            (Request::Score { .. } | Request::Model(_) | Request::Classify { .. }, Role::Gate) => None,
            (_, Role::Gate) if self.keeps_store => None,
            (_, Role::Gate) => Some("this tier only scores; the store is kept by another"),
        }
    }

    fn act(&self, request: Request, peer: &mut Peer<'_>) -> Result<(), Refusal> {
        let store = &self.store;
        let reply = match request {
            Request::Score { collection, query, expected } => return self.score(&collection, &query, expected, peer),
            Request::Model(bytes) => self.keep_model(bytes.into_vec())?,
            Request::Classify { model, query } => self.classify(&Digest::from_bytes(model), &query)?,
            Request::Export => return self.export(peer),
            Request::Import => return self.import(peer),
            Request::ReserveVersion(collection) => Reply::Version(store.reserve_version(&collection)?),
            Request::Apply(collection, step) => {
                store.apply(&collection, step.into())?;
                Reply::Done
            }
            Request::Version(collection) => Reply::Version(store.version(&collection)?),
            Request::Manifest(collection) => Reply::Manifest(store.manifest(&collection)?.map(ByteBuf::from)),
            Request::Group(collection, group) => Reply::Group(store.group(&collection, group)?.map(Into::into)),
            Request::Groups(collection) => Reply::Groups(store.groups(&collection)?),
            Request::Passage(collection, document) => {
                Reply::Passage(store.passage(&collection, &DocumentId::from_bytes(document))?.map(Into::into))
            }
            Request::DocumentAt(collection, position) => {
                Reply::Document(store.document_at(&collection, position)?.map(|document| *document.as_bytes()))
            }
            Request::Documents(collection) => {
                let documents = store.documents(&collection)?.into_iter();
                Reply::Documents(documents.map(|(position, document)| (position, *document.as_bytes())).collect())
            }
            Request::Matching(collection, tokens) => Reply::Positions(store.matching(&collection, &tokens)?),
            Request::Nearest(collection, hint, count) => Reply::Positions(store.nearest(&collection, &hint, count)?),
            Request::Collections => Reply::Collections(store.collections()?),
            Request::DeleteCollection(collection) => {
                store.delete_collection(&collection)?;
                Reply::Done
            }
            Request::Hello { .. } | Request::Chunk(_) | Request::End => {
                return Err(Refusal::Ended(TierError::Protocol { what: "a message out of turn" }));
            }
        };
        Ok(peer.send(&reply)?)
    }

    /// Scores some hundred groups at a time and sends their replies before it goes on, so that a peer that does not read stops the
    /// work for it, and nobody's answer is kept whole.
    fn score(
        &self,
        collection: &CollectionName,
        query: &[u8],
        expected: Vec<Expected>,
        peer: &mut Peer<'_>,
    ) -> Result<(), Refusal> {
        let query = EncryptedQuery::from_bytes(query).map_err(|error| Failed::Refused(crate::wire::words(&error)))?;
        let expected: Vec<ExpectedGroup> = expected.into_iter().map(Into::into).collect();
        for groups in expected.chunks(SCORED_AT_A_TIME) {
            let turn = self.turnstile.enter(&self.limits).map_err(|busy| Failed::Busy(busy.to_string()))?;
            let scores = Scorer::score(&self.scorer, collection, &query, groups)?;
            drop(turn);
            peer.send(&Reply::Scores(ByteBuf::from(scores.to_bytes())))?;
        }
        Ok(peer.send(&Reply::End)?)
    }

    fn keep_model(&self, bytes: Vec<u8>) -> Result<Reply, Refusal> {
        let model = TierModel::from_bytes(bytes).map_err(|error| Failed::Refused(crate::wire::words(&error)))?;
        let _turn = self.turnstile.enter(&self.limits).map_err(|busy| Failed::Busy(busy.to_string()))?;
        self.scorer.keep_model(&model)?;
        Ok(Reply::Done)
    }

    fn classify(&self, model: &Digest, query: &[u8]) -> Result<Reply, Refusal> {
        let query = EncryptedQuery::from_bytes(query).map_err(|error| Failed::Refused(crate::wire::words(&error)))?;
        let _turn = self.turnstile.enter(&self.limits).map_err(|busy| Failed::Busy(busy.to_string()))?;
        Ok(Reply::Scores(ByteBuf::from(self.scorer.classify_with(model, &query)?.to_bytes())))
    }

    fn export(&self, peer: &mut Peer<'_>) -> Result<(), Refusal> {
        let mut chunks = Chunks { peer, pending: Vec::with_capacity(CHUNK) };
        self.store.export(&mut chunks)?;
        let Chunks { peer, pending } = chunks;
        peer.send(&Reply::Chunk(ByteBuf::from(pending)))?;
        Ok(peer.send(&Reply::End)?)
    }

    fn import(&self, peer: &mut Peer<'_>) -> Result<(), Refusal> {
        // The peer sends once it knows that it may.
        peer.send(&Reply::Done)?;
        let mut parts = Parts { peer, pending: io::Cursor::default(), ended: false };
        let imported = self.store.import(&mut parts);
        // What is left of a refused import is read and dropped, so that the next request begins where it should.
        io::copy(&mut parts, &mut io::sink()).map_err(TierError::from)?;
        imported?;
        Ok(peer.send(&Reply::Done)?)
    }
}

/// A connection that failed to come is nobody's fault; a listener that is gone is.
fn survive(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => Ok(()),
        // Out of descriptors, most likely: others will end.
        _ if error.raw_os_error().is_some_and(|code| code == 23 || code == 24) => {
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        }
        _ => Err(error),
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The other end.
struct Peer<'a> {
    transport: Transport,
    limits: &'a Limits,
}

impl Peer<'_> {
    fn send(&mut self, reply: &Reply) -> Result<(), TierError> {
        self.transport.send(reply)
    }

    /// The next request, which may let `wait` pass before it begins.
    fn receive(&mut self, wait: Duration) -> Result<Option<Request>, TierError> {
        self.transport.set_patience(wait, self.limits.stall)?;
        self.transport.receive(self.limits.request_bytes)
    }
}

/// Why a request is not answered as asked.
enum Refusal {
    /// The peer is told, and may go on.
    Said(Failed),
    /// The connection is of no use any more.
    Ended(TierError),
}

impl From<TierError> for Refusal {
    fn from(error: TierError) -> Self {
        Self::Ended(error)
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        Self::Said(failed)
    }
}

impl From<VectorsError> for Refusal {
    fn from(error: VectorsError) -> Self {
        Self::Said(error.into())
    }
}

impl From<InferenceError> for Refusal {
    fn from(error: InferenceError) -> Self {
        Self::Said(error.into())
    }
}

struct Chunks<'a, 'p> {
    peer: &'a mut Peer<'p>,
    pending: Vec<u8>,
}

impl io::Write for Chunks<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
            self.peer.send(&Reply::Chunk(ByteBuf::from(chunk))).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is imported, part by part.
struct Parts<'a, 'p> {
    peer: &'a mut Peer<'p>,
    pending: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Parts<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.pending.read(out)?;
            if read > 0 || self.ended || out.is_empty() {
                return Ok(read);
            }
            match self.peer.receive(self.peer.limits.stall).map_err(io::Error::other)? {
                Some(Request::Chunk(bytes)) => self.pending = io::Cursor::new(bytes.into_vec()),
                Some(Request::End) => self.ended = true,
                Some(_) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}
