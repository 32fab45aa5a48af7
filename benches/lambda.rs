//! AWS Lambda's API: what it costs more than the simplest route, AWS's own emulator with AWS's own runtime clients beside it,
//! payloads of 6 MB, and a registry of ten thousand functions. Clients share the machine with what they measure, on both sides.

mod common;

use common::http::{Client, Load, load, one_connection, post_json, request};
use common::peers::{Emulator, INSTALL, Kind};
use common::server::Scratch;
use common::{Deploy, Lang, Report, Res, Server, Verdict, median, ms, percentile, procs, quick, us};
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    common::run("lambda", bench)
}

fn bench(report: &mut Report) -> Res<()> {
    route(report)?;
    emulator(report)?;
    payload(report)?;
    many(report)
}

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(if quick() { n / 4.0 } else { n })
}

fn invocations(name: &str, body: &str) -> Vec<u8> {
    post_json(&format!("/2015-03-31/functions/{name}/invocations"), body)
}

/// The whole of what `Invoke` adds: its path, its headers, its qualifier, its error shapes. One core, one connection.
fn route(report: &mut Report) -> Res<()> {
    const CPU: &str = "0";
    let server = Server::start()?;
    let name = "echo-node";
    server.deploy(name, Lang::Node, Lang::Node.event_echo(), Deploy { event: true, ..Deploy::FULL })?;
    let plain = post_json(&format!("/invoke/{name}"), common::EVENT);
    let lambda = invocations(name, common::EVENT);
    let mut client = server.client()?;
    let (one, other) = (client.send(&plain)?.good()?.text(), client.send(&lambda)?.good()?.text());
    if one != other || one != common::ECHOED {
        return Err(format!("the routes do not answer the same: {one} and {other}").into());
    }
    server.settle();
    procs::pin(&server.tree().iter().map(|p| p.pid).collect::<Vec<_>>(), CPU)?;
    procs::pin(&[std::process::id()], CPU)?;
    let (mut simple, mut full) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        simple.push(one_connection(server.address, &plain, seconds(0.5), seconds(2.0))?.at(0.5));
        full.push(one_connection(server.address, &lambda, seconds(0.5), seconds(2.0))?.at(0.5));
    }
    procs::pin(&[std::process::id()], &procs::all_cpus())?;
    let (simple, full) = (median(&mut simple), median(&mut full));
    report.row(
        "lambda.invoke.route",
        format!("Invoke {}", us(full)),
        format!("/invoke/NAME: {}", us(simple)),
        Some(full / simple),
        "at most 30 us more",
        Verdict::of(full - simple <= 30.0),
    );
    server.stop()
}

/// The emulator takes one invocation at a time and breaks with more, so it has one connection in both rows.
fn emulator(report: &mut Report) -> Res<()> {
    for lang in Lang::ALL {
        let key = format!("lambda.emulator.{}", lang.name().to_lowercase());
        let Some(peer) = Emulator::start(lang)? else {
            report.skip(&key, &format!("AWS's emulator with {} is {INSTALL}", Emulator::client(lang)));
            continue;
        };
        let server = Server::start()?;
        let name = format!("echo-{}", lang.name().to_lowercase());
        server.deploy(&name, lang, lang.event_echo(), Deploy { event: true, ..Deploy::FULL })?;
        let (ours, theirs) = (invocations(&name, common::EVENT), invocations("function", common::EVENT));
        for (address, call) in [(server.address, &ours), (peer.address(), &theirs)] {
            let body = Client::connect(address)?.send(call)?.good()?.text();
            if body.chars().filter(|c| !c.is_whitespace()).collect::<String>() != common::ECHOED {
                return Err(format!("not an echo: {body}").into());
            }
        }
        let mut runs: [Vec<Load>; 3] = Default::default();
        for _ in 0..3 {
            runs[0].push(load(peer.address(), &theirs, 1, seconds(1.0), seconds(3.0))?);
            runs[1].push(load(server.address, &ours, 1, seconds(1.0), seconds(3.0))?);
            runs[2].push(load(server.address, &ours, 8, seconds(1.0), seconds(3.0))?);
        }
        if let Some(error) = runs.iter().flatten().find_map(|run| run.first_error.as_ref()) {
            return Err(format!("calls failed: {error}").into());
        }
        let rate = |runs: &[Load]| median(&mut runs.iter().map(Load::per_second).collect::<Vec<_>>());
        let floor = rate(&runs[0]);
        for (connections, least, mine) in [(1, 4.0, rate(&runs[1])), (8, 8.0, rate(&runs[2]))] {
            report.row(
                &format!("{key}.{connections}"),
                format!("{mine:.0}/s"),
                format!("AWS's emulator with {}: {floor:.0}/s", Emulator::client(lang)),
                Some(mine / floor),
                &format!(">= {least}x"),
                Verdict::of(mine >= least * floor),
            );
        }
        drop(peer);
        server.stop()?;
    }
    Ok(())
}

/// As large as an event may be, there and back.
fn payload(report: &mut Report) -> Res<()> {
    const SIZE: usize = 6_000_000;
    let text = format!("\"{}\"", "x".repeat(SIZE - 2));
    let rounds = if quick() { 5 } else { 30 };
    let Some(peer) = Kind::NodeHttp.start()? else { return Err("node is not here".into()) };
    let bare = post_json("/", &text);
    for lang in Lang::ALL {
        let server = Server::start()?;
        let name = "large";
        server.deploy(name, lang, lang.event_identity(), Deploy { event: true, ..Deploy::FULL })?;
        let call = invocations(name, &text);
        let timed = |address, call: &[u8], least: usize| -> Res<Vec<f64>> {
            let mut client = Client::connect(address)?;
            let mut times = Vec::new();
            for round in 0..rounds + 2 {
                let (took, reply) = client.timed(call)?;
                if reply.body.len() < least {
                    return Err(format!("an answer of {} bytes", reply.body.len()).into());
                }
                if round >= 2 {
                    times.push(took.as_secs_f64() * 1e3);
                }
            }
            Ok(times)
        };
        let mut mine = timed(server.address, &call, SIZE)?;
        let mut floor = timed(peer.address, &bare, SIZE)?;
        let (half, least) = (median(&mut mine), median(&mut floor));
        report.row(
            &format!("lambda.payload.{}", lang.name().to_lowercase()),
            format!("{} (worst {})", ms(half), ms(percentile(&mut mine, 1.0))),
            format!("node:http, same size: {}", ms(least)),
            Some(half / least),
            "6 MB each way < 60 ms",
            Verdict::of(half < 60.0),
        );
        server.stop()?;
    }
    Ok(())
}

/// What ten thousand functions change: the start of the server, looking one up, listing a page, calling one.
fn many(report: &mut Report) -> Res<()> {
    let full = if quick() { 1_000 } else { 10_000 };
    let (few, lots) = (measure(10)?, measure(full)?);
    let rows = [
        ("ready", few.ready, lots.ready, "server ready < 300 ms"),
        ("lookup", few.lookup, lots.lookup, "flat: at most 2x"),
        ("page", few.page, lots.page, "flat per function listed: at most 2x"),
    ];
    for (what, small, large, promise) in rows {
        let holds = if what == "ready" { large < 300.0 } else { large <= 2.0 * small };
        let key = format!("lambda.functions.{full}.{what}");
        report.row(
            &key,
            ms(large),
            format!("with 10 functions: {}", ms(small)),
            Some(large / small),
            promise,
            Verdict::of(holds),
        );
    }
    Ok(())
}

/// Medians in milliseconds.
struct Registry {
    ready: f64,
    lookup: f64,
    /// A page of ten.
    page: f64,
}

fn measure(functions: usize) -> Res<Registry> {
    let scratch = Scratch::new()?;
    let data = scratch.path().join("data");
    let server = Server::start_in(&data, &[])?;
    let all: Vec<_> = (0..functions).map(|i| (format!("many-{i:05}"), Lang::Node.hello(i % 10))).collect();
    server.deploy_all(Lang::Node, Deploy::PLAIN, &all)?;
    server.stop()?;
    let mut ready = Vec::new();
    for _ in 0..5 {
        let server = Server::start_in(&data, &[])?;
        ready.push(server.ready.as_secs_f64() * 1e3);
        server.stop()?;
    }
    let server = Server::start_in(&data, &[])?;
    server.settle();
    let timed = |paths: &dyn Fn(usize) -> String| -> Res<f64> {
        let mut client = server.client()?;
        let mut times = Vec::new();
        for round in 0..500 {
            let call = request("GET", &paths(round), "application/json", b"");
            let began = Instant::now();
            client.send(&call)?.good()?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(&mut times))
    };
    let lookup = timed(&|round| format!("/2015-03-31/functions/many-{:05}/configuration", round * 7_919 % functions))?;
    let page = timed(&|_| "/2015-03-31/functions/?MaxItems=10".to_owned())?;
    server.stop()?;
    Ok(Registry { ready: median(&mut ready), lookup, page })
}
