//! Warm calls: latency on one core and requests per second on the whole machine, beside a bare `node:http` server and the
//! functions frameworks with the same handler. Clients share the machine with what they measure, on both sides.

mod common;

use common::http::{Client, Load, load, one_connection, post_json};
use common::peers::{INSTALL, Kind, Peer};
use common::{Deploy, ECHOED, EVENT, Lang, Report, Res, Server, Verdict, median, procs, quick, us};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    common::run("warm", bench)
}

/// Where an echo is: a server, and the request that it takes.
struct Target {
    address: SocketAddr,
    request: Vec<u8>,
}

impl Target {
    fn peer(peer: &Peer) -> Self {
        Target { address: peer.address, request: post_json("/", EVENT) }
    }

    fn ours(server: &Server, name: &str) -> Self {
        Target { address: server.address, request: post_json(&format!("/invoke/{name}"), EVENT) }
    }

    /// Does it do the work?
    fn check(&self) -> Res<()> {
        let body = Client::connect(self.address)?.send(&self.request)?.good()?.text();
        let plain: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        // Flask sorts the keys.
        if plain != ECHOED && !(plain.contains("\"ok\":true") && plain.contains("\"items\":[\"a\",\"b\",\"c\"]")) {
            return Err(format!("not an echo: {body}").into());
        }
        Ok(())
    }
}

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(if quick() { n / 4.0 } else { n })
}

fn bench(report: &mut Report) -> Res<()> {
    latency(report)?;
    throughput(report)
}

fn start(lang: Lang) -> Res<(Server, Target)> {
    let server = Server::start()?;
    let name = format!("echo-{}", lang.name().to_lowercase());
    server.deploy(&name, lang, lang.echo(), Deploy::FULL)?;
    let target = Target::ours(&server, &name);
    target.check()?;
    Ok((server, target))
}

fn latency(report: &mut Report) -> Res<()> {
    const CPU: &str = "0";
    for lang in Lang::ALL {
        let (server, ours) = start(lang)?;
        let Some(peer) = Kind::NodeHttp.start()? else { return Err("node is not here".into()) };
        let floor = Target::peer(&peer);
        floor.check()?;
        server.settle();
        procs::pin(&server.tree().iter().map(|p| p.pid).collect::<Vec<_>>(), CPU)?;
        procs::pin(&peer.pids(), CPU)?;
        procs::pin(&[std::process::id()], CPU)?;
        let (mut mine, mut theirs, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut a = one_connection(floor.address, &floor.request, seconds(1.0), seconds(3.0))?;
            let mut b = one_connection(ours.address, &ours.request, seconds(1.0), seconds(3.0))?;
            if b.errors > 0 {
                return Err(format!("{} calls failed: {:?}", b.errors, b.first_error).into());
            }
            theirs.push(a.at(0.5));
            mine.push(b.at(0.5));
            late.push(b.at(0.99));
        }
        procs::pin(&[std::process::id()], &procs::all_cpus())?;
        let (mine, theirs) = (median(&mut mine), median(&mut theirs));
        let holds = mine <= 2.0 * theirs;
        report.row(
            &format!("warm.{}.latency", lang.name().to_lowercase()),
            format!("{} median (p99 {})", us(mine), us(median(&mut late))),
            format!("node:http: {}", us(theirs)),
            Some(mine / theirs),
            "<= 2x on one core, one connection",
            Verdict::of(holds),
        );
        server.stop()?;
    }
    Ok(())
}

struct Measured {
    per_second: f64,
    load: Load,
}

/// The middle one of several runs, by requests per second; the errors and the latest answer of all.
fn middle(mut runs: Vec<Load>) -> Measured {
    let mut rates: Vec<f64> = runs.iter().map(Load::per_second).collect();
    let per_second = median(&mut rates);
    let mut all = Load::default();
    for run in runs.drain(..) {
        all.micros.extend(run.micros);
        all.errors += run.errors;
        all.first_error = all.first_error.or(run.first_error);
    }
    Measured { per_second, load: all }
}

fn throughput(report: &mut Report) -> Res<()> {
    for connections in [8, 64] {
        let mut node_http = 0.0;
        for lang in Lang::ALL {
            let framework = if lang == Lang::Node { Kind::FrameworkNode } else { Kind::FrameworkPython };
            let (server, ours) = start(lang)?;
            let mut sides =
                vec![(Kind::NodeHttp.name(), Kind::NodeHttp.start()?), (framework.name(), framework.start()?)];
            let mut runs: Vec<Vec<Load>> = vec![Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..3 {
                runs[0].push(load(ours.address, &ours.request, connections, seconds(1.0), seconds(3.0))?);
                for (i, (_, peer)) in sides.iter().enumerate() {
                    if let Some(peer) = peer {
                        let target = Target::peer(peer);
                        target.check()?;
                        runs[i + 1].push(load(
                            target.address,
                            &target.request,
                            connections,
                            seconds(1.0),
                            seconds(3.0),
                        )?);
                    }
                }
            }
            let slow_peer = sides.pop().and_then(|(name, peer)| peer.map(|_| name));
            drop(sides);
            let mut runs = runs.into_iter().map(middle);
            let (Some(mut mine), Some(bare), Some(slow)) = (runs.next(), runs.next(), runs.next()) else { continue };
            if lang == Lang::Node {
                node_http = bare.per_second;
            }
            let live = procs::instances(&server.tree()).len();
            let key = format!("warm.{}.{connections}", lang.name().to_lowercase());
            let worst = mine.load.at(1.0);
            let rate = |m: &Measured| format!("{:.0}/s", m.per_second);
            let clean = mine.load.errors == 0 && worst < 100_000.0;
            if !clean {
                println!(
                    "  {} errors, slowest {}; first error: {:?}\n{}",
                    mine.load.errors,
                    us(worst),
                    mine.load.first_error,
                    server.log_tail()
                );
            }
            let mine_text = format!("{} (p50 {}, p99 {})", rate(&mine), us(mine.load.at(0.5)), us(mine.load.at(0.99)));
            let bare_rate = if lang == Lang::Node { bare.per_second } else { node_http.max(bare.per_second) };
            report.row(
                &format!("{key}.bare"),
                mine_text,
                format!("node:http: {bare_rate:.0}/s"),
                Some(mine.per_second / bare_rate),
                ">= 0.8x",
                Verdict::of(mine.per_second >= 0.8 * bare_rate),
            );
            let least = if lang == Lang::Node { 5.0 } else { 10.0 };
            match slow_peer {
                Some(name) => report.row(
                    &format!("{key}.framework"),
                    rate(&mine),
                    format!("{name}: {}", rate(&slow)),
                    Some(mine.per_second / slow.per_second),
                    &format!(">= {least}x"),
                    Verdict::of(mine.per_second >= least * slow.per_second),
                ),
                None => report.skip(&format!("{key}.framework"), &format!("{} is {INSTALL}", framework.name())),
            }
            report.row(
                &format!("{key}.slowest"),
                format!("{} ({} errors, {live} instances)", us(worst), mine.load.errors),
                "",
                None,
                "no call over 100 ms, none failed",
                Verdict::of(clean),
            );
            server.stop()?;
        }
    }
    Ok(())
}
