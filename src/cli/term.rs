//! What goes to the terminal: results to standard output, everything else to standard error, colour only where it is wanted.
//!
//! Nothing else in the command line writes to either stream (but for clap's own help and usage errors).

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::CliError;
use crate::config::Env;

/// The name and version of every JSON document that is printed.
pub const SCHEMA: &str = "offshoot/v1";

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document (with logs -f: one per line).
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On terminals that have it.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The two streams, and how to use them.
#[derive(Debug, Clone, Copy)]
pub struct Term {
    /// The form of results.
    pub output: Output,
    /// No notes, no logs, no progress.
    pub quiet: bool,
    /// More details.
    pub verbose: bool,
    out_tty: bool,
    out_color: bool,
    err_color: bool,
    progress: bool,
}

/// Nobody reads standard output any more.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard error. A closed stream is no reason to fail.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

impl Term {
    /// Looks at both streams and at the variables that people set about them.
    pub fn new(output: Output, color: ColorWhen, quiet: bool, verbose: bool, env: &Env) -> Self {
        let (out_tty, err_tty) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let dumb = env.get("TERM") == Some("dumb");
        Term {
            output,
            quiet,
            verbose,
            out_tty,
            out_color: wants_color(color, env, out_tty),
            err_color: wants_color(color, env, err_tty),
            progress: err_tty && !dumb && !quiet && env.get("CI").is_none(),
        }
    }

    /// Whether results are JSON.
    pub fn json(&self) -> bool {
        self.output == Output::Json
    }
    /// Whether a person looks at standard output.
    pub fn out_is_terminal(&self) -> bool {
        self.out_tty
    }

    /// Writes a part of the result. Whoever has read enough and gone (`… | head`) changes nothing in how a command ends: when a reader
    /// leaves is a matter of chance, an exit code is not.
    pub fn out(&self, bytes: &[u8]) -> Result<(), CliError> {
        if self.reader_is_gone() {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).or_else(|e| match e.kind() {
            ErrorKind::BrokenPipe => {
                READER_GONE.store(true, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(CliError::config(format!("cannot write to standard output: {e}"))),
        })
    }
    /// Whether whoever read standard output has gone: there is no use in more results.
    pub fn reader_is_gone(&self) -> bool {
        READER_GONE.load(Ordering::Relaxed)
    }
    /// Waits until whoever reads standard output has gone; for ever where that is not a pipe. For commands that wait for something to write.
    pub async fn reader_goes(&self) {
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own, which the end of the process does not wait for.
        std::thread::spawn(move || {
            let out = rustix::stdio::stdout();
            let mut out = [PollFd::new(&out, PollFlags::empty())];
            if poll(&mut out, None).is_ok() {
                READER_GONE.store(true, Ordering::Relaxed);
                tell.send(()).ok();
            }
        });
        if told.await.is_err() {
            // It cannot be told.
            std::future::pending().await
        }
    }
    /// Writes a line of the result.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        self.out(format!("{text}\n").as_bytes())
    }
    /// Writes rows in columns, the first being the heads.
    pub fn table(&self, rows: &[Vec<String>]) -> Result<(), CliError> {
        let lines = columns(rows);
        let (heads, rest) = lines.split_first().map_or(("", &[][..]), |(heads, rest)| (heads.as_str(), rest));
        self.line(&self.bold_out(heads))?;
        rest.iter().try_for_each(|line| self.line(line))
    }
    /// Writes the members of an object that say something, one on a line. `show` puts what is not text into words.
    pub fn members(&self, object: &Value, show: impl Fn(&str, &Value) -> String) -> Result<(), CliError> {
        for (key, value) in object.as_object().into_iter().flatten() {
            let shown = match value {
                Value::Null => continue,
                Value::Array(all) if all.is_empty() => continue,
                Value::String(text) => text.clone(),
                other => show(key, other),
            };
            let key = self.dim_out(&format!("{key:<16}"));
            self.line(&format!("{key} {}", printable(&shown, false)))?;
        }
        Ok(())
    }
    /// Writes the one JSON document that is the result; `members` is anything that becomes an object.
    pub fn document(&self, members: &impl Serialize) -> Result<(), CliError> {
        #[derive(Serialize)]
        struct Document<'a, T> {
            schema: &'static str,
            #[serde(flatten)]
            members: &'a T,
        }
        let text = serde_json::to_string_pretty(&Document { schema: SCHEMA, members });
        self.line(&text.map_err(|e| CliError::config(format!("cannot write the result as JSON: {e}")))?)
    }

    /// Writes a line for people to standard error, unless they asked for quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }
    /// Writes a line to standard error in any case. A closed stream is no reason to fail.
    pub fn complain(&self, text: &str) {
        complain(text);
    }
    /// Shows an error to people, and to programs as the document that is the result.
    pub fn show_error(&self, error: &CliError) {
        self.show_error_text(error);
        if self.json() {
            let _ = self.line(&json!({"schema": SCHEMA, "error": error.to_json()}).to_string());
        }
    }
    /// Shows an error to people: what is wrong, then what to do about it.
    pub fn show_error_text(&self, error: &CliError) {
        let text = |words: &str| printable(words, false);
        self.complain(&format!("{} {}", self.red("error:"), text(&error.message)));
        if let Some(hint) = &error.hint {
            self.complain(&format!("{}  {}", self.dim("hint:"), text(hint)));
        }
    }

    /// Text for standard error in the background.
    pub fn dim(&self, text: &str) -> String {
        paint(self.err_color, "2", text)
    }
    /// Text for standard error in red.
    pub fn red(&self, text: &str) -> String {
        paint(self.err_color, "1;31", text)
    }
    /// Text for standard output in bold.
    pub fn bold_out(&self, text: &str) -> String {
        paint(self.out_color, "1", text)
    }
    /// Text for standard output in the background.
    pub fn dim_out(&self, text: &str) -> String {
        paint(self.out_color, "2", text)
    }
    /// A function's log text as standard error may show it.
    pub fn log_text(&self, text: &str) -> String {
        printable(text, self.err_color)
    }
    /// A function's log text as standard output may show it.
    pub fn log_text_out(&self, text: &str) -> String {
        printable(text, self.out_color)
    }

    /// A bar over `total` bytes; invisible unless a person watches.
    pub fn bar(&self, what: &str, total: u64) -> ProgressBar {
        let bar = self.hidden_or(ProgressBar::new(total));
        let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        bar
    }
    /// Turns a bar that has reached its end into a sign that the other side works.
    pub fn spin(&self, bar: &ProgressBar, what: &str) {
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    fn hidden_or(&self, bar: ProgressBar) -> ProgressBar {
        bar.set_draw_target(if self.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        bar
    }
}

fn wants_color(when: ColorWhen, env: &Env, tty: bool) -> bool {
    let forced = ["CLICOLOR_FORCE", "FORCE_COLOR"].iter().any(|name| env.get(name).is_some_and(|value| value != "0"));
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto if env.get("NO_COLOR").is_some() => false,
        ColorWhen::Auto if forced => true,
        ColorWhen::Auto => tty && env.get("TERM") != Some("dumb") && env.get("CLICOLOR") != Some("0"),
    }
}

fn paint(on: bool, code: &str, text: &str) -> String {
    if on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Foreign text without what could steer a terminal: of control characters only tab and newline stay, and colour if wanted.
pub fn printable(text: &str, color: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = color_length(rest) {
            if color {
                shown.push_str(&rest[..length]);
            }
            rest = &rest[length..];
            continue;
        }
        if !c.is_control() || c == '\n' || c == '\t' {
            shown.push(c);
        } else if c != '\r' {
            shown.push('\u{fffd}');
        }
        rest = &rest[c.len_utf8()..];
    }
    shown
}

/// The length of the colour sequence that `text` begins with.
fn color_length(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\x1b[")?;
    let end = inner.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
    inner[end..].starts_with('m').then_some(2 + end + 1)
}

/// A member that is text, fit for a cell; `-` where there is none.
pub fn member(object: &Value, key: &str) -> String {
    object[key].as_str().map_or("-".to_owned(), |text| printable(text, false))
}

/// Lays rows out in columns, two spaces apart, the first row being the heads.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_follows_the_conventions() {
        let env = |vars: &[(&str, &str)]| Env::of_pairs(vars);
        let auto = |vars: &[(&str, &str)], tty| wants_color(ColorWhen::Auto, &env(vars), tty);
        assert!(auto(&[], true) && !auto(&[], false));
        assert!(!auto(&[("NO_COLOR", "1")], true) && auto(&[("NO_COLOR", "")], true));
        assert!(!auto(&[("TERM", "dumb")], true));
        assert!(auto(&[("CLICOLOR_FORCE", "1")], false) && !auto(&[("CLICOLOR_FORCE", "0")], false));
        assert!(!auto(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], true));
        assert!(wants_color(ColorWhen::Always, &env(&[("NO_COLOR", "1")]), false));
        assert!(!wants_color(ColorWhen::Never, &env(&[("CLICOLOR_FORCE", "1")]), true));
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\tb\nc\r\n", true), "a\tb\nc\n");
        assert_eq!(printable("\x1b[31mred\x1b[0m", true), "\x1b[31mred\x1b[0m");
        assert_eq!(printable("\x1b[31mred\x1b[0m", false), "red");
        for attack in ["\x1b]0;title\x07", "\x1b[2J", "\x1b[", "\x1b", "\u{9b}2J", "\x1bc"] {
            assert!(!printable(attack, true).contains(['\x1b', '\x07', '\u{9b}']), "{attack:?}");
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NAME".into(), "N".into()], vec!["a".into(), "12".into()]];
        assert_eq!(columns(&rows), ["NAME  N", "a     12"]);
    }
}
