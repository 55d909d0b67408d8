//! The backend whose requests go through the simulated network.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lock_core::{
    Error, FencingToken,
    backend::{AcquireOutcome, AcquireRequest, Backend, Capabilities, Lease, Release, Renewal, StoreTimings},
    clock::Clock,
};
use lock_object::{ObjectBackend, ObjectConfig};
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};
use test_support::sim::{
    Mistake,
    real::{Real, Server, Transport},
};

use super::model::{self, Bucket, FOREIGN, SKEW};

tokio::task_local! {
    /// The lease id of the acquisition that a request belongs to.
    static ASKED: String;
}

/// The backend, with a declared `skew`.
#[derive(Debug)]
pub(crate) struct SimulatedObjects {
    pub(crate) skew: Duration,
}

impl Default for SimulatedObjects {
    fn default() -> Self {
        Self { skew: SKEW }
    }
}

impl Real for SimulatedObjects {
    fn server(&self, mistake: Option<Mistake>) -> Box<dyn Server> {
        Box::new(Bucket::new(mistake))
    }

    fn backend(&self, seed: u64, transport: Transport, clock: Arc<dyn Clock>) -> Arc<dyn Backend> {
        let config = ObjectConfig::s3("bucket")
            .region("us-east-1")
            .anonymous(true)
            // In a storm few clients pass the probe, which is many requests.
            .probe(seed.is_multiple_of(4))
            .skew(self.skew)
            .poll(Duration::from_millis(50), Duration::from_secs(1));
        let client = HttpClient::new(Simulated(transport));
        Arc::new(Signed(ObjectBackend::with_http(config, clock, client).expect("a good configuration")))
    }

    fn slack(&self) -> Duration {
        // The bound itself, what the servers' clocks and the cut of two dates add to it, and the
        // second that the backend adds for that cut.
        self.skew + SKEW + Duration::from_secs(2)
    }
}

#[derive(Debug)]
struct Simulated(Transport);

#[async_trait]
impl HttpService for Simulated {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asked = ASKED.try_with(String::clone).unwrap_or_default();
        let answer = self.0.call(model::call(request, asked).await).await;
        Ok(model::response(&answer))
    }
}

/// Says in a refusal whether the owner's lock is of this very acquisition: an attempt may begin
/// anew under another id, and then rightly meets what is left of the first.
#[derive(Debug)]
struct Signed(ObjectBackend);

#[async_trait]
impl Backend for Signed {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn timings(&self) -> StoreTimings {
        self.0.timings()
    }

    async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireOutcome, Error> {
        let asked = request.id.to_string();
        let mut outcome = ASKED.scope(asked.clone(), self.0.acquire(request)).await;
        if let Ok(AcquireOutcome::Contended(holder)) = &mut outcome
            && let Some(id) = holder.version.as_deref().filter(|id| *id != asked && *id != FOREIGN)
        {
            holder.owner = Some(format!("{}, {id}", holder.owner.as_deref().unwrap_or_default()));
        }
        outcome
    }

    async fn renew(&self, lease: &Lease) -> Result<Renewal, Error> {
        self.0.renew(lease).await
    }

    async fn advance_token(&self, lease: &Lease, token: FencingToken) -> Result<bool, Error> {
        self.0.advance_token(lease, token).await
    }

    async fn release(&self, lease: &Lease, hold_for: Duration) -> Result<Release, Error> {
        self.0.release(lease, hold_for).await
    }
}
