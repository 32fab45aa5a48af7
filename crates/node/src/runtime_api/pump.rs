//! What the programs of a box print, on its way to the function's log: told to those who subscribed to it, line by line.
//!
//! Before an answer goes to the pool, what was printed before it has gone on (`drain`), because the log ties lines to calls by
//! the order in which they come.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;

use super::telemetry::Telemetry;

/// The longest line that is told whole, in bytes.
const MAX_LINE: usize = 32 << 10;
/// How much is read before others get a turn, in bytes: as much as a pipe holds.
const TURN: usize = 64 << 10;

/// A pipe to the function's log. Several programs may share one.
pub type Log = Arc<Mutex<pipe::Sender>>;

/// One stream of one program.
pub struct Pump {
    kind: &'static str,
    from: pipe::Receiver,
    to: Log,
    /// The beginning of a line whose end has not been read.
    line: Mutex<Vec<u8>>,
}

/// Where a stream stands.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Nothing more is there now.
    Empty,
    /// A turn was used up.
    More,
    /// The program has closed it, or nobody takes what it prints.
    Closed,
}

impl Pump {
    /// A pump for what a program of this kind prints, in telemetry's word.
    pub fn new(kind: &'static str, from: pipe::Receiver, to: Log) -> Arc<Self> {
        Arc::new(Pump { kind, from, to, line: Mutex::default() })
    }

    /// Passes on what is printed, until the last program that prints has ended.
    pub async fn run(self: Arc<Self>, hub: Arc<Telemetry>) {
        while self.from.readable().await.is_ok() {
            match self.turn(&hub, false).await {
                State::Empty => {}
                State::More => tokio::task::yield_now().await,
                State::Closed => break,
            }
        }
        self.turn(&hub, true).await;
    }

    /// Passes on what has been printed until now, the beginning of a line too.
    pub async fn drain(&self, hub: &Telemetry) {
        self.turn(hub, true).await;
    }

    async fn turn(&self, hub: &Telemetry, to_the_end: bool) -> State {
        let mut line = self.line.lock().await;
        let mut chunk = [0u8; 8192];
        let mut read = 0;
        let state = loop {
            match self.read(&mut chunk) {
                Ok(0) => break State::Closed,
                Ok(n) => {
                    read += n;
                    if !self.take(hub, &mut line, &chunk[..n]).await {
                        break State::Closed;
                    }
                    if read >= TURN {
                        break State::More;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break State::Empty,
                Err(_) => break State::Closed,
            }
        };
        if to_the_end && !line.is_empty() {
            line.push(b'\n');
            let rest = std::mem::take(&mut *line);
            self.pass_on(hub, &rest).await;
        }
        state
    }

    /// Reads what is there. tokio reads only when it has heard that something is there, which takes a moment.
    fn read(&self, chunk: &mut [u8]) -> std::io::Result<usize> {
        match self.from.try_read(chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(rustix::io::read(&self.from, chunk)?),
            other => other,
        }
    }

    /// `false`: nobody takes it.
    async fn take(&self, hub: &Telemetry, line: &mut Vec<u8>, bytes: &[u8]) -> bool {
        line.extend_from_slice(bytes);
        let end = match line.iter().rposition(|b| *b == b'\n') {
            Some(at) => at + 1,
            None if line.len() > MAX_LINE => line.len(),
            None => return true,
        };
        let rest = line.split_off(end);
        let whole = std::mem::replace(line, rest);
        self.pass_on(hub, &whole).await
    }

    /// Whole lines, so that what two programs print does not run together; at once, because each write wakes whoever reads.
    async fn pass_on(&self, hub: &Telemetry, lines: &[u8]) -> bool {
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let text = String::from_utf8_lossy(line);
            hub.tell(self.kind, self.kind, Value::from(text.trim_end_matches(['\n', '\r'])));
        }
        self.to.lock().await.write_all(lines).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pipe_pair() -> (std::io::PipeWriter, pipe::Receiver) {
        let (read, write) = std::io::pipe().unwrap();
        (write, pipe::Receiver::from_owned_fd(read.into()).unwrap())
    }

    #[tokio::test]
    async fn what_was_printed_before_has_gone_on_after_a_drain() {
        let (mut program, from) = pipe_pair();
        let (read, write) = std::io::pipe().unwrap();
        let log = pipe::Receiver::from_owned_fd(read.into()).unwrap();
        let to = Arc::new(Mutex::new(pipe::Sender::from_owned_fd(write.into()).unwrap()));
        let hub = Arc::new(Telemetry::new(true));
        let pump = Pump::new("function", from, to);
        tokio::spawn(pump.clone().run(hub.clone()));
        let mut wanted = Vec::new();
        for n in 0..50 {
            let text = format!("line {n}\n{}", if n % 3 == 0 { "half" } else { "" });
            program.write_all(text.as_bytes()).unwrap();
            pump.drain(&hub).await;
            wanted.extend_from_slice(text.as_bytes());
            if n % 3 == 0 {
                wanted.push(b'\n');
            }
            let mut got = vec![0; 1 << 16];
            let length = rustix::io::read(&log, &mut got).unwrap();
            assert_eq!(String::from_utf8_lossy(&got[..length]), String::from_utf8_lossy(&wanted), "after line {n}");
            wanted.clear();
        }
    }
}
