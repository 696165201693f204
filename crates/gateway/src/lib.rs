//! The front door: HTTP, authentication, the shapes and words of the Lambda API.
//!
//! The wall: the only crate that knows public HTTP; status codes appear nowhere else. Modules stand in the order in
//! which a request meets them.
#![forbid(unsafe_code)]

mod service;

mod silence;

pub mod tls;

mod request;

mod ids;

mod browsers;

mod routes;

pub mod auth;

mod body;

mod query;

mod invoke;

mod payload;

mod functions;

mod versions;

mod aliases;

mod provisioned;

mod scaling;

mod paging;

mod view;

mod tags;

mod account;

mod concurrency;

mod own_api;

mod explain;

mod settings;

mod validation;

mod errors;

pub mod metrics;

pub use service::{Config, Handle, Service};

/// Whether requests must be signed.
#[derive(Debug, Clone)]
pub enum Auth {
    /// With one of these keys.
    Required(auth::Keys),
    /// Any or no credentials will do; what a browser sends for some web page is refused.
    Open {
        /// Requests may name this server by whatever host name they like, not only by one of this machine's own.
        public: bool,
    },
}
