//! An outside world of our own: a network namespace with a web server and a name server, one link away from the host.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// The outside server.
pub const SERVER: &str = "198.51.100.2";
/// The host's address towards it.
pub const HOST: &str = "198.51.100.1";

/// Answers HTTP with the caller's address, and every DNS question with its own.
const PROGRAM: &str = r#"
import socket, threading
def names():
    while True:
        q, who = dns.recvfrom(512)
        end = 12
        while q[end]: end += q[end] + 1
        answer = b'\xc0\x0c\0\1\0\1\0\0\0\1\0\4' + socket.inet_aton('198.51.100.2')
        is_a = q[end + 1:end + 3] == b'\0\1'
        dns.sendto(q[:2] + b'\x81\x80\0\1' + (b'\0\1' if is_a else b'\0\0') + b'\0\0\0\0' + q[12:end + 5] + (answer if is_a else b''), who)
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); dns.bind(('198.51.100.2', 53))
web = socket.create_server(('198.51.100.2', 80))
threading.Thread(target=names, daemon=True).start()
print('ready', flush=True)
while True:
    s, who = web.accept()
    s.sendall(who[0].encode()); s.close()
"#;

/// Removed when dropped.
pub struct Internet {
    name: String,
    server: Option<Child>,
    /// Listens on every address of the host.
    pub host: TcpListener,
}

impl Internet {
    /// Makes it; needs root and the program `ip`.
    pub fn create() -> std::io::Result<Internet> {
        let name = format!("tgi{}", std::process::id());
        let mut internet = Internet { name: name.clone(), server: None, host: TcpListener::bind("0.0.0.0:0")? };
        let peer = format!("{name}p");
        let host = format!("{HOST}/24");
        let server = format!("{SERVER}/24");
        for arguments in [
            vec!["netns", "add", &name],
            vec!["link", "add", &name, "type", "veth", "peer", "name", &peer, "netns", &name],
            vec!["addr", "add", &host, "dev", &name],
            vec!["link", "set", &name, "up"],
            vec!["-n", &name, "addr", "add", &server, "dev", &peer],
            vec!["-n", &name, "link", "set", &peer, "up"],
            vec!["-n", &name, "link", "set", "lo", "up"],
        ] {
            let status = Command::new("ip").args(&arguments).status()?;
            if !status.success() {
                return Err(std::io::Error::other(format!("ip {arguments:?}")));
            }
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name, "/usr/bin/python3", "-c", PROGRAM]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        internet.server = Some(child);
        if line == "ready\n" { Ok(internet) } else { Err(std::io::Error::other("the outside server does not start")) }
    }

    /// What a scenario needs to know, as an environment variable's value.
    pub fn host_port(&self) -> u16 {
        self.host.local_addr().map_or(0, |address| address.port())
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        // The link goes with the namespace that holds its other end.
        let _ = Command::new("ip").args(["link", "del", &self.name]).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}
