//! What checking a signature costs: the same warm invocations signed, and on a server that takes any.
//!
//! A request is signed once and sent again and again: making signatures is the client's cost, not the server's.

use crate::Failure;
use crate::figures::{Latencies, median};
use crate::load::{self, Target};
use crate::options::Options;
use crate::plan::{self, EVENT, GREETING};
use crate::platform::{Platform, Setup};
use crate::process::Pinned;
use crate::rows::proxy::{CONNECTIONS, LOAD, SERVERS};
use crate::table::Line;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use std::time::SystemTime;

/// Row 12.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let subject = plan::native(options)?;
    let pinned = Pinned::to(SERVERS);
    let open = Platform::start(options, &Setup::of(&[&subject.function]))?;
    open.deploy("native", &subject.function)?;
    let closed = Platform::start(options, &Setup { auth: true, ..Setup::of(&[&subject.function]) })?;
    closed.deploy("native", &subject.function)?;
    drop(pinned);
    let _pinned = Pinned::to(LOAD);
    let (mut latencies, mut rates, mut cpu) = <([Latencies; 2], [Vec<f64>; 2], [Vec<f64>; 2])>::default();
    for _ in 0..options.rounds {
        for (which, platform) in [&closed, &open].into_iter().enumerate() {
            let target = if which == 0 { signed(platform, "native")? } else { platform.greeting("native") };
            load::closed(&target, CONNECTIONS, options.span() / 3)?;
            latencies[which].add(&load::closed(&target, 1, options.span() / 2)?.latencies);
            let before = platform.cpu_us();
            let load = load::closed(&target, CONNECTIONS, options.span())?;
            cpu[which].push((platform.cpu_us() - before) as f64 / load.latencies.len().max(1) as f64);
            rates[which].push(load.per_second());
        }
    }
    let p50 = latencies.map(|latencies| latencies.p50_us());
    let line = Line::new("12", "signed, warm native, 16 connections").ours(median(&rates[0]), "/s");
    let line = line.beside("the same unsigned", median(&rates[1])).cpu(median(&cpu[0]), median(&cpu[1]));
    let note =
        format!("p50 on one connection {:.0} µs, unsigned {:.0} µs", p50[0].unwrap_or(0.0), p50[1].unwrap_or(0.0));
    Ok(vec![line.note(note)])
}

fn signed(platform: &Platform, name: &str) -> Result<Target, Failure> {
    let (key, secret) = (platform.credential("AWS_ACCESS_KEY_ID"), platform.credential("AWS_SECRET_ACCESS_KEY"));
    let identity = Credentials::new(key, secret, None, None, "bench").into();
    let parameters = v4::SigningParams::builder().identity(&identity).region("us-east-1").name("lambda");
    let parameters = parameters.time(SystemTime::now()).settings(SigningSettings::default()).build();
    let parameters = parameters.map_err(Failure::during("signing a request"))?.into();
    let host = platform.address().to_string();
    let path = format!("/2015-03-31/functions/{name}/invocations");
    let headers = [("host", host.as_str()), ("content-type", "application/json")];
    let url = format!("http://{host}{path}");
    let body = SignableBody::Bytes(EVENT.as_bytes());
    let request =
        SignableRequest::new("POST", &url, headers.into_iter(), body).map_err(Failure::during("signing a request"))?;
    let (instructions, _) = sign(request, &parameters).map_err(Failure::during("signing a request"))?.into_parts();
    let mut head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n", EVENT.len());
    let added = instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().chain(added) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let request = format!("{head}\r\n{EVENT}").into_bytes();
    Ok(Target { address: platform.address(), request, expected: GREETING })
}
