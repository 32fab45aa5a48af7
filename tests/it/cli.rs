//! The command line: every verb, its results for people and for programs, its exit codes, and what it says to wrong input.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Lang, PATIENCE, Server, Shared, binary, eventually, root};

static SERVER: Shared = Shared::new(&["--limits-init-ms", "3000"]);

#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
    /// Says these words on standard error.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "'{word}' is not in: {}", self.err);
        }
        self
    }
}

fn command(server: Option<&Server>, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("OFFSHOOT_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env_remove("FORCE_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .current_dir("/")
        .stdin(Stdio::null());
    if let Some(server) = server {
        command.env("OFFSHOOT_SERVER", format!("http://127.0.0.1:{}", server.port));
    }
    command
}

fn finish(mut command: Command, input: Option<&str>) -> Done {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    }
    let done = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: done.status.code().unwrap_or(-1), out: text(done.stdout), err: text(done.stderr) }
}

pub fn run(server: &Server, args: &[&str]) -> Done {
    finish(command(Some(server), args), None)
}

pub fn alone(args: &[&str]) -> Done {
    finish(command(None, args), None)
}

fn case(lang: Lang, name: &str) -> String {
    root().join("tests/functions").join(lang.dir()).join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_function_from_deploy_to_rm() {
    let server = SERVER.get();
    let path = case(Lang::Node, "echo");
    let done =
        run(&server, &["deploy", &path, "walk", "--memory", "256MB", "--timeout", "2m", "--env", "A=b=c"]).exits(0);
    assert!(
        done.out.contains("walk") && done.out.contains(&format!("http://127.0.0.1:{}/invoke/walk", server.port)),
        "{}",
        done.out
    );
    let info = server.get("/info/walk").json();
    assert_eq!((&info["memory"], &info["timeout"], &info["env"]), (&json!(256), &json!(120_000), &json!({"A": "b=c"})));

    let done = run(&server, &["invoke", "walk", "-d", r#"{"x":1}"#]).exits(0);
    let seen: Value = done.json();
    assert_eq!(
        (&seen["method"], &seen["body"], &seen["headers"]["Content-Type"]),
        (&json!("POST"), &json!(r#"{"x":1}"#), &json!("application/json"))
    );
    assert!(
        done.err.contains("REPORT RequestId") && done.err.contains("warm"),
        "it was loaded when it was deployed: {}",
        done.err
    );
    let done = run(&server, &["invoke", "walk", "--path", "/items?id=3", "-H", "X-Mine: yes", "-q"]).exits(0);
    assert_eq!(done.err, "", "quiet is quiet");
    let seen: Value = done.json();
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["query"], &seen["headers"]["X-Mine"]),
        (&json!("GET"), &json!("/items"), &json!("id=3"), &json!("yes"))
    );
    let done = finish(command(Some(&server), &["invoke", "walk", "-e", "-", "-X", "put"]), Some("from standard input"));
    assert_eq!((&done.json()["body"], &done.json()["method"]), (&json!("from standard input"), &json!("PUT")));
    let document = run(&server, &["invoke", "walk", "-o", "json"]).exits(0).json();
    assert_eq!(
        (&document["schema"], &document["function"], &document["start"], &document["status"]),
        (&json!("offshoot/v1"), &json!("walk"), &json!("warm"), &json!(200))
    );
    assert_eq!((&document["result"]["method"], &document["functionError"]), (&json!("GET"), &Value::Null));
    assert!(
        document["timingMs"]["total"].as_f64().unwrap() > 0.0 && document["requestId"].as_str().unwrap().len() == 36
    );

    let done = run(&server, &["ls"]).exits(0);
    assert!(done.out.lines().next().unwrap().starts_with("NAME"));
    assert!(
        done.out.lines().any(|l| l.starts_with("walk ") && l.contains("256 MB") && l.contains("2m")),
        "{}",
        done.out
    );
    let list = run(&server, &["ls", "-o", "json"]).exits(0).json();
    assert_eq!(list["count"].as_u64().unwrap() as usize, list["functions"].as_array().unwrap().len());
    let done = run(&server, &["show", "walk"]).exits(0);
    assert!(done.out.lines().any(|l| l.split_whitespace().eq(["env", "A=b=c"])), "{}", done.out);
    assert_eq!(run(&server, &["show", "walk", "-o", "json"]).exits(0).json()["function"]["name"], "walk");

    eventually("the log is there", PATIENCE, || run(&server, &["logs", "walk"]).out.contains("REPORT"));
    let logs = run(&server, &["logs", "walk", "-n", "2", "-o", "json"]).exits(0).json();
    assert_eq!((logs["function"].as_str(), logs["logs"].as_array().unwrap().len()), (Some("walk"), 2));
    assert_eq!(run(&server, &["logs", "walk", "--since", "2099-01-01T00:00:00Z"]).exits(0).out, "");

    assert_eq!(run(&server, &["rm", "walk"]).exits(0).out, "removed walk\n");
    server.get("/info/walk").expect(404);
}

#[test]
fn exit_codes_say_how_a_call_ended() {
    let server = SERVER.get();
    for (case, fields, code, words) in [
        ("fails", &[][..], 1, &["handler", "PaymentError", "no money"][..]),
        ("exits_one", &[], 1, &["exit", "exit status 1"]),
        ("init_fails", &[], 1, &["init", "the moon is in the wrong phase"]),
        ("hangs", &[("timeout", "300ms")], 124, &["timeout", "Task timed out after 0.30 seconds"]),
        ("eats_memory", &[("timeout", "30s"), ("tmp", "1024")], 137, &["out-of-memory"]),
    ] {
        let name = format!("exit-{case}");
        server.deploy(&name, &Lang::Python.zip(case), fields);
        let done = run(&server, &["invoke", &name, "-d", "heap"]).exits(code).says(words);
        assert!(done.json()["errorType"].is_string(), "the answer is on standard output: {}", done.out);
        let document = run(&server, &["invoke", &name, "-d", "heap", "-o", "json"]).exits(code).json();
        assert!(document["functionError"].is_string(), "{document}");
        server.delete(&name);
    }
    server.deploy("exit-slow", &Lang::Node.zip("sleeps"), &[]);
    run(&server, &["invoke", "exit-slow", "-d", "20000", "--timeout", "300ms"]).exits(124);
    server.delete("exit-slow");
}

#[test]
fn wrong_input_gets_a_sentence_and_a_way_out() {
    let server = SERVER.get();
    server.deploy("resize", &Lang::Python.zip("event_echo"), &[]);
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    for (args, code, words) in [
        (&["deplyo", "x"][..], 2, &["deplyo", "deploy"][..]),
        (&["ls", "--colour", "never"], 2, &["--colour", "--color"]),
        (&["invoke"], 2, &["NAME"]),
        (&["invoke", "resize", "-d", "{not json"], 2, &["JSON", "quote"]),
        (&["invoke", "resize", "-d", "@event.json"], 2, &["-e FILE"]),
        (&["invoke", "resize", "--path", "/x"], 2, &["event", "--convention request"]),
        (&["invoke", "resise"], 4, &["resise", "did you mean 'resize'?"]),
        (&["invoke", "../x"], 2, &["not a function name"]),
        (&["show", "resise"], 4, &["did you mean 'resize'?"]),
        (&["logs", "resise"], 4, &["did you mean 'resize'?"]),
        (&["rm", "resise"], 4, &["did you mean 'resize'?"]),
        (&["logs", "resize", "--since", "yesterday"], 2, &["yesterday", "10m"]),
        (&["deploy", "/nonexistent/dir"], 3, &["does not exist"]),
        (&["deploy", empty, "x"], 3, &[]),
        (&["deploy", "/etc/hostname", "x"], 4, &["hostname.handler"]),
        (&["deploy", "/usr/bin", "a b"], 2, &["not a function name"]),
        (&["deploy", "x", "--memory", "lots"], 2, &["lots"]),
        (&["deploy", "x", "--runtime", "node"], 2, &["nodejs20.x"]),
        (&["deploy", "x", "--env", "NOVALUE"], 2, &["NAME=value"]),
        (&["invoke", "resize", "-e", "/nonexistent"], 3, &["/nonexistent"]),
        (&["serve", "--listen", "somewhere"], 3, &["somewhere"]),
        (&["serve", "--allow-degraded", "everything"], 3, &["everything"]),
        (&["serve", "--region", "mars"], 3, &["mars", "us-east-1"]),
        (&["serve", "--port", "99999"], 3, &["99999", "65535"]),
        (&["show", "resize:1"], 2, &["Only invoke takes a version"]),
        (&["deploy", "x", "--runtime", "java21"], 2, &["Java runs as a custom runtime"]),
        (&["deploy", "--name", "x", "y"], 2, &["offshoot deploy PATH NAME"]),
        (&["keys", "rm", "AKIANOPE"], 4, &["AKIANOPE", "keys ls"]),
        (&["queue", "show", "nosuch"], 4, &["nosuch", "queue ls"]),
        (&["executions", "ls", "resise"], 4, &["did you mean 'resize'?"]),
        (&["completion", "tcsh-9"], 2, &["tcsh-9"]),
        (&["ls", "--server", "https://x"], 3, &["http"]),
    ] {
        let done = run(&server, args);
        // A value of a setting is wrong by the same rules wherever it comes from; as a flag it may count as usage.
        let codes = if args[0] == "serve" || args.contains(&"--server") { vec![2, 3] } else { vec![code] };
        assert!(codes.contains(&done.code), "{args:?}: exit {} {}", done.code, done.err);
        assert!(
            done.err.len() > 10 && !done.err.contains("panicked") && !done.err.contains("src/"),
            "{args:?}: {}",
            done.err
        );
        assert_eq!(done.out, "", "{args:?} wrote on standard output");
        for word in words {
            assert!(done.err.contains(word), "{args:?}: '{word}' is not in: {}", done.err);
        }
    }
    server.delete("resize");
}

#[test]
fn errors_are_json_when_json_is_asked_for() {
    let server = SERVER.get();
    let done = run(&server, &["show", "nobody", "-o", "json"]).exits(4);
    let error = done.json()["error"].clone();
    assert_eq!((&error["kind"], &error["exitCode"]), (&json!("not-found"), &json!(4)));
    assert!(error["message"].as_str().unwrap().contains("nobody"));
    let done = run(&server, &["frobnicate", "-o", "json"]).exits(2);
    assert_eq!(done.json()["error"]["kind"], "usage");
    let done = finish(command(None, &["ls", "-o", "json", "--server", "http://127.0.0.1:1"]), None).exits(5);
    assert_eq!(done.json()["error"]["kind"], "unreachable");
    // What the server says about a deployment keeps its kind.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("index.js"), "exports.handler = 1;").unwrap();
    let done =
        run(&server, &["deploy", dir.path().to_str().unwrap(), "x", "--runtime", "nodejs99.x", "-o", "json"]).exits(4);
    assert_eq!(done.json()["error"]["kind"], "runtime-missing", "{}", done.out);
    let done = run(&server, &["deploy", dir.path().to_str().unwrap(), "x", "--memory", "1", "-o", "json"]).exits(4);
    assert_eq!(done.json()["error"]["kind"], "invalid-input", "{}", done.out);
}

#[test]
fn a_server_that_is_not_there_or_not_ours_is_named() {
    alone(&["ls", "--server", "http://127.0.0.1:1"]).exits(5).says(&["127.0.0.1:1", "offshoot serve"]);
    let server = Server::start(&["--token", "right-token"]);
    run(&server, &["ls"]).exits(5).says(&["token"]);
    let mut with = command(Some(&server), &["ls"]);
    with.env("OFFSHOOT_TOKEN", "right-token");
    finish(with, None).exits(0);
    let mut with = command(Some(&server), &["ls"]);
    with.env("OFFSHOOT_TOKEN", "wrong-token");
    let done = finish(with, None).exits(5);
    assert!(!done.err.contains("wrong-token"));
    let port = server.port.to_string();
    let seen = alone(&["doctor", "--port", &port]).exits(0).out;
    assert!(seen.contains("an offshoot server is running"), "{seen}");
    let mut with = command(None, &["doctor", "--port", &port]);
    with.env("OFFSHOOT_TOKEN", "right-token");
    let seen = finish(with, None).exits(0).out;
    assert!(seen.contains(concat!("offshoot ", env!("CARGO_PKG_VERSION"), " is running")), "{seen}");
}

#[test]
fn directories_are_packed_as_git_would() {
    let server = SERVER.get();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "index.js",
        "const fs = require('fs'); exports.handler = async () => ({ body: fs.readdirSync('/var/task', { recursive: true }).map(String).sort() });",
    );
    write("lib/a.js", "");
    write("node_modules/dep/index.js", "");
    write(".gitignore", "*.log\nnode_modules\n");
    write("debug.log", "x");
    write(".env", "SECRET=1");
    write(".git/config", "x");
    write("function.toml", "name = 'packed'\nmemory = '192MB'\n[env]\nFROM = 'file'\n");
    run(&server, &["deploy", dir.path().to_str().unwrap()]).exits(0);
    let files: Vec<String> = serde_json::from_value(server.invoke("packed", "").expect(200).json()).unwrap();
    for wanted in ["index.js", "lib/a.js", "node_modules/dep/index.js"] {
        assert!(files.contains(&wanted.to_owned()), "{files:?}");
    }
    for unwanted in ["debug.log", ".env", ".git/config", "function.toml"] {
        assert!(!files.contains(&unwanted.to_owned()), "{unwanted} was packed: {files:?}");
    }
    let info = server.get("/info/packed").json();
    assert_eq!((&info["memory"], &info["env"]), (&json!(192), &json!({"FROM": "file"})));
    // The same files make the same archive, wherever they lie and whenever.
    let first = info["codeSha256"].clone();
    let copy = tempfile::tempdir().unwrap();
    assert!(
        Command::new("cp")
            .args(["-r", &format!("{}/.", dir.path().display()), copy.path().to_str().unwrap()])
            .status()
            .unwrap()
            .success()
    );
    run(&server, &["deploy", copy.path().to_str().unwrap()]).exits(0);
    assert_eq!(server.get("/info/packed").json()["codeSha256"], first);
    server.delete("packed");
}

#[test]
fn a_single_file_is_a_function() {
    let server = SERVER.get();
    let dir = tempfile::tempdir().unwrap();
    for (file, code) in [
        ("one.py", "def handler(req):\n    return {'body': 'one'}\n"),
        ("two.mjs", "export const handler = async () => ({ body: 'two' });\n"),
    ] {
        fs::write(dir.path().join(file), code).unwrap();
        run(&server, &["deploy", dir.path().join(file).to_str().unwrap()]).exits(0);
        let name = file.split('.').next().unwrap();
        assert_eq!(server.invoke(name, "").expect(200).json(), name);
        server.delete(name);
    }
}

#[test]
fn logs_can_be_followed() {
    let server = SERVER.get();
    server.deploy("followed", &Lang::Node.zip("logs"), &[]);
    let mut follow = command(Some(&server), &["logs", "followed", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = follow.stdout.take().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::BufRead;
        std::io::BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    let until = std::time::Instant::now() + PATIENCE;
    let mut seen = false;
    while !seen && std::time::Instant::now() < until {
        server.invoke("followed", r#"{"lines":["a line \u001b[31m that comes"]}"#).expect(200);
        while let Ok(line) = told.recv_timeout(std::time::Duration::from_millis(300)) {
            assert!(!line.contains('\x1b'), "the terminal would obey: {line:?}");
            seen |= line.contains("that comes");
        }
    }
    assert!(seen, "a followed log shows nothing");
    server.delete("followed");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn doctor_and_completion_and_config_answer() {
    let done = alone(&["doctor"]).exits(0);
    assert!(done.out.contains("cgroups") && done.out.contains("languages"), "{}", done.out);
    let doc = alone(&["doctor", "-o", "json"]).exits(0).json();
    assert_eq!(doc["schema"], "offshoot/v1");
    for shell in ["bash", "zsh", "fish"] {
        let script = alone(&["completion", shell]).exits(0).out;
        assert!(script.contains("offshoot") && script.contains("invoke"), "{shell}");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), alone(&["completion", "bash"]).out).unwrap();
    let check = Command::new("bash").args(["-n", script.path().to_str().unwrap()]).status().unwrap();
    assert!(check.success(), "the completion script is no bash");
    let mut config = command(None, &["serve", "--print-config", "--listen", ":7777"]);
    config.env("OFFSHOOT_DRAIN_MS", "1234");
    let done = finish(config, None).exits(0);
    let line = |key: &str| {
        done.out.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("no {key}: {}", done.out)).to_owned()
    };
    assert!(line("listen").contains("127.0.0.1:7777") && line("listen").contains("flag --listen"));
    assert!(line("drain_ms").contains("1234") && line("drain_ms").contains("env OFFSHOOT_DRAIN_MS"));
    let mut config = command(None, &["serve", "--print-config"]);
    config.env("OFFSHOOT_LISTN", "x");
    finish(config, None).exits(3).says(&["OFFSHOOT_LISTN", "OFFSHOOT_LISTEN"]);
}

/// A setting means the same as a flag, as a variable and in a file.
#[test]
fn settings_have_three_forms() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "drain_ms = 777\n[limits]\nconcurrency = 5\n").unwrap();
    let value = |command: Command, key: &str| finish(command, None).exits(0).json()["settings"][key]["value"].clone();
    let base = |extra: &[&str]| {
        command(None, &[&["serve", "--print-config", "-o", "json", "--config", file.to_str().unwrap()], extra].concat())
    };
    assert_eq!((value(base(&[]), "drain_ms"), value(base(&[]), "limits.concurrency")), (json!(777), json!(5)));
    let mut env = base(&[]);
    env.env("OFFSHOOT_LIMITS_CONCURRENCY", "6");
    assert_eq!(value(env, "limits.concurrency"), 6);
    let mut flag = base(&["--limits-concurrency", "7"]);
    flag.env("OFFSHOOT_LIMITS_CONCURRENCY", "6");
    assert_eq!(value(flag, "limits.concurrency"), 7);
    fs::write(&file, "drian_ms = 1\n").unwrap();
    finish(base(&[]), None).exits(3).says(&["config.toml:1", "drain_ms"]);
}

/// A terminal that is not one gets no colours, and a reader that has gone is no error.
#[test]
fn output_suits_pipes() {
    let server = SERVER.get();
    let done = run(&server, &["--help"]).exits(0);
    assert!(!done.out.contains('\x1b'));
    let colour = run(&server, &["--color", "always", "show", "nobody"]).exits(4);
    assert!(colour.err.contains('\x1b'));
    let pipe = format!("{} --help | head -1", binary());
    let done = Command::new("bash").args(["-c", &format!("set -o pipefail; {pipe}")]).output().unwrap();
    assert_eq!((done.status.code(), done.stderr.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(Path::new("/dev/full").exists());
    let full = Command::new(binary())
        .arg("--version")
        .stdout(fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&full.stderr).contains("panicked"));
}

#[test]
fn golden_help() {
    let mut text = alone(&["--help"]).exits(0).out;
    for verb in
        ["serve", "deploy", "invoke", "ls", "show", "rm", "logs", "queue", "executions", "keys", "doctor", "completion"]
    {
        let mut command = command(None, &[verb, "--help"]);
        command.env("COLUMNS", "120");
        let help = finish(command, None).exits(0).out;
        let usage = help.lines().find(|l| l.starts_with("Usage:")).unwrap_or_else(|| panic!("{verb}: {help}"));
        text += &format!("\n$ offshoot {verb} --help\n{usage}\n");
    }
    assert!(alone(&["--version"]).exits(0).out.starts_with("offshoot "));
    crate::harness::golden("help.txt", &text);
}
