//! Where values come from: the environment of this process, files, and flags; and how an origin is told to people.
//!
//! Nothing here knows what a value means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::CONFIG_VARIABLE;
use super::table::{Draft, SETTINGS, Scope, Setting, Takes};
use crate::cli::error::CliError;

/// Where a value comes from. The order is the precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A file and a line of it.
    File(PathBuf, usize, FileRank),
    /// A variable of the environment.
    Env(&'static str),
    /// A flag.
    Flag(&'static str),
}

/// The precedence among files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileRank {
    /// `/etc/offshoot/config.toml`.
    System,
    /// `$XDG_CONFIG_HOME/offshoot/config.toml`.
    User,
    /// `./offshoot.toml`.
    Project,
    /// The file that `--config` or `OFFSHOOT_CONFIG` names.
    Named,
}

impl Origin {
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File(_, _, rank) => 1 + *rank as u8,
            Origin::Env(_) => 5,
            Origin::Flag(_) => 6,
        }
    }
}
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line, _) => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// The process environment and working directory, read once.
#[derive(Debug, Clone, Default)]
pub struct Env {
    pub(super) vars: BTreeMap<String, String>,
    /// The working directory.
    pub cwd: PathBuf,
}

impl Env {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let vars = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        Env { vars, cwd: std::env::current_dir().unwrap_or_default() }
    }
    /// A variable, unless it is unset or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
    /// An environment of these variables alone.
    #[cfg(test)]
    pub fn of_pairs(vars: &[(&str, &str)]) -> Self {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Env { vars, ..Env::default() }
    }
    fn dir(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
    fn user_dir(&self, xdg: &str, in_home: &str) -> Option<PathBuf> {
        self.dir(xdg).or_else(|| self.dir("HOME").map(|home| home.join(in_home))).map(|dir| dir.join("offshoot"))
    }
    pub(super) fn data_dir(&self) -> PathBuf {
        let systemd = self.get("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next()).map(PathBuf::from);
        let user = || self.user_dir("XDG_DATA_HOME", ".local/share");
        systemd.filter(|dir| dir.is_absolute()).or_else(user).unwrap_or_else(|| PathBuf::from("/var/lib/offshoot"))
    }
    pub(super) fn files(&self) -> Vec<(PathBuf, FileRank)> {
        let mut files = vec![(PathBuf::from("/etc/offshoot/config.toml"), FileRank::System)];
        if let Some(dir) = self.user_dir("XDG_CONFIG_HOME", ".config") {
            files.push((dir.join("config.toml"), FileRank::User));
        }
        files.push((self.cwd.join("offshoot.toml"), FileRank::Project));
        files
    }
}

/// One value of a TOML file: the names that lead to it, its text, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The names, outermost first.
    pub path: Vec<String>,
    /// The value, or the members of a list. Neither: it is a table without members.
    pub items: Vec<String>,
    /// Whether it is a list.
    pub list: bool,
    /// Its line, from 1.
    pub line: usize,
}

impl Entry {
    /// Whether it is a table in which nothing stands.
    pub fn is_empty_table(&self) -> bool {
        self.items.is_empty() && !self.list
    }
}

/// Reads a TOML file into its values; `None` when there is no such file.
pub fn read_toml(path: &Path) -> Result<Option<Vec<Entry>>, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => flatten(&text)
            .map(Some)
            .map_err(|(line, what)| CliError::config(format!("{}:{line}: {what}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(CliError::config(format!("cannot read {}: {e}", path.display()))
            .hint("make it readable for this user, or move it away")),
    }
}

pub(super) fn flatten(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let line_of = |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|e| {
        let span = e.span().unwrap_or_default();
        let line = line_of(span.start);
        (
            line,
            explained(e.message(), text.get(span).unwrap_or_default(), text.lines().nth(line - 1).unwrap_or_default()),
        )
    })?;
    let mut entries = Vec::new();
    flatten_table(table.get_ref(), &[], &line_of, &mut entries)?;
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

/// What the parser says, with the key or the form that it leaves to be guessed.
fn explained(message: &str, at: &str, line: &str) -> String {
    if message.contains("duplicate key") {
        return format!("{} is given twice: keep one of them", at.trim());
    }
    match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
        Some((key, value))
            if value.starts_with(|c: char| c.is_ascii_alphabetic() || ":/.~*".contains(c)) && !value.contains('"') =>
        {
            format!("{message} (a text stands in quotes: {key} = \"{value}\")")
        }
        _ => message.to_owned(),
    }
}

pub(super) fn flatten_table(
    table: &DeTable<'_>,
    above: &[String],
    line_of: &dyn Fn(usize) -> usize,
    into: &mut Vec<Entry>,
) -> Result<(), (usize, String)> {
    for (name, value) in table.iter() {
        let line = line_of(name.span().start);
        let mut path = above.to_vec();
        path.push(name.get_ref().clone().into_owned());
        if let DeValue::Table(inner) = value.get_ref() {
            if inner.is_empty() {
                into.push(Entry { path, items: Vec::new(), list: false, line });
                continue;
            }
            flatten_table(inner, &path, line_of, into)?;
            continue;
        }
        let (items, list) = match value.get_ref() {
            DeValue::Array(members) => (members.iter().map(|m| scalar(m.get_ref())).collect::<Option<Vec<_>>>(), true),
            one => (scalar(one).map(|text| vec![text]), false),
        };
        let items = items.ok_or_else(|| (line, format!("{}: a list of plain values is expected", path.join("."))))?;
        into.push(Entry { path, items, list, line });
    }
    Ok(())
}

pub(super) fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(n) => {
            Some(i128::from_str_radix(n.as_str(), n.radix()).map_or(n.as_str().to_owned(), |n| n.to_string()))
        }
        DeValue::Float(n) => Some(n.as_str().to_owned()),
        DeValue::Boolean(b) => Some(b.to_string()),
        DeValue::Datetime(moment) => Some(moment.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// The settings given as flags.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub(super) config: Option<PathBuf>,
    pub(super) values: BTreeMap<&'static str, Vec<String>>,
}

impl Flags {
    fn augment(command: Command, scope: Scope) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help(format!("Read this configuration file instead of the usual ones [env {CONFIG_VARIABLE}]"));
        let draft = Draft::new(&Env::default());
        let rows = SETTINGS.iter().filter(|s| s.scope == scope || s.scope == Scope::Both);
        command.arg(config.help_heading("Settings")).args(rows.map(|setting| setting.arg(&draft)))
    }

    pub(super) fn read(matches: &ArgMatches) -> Self {
        let mut flags = Flags { config: matches.get_one::<String>("config").map(PathBuf::from), ..Flags::default() };
        for setting in SETTINGS {
            if let Ok(Some(values)) = matches.try_get_many::<String>(setting.flag) {
                flags.values.insert(setting.key, values.cloned().collect());
            }
        }
        flags
    }
}

impl Setting {
    fn arg(&self, draft: &Draft) -> Arg {
        let default = match (self.get)(draft) {
            Value::Null => String::new(),
            Value::Array(_) => String::new(),
            _ if self.key == "data_dir" => String::new(),
            Value::String(text) => format!(" [default {text}]"),
            other => format!(" [default {other}]"),
        };
        let arg = Arg::new(self.flag).long(self.flag).help(format!("{} [env {}]{default}", self.help, self.env));
        let limit = self.key.starts_with("limits.");
        let arg = arg.help_heading(if limit { "Limits" } else { "Settings" }).hide_short_help(limit);
        match self.takes {
            Takes::One(value) => arg.value_name(value),
            Takes::List(value) => arg.value_name(value).action(ArgAction::Append),
            Takes::Word(words) => arg.value_name("WORD").value_parser(clap::builder::PossibleValuesParser::new(words)),
            Takes::Bool => arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
        }
    }
}

macro_rules! flags_for {
    ($(#[$doc:meta])* $name:ident, $scope:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name(pub Flags);
        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                Flags::augment(command, $scope)
            }
            fn augment_args_for_update(command: Command) -> Command {
                Flags::augment(command, $scope)
            }
        }
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok($name(Flags::read(matches)))
            }
            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = Flags::read(matches);
                Ok(())
            }
        }
    };
}
flags_for!(
    /// The flags of verbs that serve.
    ServeFlags,
    Scope::Serve
);
flags_for!(
    /// The flags of verbs that talk to a server.
    ClientFlags,
    Scope::Client
);
