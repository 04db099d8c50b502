//! Accepts connections and bounds what each may take: so many at once, so long for a request's head, so long in all.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

/// Connections open at once; further ones wait in the kernel's queue. Half of what a process may usually have open.
const MAX_CONNECTIONS: usize = 512;
/// A request's head must be there this soon; also how long a connection may idle between two requests.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A peer that takes nothing of its answer for this long is cut off.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// A connection ends after this long, between two requests.
const LIFE: Duration = Duration::from_secs(600);
/// A request under way at the end of its connection, or of the server, may take this long still.
const GRACE: Duration = Duration::from_secs(20);

/// Serves until `stop` is done, then lets requests under way finish within [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        // The place is taken first, so that a connection that cannot be served is not accepted.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = &mut stop => break,
            (place, stream) = accepted => (place, stream),
        };
        match (place, stream) {
            (Ok(place), Ok((stream, _))) => {
                let connection = connection(stream, router.clone(), stopped.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            // Out of file handles, or the peer is gone again: never a reason to stop, nor to spin.
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    // All places free again means that no connection is left.
    let _ = tokio::time::timeout(GRACE, places.acquire_many(MAX_CONNECTIONS as u32)).await;
}

async fn connection(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let service = TowerToHyperService::new(router);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_headers(64).max_buf_size(64 << 10);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
    tokio::select! {
        // A peer that breaks off or speaks no HTTP harms only itself.
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(LIFE) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}
