//! `offshoot completion SHELL`: prints the script that completes this command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::{CliError, Exit};
use super::{Cli, Context};

/// Prints a completion script.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "bash:  source <(offshoot completion bash)\nzsh:   offshoot completion zsh > \"${fpath[1]}/_offshoot\"\n\
    fish:  offshoot completion fish > ~/.config/fish/completions/offshoot.fish"
)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "offshoot", &mut script);
    context.term.out(&script)?;
    Ok(Exit::Ok)
}
