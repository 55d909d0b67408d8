//! A network between client and server that loses, delays and cuts: for `onelock torture`, and for
//! tests.
//!
//! It moves bytes and knows no protocol. So one proxy serves Redis, TLS and DynamoDB, and its
//! faults last until they are healed. It cannot lose one reply out of several, because it does not
//! see where a reply ends: that is the part of `wire`. It runs in real time: what depends on a seed
//! alone is the part of `sim`.

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

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    delay: Duration,
    /// Bytes vanish, and the connection stays open until the end of this: a network that is away.
    lost: bool,
    /// Bytes are kept back until this ends.
    held: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    requests: Way,
    replies: Way,
    refusing: bool,
    /// Rises with every cut; a connection ends when its own number is older.
    cuts: u64,
}

/// A proxy on loopback in front of a server. What it does to the traffic can be changed at any
/// time, for open connections too.
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
    /// [`listen`](Self::listen) for tests.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(server: SocketAddr) -> Self {
        Self::listen(server).await.expect("a free port")
    }

    /// Listens on a free port, and forwards each connection to `server` for as long as the runtime
    /// runs.
    ///
    /// # Errors
    /// When no port is free.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing listens then.
    pub async fn listen(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (state, watched) = watch::channel(State::default());
        let passed = Arc::new(Mutex::new(Passed::default()));
        // The network goes on while the test that made it does something else.
        let task = tokio::spawn(accept(listener, server, watched, Arc::clone(&passed)));
        Ok(Self { addr, state, passed, task })
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets everything pass again. What was held back arrives, what was lost stays lost, and with
    /// it its connection.
    pub fn heal(&self) {
        self.state.send_modify(|state| *state = State { cuts: state.cuts, ..State::default() });
    }

    /// Bytes of `direction` arrive this much later.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |way| way.delay = delay);
    }

    /// Bytes of `direction` vanish until [`heal`](Self::heal), while connections stay open. Then
    /// those end that have lost some, as no TCP stream goes on with a hole in it.
    pub fn lose(&self, direction: Direction) {
        self.change(direction, |way| way.lost = true);
    }

    /// Bytes of `direction` are kept back until [`heal`](Self::heal), then arrive, also for
    /// connections that the client has closed.
    pub fn hold(&self, direction: Direction) {
        self.change(direction, |way| way.held = true);
    }

    /// Ends all open connections at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Ends new connections at once, until [`heal`](Self::heal).
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.refusing = true);
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).connections
    }

    /// How many bytes came in from the sender of `direction`, whatever became of them.
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
            // Each direction by itself: a fault of the one leaves the other alone.
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
        // The delay that was asked for; zero else.
        tokio::time::sleep(way.delay).await;
        if state.wait_for(|state| !state.way(direction).held || state.cuts > born).await.is_err() {
            return;
        }
        if state.borrow().cuts > born || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The sender has closed: what came before has arrived, unless it was lost, and then the other
    // side learns nothing either.
    if state.borrow().way(direction).lost {
        let _ = state.wait_for(|state| state.cuts > born || !state.way(direction).lost).await;
    }
}
