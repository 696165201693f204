//! The Runtime API for custom runtimes: HTTP on a socket that lives inside the instance's own network namespace.
//!
//! The guest drives: it calls `next` and is parked until an invocation comes. A `Session` holds where it stands. A guest
//! that runs several invocations at a time has several calls of `next` waiting.

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
use hyper_util::rt::TokioIo;
use model::invocation::Invocation;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

/// Connections that one guest may hold open beside one for each slot; further ones wait. Runtimes use one or two.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of an Init error; more is refused.
const INIT_ERROR_BYTES_MAX: u64 = 262_144;
/// Bodies up to this size, by their own word, are read without asking.
const SMALL_BODY_BYTES: u64 = 65_536;
/// Larger bodies that are read at the same time, over all instances; further ones wait.
const LARGE_BODIES_MAX: usize = 64;
/// How long a guest may take to send a body.
const BODY_READ: Duration = Duration::from_secs(10);
/// The size of hyper's buffer for one guest connection.
const BUFFER_BYTES: usize = 65_536;

/// How Init has ended, if it has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The guest has not called `next` yet.
    Init,
    /// It reported that Init failed.
    InitFailed(Ending),
    /// It has called `next`.
    Ready,
}

/// The Runtime API of one instance.
#[derive(Debug)]
pub struct Session {
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    /// Told each time the guest calls `next`.
    arrivals: Notify,
    /// Invocations at a time; each call of `next` that waits or has an invocation is one.
    slots: usize,
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
    /// Calls of `next` that wait, oldest first. With `running` no more than there are slots.
    parked: VecDeque<oneshot::Sender<Handover>>,
    /// What the guest has and has not answered, by request id.
    running: HashMap<Arc<str>, oneshot::Sender<Answer>>,
    /// The newest answer, until the guest asks for more work.
    answered: Option<Arc<str>>,
}

/// What `next` answers.
#[derive(Debug)]
struct Handover {
    headers: HeaderMap,
    payload: Bytes,
}

impl Session {
    /// A guest in its Init.
    pub fn new(response_bytes_max: u64, slots: u32, large_bodies: Arc<Semaphore>) -> Arc<Session> {
        Arc::new(Session {
            inner: Mutex::default(),
            phase: watch::Sender::new(Phase::Init),
            arrivals: Notify::new(),
            slots: slots.max(1) as usize,
            response_bytes_max,
            large_bodies,
            large_body: Semaphore::new(1),
        })
    }

    /// Serves the guest, until the result is dropped.
    pub fn serve(self: Arc<Session>, listener: TcpListener) -> Served {
        let task = tokio::spawn(self.clone().accept(listener));
        Served { session: self, task }
    }

    async fn accept(self: Arc<Session>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX + self.slots - 1));
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
        let id = &invocation.id.0;
        let mut handover = Handover { headers: headers(invocation, deadline_ms), payload: invocation.payload.clone() };
        loop {
            {
                let mut inner = self.lock();
                while let Some(parked) = inner.parked.pop_front() {
                    let (answer, answered) = oneshot::channel();
                    // Noted first: the answer may come at once.
                    inner.running.insert(id.clone(), answer);
                    match parked.send(handover) {
                        Ok(()) => {
                            if !inner.parked.is_empty() {
                                self.arrivals.notify_one();
                            }
                            return answered;
                        }
                        // Its connection is gone: it never saw the invocation and will ask again.
                        Err(back) => handover = back,
                    }
                    inner.running.remove(id);
                }
            }
            self.arrivals.notified().await;
        }
    }

    /// Whether the guest can take the next invocation. One that runs several at a time comes back on its own time.
    pub fn has_settled(&self) -> bool {
        self.slots > 1 || !self.lock().parked.is_empty()
    }

    /// Waits until the guest is parked in `next`.
    pub async fn parked(&self) {
        while self.lock().parked.is_empty() {
            self.arrivals.notified().await;
        }
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
            // hyper would count the time in which the guest runs an invocation, too. Who is slow with a head holds one
            // of its own connections.
            .header_read_timeout(None)
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
        if let Phase::InitFailed(_) = &*self.phase.borrow() {
            return refuse_move("InitError", "Ready");
        }
        let handover = {
            let mut inner = self.lock();
            inner.parked.retain(|parked| !parked.is_closed());
            if inner.parked.len() + inner.running.len() >= self.slots {
                // A further `next` replaces the oldest: the guest has reconnected.
                match inner.parked.pop_front() {
                    Some(replaced) => drop(replaced),
                    None => return refuse_move("Running", "Ready"),
                }
            }
            let (parked, handover) = oneshot::channel();
            inner.parked.push_back(parked);
            inner.answered = None;
            handover
        };
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Init;
            if first {
                *phase = Phase::Ready;
            }
            first
        });
        self.arrivals.notify_one();
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
        if let Some(refusal) = Self::refusal(&self.lock(), id, "InvocationResponse") {
            return refusal;
        }
        match self.read(body, self.response_bytes_max).await {
            Read::Whole(payload) => {
                let accepted = self.answer(id, Answer::Success(payload), "InvocationResponse");
                // Whoever waits for the answer comes first: the guest has time until it is told that it was taken.
                tokio::task::yield_now().await;
                accepted
            }
            Read::TooLong => {
                let refusal = format!("Exceeded maximum allowed payload size ({} bytes).", self.response_bytes_max);
                self.answer(id, Answer::Ended(Ending::ResponseTooLarge), "InvocationResponse");
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &refusal)
            }
            Read::Cut => refuse(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "The request body is incomplete"),
        }
    }

    async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        if let Some(refusal) = Self::refusal(&self.lock(), id, "InvocationErrorResponse") {
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
    fn refusal(inner: &Inner, id: &str, to: &str) -> Option<Response<Full<Bytes>>> {
        if inner.running.contains_key(id) {
            return None;
        }
        match &inner.answered {
            Some(answered) if **answered == *id => Some(refuse_move("InvocationResponse", to)),
            Some(_) | None => Some(refuse(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID")),
        }
    }

    fn answer(&self, id: &str, answer: Answer, to: &str) -> Response<Full<Bytes>> {
        let mut inner = self.lock();
        // The body took time: look again.
        if let Some(refusal) = Self::refusal(&inner, id, to) {
            return refusal;
        }
        if let Some((id, waiting)) = inner.running.remove_entry(id) {
            inner.answered = Some(id);
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
