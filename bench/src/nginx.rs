//! The comparator of the warm path: nginx as a reverse proxy, one worker, connections kept alive on both sides.

use crate::Failure;
use crate::process;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running nginx. Dropping it ends it.
pub struct Nginx {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Nginx {
    /// Starts it in front of `upstream`; its files lie below `parent`.
    pub fn start(parent: &Path, upstream: SocketAddr) -> Result<Nginx, Failure> {
        let folder = parent.join(format!("nginx-{}", std::process::id()));
        let at = || Failure::during(format!("cannot prepare {}", folder.display()));
        fs::create_dir_all(&folder).map_err(at())?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(at())?;
        fs::write(folder.join("nginx.conf"), config(&folder, address, upstream)).map_err(at())?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf"));
        command.arg("-e").arg(folder.join("error.log")).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(Failure::during("cannot start nginx (apt-get install nginx-light)"))?;
        let nginx = Nginx { child, folder, address };
        let ready = process::poll_until(READY_LIMIT, || TcpStream::connect(address).ok());
        ready.map(|_| nginx).ok_or_else(|| Failure("nginx did not become ready".to_owned()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        process::terminate(self.child.id());
        let _ = process::wait(&mut self.child, STOP_LIMIT);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn config(folder: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
        events {{ worker_connections 1024; }}\n\
        http {{\n  access_log off;\n  client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
        fastcgi_temp_path {folder}/f;\n  uwsgi_temp_path {folder}/u;\n  scgi_temp_path {folder}/s;\n  \
        keepalive_requests 100000000;\n  upstream handler {{ server {upstream}; keepalive 64; \
        keepalive_requests 100000000; }}\n  \
        server {{\n    listen {address};\n    location / {{\n      proxy_pass http://handler;\n      \
        proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n    }}\n  }}\n}}\n"
    )
}
