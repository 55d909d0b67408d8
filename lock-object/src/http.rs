//! The HTTP client below `object_store`: it records the whole reply of a request, because the
//! library hides the header `Date` and the difference between 409 and 412.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use lock_core::{Error, ErrorKind};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// The largest accepted reply, in bytes. A page of a list has a thousand keys.
const LARGEST_REPLY: usize = 8 << 20;
/// A dead address must not use up an attempt, which has 5 s by default.
const CONNECT: Duration = Duration::from_secs(3);
/// No caller waits longer, but requests of credential providers have no other limit.
const WHOLE_REQUEST: Duration = Duration::from_secs(20);

/// A reply with any status.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns a date header in seconds since the Unix epoch.
    pub(crate) fn seconds(&self, name: &str) -> Option<i64> {
        let time = httpdate::parse_http_date(self.header(name)?).ok()?;
        i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()).ok()
    }

    /// Returns the error code of S3, GCS or Azure; empty if there is none.
    pub(crate) fn code(&self) -> String {
        self.header("x-ms-error-code").map_or_else(|| self.element("Code"), str::to_owned)
    }

    /// Returns the text of an element of an XML error.
    pub(crate) fn element(&self, name: &str) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let inner = text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</"));
        inner.map(|(text, _)| text.to_owned()).unwrap_or_default()
    }
}

/// What became of one request; travels in its extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    is_sent: bool,
    reply: Option<Reply>,
}

impl Exchange {
    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns whether the request may have left this process.
    pub(crate) fn is_sent(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_sent
    }

    pub(crate) fn take_reply(&self) -> Option<Reply> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reply.take()
    }
}

/// One HTTP client for a store and its credential providers.
#[derive(Debug, Clone)]
pub(crate) struct Connector(HttpClient);

impl Connector {
    /// Sends all requests by `client`.
    pub(crate) fn new(client: HttpClient) -> Self {
        Self(client)
    }

    /// Sends a request that is not one of `object_store`'s.
    pub(crate) async fn send(&self, request: HttpRequest) -> Result<Reply, HttpError> {
        let exchange = Exchange::default();
        let mut request = request;
        request.extensions_mut().insert(exchange.clone());
        self.call(request).await?;
        Ok(exchange.take_reply().expect("a call that succeeds records its reply"))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let exchange = request.extensions().get::<Exchange>().cloned().unwrap_or_default();
        exchange.note(|progress| progress.is_sent = true);
        let answer = self.0.execute(request).await?;
        let (parts, mut body) = answer.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame?.into_data() else { continue };
            if bytes.len() + chunk.len() > LARGEST_REPLY {
                return Err(HttpError::new(HttpErrorKind::Decode, TooLarge));
            }
            bytes.extend_from_slice(&chunk);
        }
        let reply = Reply { status: parts.status, headers: parts.headers.clone(), body: bytes.freeze() };
        let response = HttpResponse::from_parts(parts, reply.body.clone().into());
        exchange.note(|progress| progress.reply = Some(reply));
        Ok(response)
    }
}

/// Returns a client that uses the proxies of the environment, and the certificate authorities of
/// the system or of `SSL_CERT_FILE`.
///
/// # Errors
/// If TLS cannot be set up.
pub(crate) fn client() -> Result<HttpClient, Error> {
    let message = "TLS cannot be set up; check the certificates in SSL_CERT_FILE, and the limit of open files \
                   (ulimit -n)";
    let client = reqwest_client().map_err(|error| Error::new(ErrorKind::Config, message).with_source(error))?;
    Ok(HttpClient::new(Reqwest(client)))
}

fn reqwest_client() -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .timeout(WHOLE_REQUEST)
        // A signature is valid for one host only.
        .redirect(reqwest::redirect::Policy::none())
        // A repeated write would be refused by the effect of the first one.
        .retry(reqwest::retry::never());
    Ok(client.build()?)
}

#[derive(Debug)]
struct Reqwest(reqwest::Client);

#[async_trait]
impl HttpService for Reqwest {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let exchange = parts.extensions.get::<Exchange>().cloned().unwrap_or_default();
        let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(body.collect().await?.to_bytes().into());
        let answer = self.0.execute(request).await.map_err(|error| {
            if error.is_connect() {
                exchange.note(|progress| progress.is_sent = false);
            }
            transport(error)
        })?;
        Ok(http::Response::<reqwest::Body>::from(answer).map(|body| HttpResponseBody::new(body.map_err(transport))))
    }
}

fn transport(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Unknown
    };
    // A URL may have a signature.
    HttpError::new(kind, error.without_url())
}

#[derive(Debug)]
struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the reply is larger than {} MB", LARGEST_REPLY >> 20)
    }
}

impl std::error::Error for TooLarge {}
