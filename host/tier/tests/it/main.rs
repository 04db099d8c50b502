//! The tier in its own threads, over real sockets: what a gate gets, what an attacker gets, and what failures cost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod attacks;
mod models;
mod scoring;
mod store;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use casemate_tier::{Direct, Endpoint, Limits, Remote, TierServer};
use casemate_vectors::{SledStore, VectorStore};

/// Serves `store` on a Unix socket for as long as the test runs.
fn serve(store: Arc<dyn VectorStore>, socket: &Path, limits: Limits) -> Endpoint {
    let listener = UnixListener::bind(socket).unwrap();
    let server = Arc::new(TierServer::new(store, true, 64 << 20, limits));
    std::thread::spawn(move || server.serve_unix(&listener));
    Endpoint::Unix(socket.to_owned())
}

fn remote(endpoint: &Endpoint) -> Remote {
    Remote::new(endpoint.clone(), None, Arc::new(Direct)).unwrap()
}

fn sled(folder: &Path) -> Arc<SledStore> {
    Arc::new(SledStore::open(folder).unwrap())
}
