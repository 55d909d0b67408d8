//! An HTTP proxy, as companies have them: it tunnels `CONNECT`, and forwards plain HTTP.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// The proxy; each test starts a new one.
#[derive(Debug)]
pub struct HttpProxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl HttpProxy {
    /// Listens on a free port. If `authorization` is given, the proxy refuses requests without this
    /// value of the header `Proxy-Authorization`.
    ///
    /// # Panics
    /// If no port is free.
    pub fn start(authorization: Option<&'static str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&shared);
                // The client notices a broken connection.
                thread::spawn(move || serve(client, authorization, &seen));
            }
        });
        Self { address, seen }
    }

    /// Returns the address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Removes and returns method and target of the first request of each connection since the last
    /// call.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(client: TcpStream, authorization: Option<&str>, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let mut words = head.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {target}"));
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    };
    if authorization.is_some() && head.lines().find_map(header).as_deref() != authorization {
        (&client).write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")?;
        return client.shutdown(Shutdown::Both);
    }
    let host = target.strip_prefix("http://").unwrap_or(target).split('/').next().unwrap_or_default();
    let server = TcpStream::connect(host)?;
    if method == "CONNECT" {
        (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    } else {
        (&server).write_all(head.as_bytes())?;
    }
    let (mut from_server, mut to_client) = (server.try_clone()?, client);
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        to_client.shutdown(Shutdown::Both)
    });
    let _ = io::copy(&mut reader, &mut &server);
    server.shutdown(Shutdown::Both)
}
