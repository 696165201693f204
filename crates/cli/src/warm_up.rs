//! `tidegate warm-up`

use crate::client::{Call, Client, segment};
use crate::error::Error;
use crate::screen::Screen;
use crate::{Output, Shared};
use clap::Args;
use serde_json::json;
use ureq::http::Method;

/// Start instances ahead of invocations.
#[derive(Debug, Args)]
pub struct WarmUp {
    /// The function's name
    name: String,
    /// How many invocations shall find an initialised instance
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// A version or an alias
    #[arg(long, value_name = "QUALIFIER")]
    qualifier: Option<String>,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Orders the instances; they come up while this returns, and idle as if invocations had started them.
pub fn run(args: &WarmUp, client: &Client, screen: &Screen) -> Result<(), Error> {
    let path = format!("/tidegate/v1/functions/{}/warm-up", segment(&args.name));
    let mut call = Call::new("WarmUp", Method::POST, path).json(&json!({ "count": args.count }));
    if let Some(qualifier) = &args.qualifier {
        call = call.query("Qualifier", qualifier);
    }
    client.send(call)?;
    match args.shared.output {
        Output::Json => screen.json(&json!({ "name": args.name, "count": args.count })),
        Output::Text => screen.line(&format!("{} warms up for {} invocations at a time", args.name, args.count)),
    }
}
