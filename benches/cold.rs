//! Cold starts: the first call of a deployed function, from HTTP request to HTTP response, beside what the language itself
//! takes to start and exit. And the same for a function that needs half a second to initialise, started from its snapshot.

mod common;

use common::http::post_json;
use common::{Deploy, Lang, Report, Res, Server, Verdict, median, ms, percentile, quick, sleep_ms, start_to_exit};
use std::process::ExitCode;

fn main() -> ExitCode {
    common::run("cold", bench)
}

fn bench(report: &mut Report) -> Res<()> {
    for lang in Lang::all_here() {
        clone(report, lang)?;
    }
    for lang in Lang::all_here() {
        snapshot(report, lang)?;
    }
    Ok(())
}

/// Milliseconds of one call, which must have been the first of its instance.
fn first_call(client: &mut common::http::Client, name: &str, from: &str) -> Res<f64> {
    let (took, reply) = client.timed(&post_json(&format!("/invoke/{name}"), "{}"))?;
    let text = reply.text();
    if !text.replace(' ', "").contains("\"calls\":1}") {
        return Err(format!("{name}: that was not the first call of an instance: {text}").into());
    }
    match reply.header("offshoot-start") {
        Some(start) if start != from => Err(format!("{name}: a {start}, where a {from} was to be measured").into()),
        _ => Ok(took.as_secs_f64() * 1e3),
    }
}

/// One start of one function, of each of many functions; the language template is warm.
fn clone(report: &mut Report, lang: Lang) -> Res<()> {
    let samples = if quick() { 20 } else { 200 };
    let discarded = 5;
    let server = Server::start_with(&Lang::all_here())?;
    let functions: Vec<_> = (0..samples + discarded).map(|i| (format!("cold-{i}"), lang.hello(i))).collect();
    server.deploy_all(lang, Deploy::PLAIN, &functions)?;
    server.settle();
    let mut client = server.client()?;
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for (i, (name, _)) in functions.iter().enumerate() {
        let took = first_call(&mut client, name, "clone")?;
        if i >= discarded {
            ours.push(took);
            plain.push(start_to_exit(&mut lang.plain())?);
        }
        // What follows a start (its cgroup settles, its log lines are written) is not part of the next one.
        sleep_ms(10);
    }
    let (half, late, floor) = (median(&mut ours), percentile(&mut ours, 0.99), median(&mut plain));
    let share = if lang == Lang::Node { 10.0 } else { 2.0 };
    let key = lang.name().to_lowercase();
    let floor_text = format!("{} start to exit: {}", lang.plain().get_program().to_string_lossy(), ms(floor));
    let holds = half < 5.0 && half * share < floor;
    report.row(
        &format!("cold.{key}.median"),
        format!("{} (best {}, n={samples})", ms(half), ms(percentile(&mut ours, 0.0))),
        floor_text,
        Some(half / floor),
        &format!("< 5 ms and < 1/{share} of plain start"),
        Verdict::of(holds),
    );
    let late_plain = percentile(&mut plain, 0.99);
    report.row(
        &format!("cold.{key}.p99"),
        format!("{} (p90 {})", ms(late), ms(percentile(&mut ours, 0.9))),
        format!("plain start, p99: {}", ms(late_plain)),
        Some(late / late_plain),
        "< 20 ms",
        Verdict::of(late < 20.0),
    );
    server.stop()
}

/// Starts of one function from its snapshot; each instance ends after its call.
fn snapshot(report: &mut Report, lang: Lang) -> Res<()> {
    let samples = if quick() { 10 } else { 200 };
    let server = Server::start_with(&Lang::all_here())?;
    let key = lang.name().to_lowercase();
    // Without a snapshot, for comparison: the language's clone, and the half second.
    let mut without = Vec::new();
    let plain: Vec<_> = (0..3).map(|i| (format!("slow-{i}"), lang.slow_init().to_owned())).collect();
    server.deploy_all(lang, Deploy::FULL, &plain)?;
    let mut client = server.client()?;
    for (name, _) in &plain {
        without.push(first_call(&mut client, name, "clone")?);
    }
    server.deploy("snapped", lang, lang.slow_init(), Deploy { snapshot: true, ..Deploy::FULL })?;
    server.settle();
    // The deployment may have left an instance.
    let _ = client.timed(&post_json("/invoke/snapped", "{}"));
    let mut ours = Vec::new();
    let mut early = 0;
    while ours.len() < samples + 5 {
        sleep_ms(40);
        match first_call(&mut client, "snapped", "restore") {
            Ok(took) => ours.push(took),
            // On a busy machine the instance before may still be on its way out, and take the call with it.
            Err(e) if early < samples / 5 && e.to_string().contains("Runtime.ExitError") => early += 1,
            Err(e) => return Err(e),
        }
    }
    ours.drain(..5);
    let (half, floor) = (median(&mut ours), median(&mut without));
    report.row(
        &format!("cold.{key}.snapshot"),
        format!("{} (p99 {}, n={samples})", ms(half), ms(percentile(&mut ours, 0.99))),
        format!("the same without snapshot: {}", ms(floor)),
        Some(half / floor),
        "< 4 ms",
        Verdict::of(half < 4.0),
    );
    server.stop()
}
