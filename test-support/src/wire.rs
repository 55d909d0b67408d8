//! A proxy in front of DynamoDB or an object store that counts requests. It loses, refuses, delays,
//! repeats or changes the requests that a test chooses.
//!
//! It reads HTTP, unlike [`Proxy`](crate::Proxy), which moves bytes. So a test can lose only the
//! reply to the second request, answer in place of the server, and count requests by operation. The
//! two proxies share no code: this one reads a request and then its reply, and the other one
//! forwards both directions at once.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustls::{ServerConnection, StreamOwned};

pub use crate::capacity::Units;
use crate::{capacity::Capacity, tls::Certificates};

/// The fault of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives, and the connection stays open without an answer.
    LoseRequest,
    /// The request takes effect, and the connection stays open without an answer.
    LoseReply,
    /// The request arrives after this time, when its client may have disconnected.
    DelayRequest(Duration),
    /// The request arrives when the test [lets it go](Wire::let_go). Its client gets no answer.
    Hold,
    /// The request arrives twice, and the client gets the second answer.
    Duplicate,
    /// The request is refused with this status and error code of DynamoDB, without any effect.
    Refuse(u16, &'static str),
    /// The request is refused with this status and error code of an object store, without any
    /// effect.
    RefuseXml(u16, &'static str),
    /// The request is answered with this body, without any effect.
    Answer(String),
}

/// The proxy; each test starts a new one.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The operations of all requests, in the order of their arrival.
    seen: Vec<String>,
    /// The head of the latest request.
    head: String,
    next: VecDeque<Option<Fault>>,
    always: Option<Fault>,
    answered: usize,
    connections: usize,
    /// How many held requests may go.
    let_go: usize,
    edits: Edits,
    capacity: Option<Capacity>,
}

/// Changes the heads of messages: the first line and the headers.
type Edit = fn(&str) -> String;

#[derive(Debug, Clone, Copy, Default)]
struct Edits {
    request: Option<Edit>,
    reply: Option<Edit>,
}

impl Wire {
    /// Listens on a free port, and forwards requests to `server`.
    ///
    /// # Panics
    /// If no port is free.
    pub fn start(server: SocketAddr) -> Self {
        Self::accept(server, Some)
    }

    /// Listens like [`start`](Self::start), for clients that use TLS.
    ///
    /// # Panics
    /// If no port is free.
    pub fn start_tls(server: SocketAddr, certificates: &Certificates) -> Self {
        let config = certificates.server_config();
        Self::accept(server, move |client| {
            let connection = ServerConnection::new(Arc::clone(&config)).ok()?;
            Some(StreamOwned::new(connection, client))
        })
    }

    /// Starts a proxy without a server: it answers all requests with `answer`, unless a test plans
    /// another fault.
    ///
    /// # Panics
    /// If no port is free.
    pub fn alone(answer: Fault) -> Self {
        // No request is forwarded to this address.
        let wire = Self::start(([127, 0, 0, 1], 9).into());
        wire.always(answer);
        wire
    }

    fn accept<S: Read + Write + Send + 'static>(
        server: SocketAddr,
        wrap: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                lock(&state).connections += 1;
                let _ = client.set_nodelay(true);
                let Some(client) = wrap(client) else { continue };
                // The client notices a broken connection.
                thread::spawn(move || serve(client, server, &state));
            }
        });
        Self { address, state }
    }

    /// Returns the address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the endpoint URL of the proxy.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns a header of the latest request; empty if the request had no such header.
    pub fn header(&self, name: &str) -> String {
        let state = lock(&self.state);
        let found = state.head.lines().filter_map(|line| line.split_once(':'));
        let mut found =
            found.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().into());
        found.next_back().unwrap_or_default()
    }

    /// Removes and returns the operations of all requests since the last call, such as
    /// `UpdateItem` or `PUT`.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).seen)
    }

    /// Returns how many requests the server has answered, whether or not the answer reached the
    /// client.
    pub fn answered(&self) -> usize {
        lock(&self.state).answered
    }

    /// Returns how many connections were opened.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    /// Changes the head of every request by `edit`.
    pub fn edit_requests(&self, edit: fn(&str) -> String) {
        lock(&self.state).edits.request = Some(edit);
    }

    /// Changes the head of every reply by `edit`.
    pub fn edit_replies(&self, edit: fn(&str) -> String) {
        lock(&self.state).edits.reply = Some(edit);
    }

    /// Lets one request go that a [`Fault::Hold`] keeps.
    pub fn let_go(&self) {
        lock(&self.state).let_go += 1;
    }

    /// Plans the fault of the next request that has no plan yet; `None` lets it pass.
    pub fn next(&self, fault: impl Into<Option<Fault>>) {
        lock(&self.state).next.push_back(fault.into());
    }

    /// Throttles requests above so many write units and read units a second, as DynamoDB does.
    /// Counts units from zero.
    pub fn provision(&self, writes: u32, reads: u32) {
        lock(&self.state).capacity = Some(Capacity::new(writes, reads));
    }

    /// Returns what has been billed and throttled since the capacity was [set](Self::provision).
    pub fn units(&self) -> Units {
        lock(&self.state).capacity.as_ref().map(|capacity| capacity.units).unwrap_or_default()
    }

    /// Sets the fault of all requests without a plan; `None` lets them pass.
    pub fn always(&self, fault: impl Into<Option<Fault>>) {
        lock(&self.state).always = fault.into();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: impl Read + Write, server: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let mut upstream = None;
    let mut client = BufReader::new(client);
    while let Some(request) = message(&mut client)? {
        let fault = {
            let mut state = lock(state);
            let operation = operation(&request);
            let admitted = state.capacity.as_mut().is_none_or(|capacity| capacity.admits(&operation));
            state.seen.push(operation);
            state.head = head(&request);
            let throttled = Fault::Refuse(400, "ProvisionedThroughputExceededException");
            let planned = state.next.pop_front().unwrap_or_else(|| state.always.clone());
            planned.or_else(|| (!admitted).then_some(throttled))
        };
        match &fault {
            Some(Fault::LoseRequest) => return wait_for_end(&mut client),
            Some(Fault::Refuse(status, code)) => {
                let body =
                    format!("{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{code}\",\"message\":\"by the test\"}}");
                answer(&mut client, *status, &body)?;
                continue;
            }
            Some(Fault::RefuseXml(status, code)) => {
                let body = format!("<Error><Code>{code}</Code><Message>by the test</Message></Error>");
                answer(&mut client, *status, &body)?;
                continue;
            }
            Some(Fault::Answer(body)) => {
                answer(&mut client, 200, body)?;
                continue;
            }
            Some(Fault::DelayRequest(delay)) => thread::sleep(*delay),
            Some(Fault::Hold) => {
                wait_for_go(state);
                // The server may have closed an idle connection meanwhile.
                upstream = None;
            }
            Some(Fault::LoseReply | Fault::Duplicate) | None => {}
        }
        let edits = lock(state).edits;
        let request = edited(request, edits.request);
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(BufReader::new(TcpStream::connect(server)?)),
        };
        upstream.get_mut().set_nodelay(true)?;
        if fault == Some(Fault::Duplicate) {
            let mut first = BufReader::new(TcpStream::connect(server)?);
            first.get_mut().write_all(&request)?;
            message(&mut first)?;
        }
        upstream.get_mut().write_all(&request)?;
        let Some(reply) = message(upstream)? else { return Ok(()) };
        lock(state).answered += 1;
        if matches!(fault, Some(Fault::LoseReply | Fault::Hold)) {
            return wait_for_end(&mut client);
        }
        client.get_mut().write_all(&edited(reply, edits.reply))?;
        client.get_mut().flush()?;
    }
    Ok(())
}

/// Reads one HTTP message with its body; `None` at the end of the connection.
fn message(from: &mut BufReader<impl Read>) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    let mut is_chunked = false;
    loop {
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&bytes[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        is_chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        if line.trim().is_empty() {
            break;
        }
    }
    if is_chunked {
        chunks(from, &mut bytes)?;
        return Ok(Some(bytes));
    }
    let body = bytes.len();
    bytes.resize(body + length, 0);
    from.read_exact(&mut bytes[body..])?;
    Ok(Some(bytes))
}

/// Reads the chunks of a body, and the line after them, as they are.
fn chunks(from: &mut BufReader<impl Read>, bytes: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let start = bytes.len();
        from.read_until(b'\n', bytes)?;
        let size = String::from_utf8_lossy(&bytes[start..]).trim().to_owned();
        let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
        let data = bytes.len();
        bytes.resize(data + size + 2, 0);
        from.read_exact(&mut bytes[data..])?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn edited(message: Vec<u8>, edit: Option<Edit>) -> Vec<u8> {
    let Some(edit) = edit else { return message };
    let end = message.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(message.len());
    let mut changed = edit(&String::from_utf8_lossy(&message[..end])).into_bytes();
    changed.extend_from_slice(&message[end..]);
    changed
}

fn wait_for_go(state: &Mutex<State>) {
    loop {
        let mut state = lock(state);
        if state.let_go > 0 {
            state.let_go -= 1;
            return;
        }
        drop(state);
        thread::sleep(Duration::from_millis(2));
    }
}

fn answer(client: &mut BufReader<impl Read + Write>, status: u16, body: &str) -> io::Result<()> {
    client.get_mut().write_all(&reply(status, body))?;
    client.get_mut().flush()
}

fn head(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
}

/// Returns `UpdateItem` for the header `X-Amz-Target: DynamoDB_20120810.UpdateItem`, and the method
/// of a request without that header.
fn operation(request: &[u8]) -> String {
    let head = head(request);
    let target = head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-amz-target:"));
    let method = || head.split(' ').next();
    target.and_then(|line| line.rsplit('.').next()).or_else(method).unwrap_or("?").trim().to_owned()
}

fn reply(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Made\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn wait_for_end(client: &mut BufReader<impl Read>) -> io::Result<()> {
    io::copy(client, &mut io::sink()).map(|_| ())
}
