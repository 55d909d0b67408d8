//! Certificates for tests, created by openssl.

use std::{path::PathBuf, process::Command, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::Scratch;

/// A certificate authority, and its certificates for a server on loopback and for a client.
#[derive(Debug)]
pub struct Certificates {
    dir: Scratch,
}

impl Certificates {
    /// Creates new certificates.
    ///
    /// # Panics
    /// If `openssl` is missing or fails.
    pub fn make() -> Self {
        let made = Self { dir: Scratch::new() };
        openssl(
            &made,
            "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=authority -keyout ca.key \
             -out ca.crt",
        );
        for (who, extension) in [("server", "subjectAltName=DNS:localhost"), ("client", "subjectAltName=DNS:client")] {
            openssl(
                &made,
                &format!(
                    "req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN={who} -keyout {who}.key -out \
                     {who}.csr"
                ),
            );
            std::fs::write(made.path("extensions"), extension).expect("the directory is ours");
            openssl(
                &made,
                &format!(
                    "x509 -req -in {who}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
                     -out {who}.crt"
                ),
            );
        }
        made
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Returns the certificate of the authority.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Returns certificate and key for `localhost`, which are not valid for `127.0.0.1`.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.path("server.crt"), self.path("server.key"))
    }

    /// Creates a self-signed certificate and its key for `localhost`, which is also an authority if
    /// `authority`.
    ///
    /// # Panics
    /// If `openssl` is missing or fails.
    pub fn self_signed(&self, authority: bool) -> (PathBuf, PathBuf) {
        let who = if authority { "self-ca" } else { "self" };
        let constraint = if authority { "TRUE" } else { "FALSE" };
        let extensions = format!("subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:{constraint}\n");
        std::fs::write(self.path("extensions"), extensions).expect("the directory is ours");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256";
        openssl(self, &format!("req -nodes {key} -subj /CN=localhost -keyout {who}.key -out {who}.csr"));
        openssl(
            self,
            &format!("x509 -req -in {who}.csr -signkey {who}.key -days 2 -extfile extensions -out {who}.crt"),
        );
        (self.path(&format!("{who}.crt")), self.path(&format!("{who}.key")))
    }

    /// Returns the configuration of a TLS server for `localhost`.
    ///
    /// # Panics
    /// If the files of openssl cannot be read.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let (certificate, key) = self.server();
        let certificate = CertificateDer::from_pem_file(certificate).expect("openssl writes PEM");
        let key = PrivateKeyDer::from_pem_file(key).expect("openssl writes PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        Arc::new(config.expect("certificate and key belong together"))
    }

    /// Returns certificate and key for a client.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.path("client.crt"), self.path("client.key"))
    }
}

impl Certificates {
    /// Returns the arguments with which a Redis server uses them, and requires client certificates.
    pub fn redis_args(&self) -> Vec<String> {
        let (cert, key) = self.server();
        let files = [("--tls-cert-file", cert), ("--tls-key-file", key), ("--tls-ca-cert-file", self.ca())];
        files.into_iter().flat_map(|(option, path)| [option.into(), path.display().to_string()]).collect()
    }
}

fn openssl(made: &Certificates, args: &str) {
    let output = Command::new("openssl").args(args.split(' ')).current_dir(made.dir.path()).output();
    let output = output.expect("openssl is not installed; this test needs it: apt-get install openssl");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}
