//! Event source mappings against a real server of the protocols that they poll: SQS, Kinesis and DynamoDB streams, driven with boto3
//! (`tests/clients/sources_boto3.py`); and loops of functions, which end.
//!
//! Without moto (`scripts/aws_server.sh`) they say what they skip.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Server, free_port, root, skip};

/// A server of queues and streams.
struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    fn start() -> Option<Moto> {
        Moto::start_at(free_port())
    }
    /// At this port. `None`, said aloud: it is not installed.
    fn start_at(port: u16) -> Option<Moto> {
        let program = root().join("target/aws-server/bin/moto_server");
        if !program.exists() {
            skip("event source mappings", "moto is not installed: run scripts/aws_server.sh");
            return None;
        }
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moto = Moto { child, port };
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "moto does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        Some(moto)
    }
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    /// The flags that name it to a server.
    fn flags(&self) -> Vec<String> {
        let services = ["sqs", "kinesis", "dynamodb-streams", "sns", "eventbridge", "ec2"];
        (services.iter().map(|service| format!("--{service}-endpoint"))).flat_map(|flag| [flag, self.url()]).collect()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Runs stories of the script.
#[track_caller]
fn tell(server: &Server, queues: &str, stories: &[&str]) {
    let mut command = Command::new(root().join("target/aws-server/bin/python"));
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_CONFIG_FILE", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    command.arg(root().join("tests/clients/sources_boto3.py")).arg(format!("http://127.0.0.1:{}", server.port));
    let done = command.arg(queues).args(stories).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{}\n{}\n{}", text(&done.stdout), text(&done.stderr), server.said());
}

/// One test for each group of stories, with servers of its own.
fn stories(stories: &[&str]) {
    let Some(moto) = Moto::start() else { return };
    let server = Server::start(&strs(&moto.flags()));
    tell(&server, &moto.url(), stories);
    server.is_well();
}

#[test]
fn queues_are_worked() {
    stories(&[
        "queue_is_worked",
        "queue_failures_come_again",
        "queue_batches_and_filters",
        "fifo_groups_stay_in_order",
        "throttled_functions_are_waited_for",
        "wrong_mappings_are_refused",
    ]);
}

#[test]
fn streams_are_worked() {
    stories(&["stream_is_worked", "stream_failures_are_isolated", "stream_begins_where_it_is_told", "table_is_worked"]);
}

#[test]
fn topics_are_told() {
    stories(&["topics_are_told"]);
}

#[test]
fn networks_are_checked_kept_and_shown() {
    stories(&["networks_are_checked_kept_and_shown"]);
    let alone = Server::start(&[]);
    if root().join("target/aws-server/bin/python").exists() {
        tell(&alone, "http://127.0.0.1:1", &["networks_need_who_knows_them"]);
    }
}

#[test]
fn loops_end() {
    stories(&["loops_of_functions_end", "loops_with_awss_client_end", "loops_through_queues_end"]);
}

#[test]
fn a_killed_server_goes_on_where_it_was() {
    let Some(moto) = Moto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &strs(&moto.flags()));
    tell(&server, &moto.url(), &["crash_begins"]);
    server.kill();
    drop(server);
    let server = Server::start_on(&data, &strs(&moto.flags()));
    tell(&server, &moto.url(), &["crash_ends"]);
    server.stop();
}

#[test]
fn a_stop_lets_batches_end() {
    let Some(moto) = Moto::start() else { return };
    let server = Server::start(&strs(&moto.flags()));
    tell(&server, &moto.url(), &["a_stop_ends_batches"]);
    server.stop();
    tell(&server, &moto.url(), &["a_stop_has_ended_batches"]);
}

#[test]
fn a_source_that_is_away_is_waited_for() {
    let port = free_port();
    let Some(moto) = Moto::start_at(port) else { return };
    let (url, flags) = (moto.url(), moto.flags());
    drop(moto);
    let server = Server::start(&strs(&flags));
    tell(&server, &url, &["waits_for_its_source"]);
    let said = server.said();
    assert_eq!(said.matches("cannot be reached").count(), 1, "it is said once: {said}");
    let moto = Moto::start_at(port).unwrap();
    tell(&server, &moto.url(), &["finds_its_source"]);
}

#[test]
fn without_an_address_nothing_is_polled_and_that_is_said() {
    let Some(moto) = Moto::start() else { return };
    let server = Server::start(&[]);
    tell(&server, &moto.url(), &["says_that_nothing_is_polled"]);
}
