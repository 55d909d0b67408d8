//! TLS by rustls, with the checks that libpq's `sslmode` asks for.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use lock_core::{Error, ErrorKind, Operation};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};

use crate::{
    config::{ServerConfig, SslMode},
    environment::ssl_mode,
};

/// Makes TLS connections with the settings of one store.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the certificates that `server` names.
    pub(crate) fn new(server: &ServerConfig) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| opening(Error::new(ErrorKind::Config, "TLS cannot be set up").with_source(error)))?;
        let verifier = verifier(server, provider)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match (&server.cert, &server.key) {
            (Some(cert), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let chain = chain.map_err(|error| unreadable("sslcert", cert, error))?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("sslkey", key, error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| unreadable("sslcert", cert, error))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self { config: Arc::new(config) })
    }
}

/// What is checked of the server's certificate. libpq checks its authority under `require` too, if
/// the file of the authorities is there.
fn verifier(server: &ServerConfig, provider: Arc<CryptoProvider>) -> Result<Arc<Verifier>, Error> {
    let mode = ssl_mode(server);
    let checks = match mode {
        SslMode::VerifyFull | SslMode::VerifyCa => true,
        SslMode::Require => server.root_cert.is_some(),
        SslMode::Disable | SslMode::Prefer => false,
    };
    let trusted = checks.then(|| {
        let roots = Arc::new(roots(server.root_cert.as_deref())?);
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().map_err(|error| {
            let message = "no authority is trusted; name the file of the authority as sslrootcert";
            opening(Error::new(ErrorKind::Config, message).with_source(error))
        })
    });
    Ok(Arc::new(Verifier { trusted: trusted.transpose()?, names: mode == SslMode::VerifyFull, provider }))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) if file != Path::new("system") => {
            let certificates = CertificateDer::pem_file_iter(file);
            let certificates = certificates.map_err(|error| unreadable("sslrootcert", file, error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unreadable("sslrootcert", file, error))?;
                roots.add(certificate).map_err(|error| unreadable("sslrootcert", file, error))?;
            }
        }
        _ => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn unreadable(option: &str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let problem = if fs::metadata(path).is_ok() { "is not usable" } else { "cannot be read" };
    let message = format!("{}, the file of option {option}, {problem}", path.display());
    opening(Error::new(ErrorKind::Config, message).with_source(error))
}

fn opening(error: Error) -> Error {
    error.with_operation(Operation::Open)
}

/// Checks the authority and the name of a certificate as far as the mode asks for it. Signatures
/// are always checked.
#[derive(Debug)]
struct Verifier {
    trusted: Option<Arc<WebPkiServerVerifier>>,
    names: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match trusted.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is checked last, so everything else is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS for one connection.
pub(crate) struct OneConnection {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection with TLS.
pub(crate) struct Encrypted<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type TlsConnect = OneConnection;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<OneConnection, InvalidDnsNameError> {
        // A Unix socket has no name, and no TLS.
        let host = if host.is_empty() { "localhost" } else { host };
        let name = ServerName::try_from(host.to_owned())?;
        Ok(OneConnection { connector: Arc::clone(&self.config).into(), name })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for OneConnection {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Encrypted) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    /// Without one, a login by SCRAM proves no less than libpq's without `channel_binding=require`.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
