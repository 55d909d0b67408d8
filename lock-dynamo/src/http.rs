//! The HTTP client: proxies and certificate authorities as AWS tools choose them, and replies that
//! are DynamoDB's and have a bounded size.

use std::{env, fmt, fs, path::Path};

use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    shared::IntoShared as _,
};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream, config_bag::ConfigBag};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The largest accepted reply, in bytes. A page of a scan has 1 MB of attributes, and JSON may need
/// six bytes for one of them.
const LARGEST_REPLY: usize = 16 << 20;

/// Builds the client of this process, by the environment variables that AWS tools read.
///
/// # Errors
/// Why the file in `AWS_CA_BUNDLE` cannot be used.
pub(crate) fn from_environment() -> Result<SharedHttpClient, String> {
    let bundle = env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
    let mut knows_authorities = true;
    let trusted = match bundle {
        None if has_authorities() => TrustStore::default(),
        None => {
            knows_authorities = false;
            TrustStore::empty()
        }
        Some(path) => trust(Path::new(&path)).map_err(|why| {
            format!("the file in AWS_CA_BUNDLE, \"{}\", {why}; name a file of PEM certificates", path.display())
        })?,
    };
    let context = TlsContext::builder().with_trust_store(trusted).build().map_err(|error| error.to_string())?;
    let client = Builder::new().build_with_connector_fn(move |settings, components| {
        let tls = Provider::Rustls(CryptoMode::Ring);
        let builder = Connector::builder().proxy_config(ProxyConfig::from_env()).tls_provider(tls);
        let mut builder = builder.tls_context(context.clone());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.build()
    });
    Ok(if knows_authorities { client } else { WithoutTls(client).into_shared() })
}

/// Whether the system has certificate authorities. Their usual file is not read here, because the
/// HTTP client reads it anyway.
fn has_authorities() -> bool {
    let is_usual = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().all(|name| env::var_os(name).is_none());
    if is_usual && (cfg!(any(windows, target_vendor = "apple")) || openssl_probe::probe().cert_file.is_some()) {
        return true;
    }
    let (valid, _) = RootCertStore::empty().add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    valid > 0
}

/// Reads the authorities in the file at `path`, which replace those of the system.
fn trust(path: &Path) -> Result<TrustStore, String> {
    let pem = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    // Checked here, because the HTTP client panics on a certificate that it cannot parse.
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("is not valid: {error}"))?;
        roots.add(certificate).map_err(|error| format!("is not valid: {error}"))?;
    }
    if roots.is_empty() {
        return Err("has no certificate".into());
    }
    Ok(TrustStore::empty().with_pem_certificate(pem))
}

/// A request over TLS on a machine without certificate authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAuthorities;

impl fmt::Display for NoAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this machine has no certificate authorities, so TLS cannot verify a server; install the package \
             ca-certificates, or name a file of PEM certificates in AWS_CA_BUNDLE, or in SSL_CERT_FILE if that is set",
        )
    }
}

impl std::error::Error for NoAuthorities {}

/// A client that sends no request over TLS. The inner client would report an unknown issuer, which
/// does not say what is missing.
#[derive(Debug)]
struct WithoutTls(SharedHttpClient);

impl HttpClient for WithoutTls {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(WithoutTlsConnector(self.0.http_connector(settings, components)))
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct WithoutTlsConnector(SharedHttpConnector);

impl HttpConnector for WithoutTlsConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if request.uri().starts_with("https:") {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(NoAuthorities.into())));
        }
        self.0.call(request)
    }
}

/// A reply that DynamoDB would not send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadReply {
    /// Its status and type: of a web server, or of a proxy.
    Foreign(u16, String),
    TooLarge,
}

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(407, _) => f.write_str("a proxy demands a user and a password (status 407)"),
            Self::Foreign(status, kind) => write!(f, "it answered with status {status} and {kind}"),
            Self::TooLarge => write!(f, "its reply is larger than {} MB", LARGEST_REPLY >> 20),
        }
    }
}

impl std::error::Error for BadReply {}

/// A client that accepts only replies of DynamoDB.
#[derive(Debug)]
pub(crate) struct Checked(pub(crate) SharedHttpClient);

// `validate_base_client_config` is not passed on. There the inner client would read the authorities
// of the system once for each of the `Clients`, and throw them away.
impl HttpClient for Checked {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(CheckedConnector(self.0.http_connector(settings, components)))
    }

    fn validate_final_config(&self, components: &RuntimeComponents, settings: &ConfigBag) -> Result<(), BoxError> {
        self.0.validate_final_config(components, settings)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct CheckedConnector(SharedHttpConnector);

impl HttpConnector for CheckedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let reply = self.0.call(request);
        HttpConnectorFuture::new(async move { whole(reply.await?).await })
    }
}

/// Reads the whole of a reply. Without a limit, the SDK would read whatever a server sends.
async fn whole(mut reply: HttpResponse) -> Result<HttpResponse, ConnectorError> {
    let bad = |reply: BadReply| ConnectorError::other(reply.into(), None);
    let status = reply.status().as_u16();
    let header = |name: &str| reply.headers().get(name);
    let kind = header("content-type").unwrap_or("no content type").chars().take(60).collect::<String>();
    // An empty reply with status 200 would otherwise count as success. A gateway in front of
    // DynamoDB answers 5xx by itself while DynamoDB is away.
    if status < 500 && header("x-amzn-requestid").is_none() && !kind.starts_with("application/x-amz-json") {
        return Err(bad(BadReply::Foreign(status, kind)));
    }
    let mut body = ByteStream::new(reply.take_body());
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| ConnectorError::io(error.into()))?;
        if bytes.len() + chunk.len() > LARGEST_REPLY {
            return Err(bad(BadReply::TooLarge));
        }
        bytes.extend_from_slice(&chunk);
    }
    *reply.body_mut() = SdkBody::from(bytes);
    Ok(reply)
}
