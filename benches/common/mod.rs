//! What the benches share: a server of their own, peers, an HTTP client that costs little, and the table at the end.
//!
//! Every number is printed beside its peer or its floor from the same run. On a shared or virtual machine only the ratio
//! of the two means something; the absolute targets are for an idle machine.

#![allow(dead_code, missing_docs, unused_imports, reason = "each bench uses a part of this")]

pub mod http;
pub mod peers;
pub mod priority;
pub mod procs;
pub mod report;
pub mod server;
pub mod zip;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use report::{Report, Verdict, mb, ms, times, us};
pub use server::{Deploy, Server};

pub type Fail = Box<dyn std::error::Error + Send + Sync>;
pub type Res<T> = Result<T, Fail>;

/// The event of every echo.
pub const EVENT: &str = r#"{"name":"world","n":1,"items":["a","b","c"]}"#;
/// What an echo answers, in the spelling of `JSON.stringify`.
pub const ECHOED: &str = r#"{"ok":true,"event":{"name":"world","n":1,"items":["a","b","c"]}}"#;

/// A language, its functions, and what starts it plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    Node,
    Python,
    Ruby,
}

impl Lang {
    /// What every bench measures.
    pub const ALL: [Lang; 2] = [Lang::Node, Lang::Python];

    /// What cold starts are measured of: Ruby too, where this machine has it.
    pub fn all_here() -> Vec<Lang> {
        let ruby = std::path::Path::new("/usr/bin/ruby").exists().then_some(Lang::Ruby);
        Lang::ALL.into_iter().chain(ruby).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Lang::Node => "Node",
            Lang::Python => "Python",
            Lang::Ruby => "Ruby",
        }
    }

    /// The runtime as a deployment names it: the version that is on the path, or what the environment says.
    pub fn runtime(self) -> Res<String> {
        static ASKED: [OnceLock<String>; 3] = [const { OnceLock::new() }; 3];
        let asked = &ASKED[self as usize];
        if let Some(name) = asked.get() {
            return Ok(name.clone());
        }
        let name = self.ask_runtime()?;
        Ok(asked.get_or_init(|| name).clone())
    }

    fn ask_runtime(self) -> Res<String> {
        let (variable, program, argument) = match self {
            Lang::Node => ("BENCH_NODE", "node", "--version"),
            Lang::Python => ("BENCH_PYTHON", "python3", "--version"),
            Lang::Ruby => ("BENCH_RUBY", "/usr/bin/ruby", "--version"),
        };
        if let Ok(name) = std::env::var(variable) {
            return Ok(name);
        }
        let said = Command::new(program).arg(argument).output()?.stdout;
        let said = String::from_utf8(said)?;
        let digits: Vec<&str> = said.trim().trim_start_matches(|c: char| !c.is_ascii_digit()).split('.').collect();
        match (self, digits.as_slice()) {
            (Lang::Node, [major, ..]) => Ok(format!("nodejs{major}.x")),
            (Lang::Python, [major, minor, ..]) => Ok(format!("python{major}.{minor}")),
            (Lang::Ruby, [major, minor, ..]) => Ok(format!("ruby{major}.{minor}")),
            _ => Err(format!("{program} says '{said}'").into()),
        }
    }

    pub fn file(self) -> &'static str {
        match self {
            Lang::Node => "index.js",
            Lang::Python => "index.py",
            Lang::Ruby => "index.rb",
        }
    }

    /// What the language takes from start to exit when it does nothing. `/usr/bin/python3` first: a Python whose site
    /// directory is full starts slower, and would flatter us.
    pub fn plain(self) -> Command {
        let (program, arguments): (&str, [&str; 2]) = match self {
            Lang::Node => ("node", ["-e", "0"]),
            Lang::Python if std::path::Path::new("/usr/bin/python3").exists() => ("/usr/bin/python3", ["-c", "pass"]),
            Lang::Python => ("python3", ["-c", "pass"]),
            Lang::Ruby => ("/usr/bin/ruby", ["-e", "0"]),
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Answers which call of this instance it is.
    pub fn hello(self, salt: usize) -> String {
        match self {
            Lang::Node => format!(
                "// {salt}\nlet calls = 0;\nexports.handler = async () => ({{ hello: 'world', calls: ++calls }});\n"
            ),
            Lang::Python => format!(
                "# {salt}\ncalls = 0\ndef handler(request):\n    global calls\n    calls += 1\n    return {{'hello': 'world', 'calls': calls}}\n"
            ),
            Lang::Ruby => {
                format!("# {salt}\n$calls = 0\ndef handler(request) = {{ hello: 'world', calls: $calls += 1 }}\n")
            }
        }
    }

    pub fn echo(self) -> &'static str {
        match self {
            Lang::Node => "exports.handler = async (request) => ({ ok: true, event: await request.json() });\n",
            Lang::Python => "def handler(request):\n    return {'ok': True, 'event': request.json()}\n",
            Lang::Ruby => "def handler(request) = { ok: true, event: request.json }\n",
        }
    }

    /// The same echo in AWS's convention.
    pub fn event_echo(self) -> &'static str {
        match self {
            Lang::Node => "exports.handler = async (event) => ({ ok: true, event });\n",
            Lang::Python => "def handler(event, context):\n    return {'ok': True, 'event': event}\n",
            Lang::Ruby => "def handler(event:, context:)\n  { ok: true, event: event }\nend\n",
        }
    }

    /// Answers its event, in AWS's convention.
    pub fn event_identity(self) -> &'static str {
        match self {
            Lang::Node => "exports.handler = async (event) => event;\n",
            Lang::Python => "def handler(event, context):\n    return event\n",
            Lang::Ruby => "def handler(event:, context:)\n  event\nend\n",
        }
    }

    /// Needs half a second before its first call, and lives for one call only, so that each call needs a start.
    pub fn slow_init(self) -> &'static str {
        match self {
            Lang::Node => {
                "const until = Date.now() + 500;\nwhile (Date.now() < until);\nlet calls = 0;\n\
                 exports.handler = async () => { setImmediate(() => process.exit(0)); return { hello: 'world', calls: ++calls }; };\n"
            }
            Lang::Python => {
                "import os, threading, time\ntime.sleep(0.5)\ncalls = 0\ndef handler(request):\n    global calls\n    calls += 1\n    \
                 threading.Timer(0.005, os._exit, [0]).start()\n    return {'hello': 'world', 'calls': calls}\n"
            }
            Lang::Ruby => {
                "sleep 0.5\n$calls = 0\ndef handler(request)\n  Thread.new { sleep 0.005; exit!(0) }\n  \
                 { hello: 'world', calls: $calls += 1 }\nend\n"
            }
        }
    }

    /// Holds its instance until the time (in ms since 1970) that the event names.
    pub fn wait(self, salt: usize) -> String {
        match self {
            Lang::Node => format!(
                "// {salt}\nexports.handler = async (request) => {{\n  const {{ until }} = await request.json();\n  \
                 await new Promise((done) => setTimeout(done, Math.max(0, until - Date.now())));\n  return {{ ok: true }};\n}};\n"
            ),
            Lang::Python => format!(
                "# {salt}\nimport time\ndef handler(request):\n    \
                 time.sleep(max(0, request.json()['until'] / 1000 - time.time()))\n    return {{'ok': True}}\n"
            ),
            Lang::Ruby => format!(
                "# {salt}\ndef handler(request)\n  sleep([0, request.json['until'] / 1000.0 - Time.now.to_f].max)\n  {{ ok: true }}\nend\n"
            ),
        }
    }
}

/// A tenth of the samples, to see whether a bench works.
pub fn quick() -> bool {
    std::env::var_os("BENCH_QUICK").is_some()
}

/// The workspace's directory.
pub fn root() -> PathBuf {
    std::env::var_os("BENCH_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

/// The value below which `share` of the samples lie. Sorts them.
pub fn percentile<T: Copy + PartialOrd + Default>(samples: &mut [T], share: f64) -> T {
    samples.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let at = ((samples.len() as f64 * share).ceil() as usize).saturating_sub(1);
    samples.get(at).copied().unwrap_or_default()
}

pub fn median<T: Copy + PartialOrd + Default>(samples: &mut [T]) -> T {
    percentile(samples, 0.5)
}

/// How long a command takes from start to exit, in milliseconds.
pub fn start_to_exit(command: &mut Command) -> Res<f64> {
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    if status.success() { Ok(took) } else { Err(format!("{command:?} failed: {status}").into()) }
}

pub fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Runs a bench and prints its table.
pub fn run(name: &str, bench: impl FnOnce(&mut Report) -> Res<()>) -> ExitCode {
    if let Some(code) = priority::take() {
        return code;
    }
    let mut report = Report::new(name);
    let outcome = bench(&mut report);
    report.print();
    match outcome {
        Ok(()) if report.missed() && std::env::var_os("BENCH_STRICT").is_some() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}
