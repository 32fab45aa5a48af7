//! What we compare ourselves with: the same handler behind other servers, each in the same run.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::{Client, post_json};
use super::server::free_port;
use super::{EVENT, Lang, Res, procs, root, sleep_ms};

/// How absent peers are installed.
pub const INSTALL: &str = "not here: sh benches/peers/setup.sh";

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `node:http` and nothing else: no box, no limit, no log, one process for all.
    NodeHttp,
    FrameworkNode,
    FrameworkPython,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::NodeHttp => "node:http",
            Kind::FrameworkNode => "functions-framework (Node)",
            Kind::FrameworkPython => "functions-framework (Python)",
        }
    }

    /// `None` when it is not installed.
    fn command(self, port: u16) -> Option<Command> {
        let here = root().join("benches/peers");
        let installed = root().join("target/peers");
        match self {
            Kind::NodeHttp => {
                let mut command = Command::new("node");
                command.arg(here.join("node-http.js")).arg(port.to_string());
                Some(command)
            }
            Kind::FrameworkNode => {
                let program = installed.join("node/node_modules/.bin/functions-framework");
                let mut command = Command::new(&program);
                command
                    .args(["--target=echo", &format!("--port={port}")])
                    .arg(format!("--source={}", here.join("framework-node").display()));
                command.env("NODE_ENV", "production");
                program.exists().then_some(command)
            }
            Kind::FrameworkPython => {
                let program = installed.join("python/bin/functions-framework");
                let mut command = Command::new(&program);
                command.args(["--target=echo", "--host=127.0.0.1", &format!("--port={port}")]);
                command.arg(format!("--source={}", here.join("framework-python/main.py").display()));
                program.exists().then_some(command)
            }
        }
    }

    /// Starts it and waits for its first answer. `None` when it is not installed.
    pub fn start(self) -> Res<Option<Peer>> {
        let port = free_port()?;
        let Some(mut command) = self.command(port) else { return Ok(None) };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let peer = Peer { name: self.name(), address, child };
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            if let Ok(mut client) = Client::connect(address)
                && client.send(&post_json("/", EVENT)).is_ok_and(|r| r.status == 200)
            {
                return Ok(Some(peer));
            }
            sleep_ms(20);
        }
        Err(format!("{} does not answer", self.name()).into())
    }
}

impl Peer {
    pub fn pids(&self) -> Vec<u32> {
        procs::tree(self.child.id()).iter().map(|p| p.pid).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let all = self.pids();
        for pid in all.iter().rev() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// AWS's emulator of its own environment (`aws-lambda-rie`, from the package `aws-sam-cli`) with AWS's own runtime client.
#[derive(Debug)]
pub struct Emulator {
    peer: Peer,
    _code: super::server::Scratch,
}

impl Emulator {
    /// The runtime client of this language, by its package name.
    pub fn client(lang: Lang) -> &'static str {
        match lang {
            Lang::Node => "aws-lambda-ric",
            Lang::Python => "awslambdaric",
            Lang::Ruby => "aws_lambda_ric",
        }
    }

    /// Starts it with the echo in AWS's convention. `None` when it is not installed.
    pub fn start(lang: Lang) -> Res<Option<Emulator>> {
        let installed = root().join("target/peers");
        let emulator = installed.join("aws-lambda-rie");
        let client = match lang {
            Lang::Node => installed.join("node/node_modules/.bin/aws-lambda-ric"),
            Lang::Python => installed.join("python/bin/python"),
            // Nobody asks for it yet.
            Lang::Ruby => return Ok(None),
        };
        if !emulator.exists() || !client.exists() {
            return Ok(None);
        }
        let code = super::server::Scratch::new()?;
        std::fs::write(code.path().join(lang.file()), lang.event_echo())?;
        let (port, inner) = (free_port()?, free_port()?);
        let mut command = Command::new(&emulator);
        command
            .args(["--log-level", "error", "--runtime-interface-emulator-address", &format!("127.0.0.1:{port}")])
            .args(["--runtime-api-address", &format!("127.0.0.1:{inner}")])
            .arg(&client);
        if lang == Lang::Python {
            command.args(["-m", "awslambdaric"]);
        }
        command.arg("index.handler").current_dir(code.path());
        command.env("LAMBDA_TASK_ROOT", code.path()).env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let peer = Peer { name: "AWS's emulator", address, child };
        let call = post_json("/2015-03-31/functions/function/invocations", EVENT);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            if let Ok(mut client) = Client::connect(address)
                && client.send(&call).is_ok_and(|r| r.status == 200)
            {
                return Ok(Some(Emulator { peer, _code: code }));
            }
            sleep_ms(50);
        }
        Err(format!("AWS's emulator with {} does not answer", Self::client(lang)).into())
    }

    pub fn address(&self) -> SocketAddr {
        self.peer.address
    }
}
