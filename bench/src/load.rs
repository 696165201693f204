//! The load generator: many connections of HTTP/1.1 from one thread, closed-loop, open-loop or all at once.
//!
//! It parses as little as it can: a generator that needs more CPU than what it measures measures itself.

use crate::Failure;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An answer that takes longer is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// What an answer may hold at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Connections that are being opened at the same time; more overflow the backlog of a small server.
const CONNECTING: usize = 64;

/// Where to send what.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// The whole request, head and body.
    pub request: Vec<u8>,
    /// What every answer's body must hold.
    pub expected: &'static str,
}

impl Target {
    /// A POST of JSON.
    pub fn post(address: SocketAddr, path: &str, body: &str, expected: &'static str) -> Target {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        Target { address, request: (head + body).into_bytes(), expected }
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Load {
    /// Each answer's time; for open loops from when it was due.
    pub latencies: Vec<Duration>,
    /// How long the load went on.
    pub took: Duration,
}

impl Load {
    /// Answers per second.
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Sends on each connection one request after the other, for this time.
pub fn closed(target: &Target, connections: usize, span: Duration) -> Result<Load, Failure> {
    run(async {
        let mut open = open_all(target.address, connections).await?;
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            let (Some(mut connection), target) = (open.pop(), target.clone()) else { break };
            clients.spawn(async move {
                let mut latencies = Vec::new();
                while begun.elapsed() < span {
                    let sent = Instant::now();
                    connection.ask(&target).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, Failure>(latencies)
            });
        }
        let mut load = Load::default();
        while let Some(joined) = clients.join_next().await {
            load.latencies.extend(joined.map_err(Failure::during("a client"))??);
        }
        load.took = begun.elapsed();
        Ok(load)
    })
}

/// Sends at a steady rate, whether or not earlier answers are there; latencies count from when a request was due.
pub fn open(target: &Target, per_second: u32, span: Duration, connections: usize) -> Result<Load, Failure> {
    run(async {
        let mut open = open_all(target.address, connections).await?;
        let begun = Instant::now();
        let period = Duration::from_secs(1) / per_second.max(1);
        let mut clients = JoinSet::new();
        // Connection k sends the k-th request of each turn.
        for k in 0..connections {
            let (Some(mut connection), target) = (open.pop(), target.clone()) else { break };
            clients.spawn(async move {
                let mut latencies = Vec::new();
                for turn in 0u32.. {
                    let number = turn.saturating_mul(connections as u32).saturating_add(k as u32);
                    let due = begun + period * number;
                    if due >= begun + span {
                        break;
                    }
                    tokio::time::sleep_until(due.into()).await;
                    connection.ask(&target).await?;
                    latencies.push(due.elapsed());
                }
                Ok::<_, Failure>(latencies)
            });
        }
        let mut load = Load::default();
        while let Some(joined) = clients.join_next().await {
            load.latencies.extend(joined.map_err(Failure::during("a client"))??);
        }
        load.took = begun.elapsed();
        Ok(load)
    })
}

/// Opens so many connections, then sends one request on each at once; returns the moment of sending (seconds since
/// 1970) and the bodies.
pub fn at_once(target: &Target, number: usize) -> Result<(f64, Vec<String>), Failure> {
    staggered(target, number, Duration::ZERO)
}

/// The same, with a pause between one request and the next.
pub fn staggered(target: &Target, number: usize, pause: Duration) -> Result<(f64, Vec<String>), Failure> {
    run(async {
        let mut open = open_all(target.address, number).await?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut clients = JoinSet::new();
        while let Some(mut connection) = open.pop() {
            let target = target.clone();
            clients.spawn(async move { connection.ask(&target).await });
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        let mut bodies = Vec::new();
        while let Some(joined) = clients.join_next().await {
            bodies.push(joined.map_err(Failure::during("a client"))??);
        }
        Ok((now.as_secs_f64(), bodies))
    })
}

/// Sends one request on each of so many connections and never reads; while they wait, does `look`.
pub fn parked<T>(target: &Target, number: usize, look: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    run(async {
        let mut open = open_all(target.address, number).await?;
        for connection in &mut open {
            let sent = connection.stream.write_all(&target.request).await;
            sent.map_err(Failure::during("sending what is to be parked"))?;
        }
        let seen = look()?;
        // Lets the runtime learn of what has come in the meantime; without that, no answer would ever be seen.
        tokio::time::sleep(Duration::from_millis(20)).await;
        for connection in &mut open {
            let mut answer = [0; 1_024];
            match connection.stream.try_read(&mut answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Err(Failure("a parked connection was closed".to_owned())),
                Ok(length) => {
                    let answer = String::from_utf8_lossy(&answer[..length]).replace("\r\n", " | ");
                    return Err(Failure(format!("an invocation that should wait was answered: {answer}")));
                }
                Err(error) => return Err(Failure(format!("a parked connection broke: {error}"))),
            }
        }
        Ok(seen)
    })
}

fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::during("the load generator"))?.block_on(work)
}

async fn open_all(address: SocketAddr, number: usize) -> Result<Vec<Connection>, Failure> {
    let mut open = Vec::with_capacity(number);
    while open.len() < number {
        let mut opening = JoinSet::new();
        for _ in 0..CONNECTING.min(number - open.len()) {
            opening.spawn(Connection::open(address));
        }
        while let Some(joined) = opening.join_next().await {
            let connection = joined.map_err(Failure::during("a client"))?;
            open.push(connection.map_err(Failure::during(format!("connecting to {address}")))?);
        }
    }
    Ok(open)
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, read: Vec::new() })
    }

    /// One request and its answer's body.
    async fn ask(&mut self, target: &Target) -> Result<String, Failure> {
        let asked = tokio::time::timeout(ANSWER_LIMIT, self.exchange(&target.request)).await;
        let (status, body) = asked
            .map_err(|_| Failure(format!("no answer within {} s", ANSWER_LIMIT.as_secs())))?
            .map_err(Failure::during(format!("asking {}", target.address)))?;
        if status == 200 && body.contains(target.expected) {
            return Ok(body);
        }
        Err(Failure(format!("{} answered {status} {body}", target.address)))
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, String)> {
        self.read.clear();
        self.stream.write_all(request).await?;
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = parse(&self.read)? {
                return Ok(answer);
            }
            if self.read.len() > ANSWER_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// The status and the body of an answer, once it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, String)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let body = &bytes[end + 4..];
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let header = |name: &str| {
        let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let whole = body.get(..length);
        return Ok(whole.map(|body| (status, String::from_utf8_lossy(body).into_owned())));
    }
    // In chunks: whole once the empty chunk is there. What is in between is only looked into, never taken apart.
    Ok(body.ends_with(b"\r\n0\r\n\r\n").then(|| (status, String::from_utf8_lossy(body).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expected: Option<(u16, &str)>) {
        let found = parse(bytes.as_bytes()).ok().flatten();
        assert_eq!(found, expected.map(|(status, body)| (status, body.to_owned())), "{bytes}");
    }

    #[test]
    fn reads_answers() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", Some((200, "ab")));
        check("HTTP/1.1 429 No\r\nContent-Length: 0\r\n\r\n", Some((429, "")));
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", None);
        check("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nab", None);
        check("HTTP/1.1 200 OK\r\nx: y\r\n", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", None);
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        check(chunks, Some((200, "2\r\nab\r\n0\r\n\r\n")));
    }
}
