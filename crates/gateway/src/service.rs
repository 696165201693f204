//! Connections: taken up to a limit, given time to speak, and drained at the end.

use crate::Auth;
use crate::metrics::Metrics;
use crate::request::Gateway;
use crate::silence::{Clock, Watched};
use crate::tls::Tls;
use crate::validation::references::Place;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use model::{AccountId, Limits, Region};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Pause after the system refused to take a connection, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 requests at once on one connection, ours.
const STREAMS_MAX: u32 = 256;
/// How often a silent HTTP/2 connection is asked whether it lives.
const PING: Duration = Duration::from_secs(30);
/// What the drain waits for beyond the running invocations: answers on their way out.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// What the gateway is made of.
pub struct Config {
    /// All limits.
    pub limits: Limits,
    /// Who is let in.
    pub auth: Auth,
    /// Whether connections are encrypted.
    pub tls: Option<Tls>,
    /// The one account.
    pub account: AccountId,
    /// The one region.
    pub region: Region,
    /// Carries invocations.
    pub router: router::Handle,
    /// Carries management operations.
    pub control: control::Handle,
    /// Shown at `/metrics`. Others have registered theirs by now; the gateway adds its own.
    pub registry: Registry,
}

/// The loop.
pub struct Service {
    gateway: Arc<Gateway>,
    tls: Option<Tls>,
}

/// The cheap, cloneable way to the gateway.
#[derive(Clone)]
pub struct Handle {
    gateway: Arc<Gateway>,
}

impl Handle {
    /// From now on `/healthz` answers 503, so that balancers look elsewhere; requests are still answered.
    pub fn drain(&self) {
        self.gateway.draining.store(true, Ordering::Release);
    }
}

impl Service {
    /// Builds the gateway.
    pub fn new(mut config: Config) -> (Service, Handle) {
        let metrics = Metrics::register(&mut config.registry);
        let place = Place { account: config.account, region: config.region };
        let Config { limits, auth, router, control, registry, tls, .. } = config;
        let mut gateway = Gateway::new(limits, auth, place, router, control, registry, metrics);
        gateway.encrypted = tls.is_some();
        let gateway = Arc::new(gateway);
        (Service { gateway: gateway.clone(), tls }, Handle { gateway })
    }

    /// Serves until `shutdown` is ready; then takes no more connections, lets requests in flight finish for at most
    /// `Limits::drain_ms`, and returns.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let Service { gateway, tls } = self;
        let permits = Arc::new(Semaphore::new(gateway.limits.connections));
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let renewing = tls.clone().map(|tls| tokio::spawn(tls.follow()));
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &permits) => accepted,
            };
            while connections.try_join_next().is_some() {}
            let Some((stream, peer, permit)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let acceptor = tls.as_ref().map(Tls::acceptor);
            connections.spawn(connection(gateway.clone(), (stream, acceptor), peer, stopping.clone(), permit));
        }
        drop(listener);
        renewing.inspect(JoinHandle::abort);
        gateway.draining.store(true, Ordering::Release);
        // Without connections nobody listens, and that is fine.
        let _ = stop.send(true);
        let drain = Duration::from_millis(gateway.limits.drain_ms) + DRAIN_SLACK;
        let drained = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(connections = connections.len(), "connections were cut off at the end of the drain");
        }
        connections.shutdown().await;
    }
}

/// `None` if the system refused.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot take a connection");
            None
        }
    }
}

/// Carries one connection to its end.
async fn connection(
    gateway: Arc<Gateway>,
    (stream, acceptor): (TcpStream, Option<TlsAcceptor>),
    peer: SocketAddr,
    stopping: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    // Answers are small and should not wait for more to send.
    let _ = stream.set_nodelay(true);
    let _counted = Counted::new(&gateway);
    let clock = Clock::new(&gateway.limits);
    let stream = Watched::new(stream, clock.clone());
    let Some(acceptor) = acceptor else { return serve(gateway, stream, clock, peer, stopping).await };
    // The clock has run since the connection was made: a client owes its handshake and its first head together.
    let shaken = tokio::select! {
        biased;
        shaken = acceptor.accept(stream) => shaken,
        () = clock.ran_out() => return,
    };
    match shaken {
        Ok(stream) => serve(gateway, stream, clock, peer, stopping).await,
        Err(error) => tracing::debug!(%peer, %error, "a handshake failed"),
    }
}

/// Carries the requests of one connection, whose bytes move `clock`.
async fn serve(
    gateway: Arc<Gateway>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    clock: Clock,
    peer: SocketAddr,
    mut stopping: watch::Receiver<bool>,
) {
    let service = {
        let (gateway, clock) = (gateway.clone(), clock.clone());
        service_fn(move |request: Request<Incoming>| {
            let in_service = clock.request(request.version() == Version::HTTP_2);
            let gateway = gateway.clone();
            async move {
                let _in_service = in_service;
                Ok::<_, Infallible>(gateway.answer(request, peer).await)
            }
        })
    };
    let builder = builder(&gateway.limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut silence = pin!(clock.ran_out());
    let mut told = false;
    loop {
        tokio::select! {
            // The clock is read after the connection has moved it.
            biased;
            ended = connection.as_mut() => {
                return ended.unwrap_or_else(|error| tracing::debug!(%peer, error = &*error, "a connection broke"));
            }
            _ = stopping.wait_for(|stop| *stop), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut silence => return,
        }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        // Our own clock does it; see `silence`.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(HYPER_BUFFER_BYTES_MIN));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// hyper panics when asked for a smaller one.
const HYPER_BUFFER_BYTES_MIN: usize = 8_192;

/// Counts a connection while it lives.
struct Counted(Metrics);

impl Counted {
    fn new(gateway: &Gateway) -> Counted {
        gateway.metrics.connections.inc();
        Counted(gateway.metrics.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
