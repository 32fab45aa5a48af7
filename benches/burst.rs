//! A thousand first calls at the same moment, of a thousand functions.

mod common;

use common::http::{burst, post_json};
use common::{Deploy, Lang, Report, Res, Server, Verdict, median, ms, quick, start_to_exit};
use std::process::ExitCode;

fn main() -> ExitCode {
    common::run("burst", bench)
}

fn bench(report: &mut Report) -> Res<()> {
    for lang in [Lang::Python, Lang::Node] {
        one(report, lang)?;
    }
    Ok(())
}

fn one(report: &mut Report, lang: Lang) -> Res<()> {
    let count = if quick() { 100 } else { 1000 };
    let limit = if lang == Lang::Python { 3.0 } else { 5.0 };
    let server = Server::start()?;
    let functions: Vec<_> = (0..count).map(|i| (format!("burst-{i}"), lang.hello(i))).collect();
    let began = std::time::Instant::now();
    server.deploy_all(lang, Deploy::PLAIN, &functions)?;
    println!("  {count} functions deployed in {:.1} s", began.elapsed().as_secs_f64());
    server.settle();
    let mut plain = (0..10).map(|_| start_to_exit(&mut lang.plain())).collect::<Res<Vec<_>>>()?;
    let calls = functions.iter().map(|(name, _)| post_json(&format!("/invoke/{name}"), "{}")).collect();
    let landed = burst(server.address, calls)?;
    let failed: Vec<&String> = landed.iter().filter_map(|l| l.as_ref().err()).collect();
    let mut took: Vec<f64> = landed.iter().flatten().map(|(t, _)| t.as_secs_f64()).collect();
    let cold = landed.iter().flatten().filter(|(_, r)| r.text().replace(' ', "").contains("\"calls\":1}")).count();
    let boots = landed.iter().flatten().filter(|(_, r)| r.header("offshoot-start") == Some("boot")).count();
    let last = common::percentile(&mut took, 1.0);
    let each = median(&mut plain);
    // What a machine would need that starts the plain language for each call and does nothing else.
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let floor = each * count as f64 / cores / 1e3;
    report.row(
        &format!("burst.{}", lang.name().to_lowercase()),
        format!("{} of {count} answered in {last:.2} s (half by {:.2} s)", took.len(), median(&mut took)),
        format!("{count} plain starts on {cores} cores: {floor:.2} s ({} each)", ms(each)),
        Some(last / floor),
        &format!("all within {limit} s"),
        Verdict::of(failed.is_empty() && cold == count && last < limit),
    );
    if boots > 0 {
        println!("  {boots} of these starts were boots, not clones");
    }
    if let Some(first) = failed.first() {
        println!("  {} failed, the first: {first}\n{}", failed.len(), server.log_tail());
    }
    server.stop()
}
