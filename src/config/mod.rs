//! Every setting in one table, and the only reader of the process environment and of configuration files.
//!
//! A setting can be given as a flag, as an `OFFSHOOT_*` variable and in a file. A flag wins over the environment, the
//! environment over files, and among files the project's (`./offshoot.toml`) over the user's
//! (`$XDG_CONFIG_HOME/offshoot/config.toml`) over the machine's (`/etc/offshoot/config.toml`). `--config FILE` or
//! `OFFSHOOT_CONFIG` replaces these three by one. Nothing here is guessed: a name that is not in the table is refused.
//!
//! The table is in `table`, what a value may look like in `values`, where values come from in `sources`, and how they become
//! one configuration in `gather`. What the rest of the program gets of it is in `types`.

mod gather;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod token;
mod types;
mod values;

pub use gather::{Loaded, load};
#[cfg(test)]
pub use sources::Flags;
pub use sources::{ClientFlags, Entry, Env, Origin, ServeFlags, read_toml};
pub use types::{Auth, ClientConfig, LogFormat, Secret, ServeConfig, ServerUrl, WarmRuntimes};

/// The file that names the configuration instead of the three usual ones.
const CONFIG_VARIABLE: &str = "OFFSHOOT_CONFIG";
/// The port that is used when an address names none.
const DEFAULT_PORT: u16 = 9000;
/// Missing sandbox features that an operator can accept.
pub const DEGRADABLE: &[&str] = &["cgroup", "landlock", "uid", "userns"];
