//! One request from head to answer: route, authenticate, read the body, dispatch, and say it in HTTP.

use crate::auth::{self, Keys, Mode};
use crate::body::{self, ReadError};
use crate::errors::{Exception, Refusal};
use crate::metrics::{Asked, Metrics};
use crate::query::Query;
use crate::routes::{self, Match, Operation};
use crate::validation::references::Place;
use crate::{
    Auth, account, aliases, browsers, concurrency, explain, functions, ids, invoke, own_api, provisioned, scaling,
    settings, tags, versions,
};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use model::Limits;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bodies of at most so many bytes are hashed and parsed at once: that takes less than handing them to another thread
/// and a small fraction of a millisecond.
const AT_ONCE_BYTES_MAX: usize = 65_536;
/// Packages of more bytes than this are taken in turns.
const LARGE_BODY_BYTES: u64 = 1_048_576;
/// Large packages that are taken at once, ours: each needs a few times its size in memory. The others wait.
const LARGE_BODIES_MAX: usize = 8;
/// Memory for bodies is counted in pages: a semaphore's permits are asked for by a `u32`.
const BODY_UNIT_BYTES: u64 = 4_096;
/// What metrics call requests for `/healthz` and `/metrics`.
const PROBE: &str = "Probe";
/// What metrics call requests for nothing that is known.
const UNKNOWN: &str = "Unknown";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What all requests share.
pub struct Gateway {
    pub limits: Limits,
    pub place: Place,
    pub router: router::Handle,
    pub control: control::Handle,
    pub metrics: Metrics,
    pub draining: AtomicBool,
    /// All connections are TLS.
    pub encrypted: bool,
    keys: Keys,
    mode: Mode,
    registry: Registry,
    /// Of [`Auth::Open`], whether it is open to all.
    public: bool,
    large_bodies: Semaphore,
    /// Permits are units of [`BODY_UNIT_BYTES`].
    unchecked_bodies: Semaphore,
}

/// One request whose sender is known.
pub struct Call {
    /// As the service model spells the operation.
    pub operation: &'static str,
    /// The path's parameters, decoded.
    pub parameters: Vec<String>,
    /// The query.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// Host and port as the client knows them.
    pub host: String,
    /// The body.
    pub body: Bytes,
    /// The request's id, which becomes the invocation's.
    pub id: Arc<str>,
}

/// An answer before it is HTTP.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub content_type: &'static str,
    pub body: body::Answer,
}

impl Answer {
    /// JSON text.
    pub fn json(status: u16, text: impl Into<Bytes>) -> Answer {
        Answer { status, headers: Vec::new(), content_type: "application/json", body: text.into().into() }
    }

    /// A value as JSON.
    pub fn of<T: serde::Serialize>(status: u16, value: &T) -> Result<Answer, Refusal> {
        serde_json::to_vec(value).map(|text| Answer::json(status, text)).map_err(|error| Refusal::platform(&error))
    }

    /// No body.
    pub fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), content_type: "", body: Bytes::new().into() }
    }

    fn text(status: u16, text: impl Into<Bytes>) -> Answer {
        Answer { content_type: "text/plain; charset=utf-8", ..Answer::json(status, text) }
    }
}

impl Call {
    /// A parameter of the path. The route has as many as its operation asks for.
    pub fn parameter(&self, index: usize) -> &str {
        self.parameters.get(index).map_or("", String::as_str)
    }

    /// A header's text, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The same of a name that is read already.
    pub fn header_named(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Gateway {
    pub fn new(
        limits: Limits,
        auth: Auth,
        place: Place,
        router: router::Handle,
        control: control::Handle,
        registry: Registry,
        metrics: Metrics,
    ) -> Gateway {
        let (keys, mode, public) = match auth {
            Auth::Required(keys) => (keys, Mode::Required, true),
            Auth::Open { public } => (Keys::default(), Mode::Open, public),
        };
        let large_bodies = Semaphore::new(LARGE_BODIES_MAX);
        let unchecked_bodies = Semaphore::new(body_units(limits.unchecked_bodies_bytes) as usize);
        let draining = AtomicBool::new(false);
        Gateway {
            limits,
            place,
            router,
            control,
            metrics,
            draining,
            encrypted: false,
            keys,
            mode,
            registry,
            public,
            large_bodies,
            unchecked_bodies,
        }
    }

    /// The key that signs our own URLs; `None` if nothing needs a signature.
    pub fn signing_key(&self) -> Option<&auth::Key> {
        match self.mode {
            Mode::Required => self.keys.first(),
            Mode::Open => None,
        }
    }

    /// Answers one request, whatever happens.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<body::Answer> {
        let started = Instant::now();
        let id = ids::request();
        let _counted = InFlight::new(&self.metrics);
        let (parts, body) = request.into_parts();
        let found = routes::find(parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or(""));
        let operation = match &found {
            Match::Offered(_, name, _) | Match::NotOffered(name) => name,
            Match::Unknown if matches!(parts.uri.path(), "/healthz" | "/metrics") => PROBE,
            Match::Unknown => UNKNOWN,
        };
        // Pinned where it is made: it is large, and would otherwise be here twice.
        let mut carried = pin!(self.carry(found, parts, body, peer, id.clone()));
        let carried = catch_panic(carried.as_mut()).await;
        let result = carried.unwrap_or_else(|| {
            self.metrics.panics.inc();
            tracing::error!(%id, operation, "a request was ended by a defect");
            Err(Refusal::new(Exception::Service, "An error occurred and the request cannot be processed."))
        });
        let response = respond(result, &id);
        let status = response.status().as_u16();
        self.metrics.answered(operation, status, started.elapsed());
        tracing::debug!(%id, operation, status, %peer, "request answered");
        response
    }

    async fn carry(
        &self,
        found: Match,
        parts: Parts,
        body: Incoming,
        peer: SocketAddr,
        id: Arc<str>,
    ) -> Result<Answer, Refusal> {
        if let Some(answer) = self.unauthenticated(&parts, peer) {
            return Ok(answer);
        }
        let time = Duration::from_millis(self.limits.body_read_ms);
        let admitted = self.screen(&parts).and_then(|()| self.offered(found, &parts));
        let (operation, name, parameters) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                body::discard_within(body, time).await;
                return Err(refusal);
            }
        };
        let bytes_max = self.body_bytes_max(operation);
        let large = self.turn_for_large_body(operation, &body).await;
        let room = match &large {
            Some(_) => None,
            None => match self.room_for_body(&body, bytes_max, time).await {
                Ok(room) => room,
                Err(refusal) => {
                    body::discard_within(body, time).await;
                    return Err(refusal);
                }
            },
        };
        let body = body::read(body, bytes_max, time).await.map_err(|error| unread(error, name, bytes_max))?;
        self.verify(&parts, &body).await?;
        drop(room);
        let call = Call {
            operation: name,
            parameters,
            query: Query::parse(parts.uri.query().unwrap_or("")),
            host: host(&parts),
            headers: parts.headers,
            body,
            id,
        };
        match operation {
            Operation::Invoke => invoke::invoke(self, call).await,
            // The futures of management are large; no connection that only invokes sets memory aside for them.
            operation => Box::pin(self.dispatch(operation, call)).await,
        }
    }

    /// Everything about the sender that can be judged without the body.
    fn screen(&self, parts: &Parts) -> Result<(), Refusal> {
        if self.mode == Mode::Open {
            browsers::refuse_pages(parts, self.public)?;
        }
        auth::screen(&self.keys, &signed(parts, None), now_s(), self.place.region.as_str(), self.mode)?;
        Ok(())
    }

    /// The two places that ask for no signature.
    fn unauthenticated(&self, parts: &Parts, peer: SocketAddr) -> Option<Answer> {
        match (parts.method.as_str(), parts.uri.path()) {
            ("GET", "/healthz") if self.draining.load(Ordering::Acquire) => Some(Answer::text(503, "draining\n")),
            ("GET", "/healthz") => Some(Answer::text(200, "ok\n")),
            ("GET", "/metrics") if peer.ip().to_canonical().is_loopback() => Some(self.show_metrics()),
            _ => None,
        }
    }

    fn show_metrics(&self) -> Answer {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Answer { content_type, ..Answer::text(200, text) }
            }
            Err(error) => Answer::text(500, format!("{error}\n")),
        }
    }

    fn offered(&self, found: Match, parts: &Parts) -> Result<(Operation, &'static str, Vec<String>), Refusal> {
        let (operation, text) = match found {
            Match::Offered(operation, name, parameters) => return Ok((operation, name, parameters)),
            Match::NotOffered(name) => (name, format!("Tidegate does not offer {name} yet")),
            Match::Unknown => (UNKNOWN, format!("There is no operation {} {}", parts.method, parts.uri.path())),
        };
        self.metrics.not_offered.get_or_create(&Asked { operation }).inc();
        Err(Refusal::new(Exception::UnknownOperation, text))
    }

    fn body_bytes_max(&self, operation: Operation) -> u64 {
        match operation {
            Operation::CreateFunction | Operation::UpdateFunctionCode => self.limits.deploy_request_bytes,
            Operation::GetFunction
            | Operation::GetFunctionConfiguration
            | Operation::UpdateFunctionConfiguration
            | Operation::ListFunctions
            | Operation::DeleteFunction
            | Operation::PutProvisionedConcurrencyConfig
            | Operation::GetProvisionedConcurrencyConfig
            | Operation::ListProvisionedConcurrencyConfigs
            | Operation::DeleteProvisionedConcurrencyConfig
            | Operation::PublishVersion
            | Operation::ListVersionsByFunction
            | Operation::CreateAlias
            | Operation::GetAlias
            | Operation::UpdateAlias
            | Operation::ListAliases
            | Operation::DeleteAlias
            | Operation::TagResource
            | Operation::UntagResource
            | Operation::ListTags
            | Operation::GetAccountSettings
            | Operation::PutFunctionConcurrency
            | Operation::GetFunctionConcurrency
            | Operation::DeleteFunctionConcurrency
            | Operation::Invoke
            | Operation::GetSettings
            | Operation::PutSettings
            | Operation::GetScaling
            | Operation::PutScaling
            | Operation::DeleteScaling
            | Operation::WarmUp
            | Operation::ReadLog
            | Operation::Explain
            | Operation::GetPackage => self.limits.request_payload_bytes,
        }
    }

    /// Waits until there is memory for a large package.
    async fn turn_for_large_body(&self, operation: Operation, body: &Incoming) -> Option<SemaphorePermit<'_>> {
        let carries_package = matches!(operation, Operation::CreateFunction | Operation::UpdateFunctionCode);
        let small = body.size_hint().exact().is_some_and(|bytes| bytes <= LARGE_BODY_BYTES);
        match carries_package && !small {
            true => self.large_bodies.acquire().await.ok(),
            false => None,
        }
    }

    /// Waits until there is memory for a body that is not known yet to come from somebody who may send one. Its whole
    /// length is set aside at once, so that bodies which came halfway cannot wait for one another.
    async fn room_for_body(
        &self,
        body: &Incoming,
        bytes_max: u64,
        time: Duration,
    ) -> Result<Option<SemaphorePermit<'_>>, Refusal> {
        let bytes = body.size_hint().exact().unwrap_or(bytes_max);
        // A body that is too large is not kept, only its first part may be.
        let units = body_units(bytes.min(bytes_max).min(self.limits.unchecked_bodies_bytes));
        if bytes == 0 {
            return Ok(None);
        }
        match tokio::time::timeout(time, self.unchecked_bodies.acquire_many(units)).await {
            // The semaphore is never closed.
            Ok(room) => Ok(room.ok()),
            Err(_) => {
                let text = "Too many request bodies are being read; try again.";
                let mut refusal = Refusal::new(Exception::ServiceUnavailable, text);
                refusal.retry_after_s = Some(1);
                Err(refusal)
            }
        }
    }

    async fn verify(&self, parts: &Parts, body: &Bytes) -> Result<(), Refusal> {
        // Without demanded signatures nobody looks at the hash.
        let hash = match self.mode {
            Mode::Open => None,
            Mode::Required if body.is_empty() => None,
            Mode::Required => Some(sha256_hex(body.clone()).await?),
        };
        let request = signed(parts, hash.as_deref());
        auth::verify(&self.keys, &request, now_s(), self.place.region.as_str(), self.mode)?;
        Ok(())
    }

    async fn dispatch(&self, operation: Operation, call: Call) -> Result<Answer, Refusal> {
        match operation {
            Operation::Invoke => invoke::invoke(self, call).await,
            Operation::CreateFunction => functions::create(self, call).await,
            Operation::GetFunction => functions::get(self, call).await,
            Operation::GetFunctionConfiguration => functions::get_configuration(self, call).await,
            Operation::UpdateFunctionCode => functions::update_code(self, call).await,
            Operation::UpdateFunctionConfiguration => functions::update_configuration(self, call).await,
            Operation::ListFunctions => functions::list(self, call).await,
            Operation::DeleteFunction => functions::delete(self, call).await,
            Operation::PutProvisionedConcurrencyConfig => provisioned::put(self, call).await,
            Operation::GetProvisionedConcurrencyConfig => provisioned::get(self, call).await,
            Operation::ListProvisionedConcurrencyConfigs => provisioned::list(self, call).await,
            Operation::DeleteProvisionedConcurrencyConfig => provisioned::delete(self, call).await,
            Operation::PublishVersion => versions::publish(self, call).await,
            Operation::ListVersionsByFunction => versions::list(self, call).await,
            Operation::CreateAlias => aliases::create(self, call).await,
            Operation::GetAlias => aliases::get(self, call).await,
            Operation::UpdateAlias => aliases::update(self, call).await,
            Operation::ListAliases => aliases::list(self, call).await,
            Operation::DeleteAlias => aliases::delete(self, call).await,
            Operation::TagResource => tags::tag(self, call).await,
            Operation::UntagResource => tags::untag(self, call).await,
            Operation::ListTags => tags::list(self, call).await,
            Operation::GetAccountSettings => account::settings(self).await,
            Operation::PutFunctionConcurrency => concurrency::put(self, call).await,
            Operation::GetFunctionConcurrency => concurrency::get(self, call).await,
            Operation::DeleteFunctionConcurrency => concurrency::delete(self, call).await,
            Operation::GetSettings => settings::get(self, call).await,
            Operation::PutSettings => settings::put(self, call).await,
            Operation::GetScaling => scaling::get(self, call).await,
            Operation::PutScaling => scaling::put(self, call).await,
            Operation::DeleteScaling => scaling::delete(self, call).await,
            Operation::WarmUp => scaling::warm_up(self, call).await,
            Operation::ReadLog => own_api::read_log(self, call).await,
            Operation::Explain => explain::explain(self, call).await,
            Operation::GetPackage => own_api::get_package(self, call).await,
        }
    }
}

/// Whole units for a number of bytes.
fn body_units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BODY_UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn signed<'a>(parts: &'a Parts, body_sha256_hex: Option<&'a str>) -> auth::Request<'a> {
    auth::Request {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or(""),
        headers: &parts.headers,
        authority: parts.uri.authority().map(|authority| authority.as_str()),
        body_sha256_hex,
    }
}

fn host(parts: &Parts) -> String {
    let header = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    header.or_else(|| parts.uri.authority().map(|a| a.as_str())).unwrap_or("localhost").to_owned()
}

async fn sha256_hex(body: Bytes) -> Result<String, Refusal> {
    let bytes = body.len();
    let hash = move || model::Digest(Sha256::digest(&body).into()).to_string();
    by_size(bytes, hash).await
}

/// Does work on the CPU that takes as long as its input of `bytes` is large: at once, or where it holds up nobody.
pub async fn by_size<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    if bytes <= AT_ONCE_BYTES_MAX {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::platform(&error))
}

fn unread(error: ReadError, operation: &str, bytes_max: u64) -> Refusal {
    match error {
        ReadError::TooLarge => {
            let exception = match operation {
                "Invoke" => Exception::RequestTooLarge,
                _ => Exception::RequestEntityTooLarge,
            };
            // Recorded so: Invoke is called by its longer name here.
            let operation = if operation == "Invoke" { "InvokeFunction" } else { operation };
            let text = format!("Request must be smaller than {bytes_max} bytes for the {operation} operation");
            Refusal::new(exception, text)
        }
        ReadError::Slow => Refusal::new(Exception::RequestTimeout, "The request's body did not arrive in time."),
        ReadError::Broken => Refusal::new(Exception::InvalidRequestContent, "The request's body ended early."),
    }
}

fn respond(result: Result<Answer, Refusal>, id: &str) -> Response<body::Answer> {
    let (answer, error_type) = match result {
        Ok(answer) => (answer, None),
        Err(refusal) => {
            let mut answer = Answer::json(refusal.status, refusal.body());
            if let Some(seconds) = refusal.retry_after_s {
                answer.headers.push((RETRY_AFTER, HeaderValue::from(seconds)));
            }
            (answer, Some(refusal.error_type))
        }
    };
    let mut response = Response::new(answer.body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if !answer.content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(error_type) = error_type {
        headers.insert(ERROR_TYPE, HeaderValue::from_static(error_type));
    }
    headers.extend(answer.headers);
    response
}

/// `None` if the work panicked. The defect stays inside one request.
async fn catch_panic<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(result)) => Poll::Ready(Some(result)),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Counts a request while it is carried.
struct InFlight(Gauge);

impl InFlight {
    fn new(metrics: &Metrics) -> InFlight {
        metrics.in_flight.inc();
        InFlight(metrics.in_flight.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_only_its_own_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(catch_panic(pin!(async { 1 }))), Some(1));
        let defect = async {
            tokio::task::yield_now().await;
            if true {
                panic!("on purpose");
            }
        };
        assert_eq!(runtime.block_on(catch_panic(pin!(defect))), None);
    }

    #[test]
    fn a_request_sets_little_memory_aside() {
        fn bytes<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        // As much for each connection, whatever it asks for.
        let answer = bytes(|gateway: Arc<Gateway>, request: Request<Incoming>, peer| gateway.answer(request, peer));
        assert!(answer <= 4_096, "{answer} bytes");
    }
}
