//! moto's server: an emulator of AWS in Python, for what no server of AWS's own does on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::{Daemon, free_port, python::python, wait_for};

/// A running server, with nothing in it.
#[derive(Debug)]
pub struct Moto {
    address: SocketAddr,
    daemon: Daemon,
}

impl Moto {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not start, after what it said.
    pub fn start() -> Self {
        let python = python().into_os_string().into_string().expect("a path of the build is UTF-8");
        for _ in 0..5 {
            let port = free_port();
            let args = ["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()].map(String::from);
            let address = (Ipv4Addr::LOCALHOST, port).into();
            let moto = Self { address, daemon: Daemon::start(&python, "python3-venv", &args) };
            let answers = || TcpStream::connect(address).is_ok();
            // Another test may take the port first.
            if wait_for("moto to answer", || answers() || !moto.daemon.runs()) && moto.daemon.runs() {
                return moto;
            }
        }
        panic!("moto does not start; see its output above");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as an endpoint URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
