//! `offshoot serve`: gathers the settings and hands them to the server.
//!
//! It never binds a port nor starts a process itself.

use serde_json::{Map, Value, json};

use super::Context;
use super::error::{CliError, Exit};
use super::term::columns;
use crate::config::{Loaded, ServeFlags, load};

/// Runs the server until SIGTERM or Ctrl-C; a second one ends it at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show every setting with its value and origin, and do not serve
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: ServeFlags,
}

/// Serves, or shows with which settings it would.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let loaded = load(&context.env, &args.flags.0)?;
    if args.print_config {
        print_config(&loaded, context)?;
        return Ok(Exit::Ok);
    }
    loaded.serve.check()?;
    loaded.serve.check_access_key()?;
    crate::server::run(loaded.serve)?;
    Ok(Exit::Ok)
}

fn print_config(loaded: &Loaded, context: &Context) -> Result<(), CliError> {
    if context.term.json() {
        let row = |(key, value, origin): &(&str, Value, crate::config::Origin)| {
            ((*key).to_owned(), json!({"value": value, "origin": origin.to_string()}))
        };
        let settings: Map<String, Value> = loaded.rows.iter().map(row).collect();
        return context.term.document(&json!({"settings": settings}));
    }
    let mut rows = vec![["SETTING", "VALUE", "ORIGIN"].map(str::to_owned).to_vec()];
    rows.extend(
        loaded.rows.iter().map(|(key, value, origin)| vec![(*key).to_owned(), plain(value), origin.to_string()]),
    );
    columns(&rows).iter().try_for_each(|line| context.term.line(line))
}

/// A value as people read it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
