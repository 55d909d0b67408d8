//! moto's server: an emulator of AWS in Python, for services that AWS has no local server for.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::{Daemon, free_port, python::python, wait_for};

/// A running server without data.
#[derive(Debug)]
pub struct Moto {
    address: SocketAddr,
    daemon: Daemon,
}

impl Moto {
    /// Starts a server.
    ///
    /// # Panics
    /// If the server does not start. Its output is above the message.
    pub fn start() -> Self {
        let python = python().into_os_string().into_string().expect("a path of the build is UTF-8");
        for _ in 0..5 {
            let port = free_port();
            let args = ["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()].map(String::from);
            let address = (Ipv4Addr::LOCALHOST, port).into();
            let moto = Self { address, daemon: Daemon::start(&python, "python3-venv", &args) };
            let answers = || TcpStream::connect(address).is_ok();
            // Another test may have taken the port.
            if wait_for("moto to answer", || answers() || !moto.daemon.runs()) && moto.daemon.runs() {
                return moto;
            }
        }
        panic!("moto does not start; see its output above");
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the endpoint URL of the server.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
