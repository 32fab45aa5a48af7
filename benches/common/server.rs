//! An Offshoot server of the bench's own: a free port of the loopback, a data directory that goes with it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::{Client, Reply, post_json, request};
use super::procs::{self, Proc};
use super::{Lang, Res, priority, sleep_ms, zip};

/// The release binary.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("BENCH_BINARY") {
        return named.into();
    }
    option_env!("CARGO_BIN_EXE_offshoot").map_or_else(|| super::root().join("target/release/offshoot"), PathBuf::from)
}

pub fn free_port() -> Res<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A directory that is removed with this value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Res<Self> {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        let dir = std::env::temp_dir().join(format!("offshoot-bench-{}-{stamp}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a function is deployed.
#[derive(Debug, Clone, Copy)]
pub struct Deploy {
    pub memory: u32,
    pub cpu: Option<f64>,
    pub snapshot: bool,
    pub concurrency: Option<u32>,
    /// AWS's convention: `handler(event, context)`.
    pub event: bool,
}

impl Deploy {
    /// Defaults of the server.
    pub const PLAIN: Deploy = Deploy { memory: 128, cpu: None, snapshot: false, concurrency: None, event: false };
    /// As much processor as there is: by default it is in proportion to memory.
    pub const FULL: Deploy = Deploy { memory: 1769, cpu: Some(2.0), snapshot: false, concurrency: None, event: false };
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    pub data: PathBuf,
    child: Child,
    log: PathBuf,
    /// From the start of the process to its first answer.
    pub ready: Duration,
    _scratch: Option<Scratch>,
}

impl Server {
    /// A fresh server with both languages that every bench measures warm.
    pub fn start() -> Res<Self> {
        Server::start_with(&Lang::ALL)
    }

    /// A fresh server with these languages warm, which starts nothing ahead of demand (that would flatter cold starts).
    pub fn start_with(langs: &[Lang]) -> Res<Self> {
        let names = langs.iter().map(|lang| lang.runtime()).collect::<Res<Vec<_>>>()?;
        let warm = format!("--warm-runtimes={}", names.join(","));
        let scratch = Scratch::new()?;
        let mut server = Server::start_in(&scratch.path().join("data"), &[&warm, "--prewarm=false"])?;
        server._scratch = Some(scratch);
        for lang in langs {
            server.warm_up(*lang)?;
        }
        Ok(server)
    }

    pub fn start_in(data: &Path, flags: &[&str]) -> Res<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let log = data.with_extension("log");
        std::fs::create_dir_all(data)?;
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .arg(format!("--listen={address}"))
            .arg(format!("--data-dir={}", data.display()))
            .arg("--log=warn");
        command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        // Nothing of whoever runs the bench may change what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OFFSHOOT_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", data.join("none")).current_dir(data);
        let began = Instant::now();
        let child = command.spawn().map_err(|e| format!("{} cannot be started: {e}", binary().display()))?;
        let mut server = Server { address, data: data.to_owned(), child, log, ready: Duration::ZERO, _scratch: None };
        let ask = request("GET", "/readyz", "text/plain", b"");
        while began.elapsed() < Duration::from_secs(20) {
            if let Ok(mut client) = Client::connect(address)
                && client.send(&ask).is_ok_and(|r| r.status == 200)
            {
                server.ready = began.elapsed();
                priority::raise();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended ({status}):\n{}", server.log_tail()).into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Err(format!("the server does not answer:\n{}", server.log_tail()).into())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tree(&self) -> Vec<Proc> {
        procs::tree(self.pid())
    }

    pub fn client(&self) -> Res<Client> {
        Client::connect(self.address)
    }

    /// The end of what the server printed.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Waits until starts of this language are clones.
    fn warm_up(&self, lang: Lang) -> Res<()> {
        let began = Instant::now();
        for round in 0..100 {
            let name = format!("warm-up-{}-{round}", lang.file().replace('.', "-"));
            self.deploy(&name, lang, &lang.hello(round), Deploy::PLAIN)?;
            let reply = self.call(&name, "{}")?;
            match reply.header("offshoot-start") {
                Some("boot") if began.elapsed() < Duration::from_secs(30) => sleep_ms(200),
                Some("boot") => {
                    return Err(format!("{} starts are never clones:\n{}", lang.name(), self.log_tail()).into());
                }
                _ => return Ok(()),
            }
        }
        Err(format!("{} does not become warm", lang.name()).into())
    }

    pub fn deploy(&self, name: &str, lang: Lang, source: &str, how: Deploy) -> Res<Reply> {
        let form = form(name, lang, source, how)?;
        self.client()?
            .send(&form)?
            .good()
            .map_err(|e| format!("{name} cannot be deployed: {e}\n{}", self.log_tail()).into())
    }

    /// Deploys many, several at a time.
    pub fn deploy_all(&self, lang: Lang, how: Deploy, functions: &[(String, String)]) -> Res<()> {
        let share = functions.len().div_ceil(4).max(1);
        std::thread::scope(|scope| {
            let lanes: Vec<_> = functions
                .chunks(share)
                .map(|lane| {
                    scope.spawn(move || -> Res<()> {
                        let mut client = self.client()?;
                        for (name, source) in lane {
                            client.send(&form(name, lang, source, how)?)?.good().map_err(|e| format!("{name}: {e}"))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            lanes
                .into_iter()
                .try_for_each(|lane| lane.join().unwrap_or_else(|_| Err("a deploying thread panicked".into())))
        })
    }

    pub fn call(&self, name: &str, event: &str) -> Res<Reply> {
        let reply = self.client()?.send(&post_json(&format!("/invoke/{name}"), event))?.good();
        reply.map_err(|e| format!("{name} fails: {e}\n{}", self.log_tail()).into())
    }

    /// Waits until nothing is done any more for what was called last.
    pub fn settle(&self) {
        sleep_ms(1_000);
    }

    pub fn stop(mut self) -> Res<()> {
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(15) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep_ms(5);
        }
        eprintln!("the server did not stop in 15 s and is killed");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        let _ = std::fs::remove_file(&self.log);
    }
}

fn form(name: &str, lang: Lang, source: &str, how: Deploy) -> Res<Vec<u8>> {
    const BOUNDARY: &str = "----offshoot-bench----";
    let mut fields = vec![
        ("funcName", name.to_owned()),
        ("runtime", lang.runtime()?),
        ("handler", "index.handler".to_owned()),
        ("convention", if how.event { "event" } else { "request" }.to_owned()),
        ("memory", how.memory.to_string()),
        ("timeout", "60s".to_owned()),
        ("snapshot", if how.snapshot { "on" } else { "off" }.to_owned()),
    ];
    fields.extend(how.cpu.map(|cpu| ("cpu", cpu.to_string())));
    fields.extend(how.concurrency.map(|n| ("concurrency", n.to_string())));
    let mut body = Vec::new();
    for (key, value) in fields {
        body.extend(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n").bytes(),
        );
    }
    body.extend(
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}.zip\"\r\nContent-Type: application/zip\r\n\r\n").bytes(),
    );
    body.extend(zip::archive(&[(lang.file(), source.as_bytes())]));
    body.extend(format!("\r\n--{BOUNDARY}--\r\n").bytes());
    Ok(request("POST", "/deploy", &format!("multipart/form-data; boundary={BOUNDARY}"), &body))
}
