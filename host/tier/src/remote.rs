use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_fhe::{EncryptedQuery, EncryptedScores, TierModel};
use casemate_inference::{ExpectedGroup, InferenceError, Scorer};
use casemate_types::CollectionName;
use casemate_vectors::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorStore, VectorsError};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_bytes::ByteBuf;

use crate::authority::Role;
use crate::tls::role;
use crate::transport::Transport;
use crate::wire::{CHUNK, Expected, Failed, PROTOCOL, REPLY_LIMIT, Reply, Request};
use crate::{ClientTls, Dial, Endpoint, TierError};

/// How long a tier may be silent within an answer. Some hundred groups are scored between two parts of one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that are kept for the next request.
const KEPT: usize = 16;

/// A tier behind its endpoint: a store and a scorer. Shared between threads; each request has a connection for itself.
pub struct Remote {
    endpoint: Endpoint,
    /// Other tiers over the same database, which answer when the first does not.
    others: Vec<Endpoint>,
    tls: Option<ClientTls>,
    dial: Arc<dyn Dial>,
    idle: Mutex<Vec<Transport>>,
}

impl Remote {
    /// The tier at `endpoint`. Nothing is dialled yet.
    ///
    /// # Errors
    /// [`TierError::NoCertificates`] for a TLS endpoint without `tls`.
    pub fn new(endpoint: Endpoint, tls: Option<ClientTls>, dial: Arc<dyn Dial>) -> Result<Self, TierError> {
        Self::of_several(endpoint, Vec::new(), tls, dial)
    }

    /// The tier at `endpoint`, or where it cannot be reached one of `others`, which keep the same store: a database that they share.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_several(
        endpoint: Endpoint,
        others: Vec<Endpoint>,
        tls: Option<ClientTls>,
        dial: Arc<dyn Dial>,
    ) -> Result<Self, TierError> {
        let bare = std::iter::once(&endpoint).chain(&others).find(|each| matches!(each, Endpoint::Tls { .. }));
        if let (Some(endpoint), None) = (bare, &tls) {
            return Err(TierError::NoCertificates { endpoint: endpoint.clone() });
        }
        Ok(Self { endpoint, others, tls, dial, idle: Mutex::default() })
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Scores on the tier; every part that comes back is checked to answer this query, and their number to be that of the groups.
    ///
    /// # Errors
    /// [`Failure`] tells what the tier says from what became of the connection.
    pub(crate) fn try_score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, Failure> {
        if expected.is_empty() {
            return Ok(EncryptedScores::from_replies(query, Vec::new()));
        }
        let request = Request::Score {
            collection: collection.clone(),
            query: ByteBuf::from(query.to_bytes()),
            expected: expected.iter().map(Expected::from).collect(),
        };
        self.call(|transport| {
            transport.send(&request)?;
            let mut scores: Option<EncryptedScores> = None;
            let lied = |_| Failure::Lied("scores that do not parse");
            loop {
                match reply(transport)? {
                    Reply::Scores(part) => {
                        let part = EncryptedScores::from_bytes(&part).map_err(lied)?;
                        match scores.as_mut() {
                            None => scores = Some(part),
                            Some(scores) => {
                                scores.append(part).map_err(|_| Failure::Lied("parts of several answers"))?
                            }
                        }
                    }
                    Reply::End => break,
                    other => return Err(unexpected(other)),
                }
                if scores.as_ref().is_some_and(|scores| scores.replies().len() > expected.len()) {
                    return Err(Failure::Lied("more scores than groups"));
                }
            }
            let scores = scores.ok_or(Failure::Lied("no scores"))?;
            if scores.query_id() != query.id() || scores.params() != query.params() {
                return Err(Failure::Lied("the answer to another query"));
            }
            if scores.replies().len() != expected.len() {
                return Err(Failure::Lied("fewer scores than groups"));
            }
            Ok(scores)
        })
    }

    /// Classifies on the tier; a tier that does not have the model is sent it.
    pub(crate) fn try_classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, Failure> {
        let request = Request::Classify { model: *model.digest().as_bytes(), query: ByteBuf::from(query.to_bytes()) };
        self.call(|transport| {
            transport.send(&request)?;
            let answer = match reply(transport) {
                Err(Failure::Said(Failed::ModelMissing)) => {
                    transport.send(&Request::Model(ByteBuf::from(model.bytes())))?;
                    match reply(transport)? {
                        Reply::Done => {}
                        other => return Err(unexpected(other)),
                    }
                    transport.send(&request)?;
                    reply(transport)?
                }
                answer => answer?,
            };
            let Reply::Scores(bytes) = answer else { return Err(unexpected(answer)) };
            let logits = EncryptedScores::from_bytes(&bytes).map_err(|_| Failure::Lied("logits that do not parse"))?;
            if logits.query_id() != query.id() || logits.params() != query.params() {
                return Err(Failure::Lied("the answer to another query"));
            }
            if logits.replies().len() != 1 {
                return Err(Failure::Lied("logits of another number of models"));
            }
            Ok(logits)
        })
    }

    /// Does one request. A connection that was kept may have been closed by the tier meanwhile: then it is done once more on a new
    /// one, which only requests that change nothing, or can be done twice, may be.
    fn call<T>(&self, work: impl Fn(&mut Transport) -> Result<T, Failure>) -> Result<T, Failure> {
        let kept = self.idle().pop();
        if let Some(mut transport) = kept {
            match self.attempt(&mut transport, &work) {
                Err(Failure::Broken(_)) => self.idle().clear(),
                done => return self.keep(transport, done),
            }
        }
        let mut transport = self.connect()?;
        match self.attempt(&mut transport, &work) {
            // A tier that died in the middle; another may be there.
            Err(Failure::Broken(_)) if !self.others.is_empty() => {
                let mut transport = self.connect()?;
                let done = self.attempt(&mut transport, &work);
                self.keep(transport, done)
            }
            done => self.keep(transport, done),
        }
    }

    /// Does one request on one connection.
    fn once<T>(&self, work: impl Fn(&mut Transport) -> Result<T, Failure>) -> Result<T, Failure> {
        let kept = self.idle().pop();
        let mut transport = kept.map_or_else(|| self.connect(), Ok)?;
        let done = self.attempt(&mut transport, &work);
        self.keep(transport, done)
    }

    fn attempt<T>(
        &self,
        transport: &mut Transport,
        work: &impl Fn(&mut Transport) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        transport.set_patience(PATIENCE, PATIENCE).map_err(TierError::from)?;
        work(transport)
    }

    /// Keeps the connection unless something may still be on its way.
    fn keep<T>(&self, transport: Transport, done: Result<T, Failure>) -> Result<T, Failure> {
        if matches!(done, Ok(_) | Err(Failure::Said(_))) {
            let mut idle = self.idle();
            if idle.len() < KEPT {
                idle.push(transport);
            }
        }
        done
    }

    fn connect(&self) -> Result<Transport, Failure> {
        let mut done = self.connect_to(&self.endpoint);
        for other in &self.others {
            match &done {
                Err(failure) => tracing::warn!(tier = %self.endpoint, ?failure, next = %other, "a tier cannot be used"),
                Ok(_) => break,
            }
            done = self.connect_to(other);
        }
        done
    }

    fn connect_to(&self, endpoint: &Endpoint) -> Result<Transport, Failure> {
        let socket = self.dial.dial(endpoint)?;
        let mut transport = match (endpoint, &self.tls) {
            (Endpoint::Unix(_), _) => Transport::Unix(UnixStream::from(socket)),
            (Endpoint::Tls { host, .. }, Some(tls)) => self.handshake(TcpStream::from(socket), endpoint, host, tls)?,
            (Endpoint::Loopback(_), _) => return Err(TierError::InClear { endpoint: endpoint.clone() }.into()),
            (Endpoint::Tls { .. }, None) => {
                return Err(TierError::NoCertificates { endpoint: endpoint.clone() }.into());
            }
        };
        transport.set_patience(PATIENCE, PATIENCE).map_err(TierError::from)?;
        transport.send(&Request::Hello { protocol: PROTOCOL })?;
        match reply(&mut transport)? {
            Reply::Done => Ok(transport),
            other => Err(unexpected(other)),
        }
    }

    fn handshake(
        &self,
        mut stream: TcpStream,
        endpoint: &Endpoint,
        host: &str,
        tls: &ClientTls,
    ) -> Result<Transport, TierError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let refused = |error: rustls::Error| TierError::Tls { reason: error.to_string() };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TierError::Endpoint { text: endpoint.to_string() })?;
        let mut connection = ClientConnection::new(Arc::clone(&tls.0), name).map_err(refused)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        if role(connection.peer_certificates()) != Some(Role::Tier) {
            return Err(TierError::WrongRole { expected: "a tier" });
        }
        Ok(Transport::Client(Box::new(StreamOwned::new(connection, stream))))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Transport>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request with one reply.
    fn ask<T>(
        &self,
        action: &'static str,
        collection: &CollectionName,
        request: &Request,
        take: impl Fn(Reply) -> Result<T, Reply>,
    ) -> Result<T, VectorsError> {
        let done = self.call(|transport| {
            transport.send(request)?;
            take(reply(transport)?).map_err(unexpected)
        });
        done.map_err(|failure| failure.of_store(action, collection))
    }
}

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The tier says so.
    Said(Failed),
    /// The tier sent what no honest one sends.
    Lied(&'static str),
    /// The connection could not be made, or broke.
    Broken(TierError),
}

impl From<TierError> for Failure {
    fn from(error: TierError) -> Self {
        match error {
            TierError::Protocol { what } => Self::Lied(what),
            other => Self::Broken(other),
        }
    }
}

impl Failure {
    pub(crate) fn into_error(self) -> TierError {
        match self {
            Self::Said(Failed::Busy(what)) => TierError::Busy { what },
            Self::Said(failed) => {
                let words = match failed {
                    Failed::Refused(words) => words,
                    other => format!("{other:?}"),
                };
                TierError::Refused { words }
            }
            Self::Lied(what) => TierError::Protocol { what },
            Self::Broken(error) => error,
        }
    }

    fn of_store(self, action: &'static str, collection: &CollectionName) -> VectorsError {
        let collection = collection.clone();
        match self {
            Self::Said(Failed::StaleVersion { version, applied }) => {
                VectorsError::StaleVersion { collection, version, applied }
            }
            Self::Said(Failed::PositionTaken { position, document }) => {
                VectorsError::PositionTaken { collection, position, document: DocumentId::from_bytes(document) }
            }
            Self::Said(Failed::Duplicate(what)) => VectorsError::Duplicate { collection, what },
            Self::Said(Failed::TooLong) => VectorsError::TooLong { collection, what: "an entry" },
            Self::Said(Failed::NoIndex) => VectorsError::NoIndex { collection },
            Self::Said(Failed::NotEmpty) => VectorsError::NotEmpty,
            Self::Said(Failed::VersionsExhausted) => VectorsError::VersionsExhausted { collection },
            other => VectorsError::Backend { action, source: Box::new(other.into_error()) },
        }
    }

    pub(crate) fn of_model(self) -> InferenceError {
        InferenceError::RemoteModel { source: Box::new(self.into_error()) }
    }

    pub(crate) fn of_scorer(self, collection: &CollectionName, expected: &[ExpectedGroup]) -> InferenceError {
        let collection = collection.clone();
        let asked = |group: u32| expected.iter().any(|expected| expected.group == group);
        match self {
            Self::Said(Failed::GroupAltered(group)) if asked(group) => {
                InferenceError::GroupAltered { collection, group }
            }
            Self::Said(Failed::GroupMissing(group)) if asked(group) => {
                InferenceError::GroupMissing { collection, group }
            }
            Self::Said(Failed::GroupVersion { group, expected, actual }) if asked(group) => {
                InferenceError::GroupVersion { collection, group, expected, actual }
            }
            other => InferenceError::Remote { collection, source: Box::new(other.into_error()) },
        }
    }
}

fn reply(transport: &mut Transport) -> Result<Reply, Failure> {
    match transport.receive(REPLY_LIMIT)? {
        Some(Reply::Failed(failed)) => Err(Failure::Said(failed)),
        Some(reply) => Ok(reply),
        None => Err(TierError::Connection { source: io::ErrorKind::UnexpectedEof.into() }.into()),
    }
}

fn unexpected(_: Reply) -> Failure {
    Failure::Lied("an answer to something else")
}

/// Takes one kind of reply.
macro_rules! kind {
    ($pattern:pat => $value:expr) => {
        |reply| match reply {
            $pattern => Ok($value),
            other => Err(other),
        }
    };
}

impl Scorer for Remote {
    fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError> {
        self.try_score(collection, query, expected).map_err(|failure| failure.of_scorer(collection, expected))
    }

    fn classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError> {
        self.try_classify(model, query).map_err(Failure::of_model)
    }
}

impl VectorStore for Remote {
    fn reserve_version(&self, collection: &CollectionName) -> Result<u64, VectorsError> {
        // Drawn twice at worst: versions never repeat, and may be left out.
        let request = Request::ReserveVersion(collection.clone());
        self.ask("reserve a version", collection, &request, kind!(Reply::Version(version) => version))
    }

    fn apply(&self, collection: &CollectionName, change: Change) -> Result<(), VectorsError> {
        let version = change.version;
        let request = Request::Apply(collection.clone(), change.into());
        let work = |transport: &mut Transport| {
            transport.send(&request)?;
            match reply(transport)? {
                Reply::Done => Ok(()),
                other => Err(unexpected(other)),
            }
        };
        let first = match self.once(work) {
            // The change may have been applied and its answer lost. Versions are drawn once: this one in force is this change.
            Err(Failure::Broken(_)) if self.version(collection)? == version => Ok(()),
            Err(Failure::Broken(_)) => match self.once(work) {
                Err(Failure::Said(Failed::StaleVersion { applied, .. })) if applied == version => Ok(()),
                second => second,
            },
            done => done,
        };
        first.map_err(|failure| failure.of_store("apply a change", collection))
    }

    fn version(&self, collection: &CollectionName) -> Result<u64, VectorsError> {
        let request = Request::Version(collection.clone());
        self.ask("read a version", collection, &request, kind!(Reply::Version(version) => version))
    }

    fn manifest(&self, collection: &CollectionName) -> Result<Option<Vec<u8>>, VectorsError> {
        let request = Request::Manifest(collection.clone());
        let take = kind!(Reply::Manifest(manifest) => manifest.map(ByteBuf::into_vec));
        self.ask("read a manifest", collection, &request, take)
    }

    fn group(&self, collection: &CollectionName, group: u32) -> Result<Option<GroupRecord>, VectorsError> {
        let request = Request::Group(collection.clone(), group);
        self.ask("read a group", collection, &request, kind!(Reply::Group(group) => group.map(Into::into)))
    }

    fn groups(&self, collection: &CollectionName) -> Result<Vec<u32>, VectorsError> {
        let request = Request::Groups(collection.clone());
        self.ask("list groups", collection, &request, kind!(Reply::Groups(groups) => groups))
    }

    fn passage(
        &self,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<PassageRecord>, VectorsError> {
        let request = Request::Passage(collection.clone(), *document.as_bytes());
        self.ask("read a passage", collection, &request, kind!(Reply::Passage(passage) => passage.map(Into::into)))
    }

    fn document_at(&self, collection: &CollectionName, position: Position) -> Result<Option<DocumentId>, VectorsError> {
        let request = Request::DocumentAt(collection.clone(), position);
        let take = kind!(Reply::Document(document) => document.map(DocumentId::from_bytes));
        self.ask("find a document", collection, &request, take)
    }

    fn documents(&self, collection: &CollectionName) -> Result<Vec<(Position, DocumentId)>, VectorsError> {
        let request = Request::Documents(collection.clone());
        let documents = self.ask("list documents", collection, &request, kind!(Reply::Documents(all) => all))?;
        Ok(documents.into_iter().map(|(position, document)| (position, DocumentId::from_bytes(document))).collect())
    }

    fn matching(
        &self,
        collection: &CollectionName,
        tokens: &[(String, String)],
    ) -> Result<Vec<Position>, VectorsError> {
        let request = Request::Matching(collection.clone(), tokens.to_vec());
        self.ask("filter documents", collection, &request, kind!(Reply::Positions(positions) => positions))
    }

    fn nearest(&self, collection: &CollectionName, hint: &[f32], count: u32) -> Result<Vec<Position>, VectorsError> {
        let request = Request::Nearest(collection.clone(), hint.to_vec(), count);
        self.ask("look up candidates", collection, &request, kind!(Reply::Positions(positions) => positions))
    }

    fn collections(&self) -> Result<Vec<CollectionName>, VectorsError> {
        let done = self.call(|transport| {
            transport.send(&Request::Collections)?;
            match reply(transport)? {
                Reply::Collections(names) => Ok(names),
                other => Err(unexpected(other)),
            }
        });
        done.map_err(|failure| failed("list collections", failure))
    }

    fn delete_collection(&self, collection: &CollectionName) -> Result<(), VectorsError> {
        let request = Request::DeleteCollection(collection.clone());
        self.ask("delete a collection", collection, &request, kind!(Reply::Done => ()))
    }

    fn export(&self, to: &mut dyn Write) -> Result<(), VectorsError> {
        // On a connection of its own: half an export cannot be done over.
        let mut work = |transport: &mut Transport| -> Result<(), Failure> {
            transport.send(&Request::Export)?;
            loop {
                match reply(transport)? {
                    Reply::Chunk(bytes) => to.write_all(&bytes).map_err(TierError::from)?,
                    Reply::End => return Ok(to.flush().map_err(TierError::from)?),
                    other => return Err(unexpected(other)),
                }
            }
        };
        self.connect()
            .and_then(|mut transport| work(&mut transport))
            .map_err(|failure| failed("write an export", failure))
    }

    fn import(&self, from: &mut dyn Read) -> Result<(), VectorsError> {
        let mut work = |transport: &mut Transport| -> Result<(), Failure> {
            transport.send(&Request::Import)?;
            let go: Reply = reply(transport)?;
            if !matches!(go, Reply::Done) {
                return Err(unexpected(go));
            }
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                (&mut *from).take(CHUNK as u64).read_to_end(&mut chunk).map_err(TierError::from)?;
                if chunk.is_empty() {
                    break;
                }
                transport.send(&Request::Chunk(ByteBuf::from(chunk)))?;
            }
            transport.send(&Request::End)?;
            match reply(transport)? {
                Reply::Done => Ok(()),
                other => Err(unexpected(other)),
            }
        };
        self.connect()
            .and_then(|mut transport| work(&mut transport))
            .map_err(|failure| failed("import a store", failure))
    }
}

fn failed(action: &'static str, failure: Failure) -> VectorsError {
    match failure {
        Failure::Said(Failed::NotEmpty) => VectorsError::NotEmpty,
        Failure::Said(Failed::Import) => VectorsError::Import { reason: "the tier does not take the stream" },
        other => VectorsError::Backend { action, source: Box::new(other.into_error()) },
    }
}
