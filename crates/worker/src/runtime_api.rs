//! The Runtime API for custom runtimes: HTTP on a socket that lives inside the instance's own network namespace.
//!
//! The guest drives: it calls `next` and is parked until an invocation comes. A `Session` holds where it stands.

use crate::guest::Answer;
use crate::outcomes::Ending;
use api::runtime_api::{
    ACCEPTED, CLIENT_CONTEXT, DEADLINE_MS, ERROR_TYPE, ErrorBody, INVOKED_ARN, PREFIX, REQUEST_ID, TRACE_ID, error_type,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::invocation::Invocation;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

/// Connections that one guest may hold open; further ones wait. Runtimes use one or two.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of an Init error; more is refused.
const INIT_ERROR_BYTES_MAX: u64 = 262_144;
/// Bodies up to this size, by their own word, are read without asking.
const SMALL_BODY_BYTES: u64 = 65_536;
/// Larger bodies that are read at the same time, over all instances; further ones wait.
const LARGE_BODIES_MAX: usize = 64;
/// How long a guest may take to send a body.
const BODY_READ: Duration = Duration::from_secs(10);
/// How long a guest may take to send a request's headers.
const HEADER_READ: Duration = Duration::from_secs(10);
/// The size of hyper's buffer for one guest connection.
const BUFFER_BYTES: usize = 65_536;

/// Where the guest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It has not called `next` yet.
    Init,
    /// It reported that Init failed.
    InitFailed(Ending),
    /// It waits in `next`.
    Parked,
    /// It has an invocation and has not answered.
    Running(Arc<str>),
    /// It has answered and has not called `next` yet.
    Answered(Arc<str>),
}

/// The Runtime API of one instance.
#[derive(Debug)]
pub struct Session {
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    response_bytes_max: u64,
    large_bodies: Arc<Semaphore>,
    /// One large body at a time of this guest, so that a few guests cannot hold all turns of the others.
    large_body: Semaphore,
}

/// The right to read large bodies, shared by all instances.
pub fn large_bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LARGE_BODIES_MAX))
}

/// A session with its accepting task. The listener keeps the sandbox's network namespace alive, so it must go with it.
pub struct Served {
    /// The session.
    pub session: Arc<Session>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Inner {
    parked: Option<oneshot::Sender<Handover>>,
    answer: Option<oneshot::Sender<Answer>>,
}

/// What `next` answers.
#[derive(Debug)]
struct Handover {
    headers: HeaderMap,
    payload: Bytes,
}

impl Session {
    /// A guest in its Init.
    pub fn new(response_bytes_max: u64, large_bodies: Arc<Semaphore>) -> Arc<Session> {
        let phase = watch::Sender::new(Phase::Init);
        let large_body = Semaphore::new(1);
        Arc::new(Session { inner: Mutex::default(), phase, response_bytes_max, large_bodies, large_body })
    }

    /// Serves the guest, until the result is dropped.
    pub fn serve(self: Arc<Session>, listener: TcpListener) -> Served {
        let task = tokio::spawn(self.clone().accept(listener));
        Served { session: self, task }
    }

    async fn accept(self: Arc<Session>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let session = self.clone();
                    tokio::spawn(async move {
                        session.connection(stream).await;
                        drop(permit);
                    });
                }
                // Out of files, or the guest has reset: the guest sees a slow accept, nobody else is touched.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Waits for the end of Init.
    pub async fn initialised(&self) -> Result<(), Ending> {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|p| *p != Phase::Init).await;
        match phase.as_deref() {
            Ok(Phase::InitFailed(ending)) => Err(ending.clone()),
            Ok(_) => Ok(()),
            // The sender lives in `self`: this cannot be.
            Err(_) => Err(Ending::ProtocolBroken),
        }
    }

    /// Waits until the guest asks for work and hands it the invocation; the answer will come through the receiver.
    pub async fn hand_over(&self, invocation: &Invocation, deadline_ms: u64) -> oneshot::Receiver<Answer> {
        loop {
            self.parked().await;
            let mut inner = self.lock();
            let (answer, answered) = oneshot::channel();
            let handover = Handover { headers: headers(invocation, deadline_ms), payload: invocation.payload.clone() };
            self.phase.send_replace(Phase::Running(invocation.id.0.clone()));
            if inner.parked.take().is_some_and(|parked| parked.send(handover).is_ok()) {
                inner.answer = Some(answer);
                return answered;
            }
            // Its connection is gone: it never saw the invocation and will ask again.
            self.phase.send_replace(Phase::Answered("".into()));
        }
    }

    /// Waits until the guest is parked in `next`.
    pub async fn parked(&self) {
        let mut phase = self.phase.subscribe();
        // An error is impossible while `self` lives.
        let _ = phase.wait_for(|p| *p == Phase::Parked).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self: Arc<Session>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let service = hyper::service::service_fn(|request| {
            let session = self.clone();
            async move { Ok::<_, Infallible>(session.call(request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a guest's connection ended badly");
        }
    }

    async fn call(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path == "/ping" || path == "/2018-06-01/ping" {
            return text(StatusCode::OK, "pong");
        }
        let Some(rest) = path.strip_prefix(PREFIX) else { return unknown_path() };
        let steps: Vec<&str> = rest.split('/').collect();
        match (&head.method, steps.as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => self.response(id, body).await,
            (&Method::POST, ["invocation", id, "error"]) => self.error(id, &head.headers, body).await,
            (&Method::POST, ["init", "error"]) => self.init_error(&head.headers, body).await,
            (_, ["invocation", "next"] | ["invocation", _, "response" | "error"] | ["init", "error"]) => {
                refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "Method not allowed")
            }
            _ => unknown_path(),
        }
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        let handover = {
            let mut inner = self.lock();
            let phase = self.phase.borrow().clone();
            match phase {
                Phase::Running(_) => return refuse_move("Running", "Ready"),
                Phase::InitFailed(_) => return refuse_move("InitError", "Ready"),
                // A second `next` replaces the first: the guest has reconnected.
                Phase::Init | Phase::Parked | Phase::Answered(_) => {}
            }
            let (parked, handover) = oneshot::channel();
            inner.parked = Some(parked);
            self.phase.send_replace(Phase::Parked);
            handover
        };
        match handover.await {
            Ok(Handover { headers, payload }) => {
                let mut response = Response::new(Full::new(payload));
                *response.headers_mut() = headers;
                response
            }
            Err(_) => refuse(StatusCode::GONE, "Replaced", "Another call to next has taken this one's place"),
        }
    }

    async fn response(&self, id: &str, body: Incoming) -> Response<Full<Bytes>> {
        if let Some(refusal) = self.refusal(id, "InvocationResponse") {
            return refusal;
        }
        match self.read(body, self.response_bytes_max).await {
            Read::Whole(payload) => self.answer(id, Answer::Success(payload), "InvocationResponse"),
            Read::TooLong => {
                let refusal = format!("Exceeded maximum allowed payload size ({} bytes).", self.response_bytes_max);
                self.answer(id, Answer::Ended(Ending::ResponseTooLarge), "InvocationResponse");
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &refusal)
            }
            Read::Cut => refuse(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "The request body is incomplete"),
        }
    }

    async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        if let Some(refusal) = self.refusal(id, "InvocationErrorResponse") {
            return refusal;
        }
        match self.read(body, self.response_bytes_max).await {
            Read::Whole(payload) => {
                let ending = Ending::Reported { error_type: reported_type(headers), payload };
                self.answer(id, Answer::Ended(ending), "InvocationErrorResponse")
            }
            Read::TooLong => {
                self.answer(id, Answer::Ended(Ending::ResponseTooLarge), "InvocationErrorResponse");
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "The error is too large")
            }
            Read::Cut => refuse(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "The request body is incomplete"),
        }
    }

    async fn init_error(&self, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        if *self.phase.borrow() != Phase::Init {
            return refuse_move("Ready", "InitError");
        }
        let payload = match self.read(body, INIT_ERROR_BYTES_MAX).await {
            Read::Whole(payload) => payload,
            Read::TooLong => {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "The error is too large");
            }
            Read::Cut => {
                return refuse(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "The request body is incomplete");
            }
        };
        let ending = Ending::Reported { error_type: reported_type(headers), payload };
        let moved = self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Init;
            if first {
                *phase = Phase::InitFailed(ending);
            }
            first
        });
        if moved { accepted() } else { refuse_move("Ready", "InitError") }
    }

    /// Why an answer to `id` cannot be taken now.
    fn refusal(&self, id: &str, to: &str) -> Option<Response<Full<Bytes>>> {
        match &*self.phase.borrow() {
            Phase::Running(current) if **current == *id => None,
            Phase::Answered(current) if **current == *id => Some(refuse_move("InvocationResponse", to)),
            Phase::Running(_) | Phase::Answered(_) | Phase::Parked | Phase::Init | Phase::InitFailed(_) => {
                Some(refuse(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"))
            }
        }
    }

    fn answer(&self, id: &str, answer: Answer, to: &str) -> Response<Full<Bytes>> {
        let mut inner = self.lock();
        // The body took time: look again.
        if let Some(refusal) = self.refusal(id, to) {
            return refusal;
        }
        self.phase.send_replace(Phase::Answered(id.into()));
        if let Some(waiting) = inner.answer.take() {
            // Nobody waits any more if the deadline has passed.
            let _ = waiting.send(answer);
        }
        accepted()
    }

    async fn read(&self, body: Incoming, bytes_max: u64) -> Read {
        let large = body.size_hint().upper().is_none_or(|bytes| bytes > SMALL_BODY_BYTES);
        let reading = async {
            // Neither semaphore is ever closed.
            let _turn = if large { self.large_body.acquire().await.ok() } else { None };
            let _right = if large { self.large_bodies.acquire().await.ok() } else { None };
            Limited::new(body, bytes_max as usize).collect().await
        };
        match tokio::time::timeout(BODY_READ, reading).await {
            Ok(Ok(whole)) => Read::Whole(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Read::TooLong,
            Ok(Err(_)) | Err(_) => Read::Cut,
        }
    }
}

enum Read {
    Whole(Bytes),
    TooLong,
    Cut,
}

fn headers(invocation: &Invocation, deadline_ms: u64) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let deadline = deadline_ms.to_string();
    let pairs = [
        (REQUEST_ID, Some(&*invocation.id.0)),
        (DEADLINE_MS, Some(deadline.as_str())),
        (INVOKED_ARN, Some(invocation.invoked_arn.as_str())),
        (TRACE_ID, Some(invocation.trace_id.as_str())),
        (CLIENT_CONTEXT, invocation.client_context.as_deref()),
    ];
    for (name, value) in pairs {
        // A value that no header can hold is left out; the gateway has bounded and checked them.
        if let Some(value) = value.and_then(|v| HeaderValue::from_bytes(v.as_bytes()).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

fn reported_type(headers: &HeaderMap) -> String {
    let given = headers.get(ERROR_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    error_type(given).to_owned()
}

fn accepted() -> Response<Full<Bytes>> {
    json(StatusCode::ACCEPTED, Bytes::from_static(ACCEPTED.as_bytes()))
}

fn unknown_path() -> Response<Full<Bytes>> {
    refuse(StatusCode::NOT_FOUND, "NotFound", "No such path in the Runtime API")
}

fn refuse_move(from: &str, to: &str) -> Response<Full<Bytes>> {
    let message =
        format!("State transition from {from} to {to} failed for runtime. Error: State transition is not allowed");
    refuse(StatusCode::FORBIDDEN, "InvalidStateTransition", &message)
}

fn refuse(status: StatusCode, error_type: &str, error_message: &str) -> Response<Full<Bytes>> {
    // Two strings: writing them cannot fail.
    json(status, serde_json::to_vec(&ErrorBody { error_type, error_message }).unwrap_or_default().into())
}

fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response
}
