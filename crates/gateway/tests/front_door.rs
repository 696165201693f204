//! The gateway with the real router, `control` and store behind it, over real connections. In place of a worker stands
//! a function that answers as each test says.

use arc_swap::ArcSwap;
use gateway::auth::{Key, Keys};
use gateway::{Auth, Config, Handle, Service};
use model::invocation::{Completed, Invocation, Report};
use model::{AccountId, Limits, Outcome, Region};
use prometheus_client::registry::Registry;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

/// Bounds every wait of these tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// A zip of one executable `bootstrap`, base64.
const ZIP: &str = "UEsDBBQAAAAAAAAAIVwdnfsECgAAAAoAAAAJAAAAYm9vdHN0cmFwIyEvYmluL3NoClBLAQIUAxQAAAAAAAAAIVwdnfsECgAAAAoAAAAJAAAAAAAAAAAAAADtAQAAAABib290c3RyYXBQSwUGAAAAAAEAAQA3AAAAMQAAAAAA";
/// As `--no-auth` makes it.
const OPEN: Auth = Auth::Open { public: false };
const FUNCTIONS: &str = "/2015-03-31/functions";

struct Server {
    address: SocketAddr,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
    _dir: TempDir,
}

async fn serve(limits: Limits, auth: Auth, worker: router::Worker) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let (snapshot, shares) = (Arc::new(ArcSwap::default()), Arc::new(ArcSwap::default()));
    let (account, region) = (AccountId::parse("000000000000").unwrap(), Region::parse("us-east-1").unwrap());
    let (_service, control) = control::Service::new(control::Config {
        account: account.clone(),
        region: region.clone(),
        limits: limits.clone(),
        s3: None,
        store: store::Store::open(dir.path()).unwrap(),
        snapshot: snapshot.clone(),
        shares: shares.clone(),
        shares_changed: Box::new(|| {}),
        changed: Box::new(|_| {}),
        interpreters: watch::channel(None).1,
        take_snapshot: Box::new(|_| Box::pin(async { Ok(true) })),
        in_use: Box::new(|_| false),
        last_invoked: Box::new(|_| None),
        provision: Box::new(|_, _| true),
        provisioned: Box::new(|_| None),
        warm_up: Box::new(|_, _| true),
    })
    .unwrap();
    let router = router::Config { snapshot, shares, limits: router::Limits::of(&limits), worker };
    let router = router::Handle::new(router);
    let (service, handle) = {
        let registry = Registry::default();
        Service::new(Config { limits, auth, tls: None, account, region, router, control, registry })
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(service.run(listener, async { drop(stopped.await) }));
    Server { address, handle, stop: Some(stop), ended, _dir: dir }
}

/// Answers every invocation with its own payload.
fn echo() -> router::Worker {
    Arc::new(|invocation, _| Box::pin(async move { Ok(completed(invocation)) }))
}

fn completed(invocation: Invocation) -> Completed {
    let outcome = Outcome::Success { payload: invocation.payload };
    Completed { outcome, report: Report::default(), log_tail: "START\n".into() }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Server {
    /// Sends raw bytes on a connection of their own and reads what comes until the server closes it.
    async fn raw(&self, bytes: Vec<u8>) -> String {
        let address = self.address;
        let exchange = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The server may refuse before it has read everything.
            let _ = stream.write_all(&bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        });
        exchange.await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        let text = self.raw([head.as_bytes(), body].concat()).await;
        let (head, body) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn create(&self, name: &str) {
        let body = format!(
            r#"{{"FunctionName":"{name}","Runtime":"provided.al2023","Role":"arn:aws:iam::000000000000:role/r","Handler":"h","Code":{{"ZipFile":"{ZIP}"}}}}"#
        );
        let reply = self.send("POST", FUNCTIONS, "", body.as_bytes()).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let active = async {
            while !self.send("GET", &format!("{FUNCTIONS}/{name}"), "", b"").await.body.contains(r#""State":"Active""#)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, active).await.unwrap();
    }

    async fn invoke(&self, name: &str, headers: &str, body: &[u8]) -> Reply {
        self.send("POST", &format!("{FUNCTIONS}/{name}/invocations"), headers, body).await
    }

    async fn metric(&self, line: &str) -> bool {
        self.send("GET", "/metrics", "", b"").await.body.lines().any(|l| l == line)
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.ended).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_from_creation_to_deletion() {
    let server = serve(Limits::default(), OPEN, echo()).await;
    server.create("f").await;
    let reply = server.invoke("f", "x-amz-log-type: Tail\r\n", br#"{"a":1}"#).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"a":1}"#));
    assert_eq!(reply.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(reply.header("x-amz-log-result"), Some("U1RBUlQK"));
    assert_eq!(reply.header("x-amz-function-error"), None);
    assert!(reply.header("x-amzn-requestid").is_some() && reply.header("x-amzn-trace-id").is_some());
    assert_eq!(server.invoke("f", "", b"").await.body, "{}");
    assert_eq!(server.invoke("f", "x-amz-invocation-type: DryRun\r\n", b"").await.status, 204);
    let found = server.send("GET", &format!("{FUNCTIONS}/f"), "", b"").await.body;
    let location = found.split(r#""Location":"http://localhost"#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let package = server.send("GET", &location, "", b"").await;
    assert_eq!((package.status, package.header("content-length")), (200, Some("126")));
    assert!(package.body.starts_with("PK"));
    assert_eq!(server.send("DELETE", &format!("{FUNCTIONS}/f"), "", b"").await.status, 204);
    let missing = server.invoke("f", "", b"").await;
    assert_eq!((missing.status, missing.header("x-amzn-errortype")), (404, Some("ResourceNotFoundException")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_too_large_or_too_slow() {
    let limits =
        Limits { request_payload_bytes: 100, deploy_request_bytes: 1_000, body_read_ms: 100, ..Limits::default() };
    let server = serve(limits, OPEN, echo()).await;
    let check = |reply: Reply, error: &str, text: &str| {
        assert_eq!((reply.status, reply.header("x-amzn-errortype")), (413, Some(error)));
        assert!(reply.body.contains(text), "{}", reply.body);
    };
    let text = "Request must be smaller than 100 bytes for the InvokeFunction operation";
    check(server.invoke("f", "", &[b' '; 101]).await, "RequestTooLargeException", text);
    let text = "Request must be smaller than 1000 bytes for the CreateFunction operation";
    let reply = server.send("POST", FUNCTIONS, "", &vec![b' '; 2_000_000]).await;
    check(reply, "RequestEntityTooLargeException", text);
    // Without a length, in one chunk that is too large.
    let chunked = format!(
        "POST {FUNCTIONS}/f/invocations HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nc8\r\n{}\r\n0\r\n\r\n",
        " ".repeat(200)
    );
    assert!(server.raw(chunked.into_bytes()).await.starts_with("HTTP/1.1 413 "));
    let slow = format!("POST {FUNCTIONS}/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n1");
    assert!(server.raw(slow.into_bytes()).await.starts_with("HTTP/1.1 408 "));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_speak() {
    let limits = Limits { header_read_ms: 100, header_bytes: 8_192, ..Limits::default() };
    let server = serve(limits, OPEN, echo()).await;
    for silence in ["", "G", "GET / HT", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: localhost\r\n"] {
        let answer = server.raw(silence.as_bytes().to_vec()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{silence:?} was answered with {answer:?}");
    }
    let long = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    assert!(server.raw(long.into_bytes()).await.starts_with("HTTP/1.1 431 "));
    server.stop().await;
}

/// Asks for `/healthz`, does what `then` says, and tells how long after that the server closed the connection.
async fn closed_after(address: SocketAddr, then: impl FnOnce(&mut TcpStream) + Send + 'static) -> Duration {
    let wait = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ask(&mut stream);
        then(&mut stream);
        let since = std::time::Instant::now();
        let mut rest = Vec::new();
        // Bytes that the server has not read make it a reset.
        let _ = stream.read_to_end(&mut rest);
        since.elapsed()
    });
    wait.await.unwrap()
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"ok\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_last_longer_than_slow_heads() {
    let limits = Limits { header_read_ms: 300, idle_connection_ms: 1_500, ..Limits::default() };
    let server = serve(limits, OPEN, echo()).await;
    let (idle, again, slow, late) = tokio::join!(
        closed_after(server.address, |_| {}),
        // Used again when the time for a head is over, and then the time counts afresh.
        closed_after(server.address, |stream| {
            std::thread::sleep(Duration::from_millis(700));
            ask(stream);
        }),
        closed_after(server.address, |stream| stream.write_all(b"GET /he").unwrap()),
        closed_after(server.address, |stream| {
            std::thread::sleep(Duration::from_millis(700));
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").unwrap();
        }),
    );
    for kept in [idle, again] {
        assert!((1_400..10_000).contains(&kept.as_millis()), "closed after {kept:?}");
    }
    for cut in [slow, late] {
        assert!((200..1_200).contains(&cut.as_millis()), "closed after {cut:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_invocation_is_no_silence() {
    let worker: router::Worker = Arc::new(|invocation, _| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(completed(invocation))
        })
    });
    let limits = Limits { header_read_ms: 100, idle_connection_ms: 100, ..Limits::default() };
    let server = serve(limits, OPEN, worker).await;
    server.create("f").await;
    assert_eq!(server.invoke("f", "", b"1").await.body, "1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_pages_stay_outside_of_an_open_server() {
    for public in [false, true] {
        let server = serve(Limits::default(), Auth::Open { public }, echo()).await;
        let denied = |reply: Reply| {
            let seen = (reply.status, reply.header("x-amzn-errortype").map(str::to_owned));
            assert_eq!(seen, (403, Some("AccessDeniedException".to_owned())), "{reply:?}");
        };
        // What a browser sends for a form or a script without asking first.
        for page in ["origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
            let headers = format!("content-type: text/plain\r\n{page}");
            denied(server.send("POST", FUNCTIONS, &headers, b"{}").await);
            denied(server.send("OPTIONS", FUNCTIONS, &headers, b"").await);
        }
        let own = "origin: http://localhost\r\nsec-fetch-site: same-origin\r\n";
        assert_eq!(server.send("GET", FUNCTIONS, own, b"").await.status, 200);
        let rebound = "GET /2015-03-31/functions HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
        let answer = server.raw(rebound.into()).await;
        assert!(answer.starts_with(if public { "HTTP/1.1 200 " } else { "HTTP/1.1 403 " }), "{answer}");
        assert_eq!(server.send("GET", "/healthz", "origin: http://evil.example\r\n", b"").await.status, 200);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_wait_for_memory_within_bounds() {
    let limits = Limits { unchecked_bodies_bytes: 200_000, body_read_ms: 1_000, ..Limits::default() };
    let server = serve(limits, OPEN, echo()).await;
    server.create("f").await;
    let large = [&b"\""[..], &vec![b'x'; 150_000], b"\""].concat();
    let address = server.address;
    let begin = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!(
            "POST {FUNCTIONS}/f/invocations HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 200000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server asks for the body: it has the memory for it.
        stream.read_exact(&mut [0; 25]).unwrap();
        stream
    };
    let held = tokio::task::spawn_blocking(begin).await.unwrap();
    // No body needs no memory; a body waits until the one that was begun is over, 408.
    assert_eq!(server.send("GET", FUNCTIONS, "", b"").await.status, 200);
    let mut waiting = Box::pin(server.invoke("f", "", &large));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    drop(held);
    let reply = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!((reply.status, reply.body.len()), (200, 150_002));
    // More than there will ever be is a matter of one request alone.
    let larger = [&b"\""[..], &vec![b'x'; 300_000], b"\""].concat();
    assert_eq!(server.invoke("f", "", &larger).await.status, 200);
    // One has the memory until its time is over, and then another that waited for it; who came behind both has waited
    // for too long by then.
    let _first = tokio::task::spawn_blocking(begin).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = tokio::task::spawn_blocking(begin);
    tokio::time::sleep(Duration::from_millis(250)).await;
    let reply = server.invoke("f", "", &large).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    drop(second.await.unwrap());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_wait_for_their_turn() {
    let server = serve(Limits { connections: 1, ..Limits::default() }, OPEN, echo()).await;
    let address = server.address;
    let held = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream
    });
    let held = held.await.unwrap();
    let mut second = Box::pin(server.send("GET", "/healthz", "", b""));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err());
    drop(held);
    assert_eq!(tokio::time::timeout(PATIENCE, second).await.unwrap().status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_further_than_the_door() {
    let key =
        Key { access_key_id: "AK".into(), secret_access_key: "secret".into(), session_token: None, expires_at_s: None };
    let server = serve(Limits::default(), Auth::Required(Keys(vec![key])), echo()).await;
    for path in [FUNCTIONS, "/2018-10-31/layers", "/nowhere", "/tidegate/v1/functions/f/settings"] {
        let reply = server.send("GET", path, "", b"").await;
        assert_eq!(
            (reply.status, reply.header("x-amzn-errortype"), reply.body.as_str()),
            (403, Some("MissingAuthenticationTokenException"), r#"{"message":"Missing Authentication Token"}"#),
            "{path}"
        );
    }
    assert_eq!(server.send("GET", "/healthz", "", b"").await.status, 200);
    assert_eq!(server.send("GET", "/metrics", "", b"").await.status, 200);
    server.handle.drain();
    assert_eq!(server.send("GET", "/healthz", "", b"").await.status, 503);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_offered_is_said_and_counted() {
    let server = serve(Limits::default(), OPEN, echo()).await;
    for (method, path, text) in [
        ("GET", "/2018-10-31/layers?find=LayerVersion&Arn=x", "Tidegate does not offer GetLayerVersionByArn yet"),
        ("GET", "/2015-03-31/nothing", "There is no operation GET /2015-03-31/nothing"),
    ] {
        let reply = server.send(method, path, "", b"").await;
        assert_eq!((reply.status, reply.header("x-amzn-errortype")), (404, Some("UnknownOperationException")));
        assert_eq!(reply.body, format!(r#"{{"Type":"User","Message":"{text}"}}"#));
    }
    assert!(server.metric(r#"tidegate_gateway_requests_not_offered_total{operation="GetLayerVersionByArn"} 1"#).await);
    assert!(server.metric(r#"tidegate_gateway_requests_not_offered_total{operation="Unknown"} 1"#).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_running_invocations_finish() {
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let worker: router::Worker = {
        let (entered, go_on) = (entered.clone(), go_on.clone());
        Arc::new(move |invocation, _| {
            let (entered, go_on) = (entered.clone(), go_on.clone());
            Box::pin(async move {
                entered.notify_one();
                go_on.notified().await;
                Ok(completed(invocation))
            })
        })
    };
    let mut server = serve(Limits::default(), OPEN, worker).await;
    server.create("f").await;
    let stop = server.stop.take().unwrap();
    let address = server.address;
    {
        let running = server.invoke("f", "", b"1");
        tokio::pin!(running);
        tokio::select! {
            reply = &mut running => panic!("answered too early: {reply:?}"),
            () = entered.notified() => {}
        }
        stop.send(()).unwrap();
        // The listener goes first.
        let refused = async {
            while TcpStream::connect(address).is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.unwrap();
        go_on.notify_one();
        let reply = tokio::time::timeout(PATIENCE, running).await.unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (200, "1"));
    }
    tokio::time::timeout(PATIENCE, server.ended).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defect_ends_one_request_and_is_counted() {
    let worker: router::Worker = Arc::new(|invocation, _| {
        Box::pin(async move {
            tokio::task::yield_now().await;
            assert!(invocation.payload != "0", "on purpose");
            Ok(completed(invocation))
        })
    });
    let server = serve(Limits::default(), OPEN, worker).await;
    server.create("f").await;
    let reply = server.invoke("f", "", b"0").await;
    assert_eq!((reply.status, reply.header("x-amzn-errortype")), (500, Some("ServiceException")));
    assert_eq!(server.invoke("f", "", b"1").await.status, 200);
    assert!(server.metric("tidegate_gateway_panics_total 1").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_invocation_along() {
    struct Leaving(Arc<AtomicBool>, Arc<Notify>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
            self.1.notify_one();
        }
    }
    let (left, changed) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let worker: router::Worker = {
        let (left, changed) = (left.clone(), changed.clone());
        Arc::new(move |_, _| {
            let leaving = Leaving(left.clone(), changed.clone());
            changed.notify_one();
            Box::pin(async move {
                let _leaving = leaving;
                std::future::pending().await
            })
        })
    };
    let server = serve(Limits::default(), OPEN, worker).await;
    server.create("f").await;
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .write_all(
            format!("POST {FUNCTIONS}/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1")
                .as_bytes(),
        )
        .unwrap();
    tokio::time::timeout(PATIENCE, changed.notified()).await.unwrap();
    assert!(!left.load(Ordering::Acquire));
    drop(stream);
    tokio::time::timeout(PATIENCE, changed.notified()).await.unwrap();
    assert!(left.load(Ordering::Acquire));
    server.stop().await;
}

#[test]
fn requests_of_any_shape_are_answered() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(async {
        let server = serve(Limits::default(), OPEN, echo()).await;
        server.create("f").await;
        server
    });
    let paths = prop_oneof![
        "/[!-~&&[^#?]]{0,40}(\\?[!-~&&[^#]]{0,20})?",
        "/2015-03-31/functions/[!-~&&[^#?/]]{1,30}(/code|/configuration|/invocations)?(\\?Qualifier=[!-~&&[^#]]{0,20})?",
        "/2017-03-31/tags/[!-~&&[^#?/]]{1,30}(\\?tagKeys=[!-~&&[^#]]{0,20})?",
        "/tidegate/v1/functions/f/(logs|settings)(\\?(limit|after)=[!-~&&[^#]]{0,20})?",
    ];
    let methods = prop::sample::select(vec!["GET", "PUT", "POST", "DELETE", "PATCH"]);
    let strategy = (methods, paths, prop_oneof![".{0,60}", r#"\{"[A-Z][a-zA-Z]{0,12}":("x"|1|\[\]|\{\}|null)\}"#]);
    let config = ProptestConfig { cases: 300, ..ProptestConfig::default() };
    proptest!(config, |((method, path, body) in strategy)| {
        let reply = runtime.block_on(server.send(method, &path, "", body.as_bytes()));
        // 400 without our headers is hyper's, for what is no HTTP at all.
        prop_assert!(reply.status < 500, "{:?}", reply);
    });
    runtime.block_on(async {
        assert!(server.metric("tidegate_gateway_panics_total 0").await);
        server.stop().await;
    });
}
