//! A server of this test's own, with the part of the XML API of Google Cloud Storage that locks
//! need, and the preconditions as Google documents them.
//!
//! <https://cloud.google.com/storage/docs/xml-api/reference-headers#xgoogifgenerationmatch>

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use percent_encoding::percent_decode_str;

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Object>,
    generation: u64,
    /// Whether a second write of an object within a second is refused.
    is_limited: bool,
}

#[derive(Debug)]
struct Object {
    body: Vec<u8>,
    generation: u64,
    modified: SystemTime,
    written: Instant,
}

/// A server with one bucket, for one test.
#[derive(Debug)]
pub(crate) struct GcsServer {
    address: SocketAddr,
    objects: Arc<Mutex<Objects>>,
}

impl GcsServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let objects = Arc::<Mutex<Objects>>::default();
        let shared = Arc::clone(&objects);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let objects = Arc::clone(&shared);
                // The client notices a broken connection.
                thread::spawn(move || serve(client, &objects));
            }
        });
        Self { address, objects }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses a second write of an object within a second, as Google does.
    pub(crate) fn limit_writes(&self) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).is_limited = true;
    }
}

struct Request {
    method: String,
    key: String,
    is_list: bool,
    /// The client wants the connection closed after the reply.
    is_last: bool,
    required: Option<u64>,
    body: Vec<u8>,
}

fn serve(client: TcpStream, objects: &Mutex<Objects>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    while let Some(request) = read(&mut client)? {
        let reply = answer(&request, &mut objects.lock().unwrap_or_else(PoisonError::into_inner));
        client.get_mut().write_all(&reply)?;
        if request.is_last {
            break;
        }
    }
    Ok(())
}

fn read(client: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut first = String::new();
    if client.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let (mut length, mut required, mut is_last) = (0, None, false);
    loop {
        let mut line = String::new();
        client.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "x-goog-if-generation-match" => required = Some(value.trim().parse().map_err(io::Error::other)?),
            "connection" => is_last = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
    Ok(Some(Request { method: method.into(), key, is_list: query.contains("list-type"), is_last, required, body }))
}

fn answer(request: &Request, objects: &mut Objects) -> Vec<u8> {
    if request.is_list {
        return list(objects);
    }
    let found = objects.by_key.get(&request.key);
    let generation = found.map_or(0, |object| object.generation);
    if request.required.is_some_and(|required| required != generation) {
        return refuse(412, "PreconditionFailed");
    }
    let is_busy = found.is_some_and(|object| object.written.elapsed() < Duration::from_secs(1));
    if objects.is_limited && is_busy && request.method != "GET" {
        return refuse(429, "SlowDown");
    }
    match (&*request.method, found) {
        ("GET", None) | ("DELETE", None) => refuse(404, "NoSuchKey"),
        ("GET", Some(object)) => {
            let modified = httpdate::fmt_http_date(object.modified);
            let headers =
                format!("x-goog-generation: {generation}\r\nETag: \"{generation}\"\r\nLast-Modified: {modified}\r\n");
            reply(200, &headers, &object.body)
        }
        ("DELETE", Some(_)) => {
            objects.by_key.remove(&request.key);
            reply(204, "", b"")
        }
        ("PUT", _) => {
            objects.generation += 1_000;
            let generation = objects.generation;
            let object =
                Object { body: request.body.clone(), generation, modified: SystemTime::now(), written: Instant::now() };
            objects.by_key.insert(request.key.clone(), object);
            reply(200, &format!("x-goog-generation: {generation}\r\nETag: \"{generation}\"\r\n"), b"")
        }
        _ => refuse(405, "MethodNotAllowed"),
    }
}

fn list(objects: &Objects) -> Vec<u8> {
    let entry = |(key, object): (&String, &Object)| {
        let (generation, size) = (object.generation, object.body.len());
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>\
             <ETag>\"{generation}\"</ETag><Size>{size}</Size></Contents>"
        )
    };
    let entries: String = objects.by_key.iter().map(entry).collect();
    reply(200, "", format!("<ListBucketResult>{entries}</ListBucketResult>").as_bytes())
}

fn refuse(status: u16, code: &str) -> Vec<u8> {
    reply(status, "", format!("<Error><Code>{code}</Code><Message>by the test</Message></Error>").as_bytes())
}

fn reply(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut bytes = format!("HTTP/1.1 {status} Made\r\nDate: {date}\r\n{headers}{length}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
