//! `offshoot keys new|ls|rm`: access keys for clients that sign their requests as for AWS.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Context;
use super::client::block_on;
use super::error::{CliError, Exit};
use super::term::{member, printable};
use super::units::{now_ms, parse_moment, show_ago};
use crate::config::ClientFlags;

/// Makes, lists and removes access keys.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key and print it: its secret is shown this once
    New(New),
    /// List the keys, without their secrets
    #[command(alias = "list")]
    Ls(Ls),
    /// Remove keys: what is signed with them passes no more
    #[command(alias = "remove", alias = "delete")]
    Rm(Rm),
}

#[derive(Debug, clap::Args)]
struct New {
    /// What it is for
    #[arg(default_value = "")]
    note: String,
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct Ls {
    #[command(flatten)]
    flags: ClientFlags,
}

#[derive(Debug, clap::Args)]
struct Rm {
    /// The keys' ids
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Does what is asked of the keys.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    match args.verb {
        Verb::New(new) => make(&new, context),
        Verb::Ls(ls) => list(&ls, context),
        Verb::Rm(rm) => remove(&rm, context),
    }
}

fn make(args: &New, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let made = block_on(client.tell("/v1/keys", Some(&json!({"note": args.note}))))?;
    if context.term.json() {
        context.term.document(&made)?;
        return Ok(Exit::Ok);
    }
    // As a shell reads it: eval "$(offshoot keys new)".
    let part = |key: &str| printable(made[key].as_str().unwrap_or_default(), false);
    context.term.line(&format!("export AWS_ACCESS_KEY_ID={}", part("accessKeyId")))?;
    context.term.line(&format!("export AWS_SECRET_ACCESS_KEY={}", part("secretAccessKey")))?;
    context.term.note("keep it now: the server shows the secret only this once");
    if made["signaturesChecked"] == false {
        context
            .term
            .note("this server does not check signatures: its keys count only when it is started with --auth sigv4");
    }
    Ok(Exit::Ok)
}

fn list(args: &Ls, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    let list = block_on(client.ask(Method::GET, "/v1/keys"))?;
    let keys = list["keys"].as_array().cloned().unwrap_or_default();
    if context.term.json() {
        context.term.document(&list)?;
    } else if keys.is_empty() {
        context.term.note("there are no keys; make one with: offshoot keys new");
    } else {
        context.term.table(&table(&keys, now_ms()))?;
    }
    Ok(Exit::Ok)
}

fn table(keys: &[Value], now: u64) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "MADE", "NOTE"].map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        let made = key["createdAt"].as_str().and_then(parse_moment);
        vec![member(key, "accessKeyId"), made.map_or("-".to_owned(), |then| show_ago(then, now)), member(key, "note")]
    }));
    rows
}

fn remove(args: &Rm, context: &Context) -> Result<Exit, CliError> {
    let client = context.client(&args.flags)?;
    for id in &args.ids {
        if !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(CliError::usage(format!("'{}' is not a key's id", id.escape_default())));
        }
        block_on(client.ask(Method::DELETE, &format!("/v1/keys/{id}"))).map_err(|error| match error.kind.as_str() {
            "not-found" => CliError::server("not-found", format!("there is no key {id} on {}", client.server()))
                .hint("offshoot keys ls shows the keys"),
            _ => error,
        })?;
        if !context.term.json() {
            context.term.line(&format!("removed {id}"))?;
        }
    }
    if context.term.json() {
        context.term.document(&json!({"removed": args.ids}))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::term::columns;

    #[test]
    fn rows_have_no_secrets() {
        let keys = [json!({"accessKeyId": "AKIA1", "note": "ci", "createdAt": "1970-01-01T00:00:48Z"})];
        assert_eq!(columns(&table(&keys, 60_000)), ["ID     MADE     NOTE", "AKIA1  12s ago  ci"]);
    }
}
