//! Builds the server from its configuration, binds its port and drains it at the end.

use crate::cli::error::CliError;
use crate::config::ServeConfig;

/// Serves until it is told to stop.
pub fn run(config: ServeConfig) -> Result<(), CliError> {
    Err(CliError::config(format!("this build has no server to listen on {}", config.listen)))
}
