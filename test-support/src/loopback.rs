//! A network between client and server that loses and delays bytes and cuts connections. It is for
//! `onelock torture` and for tests.
//!
//! The proxy moves bytes and knows no protocol. So one proxy serves Redis, TLS and DynamoDB, and
//! its faults last until they are healed. It cannot lose one reply out of several, because it does
//! not see where a reply ends; `wire` can. It runs in real time; `sim` depends on a seed alone.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// The faults of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    delay: Duration,
    /// Bytes are lost, and the connection stays open until the fault ends, as in an outage.
    lost: bool,
    /// Bytes are held back until the fault ends.
    held: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    requests: Way,
    replies: Way,
    refusing: bool,
    /// Increases with every cut. A connection ends if its number is older.
    cuts: u64,
}

/// A proxy on loopback in front of a server.
///
/// Its faults can be changed at any time, and also affect open connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    passed: Arc<Mutex<Passed>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Passed {
    connections: u64,
    bytes: [u64; 2],
}

impl Proxy {
    /// Listens like [`listen`](Self::listen), and panics instead of returning an error.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(server: SocketAddr) -> Self {
        Self::listen(server).await.expect("a free port")
    }

    /// Listens on a free port, and forwards each connection to `server` as long as the runtime
    /// runs.
    ///
    /// # Errors
    /// If no port is free.
    ///
    /// # Cancel safety
    /// Cancel safe: if the future is dropped, nothing listens.
    pub async fn listen(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (state, watched) = watch::channel(State::default());
        let passed = Arc::new(Mutex::new(Passed::default()));
        // The proxy works in the background, while the test does something else.
        let task = tokio::spawn(accept(listener, server, watched, Arc::clone(&passed)));
        Ok(Self { addr, state, passed, task })
    }

    /// Returns the address for clients.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends all faults. Bytes that were held back arrive. Connections that have lost bytes end.
    pub fn heal(&self) {
        self.state.send_modify(|state| *state = State { cuts: state.cuts, ..State::default() });
    }

    /// Delays the bytes of `direction` by `delay`.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |way| way.delay = delay);
    }

    /// Loses the bytes of `direction` until [`heal`](Self::heal), while connections stay open.
    ///
    /// Then the connections that have lost bytes end, because a TCP stream has no gaps.
    pub fn lose(&self, direction: Direction) {
        self.change(direction, |way| way.lost = true);
    }

    /// Holds the bytes of `direction` back until [`heal`](Self::heal). Then they arrive, even if
    /// the client has closed the connection.
    pub fn hold(&self, direction: Direction) {
        self.change(direction, |way| way.held = true);
    }

    /// Closes all open connections immediately.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Closes new connections immediately, until [`heal`](Self::heal).
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.refusing = true);
    }

    /// Returns how many connections were opened.
    pub fn connections(&self) -> u64 {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).connections
    }

    /// Returns how many bytes the sender of `direction` has sent, whether or not they arrived.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).bytes[direction as usize]
    }

    fn change(&self, direction: Direction, change: impl FnOnce(&mut Way)) {
        self.state.send_modify(|state| change(state.way_mut(direction)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl State {
    fn way(&self, direction: Direction) -> Way {
        match direction {
            Direction::Requests => self.requests,
            Direction::Replies => self.replies,
        }
    }

    fn way_mut(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Requests => &mut self.requests,
            Direction::Replies => &mut self.replies,
        }
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: watch::Receiver<State>, passed: Arc<Mutex<Passed>>) {
    while let Ok((client, _)) = listener.accept().await {
        passed.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
        if state.borrow().refusing {
            continue;
        }
        let Ok(server) = TcpStream::connect(server).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        for (direction, from, to) in
            [(Direction::Requests, from_client, to_server), (Direction::Replies, from_server, to_client)]
        {
            // The directions are separate, so that a fault of one does not affect the other.
            tokio::spawn(forward(direction, from, to, state.clone(), Arc::clone(&passed)));
        }
    }
}

async fn forward(
    direction: Direction,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    passed: Arc<Mutex<Passed>>,
) {
    let born = state.borrow().cuts;
    let mut has_lost = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let ends = |state: &State| state.cuts > born || has_lost && !state.way(direction).lost;
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = state.wait_for(ends) => return,
        };
        let Ok(length @ 1..) = read else { break };
        passed.lock().unwrap_or_else(PoisonError::into_inner).bytes[direction as usize] += length as u64;
        let way = state.borrow().way(direction);
        if way.lost {
            has_lost = true;
            continue;
        }
        // The delay of the direction, or zero.
        tokio::time::sleep(way.delay).await;
        if state.wait_for(|state| !state.way(direction).held || state.cuts > born).await.is_err() {
            return;
        }
        if state.borrow().cuts > born || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The sender has closed, and its bytes have arrived. If some were lost, the other side is not
    // told of the end either.
    if state.borrow().way(direction).lost {
        let _ = state.wait_for(|state| state.cuts > born || !state.way(direction).lost).await;
    }
}
