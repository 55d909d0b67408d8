//! A proxy in front of DynamoDB that counts requests, and loses, refuses or delays the ones it is told to.
//!
//! It speaks HTTP, unlike a proxy of bytes, so that "the reply to the second request" can be lost and nothing else.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It never arrives, and the connection stays open without an answer.
    LoseRequest,
    /// It takes effect, and the connection stays open without an answer.
    LoseReply,
    /// It arrives after this long; its client may have gone by then.
    DelayRequest(Duration),
    /// It is refused with this status and this error code, without any effect.
    Refuse(u16, &'static str),
}

/// The proxy. Each test has its own.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The operations of all requests, in the order of their arrival.
    seen: Vec<String>,
    next: VecDeque<Option<Fault>>,
    always: Option<Fault>,
    connections: usize,
}

impl Wire {
    /// Listens on a free port and passes requests on to `server`.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                lock(&state).connections += 1;
                // A broken connection is the client's to notice.
                thread::spawn(move || serve(client, server, &state));
            }
        });
        Self { address, state }
    }

    /// Where it listens, as an endpoint URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The operations of all requests since the last call, such as `UpdateItem`.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).seen)
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    /// Adds what happens to the next request that nothing is planned for yet; `None` lets it pass.
    pub fn next(&self, fault: impl Into<Option<Fault>>) {
        lock(&self.state).next.push_back(fault.into());
    }

    /// Sets what happens to all requests once nothing else is planned; `None` lets them pass.
    pub fn always(&self, fault: impl Into<Option<Fault>>) {
        lock(&self.state).always = fault.into();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: TcpStream, server: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    let mut upstream = TcpStream::connect(server)?;
    upstream.set_nodelay(true)?;
    let mut replies = BufReader::new(upstream.try_clone()?);
    let mut requests = BufReader::new(client.try_clone()?);
    let mut client = client;
    while let Some(request) = message(&mut requests)? {
        let fault = {
            let mut state = lock(state);
            state.seen.push(operation(&request));
            state.next.pop_front().unwrap_or_else(|| state.always.clone())
        };
        match &fault {
            Some(Fault::LoseRequest) => return wait_for_end(&mut requests),
            Some(Fault::Refuse(status, code)) => {
                client.write_all(&refusal(*status, code))?;
                continue;
            }
            Some(Fault::DelayRequest(delay)) => thread::sleep(*delay),
            Some(Fault::LoseReply) | None => {}
        }
        upstream.write_all(&request)?;
        let Some(reply) = message(&mut replies)? else { return Ok(()) };
        if fault == Some(Fault::LoseReply) {
            return wait_for_end(&mut requests);
        }
        client.write_all(&reply)?;
    }
    Ok(())
}

/// One HTTP message with its body; `None` at the end of the connection.
fn message(from: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&bytes[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        assert!(!line.starts_with("transfer-encoding:"), "DynamoDB does not send chunks");
        if line.trim().is_empty() {
            break;
        }
    }
    let body = bytes.len();
    bytes.resize(body + length, 0);
    from.read_exact(&mut bytes[body..])?;
    Ok(Some(bytes))
}

/// `UpdateItem`, of the header `X-Amz-Target: DynamoDB_20120810.UpdateItem`.
fn operation(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let target = text.lines().find(|line| line.to_ascii_lowercase().starts_with("x-amz-target:"));
    target.and_then(|line| line.rsplit('.').next()).unwrap_or("?").trim().to_owned()
}

fn refusal(status: u16, code: &str) -> Vec<u8> {
    let body = format!("{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{code}\",\"message\":\"by the test\"}}");
    let length = body.len();
    format!("HTTP/1.1 {status} Refused\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn wait_for_end(client: &mut BufReader<TcpStream>) -> io::Result<()> {
    io::copy(client, &mut io::sink()).map(|_| ())
}
