//! The command line: what can be typed, and which file does it. One file per verb.
//!
//! It holds no logic of functions: every verb but `serve` and `doctor` is a conversation with a server over HTTP.

mod base64;
mod client;
mod completion;
mod deploy;
mod doctor;
pub mod error;
mod executions;
pub mod hidden;
mod invoke;
mod keys;
mod logs;
mod ls;
mod manifest;
mod multipart;
mod pack;
mod queue;
mod rm;
mod serve;
mod show;
pub mod term;
mod trial;
pub mod units;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use offshoot_model::FunctionName;

use self::client::Client;
use self::error::{CliError, Exit};
use self::term::{ColorWhen, Output, Term};
use crate::config::{ClientFlags, Env};

/// What `--help` says after the list of verbs.
const AFTER_HELP: &str = "\
Start:   offshoot serve
         offshoot deploy ./hello && offshoot invoke hello -d '{\"name\":\"Ana\"}'";

const AFTER_LONG_HELP: &str = "\
Start:
  offshoot serve
  offshoot deploy ./hello
  offshoot invoke hello -d '{\"name\":\"Ana\"}'

Exit codes:
  0    done; the function returned normally
  1    the function returned an error (its answer is still on standard output)
  2    the command line is wrong
  3    configuration, package or a local file is wrong
  4    the server answered with an error
  5    the server cannot be reached, or does not accept the token
  124  the function timed out
  137  the function was killed at its memory limit
  130, 143  interrupted
  Whoever reads the output may leave early (... | head): that changes no code. logs -f ends then, with 0.

Settings:
  Every setting is a flag, a variable OFFSHOOT_* and a line in a file; flags win over variables over
  ./offshoot.toml over $XDG_CONFIG_HOME/offshoot/config.toml over /etc/offshoot/config.toml.
  offshoot serve --print-config shows each one with its value and origin.

Results go to standard output, everything else to standard error.";

/// A self-hosted function runtime: deploy a zip, invoke over HTTP, start by cloning something warm.
#[derive(Debug, Parser)]
#[command(name = "offshoot", version, arg_required_else_help = true, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Form of the result
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        default_value = "text",
        help_heading = "Output"
    )]
    output: Output,
    /// Only results: no notes, no logs, no progress
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,
    /// More details
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = "Output")]
    verbose: bool,
    /// When to use colour; NO_COLOR and CLICOLOR_FORCE are honoured
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    color: ColorWhen,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server
    #[command(alias = "server", alias = "start")]
    Serve(serve::Args),
    /// Deploy a directory, a zip or a single file as a function
    #[command(alias = "up", alias = "publish")]
    Deploy(deploy::Args),
    /// Call a function and print its answer
    #[command(alias = "call", alias = "run")]
    Invoke(invoke::Args),
    /// List the functions
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show everything about a function
    #[command(alias = "get", alias = "describe", alias = "info")]
    Show(show::Args),
    /// Remove functions
    #[command(alias = "remove", alias = "delete", alias = "del")]
    Rm(rm::Args),
    /// Show what a function wrote
    #[command(alias = "log", alias = "tail")]
    Logs(logs::Args),
    /// Look after asynchronous invocations
    Queue(queue::Args),
    /// Look after durable executions
    #[command(alias = "execution")]
    Executions(executions::Args),
    /// Make and remove access keys for clients that sign as for AWS
    #[command(alias = "key")]
    Keys(keys::Args),
    /// Check what this machine can do, and how to mend the rest
    #[command(alias = "check")]
    Doctor(doctor::Args),
    /// Print a completion script for a shell
    #[command(alias = "completions")]
    Completion(completion::Args),
}

/// What every verb gets.
struct Context {
    term: Term,
    env: Env,
}

impl Context {
    /// A client of the server that flags, environment and files name.
    fn client(&self, flags: &ClientFlags) -> Result<Client, CliError> {
        Ok(Client::new(crate::config::load(&self.env, &flags.0)?.client))
    }
    #[cfg(test)]
    fn for_tests() -> Self {
        let env = Env::of_pairs(&[]);
        Context { term: Term::new(Output::Text, ColorWhen::Never, true, false, &env), env }
    }
}

/// A function's name as it was typed.
fn function_name(text: &str) -> Result<FunctionName, CliError> {
    FunctionName::parse(text).map_err(|e| {
        let hint = match text.split_once(':') {
            Some((name, qualifier)) if FunctionName::parse(name).is_ok() && !qualifier.is_empty() => format!(
                "give the name alone: {name}. Only invoke takes a version or an alias ({name}:{qualifier}); show lists them, logs has the lines of all, and AWS's clients remove one"
            ),
            _ => "offshoot ls shows the names that exist".to_owned(),
        };
        CliError::usage(e.message).hint(hint)
    })
}

/// Parses the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let env = Env::of_process();
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let command = Cli::command().color(match asked(&args, &["--color"]).as_deref() {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    });
    let parsed = command.try_get_matches_from(std::env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return misused(error, &args, &env),
    };
    let context = Context { term: Term::new(cli.output, cli.color, cli.quiet, cli.verbose, &env), env };
    let exit = run(cli.verb, &context).unwrap_or_else(|error| {
        if !error.message.is_empty() {
            context.term.show_error(&error);
        }
        error.exit
    });
    ExitCode::from(exit.code())
}

fn run(verb: Verb, context: &Context) -> Result<Exit, CliError> {
    match verb {
        Verb::Serve(args) => serve::run(args, context),
        Verb::Deploy(args) => deploy::run(args, context),
        Verb::Invoke(args) => invoke::run(args, context),
        Verb::Ls(args) => ls::run(args, context),
        Verb::Show(args) => show::run(args, context),
        Verb::Rm(args) => rm::run(args, context),
        Verb::Logs(args) => logs::run(args, context),
        Verb::Queue(args) => queue::run(args, context),
        Verb::Executions(args) => executions::run(args, context),
        Verb::Keys(args) => keys::run(args, context),
        Verb::Doctor(args) => doctor::run(args, context),
        Verb::Completion(args) => completion::run(args, context),
    }
}

/// Help and version are results; everything else that the parser says is a usage error.
fn misused(error: clap::Error, args: &[String], env: &Env) -> ExitCode {
    let error = without_aliases(error);
    // A closed stream is no reason to fail: `offshoot --help | head -1`.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::from(Exit::Ok.code());
    }
    let names = error.kind() == ErrorKind::UnknownArgument && args.get(1).is_some_and(|verb| verb == "deploy");
    if names && args.iter().any(|arg| arg == "--name" || arg.starts_with("--name=")) {
        term::complain("\n  tip: the function's name is the second argument: offshoot deploy PATH NAME");
    }
    if asked(args, &["-o", "--output"]).as_deref() == Some("json") && error.kind() != ErrorKind::DisplayHelp {
        let term = Term::new(Output::Json, ColorWhen::Never, true, false, env);
        let what = CliError::usage(one_sentence(&error.to_string())).hint("offshoot --help shows what can be typed");
        let _ = term.document(&serde_json::json!({"error": what.to_json()}));
    }
    ExitCode::from(Exit::Usage.code())
}

/// The same complaint with only those verbs suggested that help shows: aliases are there for fingers, not for learning.
fn without_aliases(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let shown = Cli::command();
    let known = |name: &String| shown.get_subcommands().any(|verb| verb.get_name() == name);
    if let Some(ContextValue::Strings(names)) = error.get(ContextKind::SuggestedSubcommand) {
        let kept: Vec<String> = names.iter().filter(|name| known(name)).cloned().collect();
        match kept.is_empty() {
            true => drop(error.remove(ContextKind::SuggestedSubcommand)),
            false => drop(error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(kept))),
        }
    }
    error
}

/// The parser's complaint without the lines that only help people.
fn one_sentence(text: &str) -> String {
    let complaint = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    complaint.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the command line gives for an option, read without the parser: for the moments when the parser has failed.
fn asked(args: &[String], names: &[&str]) -> Option<String> {
    args.iter().enumerate().find_map(|(at, arg)| {
        let follows = || args.get(at + 1).cloned();
        names.iter().find_map(|name| match arg.strip_prefix(name)? {
            "" => follows(),
            rest if name.starts_with("--") => rest.strip_prefix('=').map(str::to_owned),
            rest => Some(rest.trim_start_matches('=').to_owned()),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_flag_says_what_it_does() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            for arg in verb.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", verb.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn unknown_verbs_get_the_nearest() {
        let error = Cli::try_parse_from(["offshoot", "deplyo", "x"]).unwrap_err();
        assert!(error.to_string().contains("'deploy'"));
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn hidden_names_are_not_suggested() {
        let error = without_aliases(Cli::try_parse_from(["offshoot", "deply", "x"]).unwrap_err()).to_string();
        assert!(error.contains("'deploy'") && !error.contains("'del"), "{error}");
    }

    #[test]
    fn a_version_is_named_elsewhere() {
        assert!(function_name("ev:1").unwrap_err().hint.unwrap().contains("Only invoke takes a version"));
        assert!(function_name("a b").unwrap_err().hint.unwrap().contains("offshoot ls"));
    }

    #[test]
    fn verbs_of_other_tools_work_too() {
        for line in [&["list"][..], &["describe", "f"], &["delete", "f"], &["tail", "f"], &["start"], &["call", "f"]] {
            assert!(Cli::try_parse_from([&["offshoot"], line].concat()).is_ok(), "{line:?}");
        }
    }

    #[test]
    fn complaints_become_one_sentence() {
        let error = Cli::try_parse_from(["offshoot", "deploy"]).unwrap_err().to_string();
        assert_eq!(one_sentence(&error), "the following required arguments were not provided: <PATH>");
    }

    #[test]
    fn options_are_found_without_the_parser() {
        let find = |line: &str| asked(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), &["-o", "--output"]);
        for line in ["ls -o json", "ls --output json", "--output=json ls", "ls -ojson", "ls -o=json"] {
            assert_eq!(find(line).as_deref(), Some("json"), "{line}");
        }
        assert_eq!(find("ls --outputs json"), None);
    }
}
