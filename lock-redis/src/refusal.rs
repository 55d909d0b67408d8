//! Learns why a server closes new connections.

use std::time::Duration;

use redis::{ConnectionAddr, RedisError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// A server that refuses a connection does so at once.
const LIMIT: Duration = Duration::from_secs(1);
/// The most bytes of a refusal.
const LONGEST: u64 = 2_000;

/// Returns the error that the server at `address` sends to a new connection: that it has too many
/// clients, or that it is in protected mode. `None` if it sends no error.
///
/// redis-rs drops the text that a server sends before the first request, and reports a connection
/// that broke. The store would seem to have failed, although it throttles.
pub(crate) async fn refusal(address: &ConnectionAddr) -> Option<RedisError> {
    let said = async {
        match address {
            ConnectionAddr::Tcp(host, port) => said(TcpStream::connect((host.as_str(), *port)).await.ok()?).await,
            ConnectionAddr::Unix(path) => said(UnixStream::connect(path).await.ok()?).await,
            // With TLS the server closes the connection before the handshake, without a word.
            _ => None,
        }
    };
    let said = timeout(LIMIT, said).await.ok()??;
    redis::parse_redis_value(&said).ok()?.extract_error().err()
}

/// Returns all that the server sends to a connection without a request.
async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<Vec<u8>> {
    let mut said = Vec::new();
    // A server that accepts this connection now closes it. What came before it broke counts.
    let _ = stream.shutdown().await;
    let _ = stream.take(LONGEST).read_to_end(&mut said).await;
    Some(said)
}
