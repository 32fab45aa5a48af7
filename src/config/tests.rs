//! The configuration as a whole: orders, origins, refusals.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::{Args, Command};
use offshoot_model::{Limits, Millis};
use tracing::level_filters::LevelFilter;

use super::sources::*;
use super::table::*;
use super::types::*;
use super::values::*;
use super::*;
use crate::cli::error::{CliError, Exit};

/// A home of its own, so that no test sees the files of the machine's user.
struct Home(tempfile::TempDir);
impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }
    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }
    fn write(&self, below: &str, text: &str) -> &Self {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }
    fn env(&self, vars: &[(&str, &str)]) -> Env {
        let mut env = Env { cwd: self.path("project"), ..Env::default() };
        env.vars.insert("HOME".into(), self.path("").display().to_string());
        env.vars.extend(vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        env
    }
    fn load(&self, vars: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, CliError> {
        load(&self.env(vars), &flags_of(flags))
    }
}

fn command() -> Command {
    ServeFlags::augment_args(Command::new("serve"))
}
fn flags_of(args: &[&str]) -> Flags {
    Flags::read(&command().get_matches_from([&["serve"], args].concat()))
}
fn origin(loaded: &Loaded, key: &str) -> Origin {
    loaded.rows.iter().find(|row| row.0 == key).unwrap().2.clone()
}
fn fails(result: Result<Loaded, CliError>) -> CliError {
    result.map(|_| ()).unwrap_err()
}

#[test]
fn every_setting_has_its_three_forms() {
    let client = ClientFlags::augment_args(Command::new("ls"));
    for setting in SETTINGS {
        assert_eq!(setting.flag, setting.key.replace(['_', '.'], "-"));
        assert_eq!(setting.env, format!("OFFSHOOT_{}", setting.key.replace('.', "_").to_ascii_uppercase()));
        let offered = |c: &Command| c.get_arguments().any(|arg| arg.get_long() == Some(setting.flag));
        assert!(offered(&command()) || offered(&client), "{}", setting.key);
    }
}

#[test]
fn awss_names_for_addresses_count_below_our_own() {
    let home = Home::new();
    let aws = ("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:4567");
    let kinesis = |vars: &[(&str, &str)]| home.load(vars, &[]).unwrap().serve.kinesis_endpoint.map(|u| u.to_string());
    assert_eq!(kinesis(&[aws]).as_deref(), Some("http://127.0.0.1:4567"));
    assert_eq!(kinesis(&[aws, ("OFFSHOOT_KINESIS_ENDPOINT", "http://other:1")]).as_deref(), Some("http://other:1"));
    let error = fails(home.load(&[("AWS_ENDPOINT_URL_SQS", "ftp://x")], &[]));
    assert!(error.message.contains("AWS_ENDPOINT_URL_SQS"), "{}", error.message);
}

#[test]
fn every_limit_of_the_model_is_a_setting_with_the_same_default() {
    let loaded = Home::new().load(&[], &[]).unwrap();
    for (name, value) in serde_json::to_value(Limits::default()).unwrap().as_object().unwrap() {
        let row = loaded.rows.iter().find(|row| row.0 == format!("limits.{name}"));
        assert_eq!(&row.unwrap_or_else(|| panic!("{name}")).1, value);
    }
}

#[test]
fn every_form_of_every_setting_arrives() {
    let value = |key: &str| match key {
        "listen" => "127.0.0.1:4566",
        "server"
        | "http_destinations"
        | "sqs_endpoint"
        | "kinesis_endpoint"
        | "dynamodb_streams_endpoint"
        | "ec2_endpoint"
        | "eventbridge_endpoint"
        | "sns_endpoint"
        | "aws_fallback_endpoint" => "http://example.org:81",
        "token" => "t0k3n",
        "log" => "debug",
        "log_format" => "json",
        "auth" => "sigv4",
        "warm_runtimes" => "python3.11",
        "allow_degraded" => "userns",
        "uid_range" => "300000-300010",
        "data_dir" | "runtime_paths" | "cgroup_root" => "/somewhere",
        "allow_nearest_runtime" | "accept_unrunnable" => "true",
        "prewarm" => "false",
        "region" => "eu-west-1",
        "account" => "123456789012",
        "s3_endpoint" => "http://127.0.0.1:9001",
        _ => "77",
    };
    let home = Home::new();
    home.write("77", "from-a-file");
    let seen = |loaded: &Loaded, key: &str| loaded.rows.iter().find(|r| r.0 == key).unwrap().1.clone();
    let before = home.load(&[], &[]).unwrap();
    for setting in SETTINGS {
        let text = if setting.key == "token_file" {
            home.path("77").display().to_string()
        } else {
            value(setting.key).to_owned()
        };
        let by_env = home.load(&[(setting.env, &text)], &[]).unwrap();
        home.write("named.toml", &format!("{} = \"{text}\"\n", setting.key));
        let named = home.path("named.toml").display().to_string();
        let by_file = home.load(&[], &["--config", &named]).unwrap();
        assert_ne!(seen(&by_env, setting.key), seen(&before, setting.key), "{}", setting.key);
        assert_eq!(seen(&by_env, setting.key), seen(&by_file, setting.key), "{}", setting.key);
        if setting.scope != Scope::Client {
            let by_flag = home.load(&[], &[&format!("--{}={text}", setting.flag)]).unwrap();
            assert_eq!(seen(&by_flag, setting.key), seen(&by_env, setting.key), "{}", setting.key);
        }
    }
}

#[test]
fn flags_win_over_environment_over_files() {
    let home = Home::new();
    home.write(".config/offshoot/config.toml", "keep_alive_ms = 1\ndrain_ms = 1\nlog = 'warn'\n");
    home.write("project/offshoot.toml", "keep_alive_ms = 2\ndrain_ms = \"2s\"\n");
    let loaded = home.load(&[("OFFSHOOT_KEEP_ALIVE_MS", "3")], &["--keep-alive-ms", "4"]).unwrap();
    assert_eq!(loaded.serve.keep_alive, Millis(4));
    assert_eq!(origin(&loaded, "keep_alive_ms"), Origin::Flag("keep-alive-ms"));
    assert_eq!(home.load(&[("OFFSHOOT_KEEP_ALIVE_MS", "3")], &[]).unwrap().serve.keep_alive, Millis(3));
    assert_eq!(home.load(&[("OFFSHOOT_KEEP_ALIVE_MS", "")], &[]).unwrap().serve.keep_alive, Millis(2));
    assert_eq!(loaded.serve.drain, Millis(2000));
    assert_eq!(origin(&loaded, "drain_ms"), Origin::File(home.path("project/offshoot.toml"), 2, FileRank::Project));
    assert_eq!(loaded.serve.log, LevelFilter::WARN);
    assert_eq!(origin(&loaded, "prewarm"), Origin::Default);
}

#[test]
fn a_named_file_replaces_the_usual_ones() {
    let home = Home::new();
    home.write("project/offshoot.toml", "keep_alive_ms = 2\n").write("named.toml", "drain_ms = 5\ndata_dir = 'data'\n");
    let named = home.path("named.toml").display().to_string();
    let loaded = home.load(&[("OFFSHOOT_CONFIG", &named)], &[]).unwrap();
    assert_eq!((loaded.serve.drain, loaded.serve.keep_alive), (Millis(5), Millis(600_000)));
    assert_eq!(loaded.serve.data_dir, home.path("data"), "relative to the file");
    let missing = fails(home.load(&[], &["--config", "nowhere.toml"]));
    assert_eq!(missing.exit, Exit::Config);
    assert!(missing.message.contains("nowhere.toml"));
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let home = Home::new();
    home.write("project/offshoot.toml", "# one\nprewarm = true\n[limits]\nrequest_byte = 5\n");
    let error = fails(home.load(&[], &[]));
    assert!(error.message.ends_with("offshoot.toml:4: 'limits.request_byte' is not a setting"), "{}", error.message);
    assert_eq!(error.hint.as_deref(), Some("did you mean 'limits.request_bytes'?"));
    let error = fails(Home::new().load(&[("OFFSHOOT_LISTN", "x")], &[]));
    assert_eq!(error.hint.as_deref(), Some("did you mean OFFSHOOT_LISTEN? If not, unset it"));
    assert!(command().try_get_matches_from(["serve", "--listn", "x"]).is_err());
}

#[test]
fn bad_values_name_their_place() {
    let home = Home::new();
    home.write("project/offshoot.toml", "\nuid_range = '5'\n");
    assert!(fails(home.load(&[], &[])).message.contains("offshoot.toml:2: uid_range: '5' is not a range"));
    home.write("project/offshoot.toml", "a = \n");
    assert!(fails(home.load(&[], &[])).message.contains("offshoot.toml:1: "));
    let clean = Home::new();
    assert_eq!(fails(clean.load(&[], &["--drain-ms", "soon"])).exit, Exit::Usage);
    let error = fails(clean.load(&[("OFFSHOOT_ALLOW_DEGRADED", "cgroups")], &[]));
    assert!(error.message.contains("did you mean cgroup?"), "{}", error.message);
    assert!(
        fails(clean.load(&[("OFFSHOOT_LIMITS_CONCURRENCY", "-1")], &[]))
            .message
            .contains("OFFSHOOT_LIMITS_CONCURRENCY")
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_write() {
    let home = Home::new();
    for (flag, value, word) in [
        ("--port", "99999", "65535"),
        ("--region", "mars", "us-east-1"),
        ("--limits-concurrency", "0", "from 1 on"),
        ("--http-destinations", "nonsense", "http://HOST:PORT"),
    ] {
        let error = fails(home.load(&[], &[flag, value]));
        assert!(error.message.contains(word) && error.message.contains(flag), "{}", error.message);
    }
    let file = |text: &str| {
        home.write("project/offshoot.toml", text);
        home.load(&[], &[])
    };
    assert!(file("[limits]\n").is_ok());
    let error = fails(file("[limts]\n"));
    assert!(error.message.ends_with("offshoot.toml:1: 'limts' is not a setting"), "{}", error.message);
    assert_eq!(error.hint.as_deref(), Some("did you mean 'limits'?"));
    let twice = fails(file("spares = 1\nlog = 'info'\nspares = 2\n")).message;
    assert!(twice.ends_with(":3: spares is given twice: keep one of them"), "{twice}");
    let bare = fails(file("listen = :9755\n")).message;
    assert!(bare.contains("listen = \":9755\""), "{bare}");
    let far = fails(Home::new().load(&[("OFFSHOOT_FOO", "1")], &[]));
    assert!(!far.hint.unwrap().contains("did you mean"));
}

#[test]
fn an_access_key_is_whole() {
    let check = |vars: &[(&str, &str)]| Home::new().load(vars, &[]).unwrap().serve.check_access_key();
    let (id, secret) = (("OFFSHOOT_AWS_ACCESS_KEY_ID", "AKIA1"), ("OFFSHOOT_AWS_SECRET_ACCESS_KEY", "s"));
    assert!(check(&[]).is_ok() && check(&[id, secret]).is_ok());
    assert!(check(&[id]).unwrap_err().hint.unwrap().contains(secret.0));
    assert!(check(&[secret]).unwrap_err().hint.unwrap().contains(id.0));
}

#[test]
fn links_of_orchestrators_are_not_settings() {
    let links = [
        ("OFFSHOOT_PORT", "tcp://10.0.0.1:9000"),
        ("OFFSHOOT_SERVICE_HOST", "10.0.0.1"),
        ("OFFSHOOT_SERVICE_PORT_HTTP", "9000"),
        ("OFFSHOOT_PORT_9000_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(Home::new().load(&links, &[]).unwrap().serve.listen.port(), 9000);
}

#[test]
fn addresses() {
    for (text, address) in [
        ("127.0.0.1:1", "127.0.0.1:1"),
        (":4566", "127.0.0.1:4566"),
        ("4566", "127.0.0.1:4566"),
        ("localhost:81", "127.0.0.1:81"),
        ("localhost", "127.0.0.1:9000"),
        ("0.0.0.0", "0.0.0.0:9000"),
        ("[::1]:82", "[::1]:82"),
        ("::", "[::]:9000"),
    ] {
        assert_eq!(parse_listen(text).unwrap().to_string(), address, "{text}");
    }
    for text in ["", "example.org:80", "127.0.0.1:99999", "70000"] {
        assert!(parse_listen(text).is_err(), "{text}");
    }
}

#[test]
fn the_port_replaces_the_port_of_a_weaker_or_equal_origin() {
    let home = Home::new();
    let listen = |vars: &[(&str, &str)], flags: &[&str]| home.load(vars, flags).unwrap().serve.listen.to_string();
    assert_eq!(listen(&[], &["--port", "81"]), "127.0.0.1:81");
    assert_eq!(listen(&[("OFFSHOOT_LISTEN", "[::1]:9")], &["--port", "81"]), "[::1]:81");
    assert_eq!(listen(&[("OFFSHOOT_PORT", "81")], &["--listen", "127.0.0.1:9"]), "127.0.0.1:9");
}

#[test]
fn only_loopback_is_served_without_a_token() {
    let home = Home::new();
    let check = |listen: &str, token: &[(&str, &str)]| home.load(token, &["--listen", listen]).unwrap().serve.check();
    for open in ["127.0.0.1:9000", "[::1]:9000", "127.9.9.9:1"] {
        assert!(check(open, &[]).is_ok(), "{open}");
    }
    for wide in ["0.0.0.0:9000", "[::]:9000", "192.168.1.1:1"] {
        let error = check(wide, &[]).unwrap_err();
        assert_eq!(error.exit, Exit::Config);
        assert!(error.hint.unwrap().contains("--token-file"));
        assert!(check(wide, &[("OFFSHOOT_TOKEN", "abc")]).is_ok());
    }
}

#[test]
fn weak_tokens_and_open_files_are_remarked_on() {
    let home = Home::new();
    let good = "9f86d081884c7d659a2feaa0c55ad015";
    let remarks = |listen: &str, vars: &[(&str, &str)]| home.load(vars, &["--listen", listen]).unwrap().serve.remarks();
    for listen in ["0.0.0.0:1", "10.0.0.1:1"] {
        let said = remarks(listen, &[("OFFSHOOT_TOKEN", "secret")]);
        assert!(said[0].0.contains("is short") && said[0].1.contains("openssl rand"), "{said:?}");
        assert!(!format!("{said:?}").contains("secret"), "{said:?}");
        assert_eq!(remarks(listen, &[("OFFSHOOT_TOKEN", good)]), []);
    }
    assert_eq!(remarks("127.0.0.1:1", &[("OFFSHOOT_TOKEN", "secret")]), [], "only this machine reaches it");
    assert_eq!(remarks("0.0.0.0:1", &[("OFFSHOOT_TOKEN", "secret"), ("OFFSHOOT_AUTH", "none")]), []);
    home.write("project/t", good);
    let by_file = |mode: u32| {
        std::fs::set_permissions(home.path("project/t"), std::fs::Permissions::from_mode(mode)).unwrap();
        home.load(&[("OFFSHOOT_TOKEN_FILE", "t")], &[]).unwrap().serve
    };
    for (mode, remarked, refused) in
        [(0o600, false, false), (0o640, false, false), (0o644, true, false), (0o444, true, false), (0o666, true, true)]
    {
        let serve = by_file(mode);
        assert_eq!((!serve.remarks().is_empty(), serve.check().is_err()), (remarked, refused), "{mode:o}");
        assert!(serve.remarks().iter().all(|(_, cure)| cure.starts_with("chmod go= ")));
    }
}

#[test]
fn tokens_come_from_one_place_and_are_never_shown() {
    let home = Home::new();
    home.write("project/t", " from-file\n").write(".local/share/offshoot/token", "from-data-dir\n");
    let token = |loaded: Loaded| loaded.serve.token.unwrap().expose().to_owned();
    assert_eq!(token(home.load(&[], &[]).unwrap()), "from-data-dir");
    assert_eq!(token(home.load(&[("OFFSHOOT_TOKEN_FILE", "t")], &[]).unwrap()), "from-file");
    assert_eq!(token(home.load(&[("OFFSHOOT_TOKEN_FILE", "t")], &["--token", "by-flag"]).unwrap()), "by-flag");
    assert_eq!(token(home.load(&[("OFFSHOOT_TOKEN", "by-env")], &["--token-file", "t"]).unwrap()), "from-file");
    assert_eq!(fails(home.load(&[], &["--token", "a", "--token-file", "t"])).exit, Exit::Config);
    assert!(home.load(&[], &["--token", "a b"]).is_err());
    assert!(home.load(&[], &["--token-file", "missing"]).is_err());
    let loaded = home.load(&[("OFFSHOOT_TOKEN", "s3cret")], &[]).unwrap();
    assert!(!format!("{:?} {:?}", loaded.serve, loaded.rows).contains("s3cret"));
}

#[test]
fn the_token_of_the_data_directory_stays_on_this_machine() {
    let home = Home::new();
    home.write(".local/share/offshoot/token", "local\n");
    let client = |vars: &[(&str, &str)]| home.load(vars, &[]).unwrap().client;
    assert!(client(&[]).token.is_some());
    assert!(client(&[("OFFSHOOT_SERVER", "http://localhost:1")]).token.is_some());
    assert!(client(&[("OFFSHOOT_SERVER", "http://example.org")]).token.is_none());
    assert!(client(&[("OFFSHOOT_SERVER", "http://example.org"), ("OFFSHOOT_TOKEN", "x")]).token.is_some());
    home.write("project/offshoot.toml", "server = 'http://example.org'");
    assert!(fails(home.load(&[], &[])).message.contains("'server' cannot be set here"));
}

#[test]
fn servers() {
    for (text, shown) in [
        ("http://a:1", "http://a:1"),
        ("a:1/", "http://a:1"),
        ("http://a/x/", "http://a:80/x"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ] {
        assert_eq!(ServerUrl::parse(text).unwrap().to_string(), shown, "{text}");
    }
    for text in ["", "https://a", "ftp://a", "http://", "http://u:p@a", "http://a/?q"] {
        assert!(ServerUrl::parse(text).is_err(), "{text}");
    }
    let derived = Home::new().load(&[("OFFSHOOT_LISTEN", "0.0.0.0:81")], &[]).unwrap();
    assert_eq!(derived.client.server.to_string(), "http://127.0.0.1:81");
}

#[test]
fn data_directories() {
    let home = Home::new();
    let dir = |vars: &[(&str, &str)]| home.load(vars, &[]).unwrap().serve.data_dir;
    assert_eq!(dir(&[]), home.path(".local/share/offshoot"));
    assert_eq!(dir(&[("XDG_DATA_HOME", "/x")]), PathBuf::from("/x/offshoot"));
    assert_eq!(dir(&[("XDG_DATA_HOME", "relative")]), home.path(".local/share/offshoot"));
    assert_eq!(
        dir(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_DATA_HOME", "/x")]),
        PathBuf::from("/var/lib/a")
    );
    assert_eq!(dir(&[("HOME", "")]), PathBuf::from("/var/lib/offshoot"));
}
