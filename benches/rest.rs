//! The server when nobody calls it: its memory, its size, and how soon it and its command line are there.

mod common;

use common::procs;
use common::server::{Scratch, binary};
use common::{Lang, Report, Res, Server, Verdict, mb, median, ms, percentile, quick, sleep_ms, start_to_exit};
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    common::run("rest", bench)
}

fn bench(report: &mut Report) -> Res<()> {
    let size = std::fs::metadata(binary())?.len() as f64;
    report.row("rest.binary", mb(size), "", None, "< 30 MB", Verdict::of(size < 30e6));
    help(report)?;
    ready(report)?;
    memory(report)
}

fn help(report: &mut Report) -> Res<()> {
    let samples = if quick() { 10 } else { 50 };
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        ours.push(start_to_exit(Command::new(binary()).arg("--help").stdout(Stdio::null()))?);
        floor.push(start_to_exit(&mut Command::new("/bin/true"))?);
    }
    let (mine, least) = (median(&mut ours), median(&mut floor));
    report.row(
        "rest.help",
        ms(mine),
        format!("/bin/true: {}", ms(least)),
        Some(mine / least),
        "< 10 ms",
        Verdict::of(mine < 10.0),
    );
    Ok(())
}

/// From the start of the process to its first answer: on an empty data directory, and on one with a hundred functions.
fn ready(report: &mut Report) -> Res<()> {
    let samples = if quick() { 5 } else { 20 };
    let mut node = (0..10).map(|_| start_to_exit(&mut Lang::Node.plain())).collect::<Res<Vec<_>>>()?;
    let floor = median(&mut node);
    let mut fresh = Vec::new();
    for _ in 0..samples {
        let scratch = Scratch::new()?;
        let server = Server::start_in(&scratch.path().join("data"), &[])?;
        fresh.push(server.ready.as_secs_f64() * 1e3);
        server.stop()?;
    }
    let scratch = Scratch::new()?;
    let data = scratch.path().join("data");
    let server = Server::start_in(&data, &[])?;
    let functions: Vec<_> = (0..100).map(|i| (format!("rest-{i}"), Lang::Node.hello(i))).collect();
    server.deploy_all(Lang::Node, common::Deploy::PLAIN, &functions)?;
    server.stop()?;
    let mut again = Vec::new();
    for _ in 0..samples {
        let server = Server::start_in(&data, &[])?;
        again.push(server.ready.as_secs_f64() * 1e3);
        server.stop()?;
    }
    for (key, mut times) in [("rest.ready.empty", fresh), ("rest.ready.100-functions", again)] {
        let half = median(&mut times);
        report.row(
            key,
            format!("{} (worst {})", ms(half), ms(percentile(&mut times, 1.0))),
            format!("node -e 0: {}", ms(floor)),
            Some(half / floor),
            "< 20 ms",
            Verdict::of(half < 20.0),
        );
    }
    Ok(())
}

/// With its templates booted and a function deployed and called; after five quiet seconds.
fn memory(report: &mut Report) -> Res<()> {
    let server = Server::start()?;
    sleep_ms(5_000);
    let own = procs::memory(server.pid());
    report.row(
        "rest.memory",
        format!("{} RSS, {} PSS", mb(own.rss as f64), mb(own.pss as f64)),
        "",
        None,
        "< 15 MB",
        Verdict::of(own.rss < 15_000_000),
    );
    let tree = server.tree();
    let others: Vec<_> = tree.iter().filter(|p| p.pid != server.pid() && p.levels < 3).collect();
    let text = others
        .iter()
        .map(|p| format!("{} {}", p.name, mb(procs::memory(p.pid).pss as f64)))
        .collect::<Vec<_>>()
        .join(", ");
    report.row("rest.others", text, "", None, "", Verdict::Info);
    server.stop()
}
