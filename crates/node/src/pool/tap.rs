//! What one instance prints: two pipes, cut into lines, tied to the invocation that runs, bounded, and handed to the log store.
//!
//! It never lets a function that prints without end block itself or fill the server: what is over the limit is read and dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use offshoot_model::{FunctionName, RequestId};
use tokio::net::unix::pipe;

use crate::observe::{LogEntry, LogStore, Stream, SystemLog, escape_bytes};

/// Longest line, in bytes; longer ones are cut into several.
const MAX_LINE: usize = 32 << 10;
/// How much of an invocation's log is kept for its caller, in bytes (AWS Lambda's `LogType=Tail`).
const TAIL: usize = 4 << 10;
/// How long a function that has printed is taken for one that prints.
const PRINTS: Duration = Duration::from_secs(10);
/// How much is read from a pipe before others get a turn, in bytes.
const TURN: usize = 256 << 10;

/// The log pipes of one instance.
pub struct LogTap {
    function: FunctionName,
    store: Arc<LogStore>,
    limit: u64,
    system: SystemLog,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Invocations that run here.
    running: Vec<Arc<str>>,
    /// Invocations that were sent behind the one that runs, with their first lines.
    next: VecDeque<(Arc<str>, Option<String>)>,
    /// The first line of an invocation whose turn has come, but which the worker may not have begun: it can still be withdrawn.
    held: Option<(Arc<str>, String)>,
    /// When something was last printed.
    printed_at: Option<Instant>,
    lines: [Vec<u8>; 2],
    printed: u64,
    dropped: u64,
    tail: Vec<u8>,
    closed: [bool; 2],
}

impl State {
    /// Whose a line is that was printed now.
    fn owner(&self) -> Option<Arc<str>> {
        if let [only] = self.running.as_slice() { Some(only.clone()) } else { None }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_millis() as u64).unwrap_or(0)
}

impl LogTap {
    /// Taps these pipes; a task of its own reads them while the instance lives.
    pub fn new(
        function: FunctionName,
        store: Arc<LogStore>,
        limit: u64,
        system: SystemLog,
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    ) -> Arc<Self> {
        let tap = Arc::new(LogTap { function, store, limit, system, stdout, stderr, state: Mutex::default() });
        tokio::spawn(pump(tap.clone()));
        tap
    }

    /// From now on lines belong to this invocation; when it was sent `behind` another, from the end of that one on. While
    /// several run at once, what is printed belongs to none of them.
    pub fn begin(&self, id: &RequestId, first: Option<String>, behind: bool) {
        let mut state = self.lock();
        let id = Arc::from(id.as_str());
        if behind && !state.running.is_empty() {
            state.next.push_back((id, first));
        } else {
            self.start(&mut state, id, first, behind);
        }
    }

    /// `behind`: its first line waits for a second one, which shows that it has begun.
    fn start(&self, state: &mut State, id: Arc<str>, first: Option<String>, behind: bool) {
        if state.running.is_empty() {
            state.printed = 0;
            state.dropped = 0;
            state.tail.clear();
        }
        state.running.push(id.clone());
        match first {
            Some(first) if behind => state.held = Some((id, first)),
            Some(first) => self.emit(state, Some(id), first, Stream::Platform),
            None => {}
        }
    }

    /// An invocation that was sent behind another has been withdrawn: it was never begun here.
    pub fn withdraw(&self, id: &RequestId) {
        let mut state = self.lock();
        state.next.retain(|(next, _)| **next != *id.as_str());
        state.running.retain(|running| **running != *id.as_str());
        state.held.take_if(|(held, _)| **held == *id.as_str());
    }

    /// Whether something was printed lately. Between the end of one invocation and the server's notice of it, the next
    /// may have begun to print; so where functions print, none is sent behind another.
    pub fn prints(&self) -> bool {
        self.lock().printed_at.is_some_and(|when| when.elapsed() < PRINTS)
    }

    /// The invocation is over: takes what is still in the pipes, adds the platform's lines, and returns the log's tail.
    pub fn finish(&self, id: &RequestId, last: impl IntoIterator<Item = String>) -> Vec<u8> {
        let mut state = self.lock();
        let shown: Arc<str> = Arc::from(id.as_str());
        // Answered before whoever waits for the one before it has taken note: nothing in the pipes is known to be its own.
        if let Some(at) = state.next.iter().position(|(next, _)| *next == shown) {
            let first = state.next.remove(at).and_then(|(_, first)| first);
            return self.finish_early(shown, first.into_iter().chain(last));
        }
        self.read(&mut state);
        for which in 0..2 {
            self.flush_line(&mut state, which);
        }
        if state.dropped > 0 {
            let text = format!(
                "offshoot: {} more bytes of this invocation's log were dropped: the limit is {} bytes",
                state.dropped, self.limit
            );
            let text = self.system.remark(Some(&shown), text);
            self.emit(&mut state, Some(shown.clone()), text, Stream::Platform);
        }
        for line in last {
            self.emit(&mut state, Some(shown.clone()), line, Stream::Platform);
        }
        state.running.retain(|running| *running != shown);
        if !state.running.is_empty() {
            return state.tail.clone();
        }
        let tail = std::mem::take(&mut state.tail);
        if let Some((id, first)) = state.next.pop_front() {
            self.start(&mut state, id, first, true);
        }
        tail
    }

    fn finish_early(&self, id: Arc<str>, lines: impl Iterator<Item = String>) -> Vec<u8> {
        let line = |text| LogEntry::platform(now_ms(), Some(id.clone()), text);
        let entries: Vec<LogEntry> = lines.map(line).collect();
        self.store.append(&self.function, &entries);
        entries.iter().flat_map(|entry| [entry.text.as_bytes(), b"\n"].concat()).collect()
    }

    /// Adds a line of the platform's own.
    pub fn note(&self, text: &str) {
        let mut state = self.lock();
        let owner = state.owner();
        let text = self.system.remark(owner.as_deref(), text.to_owned());
        self.emit(&mut state, owner, text, Stream::Platform);
    }

    /// Adds lines of the platform that belong to no invocation.
    pub fn tell(&self, lines: impl IntoIterator<Item = String>) {
        let mut state = self.lock();
        for line in lines {
            self.emit(&mut state, None, line, Stream::Platform);
        }
    }

    /// What has been printed so far and is not yet a line, for errors of a start: the last lines of standard error.
    pub fn take_all(&self) -> Vec<u8> {
        let mut state = self.lock();
        self.read(&mut state);
        for which in 0..2 {
            self.flush_line(&mut state, which);
        }
        std::mem::take(&mut state.tail)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there without waiting. `true` when a turn was used up.
    fn read(&self, state: &mut State) -> bool {
        let mut chunk = [0u8; 8192];
        let mut more = false;
        for which in 0..2 {
            let pipe = if which == 0 { &self.stdout } else { &self.stderr };
            let mut turn = 0;
            while turn < TURN && !state.closed[which] {
                match pipe.try_read(&mut chunk) {
                    Ok(0) => state.closed[which] = true,
                    Ok(n) => {
                        turn += n;
                        self.take_bytes(state, which, &chunk[..n]);
                        if n < chunk.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => state.closed[which] = true,
                }
            }
            more |= turn >= TURN;
        }
        more
    }

    fn take_bytes(&self, state: &mut State, which: usize, mut bytes: &[u8]) {
        state.printed_at = Some(Instant::now());
        let room = self.limit.saturating_sub(state.printed);
        if bytes.len() as u64 > room {
            state.dropped += bytes.len() as u64 - room;
            bytes = &bytes[..room as usize];
        }
        state.printed += bytes.len() as u64;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            state.lines[which].extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end_line(state, which);
        }
        state.lines[which].extend_from_slice(bytes);
        if state.lines[which].len() > MAX_LINE {
            self.flush_line(state, which);
        }
    }

    fn flush_line(&self, state: &mut State, which: usize) {
        if !state.lines[which].is_empty() {
            self.end_line(state, which);
        }
    }

    fn end_line(&self, state: &mut State, which: usize) {
        if !self.system.keeps(&state.lines[which]) {
            state.lines[which].clear();
            return;
        }
        let text = escape_bytes(&state.lines[which]);
        state.lines[which].clear();
        let owner = state.owner();
        self.emit(state, owner, text, if which == 0 { Stream::Stdout } else { Stream::Stderr });
    }

    fn emit(&self, state: &mut State, request_id: Option<Arc<str>>, text: String, stream: Stream) {
        if let Some((id, first)) = state.held.take() {
            self.emit(state, Some(id), first, Stream::Platform);
        }
        state.tail.extend_from_slice(text.as_bytes());
        state.tail.push(b'\n');
        if state.tail.len() > 2 * TAIL {
            let cut = state.tail.len() - TAIL;
            state.tail.drain(..cut);
        }
        let entry = LogEntry { time_ms: now_ms(), request_id, stream, text };
        self.store.append(&self.function, &[entry]);
    }
}

/// Reads the pipes until both are closed, which the end of the instance's processes brings about.
async fn pump(tap: Arc<LogTap>) {
    loop {
        let closed = tap.lock().closed;
        tokio::select! {
            ready = tap.stdout.readable(), if !closed[0] => { ready.ok(); }
            ready = tap.stderr.readable(), if !closed[1] => { ready.ok(); }
            else => return,
        }
        let more = {
            let mut state = tap.lock();
            tap.read(&mut state)
        };
        if more {
            tokio::task::yield_now().await;
        }
    }
}
