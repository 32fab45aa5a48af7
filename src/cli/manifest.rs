//! What a deployment says about a function besides its code: from flags and `function.toml` to the fields of the form.
//!
//! One table names every setting once; the flag, the key of the file and the field of the form follow from it. Ranges are
//! the server's to check: only spelling and units are understood here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use offshoot_model::RuntimeName;

use super::error::CliError;
use super::units::{nearest, parse_bytes, parse_millis};
use crate::config::{Entry, read_toml};

/// The file in a function's directory.
pub const FILE: &str = "function.toml";

/// A setting of a function.
struct Field {
    key: &'static str,
    flag: &'static str,
    form: &'static str,
    value: &'static str,
    words: &'static [&'static str],
    help: &'static str,
    read: fn(&str) -> Result<String, String>,
}

static FIELDS: &[Field] = &[
    Field {
        key: "runtime",
        flag: "runtime",
        form: "runtime",
        value: "NAME",
        words: &[],
        help: "Runtime, as AWS names it: nodejs20.x, python3.11, ruby3.4",
        read: runtime,
    },
    Field {
        key: "handler",
        flag: "handler",
        form: "handler",
        value: "FILE.EXPORT",
        words: &[],
        help: "Handler, for example index.handler or src/app.main",
        read: same,
    },
    Field {
        key: "memory",
        flag: "memory",
        form: "memory",
        value: "MIB",
        words: &[],
        help: "Memory limit: 256, 256MB, 1GiB",
        read: mib,
    },
    Field {
        key: "timeout",
        flag: "timeout",
        form: "timeout",
        value: "TIME",
        words: &[],
        help: "Longest run of one invocation: 30s, 500ms, 2m",
        read: seconds,
    },
    Field {
        key: "convention",
        flag: "convention",
        form: "convention",
        value: "WORD",
        words: &["event", "request"],
        help: "How the handler is called: event (event, context) or request (HTTP)",
        read: same,
    },
    Field {
        key: "snapshot",
        flag: "snapshot",
        form: "snapshot",
        value: "WORD",
        words: &["on", "off"],
        help: "Whether starts clone an initialised instance of this function",
        read: on_off,
    },
    Field {
        key: "max_concurrency",
        flag: "max-concurrency",
        form: "maxConcurrency",
        value: "N",
        words: &[],
        help: "Invocations that one instance serves at once",
        read: whole,
    },
    Field {
        key: "concurrency",
        flag: "concurrency",
        form: "concurrency",
        value: "N",
        words: &[],
        help: "Invocations that the whole function runs at once; 0: as many as the server does",
        read: whole,
    },
    Field {
        key: "rate_limit",
        flag: "rate-limit",
        form: "rateLimit",
        value: "N",
        words: &[],
        help: "Invocations per second; 0 = no limit",
        read: whole,
    },
    Field {
        key: "network",
        flag: "network",
        form: "network",
        value: "WORD",
        words: &["none", "host"],
        help: "What the function reaches: nothing, or this machine's network",
        read: same,
    },
    Field {
        key: "cpu",
        flag: "cpu",
        form: "cpu",
        value: "CORES",
        words: &[],
        help: "CPU limit in cores: 0.5; default = by memory",
        read: number_or_default,
    },
    Field {
        key: "tmp",
        flag: "tmp",
        form: "tmp",
        value: "MIB",
        words: &[],
        help: "Size of /tmp: 512, 1GiB",
        read: mib,
    },
    Field {
        key: "keep_alive",
        flag: "keep-alive",
        form: "keepAlive",
        value: "TIME",
        words: &[],
        help: "How long an idle instance is kept: 10m; default = the server's setting",
        read: seconds_or_default,
    },
];

fn same(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("a value is expected".to_owned()) } else { Ok(text.trim().to_owned()) }
}
fn runtime(text: &str) -> Result<String, String> {
    RuntimeName::parse(text.trim()).map(|name| name.to_string()).map_err(|e| e.message)
}
fn mib(text: &str) -> Result<String, String> {
    let bytes = parse_bytes(text, 1 << 20)?;
    if bytes % (1 << 20) != 0 {
        return Err(format!("'{text}' is not a whole number of MiB"));
    }
    Ok((bytes >> 20).to_string())
}
/// With its unit, so that nobody has to guess it.
fn seconds(text: &str) -> Result<String, String> {
    parse_millis(text, 1000).map(|ms| format!("{ms}ms"))
}
/// The word that takes a setting back.
fn or_default(text: &str, read: fn(&str) -> Result<String, String>) -> Result<String, String> {
    if text.trim() == "default" { Ok("default".to_owned()) } else { read(text) }
}
fn number_or_default(text: &str) -> Result<String, String> {
    or_default(text, number)
}
fn seconds_or_default(text: &str) -> Result<String, String> {
    or_default(text, seconds)
}
fn whole(text: &str) -> Result<String, String> {
    text.trim()
        .replace('_', "")
        .parse::<u32>()
        .map(|n| n.to_string())
        .map_err(|_| format!("'{text}' is not a whole number"))
}
fn number(text: &str) -> Result<String, String> {
    let value = text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    value.map(|n| n.to_string()).ok_or_else(|| format!("'{text}' is not a number of cores"))
}
fn on_off(text: &str) -> Result<String, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" => Ok("on".to_owned()),
        "off" | "false" | "no" => Ok("off".to_owned()),
        _ => Err(format!("'{text}' is neither on nor off")),
    }
}

/// The settings that were given as flags.
#[derive(Debug, Clone, Default)]
pub struct FunctionFlags(BTreeMap<&'static str, String>);

impl Args for FunctionFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FIELDS.iter().map(|field| {
            let arg =
                Arg::new(field.flag).long(field.flag).value_name(field.value).help(field.help).help_heading("Function");
            if field.words.is_empty() {
                arg.value_parser(field.read)
            } else {
                arg.value_parser(PossibleValuesParser::new(field.words))
            }
        }))
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
impl FromArgMatches for FunctionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |f: &'static Field| matches.get_one::<String>(f.flag).map(|value| (f.key, value.clone()));
        Ok(FunctionFlags(FIELDS.iter().filter_map(given).collect()))
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Everything that is known about a function besides its code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The name in the file.
    pub name: Option<String>,
    values: BTreeMap<&'static str, String>,
    env: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads `function.toml` in this directory, when there is one.
    pub fn read(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join(FILE);
        let mut manifest = Manifest::default();
        let mut env_file = None;
        for entry in read_toml(&path)?.unwrap_or_default() {
            manifest.take(&path, entry, &mut env_file)?;
        }
        if let Some(file) = env_file {
            let listed = std::mem::take(&mut manifest.env);
            manifest.add_env_file(&dir.join(file))?;
            manifest.env.extend(listed);
        }
        Ok(manifest)
    }

    fn take(&mut self, path: &Path, entry: Entry, env_file: &mut Option<PathBuf>) -> Result<(), CliError> {
        let wrong = |what: String| CliError::config(format!("{}:{}: {what}", path.display(), entry.line));
        let names: Vec<&str> = entry.path.iter().map(String::as_str).collect();
        let names = names.strip_prefix(&["function"]).filter(|rest| !rest.is_empty()).unwrap_or(&names);
        if entry.is_empty_table() {
            return match names {
                ["env"] | ["function"] => Ok(()),
                _ => Err(unknown_key(&names.join("."), wrong)),
            };
        }
        let [value] = entry.items.as_slice() else {
            return Err(wrong(format!("{}: one value is expected", names.join("."))));
        };
        match names {
            ["name"] => self.name = Some(value.clone()),
            ["env", key] => drop(self.env.insert((*key).to_owned(), value.clone())),
            ["env"] => return Err(wrong("'env' is a table: write [env] and under it NAME = \"value\"".to_owned())),
            ["env_file"] => *env_file = Some(PathBuf::from(value)),
            _ => {
                let key = names.join(".");
                let Some(field) = FIELDS.iter().find(|f| f.key == key) else { return Err(unknown_key(&key, wrong)) };
                let read = (field.read)(value).map_err(|what| wrong(format!("{key}: {what}")))?;
                if !field.words.is_empty() && !field.words.contains(&read.as_str()) {
                    return Err(wrong(format!("{key}: '{read}' is not one of {}", field.words.join(", "))));
                }
                self.values.insert(field.key, read);
            }
        }
        Ok(())
    }

    /// Lets flags win over the file.
    pub fn apply(&mut self, flags: &FunctionFlags) {
        self.values.extend(flags.0.iter().map(|(key, value)| (*key, value.clone())));
    }
    /// The handler, when one is given.
    pub fn handler(&self) -> Option<&str> {
        self.values.get("handler").map(String::as_str)
    }
    /// Sets the handler unless one is given.
    pub fn default_handler(&mut self, handler: String) {
        self.values.entry("handler").or_insert(handler);
    }

    /// Adds the variables of an environment file: `NAME=value` lines, `#` comments, quotes, `export`.
    pub fn add_env_file(&mut self, path: &Path) -> Result<(), CliError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| CliError::config(format!("cannot read the environment file {}: {e}", path.display())))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((key, value)) = line.split_once('=') else {
                return Err(CliError::config(format!("{}:{}: NAME=value is expected", path.display(), number + 1)));
            };
            self.env.insert(key.trim().to_owned(), unquoted(value.trim()));
        }
        Ok(())
    }
    /// Adds one variable, written `NAME=value`.
    pub fn add_env(&mut self, pair: &str) -> Result<(), CliError> {
        match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                self.env.insert(key.to_owned(), value.to_owned());
                Ok(())
            }
            _ => Err(CliError::usage(format!("--env {pair}: NAME=value is expected"))),
        }
    }

    /// The text fields of the form, in the order of the table, after the name.
    pub fn form(&self, name: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![("funcName", name.to_owned())];
        fields.extend(FIELDS.iter().filter_map(|f| self.values.get(f.key).map(|value| (f.form, value.clone()))));
        if !self.env.is_empty() {
            fields.push(("env", serde_json::json!(self.env).to_string()));
        }
        fields
    }
}

fn unknown_key(key: &str, wrong: impl Fn(String) -> CliError) -> CliError {
    let known = FIELDS.iter().map(|f| f.key).chain(["name", "env", "env_file"]);
    let hint = match nearest(key, known.clone()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
    };
    wrong(format!("'{key}' is not a setting of a function")).hint(hint)
}

/// A value without its quotes; a comment after an unquoted value goes too.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote)
            && let Some(end) = inner.find(quote)
        {
            let inner = &inner[..end];
            return if quote == '"' { inner.replace("\\n", "\n") } else { inner.to_owned() };
        }
    }
    value.split(" #").next().unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, CliError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        std::fs::write(dir.path().join(".env"), "# c\nexport A=1\nB=\"two words\" # c\nC='#x'\nD=5 # c\nE=\n").unwrap();
        Manifest::read(dir.path())
    }
    fn flags(args: &[&str]) -> FunctionFlags {
        let command = FunctionFlags::augment_args(Command::new("deploy"));
        FunctionFlags::from_arg_matches(&command.get_matches_from([&["deploy"], args].concat())).unwrap()
    }
    fn value(manifest: &Manifest, form: &str) -> Option<String> {
        manifest.form("f").into_iter().find(|(name, _)| *name == form).map(|(_, value)| value)
    }

    #[test]
    fn names_follow_one_rule() {
        for field in FIELDS {
            assert_eq!(field.flag, field.key.replace('_', "-"));
            assert_eq!(field.form.to_ascii_lowercase(), field.key.replace('_', ""));
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        for head in ["", "[function]\n"] {
            let mut manifest =
                read(&format!("{head}name = 'n'\nmemory = '1GiB'\ntimeout = 2.5\nsnapshot = true\n")).unwrap();
            manifest.apply(&flags(&["--timeout", "500ms", "--cpu", "0.5"]));
            assert_eq!(manifest.name.as_deref(), Some("n"));
            let form = manifest.form("f");
            let expected =
                [("funcName", "f"), ("memory", "1024"), ("timeout", "500ms"), ("snapshot", "on"), ("cpu", "0.5")];
            assert_eq!(form, expected.map(|(k, v)| (k, v.to_owned())));
        }
    }

    #[test]
    fn unknown_and_bad_values_name_their_line() {
        let error = read("memory = 128\ntimeot = 3\n").unwrap_err();
        assert!(error.message.ends_with("function.toml:2: 'timeot' is not a setting of a function"));
        assert_eq!(error.hint.as_deref(), Some("did you mean 'timeout'?"));
        for (text, what) in [
            ("memory = 'lots'", "not a size"),
            ("memory = 'lots'", ":1: memory: "),
            ("network = 'open'", "none, host"),
            ("runtime = 'node20'", "not a runtime"),
            ("env = 3", "'env' is a table"),
            ("handler = ['a', 'b']", "one value"),
            ("[function.function]\nx = 1", "'function.x'"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.message.contains(what), "{text}: {}", error.message);
        }
    }

    #[test]
    fn environments_are_layered() {
        let mut manifest = read("env_file = '.env'\n[env]\nB = 2\n").unwrap();
        manifest.add_env("C=a=b").unwrap();
        assert_eq!(value(&manifest, "env").unwrap(), r##"{"A":"1","B":"2","C":"a=b","D":"5","E":""}"##);
        assert!(manifest.add_env("C").is_err() && manifest.add_env("=C").is_err());
        let quoted = read("env_file = '.env'").unwrap();
        assert_eq!(value(&quoted, "env").unwrap(), r##"{"A":"1","B":"two words","C":"#x","D":"5","E":""}"##);
    }

    #[test]
    fn no_file_is_no_error() {
        assert_eq!(Manifest::read(tempfile::tempdir().unwrap().path()).unwrap(), Manifest::default());
    }
}
