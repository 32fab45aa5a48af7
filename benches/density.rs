//! Memory: of one idle instance among a hundred, and of a thousand live instances of a hundred functions.

mod common;

use common::http::{burst, post_json};
use common::procs::{self, instances, total_pss};
use common::{Deploy, Lang, Report, Res, Server, Verdict, mb, quick, sleep_ms};
use std::process::{Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    common::run("density", bench)
}

fn bench(report: &mut Report) -> Res<()> {
    for lang in Lang::ALL {
        idle(report, lang)?;
    }
    thousand(report)
}

/// What a plain process of the language weighs that waits: the mean of ten, which share their program's pages.
fn plain(lang: Lang) -> Res<f64> {
    let mut command = lang.plain();
    let wait = if lang == Lang::Node { "setTimeout(() => {}, 60000)" } else { "import time; time.sleep(60)" };
    let flag = if lang == Lang::Node { "-e" } else { "-c" };
    command = {
        let mut fresh = Command::new(command.get_program());
        fresh.args([flag, wait]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        fresh
    };
    let mut all = Vec::new();
    for _ in 0..10 {
        all.push(command.spawn()?);
    }
    sleep_ms(1_000);
    let sum: u64 = all.iter().map(|c| procs::memory(c.id()).pss).sum();
    for child in &mut all {
        child.kill()?;
        child.wait()?;
    }
    Ok(sum as f64 / 10.0)
}

fn idle(report: &mut Report, lang: Lang) -> Res<()> {
    let count = if quick() { 20 } else { 100 };
    let limit = if lang == Lang::Node { 2e6 } else { 1.5e6 };
    let floor = plain(lang)?;
    let server = Server::start()?;
    server.settle();
    let before = instances(&server.tree()).len();
    let functions: Vec<_> = (0..count).map(|i| (format!("idle-{i}"), lang.hello(i))).collect();
    server.deploy_all(lang, Deploy::PLAIN, &functions)?;
    for (name, _) in &functions {
        server.call(name, "{}")?;
    }
    sleep_ms(2_000);
    let tree = server.tree();
    let live = instances(&tree);
    if live.len() < before + count {
        return Err(format!("{} instances live where {} should", live.len(), before + count).into());
    }
    let each = total_pss(&live) as f64 / live.len() as f64;
    let private = live.iter().map(|p| procs::memory(p.pid).private_dirty).sum::<u64>() as f64 / live.len() as f64;
    report.row(
        &format!("density.{}.idle", lang.name().to_lowercase()),
        format!("{} PSS each ({} private dirty, {} live)", mb(each), mb(private), live.len()),
        format!("plain {} that sleeps, mean of 10: {}", lang.name(), mb(floor)),
        Some(each / floor),
        &format!("< {}", mb(limit)),
        Verdict::of(each < limit),
    );
    server.stop()
}

fn thousand(report: &mut Report) -> Res<()> {
    let (count, each) = if quick() { (10, 10) } else { (100, 10) };
    let server = Server::start()?;
    let names = |lang: Lang| -> Vec<(String, String)> {
        let key = lang.name().to_lowercase();
        (0..count / 2).map(|i| (format!("crowd-{key}-{i}"), lang.wait(i))).collect()
    };
    for lang in Lang::ALL {
        server.deploy_all(lang, Deploy::PLAIN, &names(lang))?;
    }
    server.settle();
    let before = instances(&server.tree()).len();
    // Every call holds its instance until the same moment, so that all live at once.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let event = format!("{{\"until\":{}}}", now + 15_000);
    let functions: Vec<String> = Lang::ALL.into_iter().flat_map(names).map(|(name, _)| name).collect();
    let calls = |event: &str| {
        let one = |name: &String| post_json(&format!("/invoke/{name}"), event);
        functions.iter().flat_map(|name| std::iter::repeat_n(one(name), each)).collect::<Vec<_>>()
    };
    let landed = burst(server.address, calls(&event))?;
    let answered = landed.iter().flatten().count();
    sleep_ms(2_000);
    let tree = server.tree();
    let live = instances(&tree);
    let crowd = total_pss(&live) as f64;
    let everything = total_pss(&tree.iter().collect::<Vec<_>>()) as f64;
    let again = functions.iter().filter(|name| server.call(name, "{\"until\":0}").is_ok()).count();
    let wanted = count * each;
    report.row(
        "density.thousand",
        format!("{} live, {} in all ({} the instances alone)", live.len() - before, mb(everything), mb(crowd)),
        format!("{} PSS per instance", mb(crowd / live.len().max(1) as f64)),
        None,
        &format!("{wanted} live, all answer, < 3 GB"),
        Verdict::of(
            answered == wanted && again == functions.len() && live.len() >= before + wanted && everything < 3e9,
        ),
    );
    println!("  {answered} of {wanted} calls answered; {again} of {} functions answer again", functions.len());
    if let Some(why) = landed.iter().find_map(|l| l.as_ref().err()) {
        println!("  the first failure: {why}\n{}", server.log_tail());
    }
    server.stop()
}
