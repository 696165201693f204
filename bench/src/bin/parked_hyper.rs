//! The comparator of parked invocations: a bare hyper server on one thread that takes each request and never answers.
//! Prints the port it listens on.
#![forbid(unsafe_code)]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::Ipv4Addr;
use tokio::net::TcpListener;

fn main() -> io::Result<()> {
    bench::process::raise_open_files();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
}

async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        // A connection that breaks off concerns nobody but its task.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(park)));
    }
}

/// Reads the event, as the platform must, and keeps it.
async fn park(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let event = request.into_body().collect().await?.to_bytes();
    std::future::pending::<()>().await;
    Ok(Response::new(Full::new(event)))
}
