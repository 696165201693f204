//! HTTP/1.1 as little as the bench needs it: one connection kept alive, messages with a length or in chunks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer heads are refused.
const HEAD_BYTES_MAX: u64 = 65_536;
/// Longer bodies are refused: an answer of Lambda has at most 6 MB.
const BODY_BYTES_MAX: u64 = 8 << 20;
/// No answer within this time is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one message; `None` when the other side has closed the connection between two messages.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Message>> {
        let mut head = reader.by_ref().take(HEAD_BYTES_MAX);
        let start = line(&mut head)?;
        if start.is_empty() {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let line = line(&mut head)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut message = Message { start, headers, body: Vec::new() };
        message.body = message.read_body(reader)?;
        Ok(Some(message))
    }

    /// The value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The status of a response; 0 for anything else.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn read_body(&self, reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
        if self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return chunked(reader);
        }
        let length =
            self.header("content-length").map_or(Ok(0), |v| v.parse::<u64>().map_err(|_| invalid("length")))?;
        exactly(reader, length)
    }
}

fn chunked(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(&mut reader.by_ref().take(HEAD_BYTES_MAX))?;
        let size =
            u64::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16).map_err(|_| invalid("chunk"))?;
        let chunk = exactly(reader, size)?;
        line(&mut reader.by_ref().take(HEAD_BYTES_MAX))?;
        if size == 0 {
            return Ok(body);
        }
        body.extend(chunk);
        if body.len() as u64 > BODY_BYTES_MAX {
            return Err(invalid("body"));
        }
    }
}

fn exactly(reader: &mut impl BufRead, length: u64) -> io::Result<Vec<u8>> {
    if length > BODY_BYTES_MAX {
        return Err(invalid("body"));
    }
    let mut body = vec![0; usize::try_from(length).map_err(|_| invalid("length"))?];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the {what} of an HTTP message is wrong"))
}

/// A connection of a client, kept alive.
pub struct Connection {
    reader: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Connection { reader: BufReader::new(stream), host: address.to_string() })
    }

    /// Answers may come at any time from now on.
    pub fn wait_without_limit(&mut self) -> io::Result<()> {
        self.reader.get_mut().set_read_timeout(None)
    }

    /// Sends a request in one write and reads the answer.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Message> {
        self.send(&self.text(method, path, body))?;
        self.receive()
    }

    /// A request as it is sent.
    pub fn text(&self, method: &str, path: &str, body: &str) -> String {
        let (host, length) = (&self.host, body.len());
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    /// Sends requests in one write.
    pub fn send(&mut self, requests: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(requests.as_bytes())
    }

    /// Reads the answer to the oldest request that has none.
    pub fn receive(&mut self) -> io::Result<Message> {
        Message::read(&mut self.reader)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expected: Option<(u16, &str)>) {
        let message = Message::read(&mut bytes.as_bytes()).ok().flatten();
        let found = message.as_ref().map(|m| (m.status(), std::str::from_utf8(&m.body).expect("text")));
        assert_eq!(found, expected, "{bytes}");
    }

    #[test]
    fn reads_messages() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", Some((200, "ab")));
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "")));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        check(chunks, Some((200, "abcd")));
        check("", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nab", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", None);
    }
}
