//! From all that was given to one configuration: flags over the environment over files, each value with its origin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::CONFIG_VARIABLE;
use super::sources::{Entry, Env, FileRank, Flags, Origin, read_toml};
use super::table::{Draft, Raw, SETTINGS, Setting, Takes};
use super::token::TokenFile;
use super::types::{ClientConfig, ServeConfig, ServerUrl};
use super::values::parse_token;
use crate::cli::error::CliError;
use crate::cli::units::nearest;

/// A value with its origin, before it is understood.
pub(super) struct Given {
    items: Vec<String>,
    origin: Origin,
    base: PathBuf,
}
pub(super) type AllGiven = BTreeMap<&'static str, Given>;

/// The effective configuration.
pub struct Loaded {
    /// For the server.
    pub serve: ServeConfig,
    /// For clients.
    pub client: ClientConfig,
    /// Every setting with its effective value and origin, in the order of the table.
    pub rows: Vec<(&'static str, Value, Origin)>,
}

/// Reads flags, environment and files into the effective configuration.
pub fn load(env: &Env, flags: &Flags) -> Result<Loaded, CliError> {
    let mut given = AllGiven::new();
    read_files(env, flags, &mut given)?;
    read_env(env, &mut given)?;
    for (key, values) in &flags.values {
        if let Some(setting) = SETTINGS.iter().find(|s| s.key == *key) {
            let items = values.iter().flat_map(|value| setting.split(value)).collect();
            given.insert(key, Given { items, origin: Origin::Flag(setting.flag), base: env.cwd.clone() });
        }
    }
    let mut draft = Draft::new(env);
    for setting in SETTINGS {
        if let Some(value) = given.get(setting.key) {
            let raw = Raw { items: &value.items, base: &value.base };
            (setting.set)(&mut draft, &raw).map_err(|what| refused(setting, &value.origin, &what))?;
        }
    }
    finish(draft, &given)
}

impl Setting {
    fn split(&self, text: &str) -> Vec<String> {
        match self.takes {
            Takes::List(_) => {
                text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
            }
            _ => vec![text.to_owned()],
        }
    }
}

pub(super) fn refused(setting: &Setting, origin: &Origin, what: &str) -> CliError {
    match origin {
        Origin::Flag(flag) => CliError::usage(format!("--{flag}: {what}")),
        Origin::Env(name) => CliError::config(format!("environment variable {name}: {what}")),
        other => CliError::config(format!("{other}: {}: {what}", setting.key)),
    }
}

pub(super) fn read_files(env: &Env, flags: &Flags, given: &mut AllGiven) -> Result<(), CliError> {
    let named = flags.config.clone().or_else(|| env.get(CONFIG_VARIABLE).map(PathBuf::from));
    let files = match &named {
        Some(path) => vec![(env.cwd.join(path), FileRank::Named)],
        None => env.files(),
    };
    for (path, rank) in files {
        match read_toml(&path)? {
            Some(entries) => entries.into_iter().try_for_each(|entry| take_entry(&path, rank, entry, given))?,
            None if rank == FileRank::Named => {
                return Err(CliError::config(format!("the configuration file {} does not exist", path.display()))
                    .hint(format!("correct --config or {CONFIG_VARIABLE}")));
            }
            None => {}
        }
    }
    Ok(())
}

pub(super) fn take_entry(path: &Path, rank: FileRank, entry: Entry, given: &mut AllGiven) -> Result<(), CliError> {
    let key = entry.path.join(".");
    if entry.is_empty_table()
        && SETTINGS.iter().any(|s| s.key.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')))
    {
        return Ok(());
    }
    let place = format!("{}:{}", path.display(), entry.line);
    let Some(setting) = SETTINGS.iter().find(|s| s.key == key) else {
        let tables = SETTINGS.iter().filter_map(|s| s.key.split_once('.')).map(|(table, _)| table);
        let near = match entry.is_empty_table() {
            true => nearest(&key, tables),
            false => nearest(&key, SETTINGS.iter().map(|s| s.key)),
        };
        return Err(CliError::config(format!("{place}: '{key}' is not a setting")).hint(match near {
            Some(near) => format!("did you mean '{near}'?"),
            None => "offshoot serve --print-config lists every setting".to_owned(),
        }));
    };
    if setting.key == "server" && rank == FileRank::Project {
        return Err(CliError::config(format!(
            "{place}: 'server' cannot be set here: a directory that you change into must not decide who gets your token"
        ))
        .hint("set it in your own configuration file, in OFFSHOOT_SERVER, or with --server"));
    }
    let items =
        if entry.list { entry.items } else { entry.items.iter().flat_map(|item| setting.split(item)).collect() };
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    given.insert(setting.key, Given { items, origin: Origin::File(path.to_owned(), entry.line, rank), base });
    Ok(())
}

/// What every variable of ours begins with.
const PREFIX: &str = "OFFSHOOT_";

/// AWS's own names for the addresses of services: they count where the server's own name for the setting is not set.
const AWS_ENDPOINTS: [(&str, &str); 6] = [
    ("sqs_endpoint", "AWS_ENDPOINT_URL_SQS"),
    ("kinesis_endpoint", "AWS_ENDPOINT_URL_KINESIS"),
    ("dynamodb_streams_endpoint", "AWS_ENDPOINT_URL_DYNAMODB_STREAMS"),
    ("ec2_endpoint", "AWS_ENDPOINT_URL_EC2"),
    ("eventbridge_endpoint", "AWS_ENDPOINT_URL_EVENTBRIDGE"),
    ("sns_endpoint", "AWS_ENDPOINT_URL_SNS"),
];

pub(super) fn read_env(env: &Env, given: &mut AllGiven) -> Result<(), CliError> {
    for (key, name) in AWS_ENDPOINTS {
        if let Some(value) = env.get(name).filter(|value| !value.is_empty()) {
            let origin = Origin::Env(name);
            given.insert(key, Given { items: vec![value.to_owned()], origin, base: env.cwd.clone() });
        }
    }
    for (name, value) in env.vars.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()) {
        if name == CONFIG_VARIABLE || is_service_link(name, value) {
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|s| s.env == name) else {
            // What they all begin with says nothing about which is meant.
            let rest = |name: &'static str| name.trim_start_matches(PREFIX);
            let near = nearest(
                name.trim_start_matches(PREFIX),
                SETTINGS.iter().map(|s| s.env).chain([CONFIG_VARIABLE]).map(rest),
            );
            return Err(CliError::config(format!("the environment variable {name} is not a setting of offshoot"))
                .hint(match near {
                    Some(near) => format!("did you mean {PREFIX}{near}? If not, unset it"),
                    None => "unset it; offshoot serve --help lists every variable".to_owned(),
                }));
        };
        given.insert(
            setting.key,
            Given { items: setting.split(value), origin: Origin::Env(setting.env), base: env.cwd.clone() },
        );
    }
    Ok(())
}

/// Variables that Kubernetes and Docker links add for a service that happens to be called `offshoot`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    let rest = name.trim_start_matches("OFFSHOOT_");
    rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || (rest == "PORT" && address)
        || rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

/// Settles what depends on more than one setting: the port, the token, the server's address.
pub(super) fn finish(mut draft: Draft, given: &AllGiven) -> Result<Loaded, CliError> {
    let origin = |key: &str| given.get(key).map_or(Origin::Default, |value| value.origin.clone());
    match draft.port {
        Some(port) if origin("port").rank() >= origin("listen").rank() => draft.serve.listen.set_port(port),
        _ => {}
    }
    let server = draft.server.get_or_insert_with(|| ServerUrl::of_listener(draft.serve.listen)).clone();
    let found_in_data_dir = settle_token(&mut draft, origin("token"), origin("token_file"))?;
    let client = ClientConfig {
        // A token that was not given for this purpose is shown to this machine only.
        token: draft.serve.token.clone().filter(|_| !found_in_data_dir || server.is_local()),
        server,
        limits: draft.serve.limits.clone(),
    };
    let rows = SETTINGS.iter().map(|s| (s.key, (s.get)(&draft), origin(s.key))).collect();
    Ok(Loaded { serve: draft.serve, client, rows })
}

/// Decides between the token, its file and the file in the data directory; true: it is from the data directory.
pub(super) fn settle_token(draft: &mut Draft, token: Origin, file: Origin) -> Result<bool, CliError> {
    if draft.token.is_some() && token.rank() == file.rank() {
        return Err(
            CliError::config(format!("both token ({token}) and token_file ({file}) are set")).hint("keep one of them")
        );
    }
    if draft.token.is_some() && token.rank() > file.rank() {
        draft.serve.token = draft.token.clone();
        draft.token_file = None;
        return Ok(false);
    }
    let named = draft.token_file.clone();
    let path = named.clone().unwrap_or_else(|| draft.serve.data_dir.join("token"));
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let token =
                parse_token(text.trim()).map_err(|what| CliError::config(format!("{}: {what}", path.display())))?;
            draft.serve.token = Some(token);
            draft.serve.token_file = Some(TokenFile::look(&path));
            draft.token_file = Some(path);
            Ok(named.is_none())
        }
        Err(_) if named.is_none() => Ok(false),
        Err(e) => Err(CliError::config(format!("cannot read the token file {} ({file}): {e}", path.display()))),
    }
}
