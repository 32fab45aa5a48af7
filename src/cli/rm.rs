//! `offshoot rm NAME…`: removes functions, as many of the named ones as there are.

use http::Method;
use serde_json::json;

use super::Context;
use super::client::block_on;
use super::error::{CliError, Exit};
use crate::config::ClientFlags;

/// Removes functions.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The functions
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Removes each; the exit code is that of the first that could not be removed.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let names = args.names.iter().map(|name| super::function_name(name)).collect::<Result<Vec<_>, _>>()?;
    let client = context.client(&args.flags)?;
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    for name in &names {
        let done = block_on(async {
            match client.ask(Method::DELETE, &format!("/del/{name}")).await {
                Err(error) if error.kind == "not-found" => Err(client.unknown_function(name).await),
                other => other,
            }
        });
        match done {
            Ok(_) => removed.push(name),
            Err(error) if matches!(error.exit, Exit::Server) => errors.push(error),
            Err(error) => return Err(error),
        }
        if !context.term.json() && removed.last() == Some(&name) {
            context.term.line(&format!("removed {name}"))?;
        }
    }
    if context.term.json() {
        let errors: Vec<_> = errors.iter().map(CliError::to_json).collect();
        context.term.document(&json!({"removed": removed, "errors": errors}))?;
    }
    for error in &errors {
        context.term.show_error_text(error);
    }
    Ok(errors.first().map_or(Exit::Ok, |error| error.exit))
}
