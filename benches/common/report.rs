//! The table: what SPEC.md promises, our number, the peer's or the floor's from the same run, and whether it holds.

use std::io::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Miss,
    /// Shown for comparison; nothing is promised.
    Info,
    /// Could not be measured here.
    Skip,
}

impl Verdict {
    pub fn of(holds: bool) -> Self {
        if holds { Verdict::Pass } else { Verdict::Miss }
    }

    fn text(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Miss => "MISS",
            Verdict::Info => "",
            Verdict::Skip => "skip",
        }
    }
}

pub fn ms(value: f64) -> String {
    format!("{value:.2} ms")
}
pub fn us(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.1} ms", value / 1e3) } else { format!("{value:.0} us") }
}
pub fn mb(bytes: f64) -> String {
    format!("{:.2} MB", bytes / 1e6)
}
pub fn times(ratio: f64) -> String {
    format!("{ratio:.3}x")
}

/// The rows of one bench.
#[derive(Debug)]
pub struct Report {
    name: String,
    rows: Vec<[String; 6]>,
    missed: bool,
}

const HEAD: [&str; 6] = ["SPEC line", "ours", "peer or floor, same run", "ratio", "must reach", "verdict"];

impl Report {
    pub fn new(name: &str) -> Self {
        Report { name: name.to_owned(), rows: Vec::new(), missed: false }
    }

    /// A row. Also said at once, so that a bench that breaks later has not run for nothing.
    pub fn row(
        &mut self,
        spec: &str,
        ours: impl Into<String>,
        peer: impl Into<String>,
        ratio: Option<f64>,
        target: &str,
        verdict: Verdict,
    ) {
        let row = [
            spec.to_owned(),
            ours.into(),
            peer.into(),
            ratio.map(times).unwrap_or_default(),
            target.to_owned(),
            verdict.text().to_owned(),
        ];
        println!("  {}", row.join(" | "));
        self.missed |= verdict == Verdict::Miss;
        self.rows.push(row);
    }

    /// A peer that is not here.
    pub fn skip(&mut self, spec: &str, why: &str) {
        self.row(spec, "", why, None, "", Verdict::Skip);
    }

    pub fn missed(&self) -> bool {
        self.missed
    }

    fn table(&self) -> String {
        let mut widths = HEAD.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String; 6]| {
            let padded = cells.iter().zip(widths).map(|(c, w)| format!("{c:w$}"));
            format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
        };
        let rule = widths.map(|w| "-".repeat(w));
        let rows: String = self.rows.iter().map(line).collect();
        format!("## {}\n\n{}{}{}", self.name, line(&HEAD.map(str::to_owned)), line(&rule), rows)
    }

    /// Prints the table, and appends it to the file that `BENCH_REPORT` names.
    pub fn print(&self) {
        let table = self.table();
        println!("\n{table}");
        if let Some(file) = std::env::var_os("BENCH_REPORT") {
            let appended =
                std::fs::File::options().append(true).create(true).open(&file).and_then(|mut f| writeln!(f, "{table}"));
            if let Err(e) = appended {
                eprintln!("{} cannot be written: {e}", file.display());
            }
        }
    }
}
