//! A session and its guest, on real sockets.

use super::*;
use model::function::Network;
use model::{AccountId, Digest, FunctionArn, FunctionName, Generation, InvocationId, Region, Runtime, Spec};
use proptest::prelude::*;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";
const ACCEPTED_TEXT: &str =
    "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";
const BYTES_MAX: u64 = 200_000;

fn invocation(id: &str, payload: &str) -> Invocation {
    let arn = FunctionArn {
        region: Region::parse("us-east-1").unwrap(),
        account: AccountId::parse("000000000000").unwrap(),
        name: FunctionName::parse("f").unwrap(),
        qualifier: None,
    };
    let spec = Arc::new(Spec {
        arn,
        version: model::Version::Latest,
        generation: Generation(1),
        runtime: Runtime("provided.al2023".into()),
        handler: "a".into(),
        timeout_ms: 3_000,
        memory_mb: 128,
        ephemeral_mb: 512,
        environment: Default::default(),
        package: Digest([0; 32]),
        network: Network::None,
        instance_concurrency: 1,
        log_group: String::new(),
        snap_start: false,
    });
    Invocation {
        id: InvocationId(id.into()),
        spec,
        invoked_arn: "arn:f".to_owned(),
        payload: Bytes::from(payload.to_owned()),
        client_context: None,
        trace_id: "Root=1".to_owned(),
        queued_us: 0,
    }
}

fn event(id: &str, payload: &str) -> Handover {
    Handover::new(&invocation(id, payload), 7)
}

async fn hand_over(served: &Served, id: &str, payload: &str) -> oneshot::Receiver<Answer> {
    served.session.hand_over(event(id, payload)).await
}

fn response(id: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn event_text(id: &str, payload: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Lambda-Runtime-Aws-Request-Id: {id}\r\nLambda-Runtime-Deadline-Ms: 7\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:f\r\nLambda-Runtime-Trace-Id: Root=1\r\n\r\n{payload}",
        payload.len()
    )
}

async fn serve(slots: u32) -> (Served, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (Session::new(BYTES_MAX, slots, large_bodies()).serve(listener), address)
}

/// A guest that sends this and reads answers.
struct Guest(TcpStream);

impl Guest {
    async fn sends(address: SocketAddr, text: &str) -> Guest {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        Guest(stream)
    }

    async fn says(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, text: &str) {
        let mut read = vec![0; text.len()];
        let reading = self.0.read_exact(&mut read);
        tokio::time::timeout(Duration::from_secs(5), reading).await.expect(text).unwrap();
        assert_eq!(String::from_utf8_lossy(&read), text);
    }

    /// All that comes until the connection is closed, or reset behind it.
    async fn hears_all(mut self) -> String {
        let mut read = Vec::new();
        let reading = self.0.read_to_end(&mut read);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("the connection is closed");
        String::from_utf8_lossy(&read).into_owned()
    }
}

async fn success(answered: oneshot::Receiver<Answer>) -> Bytes {
    match answered.await {
        Ok(Answer::Success(payload)) => payload,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_event_after_the_other() {
    let (served, address) = serve(1).await;
    let mut guest = Guest::sends(address, NEXT).await;
    served.session.initialised().await.unwrap();
    for id in ["a", "b"] {
        let answered = hand_over(&served, id, "{}").await;
        guest.hears(&event_text(id, "{}")).await;
        guest.says(&response(id, id)).await;
        assert_eq!(success(answered).await, id);
        guest.hears(ACCEPTED_TEXT).await;
        guest.says(NEXT).await;
    }
    served.session.parked().await;
}

#[tokio::test]
async fn an_answer_with_the_next_call_behind_it() {
    let (served, address) = serve(1).await;
    let mut guest = Guest::sends(address, NEXT).await;
    let answered = hand_over(&served, "a", "1").await;
    guest.hears(&event_text("a", "1")).await;
    // Nobody waits for the guest: the acknowledgement is not held back.
    guest.says(&(response("a", "A") + NEXT)).await;
    assert_eq!(success(answered).await, "A");
    guest.hears(ACCEPTED_TEXT).await;
    let answered = hand_over(&served, "b", "2").await;
    guest.hears(&event_text("b", "2")).await;
    // Somebody waits: both come, in one piece.
    let session = served.session.clone();
    let third = tokio::spawn(async move { success(session.hand_over(event("c", "3")).await).await });
    guest.says(&(response("b", "B") + NEXT)).await;
    assert_eq!(success(answered).await, "B");
    let mut read = vec![0; 4_096];
    let length = guest.0.read(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read[..length]), ACCEPTED_TEXT.to_owned() + &event_text("c", "3"));
    guest.says(&response("c", "C")).await;
    assert_eq!(third.await.unwrap(), "C");
}

#[tokio::test]
async fn a_guest_that_hangs_up_loses_nothing() {
    let (served, address) = serve(1).await;
    for round in 0..50 {
        let id = format!("n{round}");
        let guest = Guest::sends(address, NEXT).await;
        served.session.parked().await;
        // No await in between: the server has no way to see the hang-up before it has sent the event.
        drop(guest);
        let answered = served.session.try_hand_over(event(&id, "{}")).expect("a call of next waits");
        let mut again = Guest::sends(address, NEXT).await;
        again.hears(&event_text(&id, "{}")).await;
        again.says(&response(&id, "late")).await;
        assert_eq!(success(answered).await, "late");
        again.hears(ACCEPTED_TEXT).await;
        assert!(served.session.lock().running.is_empty() && served.session.lock().returned.is_empty());
    }
}

#[tokio::test]
async fn a_guest_that_hangs_up_in_the_middle_of_an_event_loses_nothing() {
    let (served, address) = serve(1).await;
    let payload = "x".repeat(6_000_000);
    for pause in [false, true] {
        let mut guest = Guest::sends(address, NEXT).await;
        let answered = hand_over(&served, "a", &payload).await;
        let mut begun = vec![0; 100_000];
        guest.0.read_exact(&mut begun).await.unwrap();
        if pause {
            tokio::task::yield_now().await;
        }
        drop(guest);
        let mut again = Guest::sends(address, NEXT).await;
        again.hears(&event_text("a", &payload)).await;
        again.says(&response("a", "late")).await;
        assert_eq!(success(answered).await, "late");
    }
}

#[tokio::test]
async fn an_event_that_was_read_is_not_given_twice() {
    let (served, address) = serve(2).await;
    let mut guest = Guest::sends(address, NEXT).await;
    let answered = hand_over(&served, "a", "{}").await;
    guest.hears(&event_text("a", "{}")).await;
    // As clients without kept connections do: close, and answer on another one.
    drop(guest);
    let mut other = Guest::sends(address, NEXT).await;
    served.session.parked().await;
    let mut answering = Guest::sends(address, &response("a", "A")).await;
    assert_eq!(success(answered).await, "A");
    answering.hears(ACCEPTED_TEXT).await;
    let second = hand_over(&served, "b", "{}").await;
    other.hears(&event_text("b", "{}")).await;
    other.says(&response("b", "B")).await;
    assert_eq!(success(second).await, "B");
}

#[tokio::test]
async fn a_further_call_takes_the_place_of_the_oldest() {
    let (served, address) = serve(1).await;
    let first = Guest::sends(address, &NEXT.replace("Host: x", "Connection: close")).await;
    served.session.parked().await;
    let mut second = Guest::sends(address, NEXT).await;
    let replaced = first.hears_all().await;
    assert!(replaced.starts_with("HTTP/1.1 410 Gone\r\nConnection: close\r\n"), "{replaced}");
    let answered = hand_over(&served, "a", "{}").await;
    second.hears(&event_text("a", "{}")).await;
    let running = Guest::sends(address, &NEXT.replace("Host: x", "Connection: close")).await;
    assert!(running.hears_all().await.starts_with("HTTP/1.1 403 Forbidden\r\n"));
    second.says(&response("a", "{}")).await;
    success(answered).await;
}

/// Guests that do all that keeps a connection busy, each of its own session, and then send no more.
#[tokio::test]
async fn nothing_stays_of_a_session_that_is_over() {
    let ahead = NEXT.to_owned() + &"x".repeat(50_000);
    let half_a_body = response("a", &"x".repeat(100_000));
    for (said, then) in [(NEXT, ahead.as_str()), (ahead.as_str(), ""), (NEXT, &half_a_body[..90_000]), ("", "GET /pi")]
    {
        let (served, address) = serve(2).await;
        let session = Arc::downgrade(&served.session);
        let mut guest = Guest::sends(address, NEXT).await;
        let answered = hand_over(&served, "a", "{}").await;
        guest.hears(&event_text("a", "{}")).await;
        let mut guest = Guest::sends(address, said).await;
        if !said.is_empty() {
            served.session.parked().await;
        }
        guest.says(then).await;
        guest.0.shutdown().await.unwrap();
        let other = served.session.clone();
        drop(served);
        assert!(matches!(other.next(), Next::Refused(_)), "a call of next that nobody will answer");
        assert!(other.try_hand_over(event("b", "{}")).is_err(), "an event that nobody will read");
        drop((other, answered));
        guest.hears_all().await;
        let gone = async {
            while session.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the session ends with its connections");
    }
}

#[tokio::test]
async fn refusals() {
    let (served, address) = serve(1).await;
    let base = "/2018-06-01/runtime";
    let last = "HTTP/1.1\r\nConnection: close\r\n";
    let too_large = BYTES_MAX + 1;
    let mut guest = Guest::sends(address, NEXT).await;
    let answered = hand_over(&served, "a", "{}").await;
    guest.hears(&event_text("a", "{}")).await;
    for (sent, status) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} ", "a".repeat(70_000)), "431"),
        (format!("GET /nothing {last}\r\n"), "404"),
        (format!("DELETE {base}/invocation/next {last}\r\n"), "405"),
        (format!("POST {base}/init/error {last}Content-Length: 2\r\n\r\n{{}}"), "403"),
        (format!("POST {base}/invocation/z/response {last}Content-Length: 99999999999999\r\n\r\nx"), "400"),
        (format!("POST {base}/invocation/a/response {last}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "400"),
        (format!("POST {base}/invocation/a/response {last}Content-Length: {too_large}\r\n\r\nx"), "413"),
        (format!("POST {base}/invocation/a/response {last}Content-Length: 2\r\n\r\n{{}}"), "403"),
        (format!("HEAD /ping {last}\r\n"), "200"),
        (format!("GET /ping {last}\r\n"), "200"),
    ] {
        let mut guest = Guest::sends(address, &sent).await;
        guest.0.shutdown().await.unwrap();
        let heard = guest.hears_all().await;
        assert_eq!(heard.split(' ').nth(1), Some(status), "{} {heard}", &sent[..sent.len().min(90)]);
        assert_eq!(heard.ends_with("pong"), sent.starts_with("GET /ping"), "{heard}");
    }
    assert!(matches!(answered.await, Ok(Answer::Ended(Ending::ResponseTooLarge))));
}

#[tokio::test]
async fn a_refused_body_is_read_so_that_the_next_call_is_found() {
    let (_served, address) = serve(1).await;
    let mut guest = Guest::sends(address, &response("never", &"x".repeat(150_000))).await;
    let refused = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 68\r\n\r\n\
                   {\"errorType\":\"InvalidRequestID\",\"errorMessage\":\"Invalid request ID\"}";
    guest.hears(refused).await;
    guest.says("GET /ping HTTP/1.1\r\n\r\n").await;
    guest.hears("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong").await;
}

/// A refusal whose request has more to come than is read says that it is the last, and comes whole though the guest is
/// still sending.
#[tokio::test]
async fn a_refusal_that_is_the_last_says_so() {
    let (served, address) = serve(1).await;
    let mut guest = Guest::sends(address, NEXT).await;
    let answered = hand_over(&served, "a", "{}").await;
    guest.hears(&event_text("a", "{}")).await;
    let post = |id: &str, fields: &str, body: &str| {
        format!("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\n{fields}\r\n\r\n{body}")
    };
    let body = "x".repeat(300_000);
    for (sent, begin, end) in [
        (post("z", "Expect: 100-continue\r\nContent-Length: 300000", &body), "400 Bad Request", "request ID\"}"),
        (post("z", "Content-Length: 20000000", &body), "400 Bad Request", "request ID\"}"),
        (post("a", "Transfer-Encoding: chunked", &("zz\r\n".to_owned() + &body)), "400 Bad Request", "incomplete\"}"),
        (NEXT.replace("Host: x", "Content-Length: 20000000"), "403 Forbidden", "not allowed\"}"),
        (format!("GET /{body}"), "431 Request Header Fields Too Large", "Content-Length: 0\r\n\r\n"),
        (post("a", "Expect: 100-continue\r\nContent-Length: 300000", &body), "413 Payload Too Large", "bytes).\"}"),
    ] {
        // It hears nothing before it has sent all.
        let mut guest = Guest::sends(address, &sent).await;
        let mut heard = String::new();
        let hearing = guest.0.read_to_string(&mut heard);
        let heard_all = tokio::time::timeout(Duration::from_secs(5), hearing).await.expect("the connection is closed");
        assert!(heard_all.is_ok(), "{begin} {heard_all:?} {heard}");
        assert!(heard.starts_with(&format!("HTTP/1.1 {begin}\r\nConnection: close\r\n")), "{begin} {heard}");
        assert!(heard.ends_with(end), "{heard}");
    }
    assert!(matches!(answered.await, Ok(Answer::Ended(Ending::ResponseTooLarge))));
}

/// A guest has its time to send a body from when it is read, however long others were read before.
#[tokio::test]
async fn waiting_for_others_takes_no_time_from_a_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut session = Session::new(BYTES_MAX, 1, large_bodies());
    let body_read = Duration::from_millis(200);
    Arc::get_mut(&mut session).unwrap().body_read = body_read;
    let served = session.serve(listener);
    let mut guest = Guest::sends(address, NEXT).await;
    let body = "b".repeat(150_000);
    let ping = "GET /ping HTTP/1.1\r\n\r\n".to_owned();
    let pong = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";
    for (own, on_demand) in [(true, false), (false, false), (true, true), (false, true)] {
        let answered = hand_over(&served, "a", "{}").await;
        guest.hears(&event_text("a", "{}")).await;
        let others = if own {
            served.session.large_body.acquire().await.unwrap()
        } else {
            served.session.large_bodies.acquire_many(LARGE_BODIES_MAX as u32).await.unwrap()
        };
        let sent = response("a", &body);
        let head =
            sent.strip_suffix(&body).unwrap().replace("Content-Length", "Expect: 100-continue\r\nContent-Length");
        guest.says(&(ping.clone() + if on_demand { &head } else { &sent })).await;
        // Behind this the server waits for its turn.
        guest.hears(pong).await;
        tokio::time::sleep(2 * body_read).await;
        drop(others);
        if on_demand {
            guest.hears("HTTP/1.1 100 Continue\r\n\r\n").await;
            guest.says(&body).await;
        }
        guest.hears(ACCEPTED_TEXT).await;
        assert_eq!(success(answered).await, body);
        guest.says(NEXT).await;
    }
    let _answered = hand_over(&served, "a", "{}").await;
    let slow = Guest::sends(address, &response("a", &body)[..100_000]).await;
    assert!(slow.hears_all().await.starts_with("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"));
}

#[tokio::test]
async fn bodies_on_demand_and_in_old_http() {
    let (served, address) = serve(1).await;
    let mut guest = Guest::sends(address, NEXT).await;
    let answered = hand_over(&served, "a", "{}").await;
    guest.hears(&event_text("a", "{}")).await;
    guest.says(&response("a", "").replace("Content-Length: 0", "Expect: 100-continue\r\nContent-Length: 3")).await;
    guest.hears("HTTP/1.1 100 Continue\r\n\r\n").await;
    guest.says("abc").await;
    assert_eq!(success(answered).await, "abc");
    guest.hears(ACCEPTED_TEXT).await;
    let old = Guest::sends(address, "GET /ping HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.hears_all().await, "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npong");
}

#[tokio::test]
async fn a_failed_init() {
    let (served, address) = serve(1).await;
    let post = "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nLambda-Runtime-Function-Error-Type: Runtime.NoSuch\r\n";
    let mut guest = Guest::sends(address, &format!("{post}Content-Length: 4\r\n\r\n\"no\"")).await;
    guest.hears(ACCEPTED_TEXT).await;
    let ending = served.session.initialised().await.unwrap_err();
    assert_eq!(
        ending,
        Ending::Reported { error_type: "Runtime.NoSuch".into(), payload: Bytes::from_static(b"\"no\"") }
    );
    guest.says(NEXT).await;
    guest.hears("HTTP/1.1 403 Forbidden\r\n").await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A guest's bytes may come in any pieces: the answer that is taken and what the guest hears stay the same.
    #[test]
    fn bytes_in_any_pieces(
        cuts in proptest::collection::vec(1usize..300, 1..12),
        bodies in proptest::collection::vec((0usize..9_000, any::<bool>()), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (served, address) = serve(1).await;
            let mut guest = Guest::sends(address, NEXT).await;
            let mut cut = cuts.iter().cycle();
            for (number, (length, chunked)) in bodies.iter().enumerate() {
                let (id, body) = (format!("id-{number}"), "b".repeat(*length));
                let answered = hand_over(&served, &id, "{}").await;
                guest.hears(&event_text(&id, "{}")).await;
                let mut sent = response(&id, &body);
                if *chunked {
                    let content = if body.is_empty() { String::new() } else { format!("{length:x}\r\n{body}\r\n") };
                    let head = response(&id, "").replace("Content-Length: 0", "Transfer-Encoding: chunked");
                    sent = format!("{head}{content}0\r\n\r\n");
                }
                sent += NEXT;
                let mut rest = sent.as_str();
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(*cut.next().unwrap()));
                    guest.says(now).await;
                    tokio::task::yield_now().await;
                    rest = later;
                }
                assert_eq!(success(answered).await, body);
                guest.hears(ACCEPTED_TEXT).await;
            }
        });
    }
}
