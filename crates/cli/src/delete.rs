//! `tidegate delete`

use crate::client::{Call, Client, segment};
use crate::error::Error;
use crate::screen::Screen;
use crate::{Output, Shared};
use clap::Args;
use serde_json::json;
use ureq::http::Method;

/// Delete a function.
#[derive(Debug, Args)]
pub struct Delete {
    /// The function's name or ARN
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Asks if there is someone to ask, then deletes.
pub fn run(args: &Delete, client: &Client, screen: &Screen) -> Result<(), Error> {
    if !args.yes {
        match screen.confirm(&format!("Delete {} with all its versions?", args.name))? {
            Some(true) => {}
            Some(false) => {
                screen.note("nothing was deleted");
                return Ok(());
            }
            None => {
                return Err(Error::usage(
                    format!("{} was not deleted: nobody is at the terminal to confirm it", args.name),
                    "add --yes",
                ));
            }
        }
    }
    let path = format!("/2015-03-31/functions/{}", segment(&args.name));
    client.send(Call::new("DeleteFunction", Method::DELETE, path))?;
    match args.shared.output {
        Output::Json => screen.json(&json!({ "name": args.name, "action": "deleted" })),
        Output::Text => screen.line(&format!("deleted {}", args.name)),
    }
}
