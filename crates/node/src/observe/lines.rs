//! One line of a log: what it is, how hostile text is made harmless, how it is stored, and the three lines that AWS
//! writes around every invocation.
//!
//! A text that went through `escape` holds no control character, so a terminal or a pager that shows it stays safe. Text
//! is never decoded back.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use offshoot_model::{Phases, Report, RequestId, StartKind};
use serde::{Deserialize, Serialize};

/// The longest text of one line, in bytes before escaping; the rest is cut, with a marker that says how much.
pub const MAX_TEXT: usize = 32 << 10;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The function's standard output.
    Stdout,
    /// The function's standard error.
    Stderr,
    /// Offshoot itself: `START`, `END`, `REPORT`, and what it has to say about the log.
    Platform,
}

impl Stream {
    /// The stream's name in records.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Platform => "platform",
        }
    }
}

/// One line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// The invocation it belongs to; `None` outside any (initialisation, remarks of the platform).
    pub request_id: Option<Arc<str>>,
    /// Where it came from.
    pub stream: Stream,
    /// The line without its end. Escaped by the store, whoever made it.
    pub text: String,
}

impl LogEntry {
    /// A line as a function wrote it: any bytes, without the line's end.
    pub fn from_bytes(time_ms: u64, request_id: Option<Arc<str>>, stream: Stream, raw: &[u8]) -> Self {
        LogEntry { time_ms, request_id, stream, text: escape_bytes(raw) }
    }

    /// A line of the platform.
    pub fn platform(time_ms: u64, request_id: Option<Arc<str>>, text: impl Into<String>) -> Self {
        LogEntry { time_ms, request_id, stream: Stream::Platform, text: text.into() }
    }

    /// Appends the line as one JSON object and a line feed: `{"time","requestId","stream","text"}`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":");
        push_number(out, self.time_ms);
        out.extend_from_slice(b",\"requestId\":");
        match &self.request_id {
            Some(id) => push_string(out, id),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"stream\":\"");
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(b"\",\"text\":");
        push_string(out, &escape(&self.text));
        out.extend_from_slice(b"}\n");
    }

    /// Reads a line that `encode` wrote. `None` for anything else, such as a line torn by a crash.
    pub fn decode(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Stored<'a> {
            time: u64,
            #[serde(rename = "requestId", borrow)]
            request_id: Option<Cow<'a, str>>,
            stream: Stream,
            text: String,
        }
        let stored: Stored<'_> = serde_json::from_slice(line).ok()?;
        Some(LogEntry {
            time_ms: stored.time,
            request_id: stored.request_id.map(Arc::from),
            stream: stored.stream,
            text: stored.text,
        })
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    // Writing into a vector cannot fail.
    let _ = std::io::Write::write_fmt(out, format_args!("{number}"));
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

/// The text with everything that could steer a terminal or fake another line written out (`\x1b`, `\r`, `\u{202e}`), and
/// cut at `MAX_TEXT`. Escaping twice changes nothing.
pub fn escape(text: &str) -> Cow<'_, str> {
    // The room beyond `MAX_TEXT` is what escaping and the marker added to a text that was cut already.
    let plain = text.len() <= MAX_TEXT && text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t'));
    if plain || (text.len() <= MAX_TEXT * 8 && !text.chars().any(hostile) && (text.len() <= MAX_TEXT || is_cut(text))) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(MAX_TEXT) + 64);
    let kept = &text[..text.floor_char_boundary(MAX_TEXT)];
    push_escaped(&mut out, kept);
    push_marker(&mut out, text.len() - kept.len());
    Cow::Owned(out)
}

/// `escape` for bytes; what is not UTF-8 is written as `\xNN`.
pub fn escape_bytes(raw: &[u8]) -> String {
    let kept = &raw[..raw.len().min(MAX_TEXT)];
    let mut out = String::with_capacity(kept.len());
    for chunk in kept.utf8_chunks() {
        push_escaped(&mut out, chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    push_marker(&mut out, raw.len() - kept.len());
    out
}

fn push_escaped(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some((at, bad)) = rest.char_indices().find(|(_, c)| hostile(*c)) {
        out.push_str(&rest[..at]);
        let _ = match bad {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            c if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
            c => write!(out, "\\u{{{:x}}}", u32::from(c)),
        };
        rest = &rest[at + bad.len_utf8()..];
    }
    out.push_str(rest);
}

const MARKER: &str = " [cut: ";

fn push_marker(out: &mut String, cut: usize) {
    if cut > 0 {
        let _ = write!(out, "{MARKER}{cut} bytes more]");
    }
}

fn is_cut(text: &str) -> bool {
    text.ends_with(" bytes more]") && text.rfind(MARKER).is_some_and(|at| text.len() - at < 48)
}

/// Control characters, and the invisible ones that turn the direction of a line or end it.
fn hostile(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// AWS's first line of an invocation.
pub fn start_line(id: &RequestId, version: Option<u64>) -> String {
    match version {
        None => format!("START RequestId: {id} Version: $LATEST"),
        Some(number) => format!("START RequestId: {id} Version: {number}"),
    }
}

/// AWS's line after the handler.
pub fn end_line(id: &RequestId) -> String {
    format!("END RequestId: {id}")
}

/// AWS's last line, tabs included. `Init Duration` appears when this invocation started its instance, `Restore Duration`
/// instead when the instance came from a snapshot; `Max Memory Used` is left out on a machine that cannot tell.
pub fn report_line(id: &RequestId, start: StartKind, phases: &Phases, report: &Report) -> String {
    let mut line = String::with_capacity(200);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let _ = write!(
        line,
        "REPORT RequestId: {id}\tDuration: {} ms\tBilled Duration: {} ms\tMemory Size: {} MB\t",
        Hundredths(phases.run),
        whole_ms(phases.run),
        mib(report.memory_limit)
    );
    if report.peak_memory > 0 {
        let _ = write!(line, "Max Memory Used: {} MB\t", mib(report.peak_memory));
    }
    let made = phases.start + phases.init;
    let _ = match start {
        StartKind::Warm => Ok(()),
        StartKind::Clone | StartKind::Boot => write!(line, "Init Duration: {} ms\t", Hundredths(phases.init)),
        StartKind::Restore => {
            write!(line, "Restore Duration: {} ms\tBilled Restore Duration: {} ms\t", Hundredths(made), whole_ms(made))
        }
    };
    line
}

/// Milliseconds with two decimals.
struct Hundredths(Duration);

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hundredths = (self.0.as_nanos() + 5_000) / 10_000;
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

/// Milliseconds as they are billed: begun ones count, and there is at least one.
pub(super) fn whole_ms(time: Duration) -> u128 {
    time.as_nanos().div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::from_random([0x8f; 16])
    }

    #[test]
    fn hostile_text_is_written_out() {
        assert_eq!(escape("plain\ttext é 日本"), "plain\ttext é 日本");
        assert_eq!(escape("\x1b[2Jx\r\ny\0\x7f\u{9b}31m\u{202e}"), "\\x1b[2Jx\\r\\ny\\x00\\x7f\\u{9b}31m\\u{202e}");
        assert_eq!(escape_bytes(b"a\xff\xfeb\x1b"), "a\\xff\\xfeb\\x1b");
        let once = escape_bytes(b"\x1b\r\xff").clone();
        assert_eq!(escape(&once), once);
    }

    #[test]
    fn long_lines_are_cut_once() {
        let raw = vec![b'a'; MAX_TEXT + 10];
        let cut = escape_bytes(&raw);
        assert!(cut.ends_with("a [cut: 10 bytes more]"), "{}", &cut[MAX_TEXT - 5..]);
        assert_eq!(escape(&cut), cut);
        let bells = escape_bytes(&vec![7u8; MAX_TEXT + 1]);
        assert_eq!(bells.len(), MAX_TEXT * 4 + " [cut: 1 bytes more]".len());
        assert_eq!(escape(&bells), bells);
        let text = "é".repeat(MAX_TEXT);
        assert!(escape(&text).ends_with("é [cut: 32768 bytes more]"));
    }

    #[test]
    fn lines_round_trip() {
        for text in ["", "a\"b\\c", "tab\there", "日本"] {
            let entry =
                LogEntry { time_ms: 7, request_id: Some(Arc::from("x-1")), stream: Stream::Stderr, text: text.into() };
            let mut out = Vec::new();
            entry.encode(&mut out);
            assert_eq!(LogEntry::decode(&out), Some(entry));
        }
        assert_eq!(LogEntry::decode(b"{\"time\":1,\"requestId\":nu"), None);
    }

    #[test]
    fn aws_lines_are_exact() {
        let ms = |us: u64| Duration::from_micros(us);
        let phases = Phases { run: ms(1_920), init: ms(88_100), start: ms(2_000), ..Phases::default() };
        let report = Report { peak_memory: 41 << 20, memory_limit: 128 << 20 };
        let id = id();
        assert_eq!(start_line(&id, None), format!("START RequestId: {id} Version: $LATEST"));
        assert_eq!(start_line(&id, Some(7)), format!("START RequestId: {id} Version: 7"));
        assert_eq!(end_line(&id), format!("END RequestId: {id}"));
        let stem = format!(
            "REPORT RequestId: {id}\tDuration: 1.92 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 41 MB\t"
        );
        assert_eq!(report_line(&id, StartKind::Clone, &phases, &report), format!("{stem}Init Duration: 88.10 ms\t"));
        assert_eq!(report_line(&id, StartKind::Warm, &phases, &report), stem);
        assert_eq!(
            report_line(&id, StartKind::Restore, &phases, &report),
            format!("{stem}Restore Duration: 90.10 ms\tBilled Restore Duration: 91 ms\t")
        );
    }
}
