//! The byte stream under one connection, with three things that hyper leaves to others: it looks at the framing of each
//! request head before hyper does, it gives up on a peer that does not read, and it closes so that the last answer arrives.
//!
//! It never changes a byte that passes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What is wrong with the framing of a request head.
pub(crate) mod fault {
    /// More than one header says where the body ends.
    pub const AMBIGUOUS: u8 = 1;
    /// A line ends with LF alone.
    pub const BARE_LF: u8 = 2;
}

/// The head is being looked at.
const SCAN: u8 = 0x80;
/// The head is hyper's; what follows may be a body.
const OFF: u8 = 0;
/// A head was seen whole; the low bits are its faults.
const SEEN: u8 = 0x40;

/// How the stream and the service of one connection talk: is the next byte the start of a head, and how was the last one.
///
/// A head that was already buffered behind another request is not seen; hyper's own rules hold for it, which take
/// `Transfer-Encoding` over `Content-Length` and close the connection afterwards.
#[derive(Debug)]
pub(crate) struct HeadWatch(AtomicU8);

impl HeadWatch {
    pub fn new() -> Arc<Self> {
        Arc::new(HeadWatch(AtomicU8::new(SCAN)))
    }
    /// Called when hyper has read a head: its faults.
    pub fn take(&self) -> u8 {
        let state = self.0.swap(OFF, Ordering::Relaxed);
        if state & SEEN != 0 { state & 0x3f } else { 0 }
    }
    /// Called when the request's body is at its end: the next byte starts a head.
    pub fn rearm(&self) {
        self.0.store(SCAN, Ordering::Relaxed);
    }
}

/// The scanner of one head.
#[derive(Debug, Default)]
struct Scan {
    prefix: [u8; 18],
    len: usize,
    last: u8,
    started: bool,
    lengths: u8,
    faults: u8,
}

impl Scan {
    /// Takes bytes of a head; `true` when its empty line was seen.
    fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
            self.line_part(&bytes[..at]);
            bytes = &bytes[at + 1..];
            if self.line_end() {
                return true;
            }
        }
        self.line_part(bytes);
        false
    }

    fn line_part(&mut self, part: &[u8]) {
        let room = self.prefix.len().saturating_sub(self.len).min(part.len());
        let from = self.len.min(self.prefix.len());
        self.prefix[from..from + room].copy_from_slice(&part[..room]);
        self.len += part.len();
        if let Some(last) = part.last() {
            self.last = *last;
        }
    }

    fn line_end(&mut self) -> bool {
        let cr = self.len > 0 && self.last == b'\r';
        let content = self.len - usize::from(cr);
        let kept = &self.prefix[..content.min(self.prefix.len())];
        self.len = 0;
        self.last = 0;
        if content == 0 && !self.started {
            return false;
        }
        self.started = true;
        if !cr {
            self.faults |= fault::BARE_LF;
        }
        let named = |name: &[u8]| kept.len() >= name.len() && kept[..name.len()].eq_ignore_ascii_case(name);
        if named(b"content-length:") || named(b"transfer-encoding:") {
            self.lengths = self.lengths.saturating_add(1);
            if self.lengths > 1 {
                self.faults |= fault::AMBIGUOUS;
            }
        }
        content == 0
    }
}

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A write that waits must move `MIN_WRITE` bytes in this time.
    pub write: Duration,
    /// After the last answer, what the peer still sends is read away for so long.
    pub linger: Duration,
}

/// A peer that takes less than this in `Patience::write` is gone for us.
const MIN_WRITE: usize = 64 << 10;
/// At most so many bytes are read away after the last answer.
const MAX_LINGER: usize = 64 << 20;

struct Stall {
    until: Pin<Box<Sleep>>,
    moved: usize,
}

enum Closing {
    No,
    Lingering { until: Pin<Box<Sleep>>, left: usize },
    Done,
}

/// The stream.
pub(crate) struct Wire<I> {
    io: I,
    watch: Arc<HeadWatch>,
    scan: Scan,
    patience: Patience,
    stall: Option<Stall>,
    closing: Closing,
    at_end: bool,
}

impl<I> Wire<I> {
    pub fn new(io: I, watch: Arc<HeadWatch>, patience: Patience) -> Self {
        Wire { io, watch, scan: Scan::default(), patience, stall: None, closing: Closing::No, at_end: false }
    }

    fn look_at(&mut self, bytes: &[u8]) {
        if self.watch.0.load(Ordering::Relaxed) == SCAN && self.scan.feed(bytes) {
            let faults = std::mem::take(&mut self.scan).faults;
            self.watch.0.store(SEEN | faults, Ordering::Relaxed);
        }
    }

    fn written(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(n)) => {
                if let Some(stall) = &mut self.stall {
                    stall.moved = stall.moved.saturating_add(n);
                }
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => self.waiting(cx),
        }
    }

    fn waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let patience = self.patience.write;
        let stall = self.stall.get_or_insert_with(|| Stall { until: Box::pin(sleep(patience)), moved: 0 });
        while stall.until.as_mut().poll(cx).is_ready() {
            if stall.moved < MIN_WRITE {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")));
            }
            stall.moved = 0;
            stall.until.as_mut().reset(Instant::now() + patience);
        }
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        self.at_end |= fresh.is_empty();
        self.look_at(fresh);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Called when everything was written: a stall, if there was one, is over.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stall = None;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Says that we are done, then reads away what the peer is still sending: a socket closed with unread bytes resets
    /// the connection, and the reset can overtake the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.closing {
                Closing::Done => return Poll::Ready(Ok(())),
                Closing::No => {
                    ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                    let until = Box::pin(sleep(this.patience.linger));
                    this.closing =
                        if this.at_end { Closing::Done } else { Closing::Lingering { until, left: MAX_LINGER } };
                }
                Closing::Lingering { until, left } => {
                    let mut bytes = [0u8; 4096];
                    let mut buf = ReadBuf::new(&mut bytes);
                    let over = match Pin::new(&mut this.io).poll_read(cx, &mut buf) {
                        Poll::Ready(Ok(())) => {
                            *left = left.saturating_sub(buf.filled().len());
                            buf.filled().is_empty() || *left == 0
                        }
                        Poll::Ready(Err(_)) => true,
                        Poll::Pending => {
                            ready!(until.as_mut().poll(cx));
                            true
                        }
                    };
                    if over {
                        this.closing = Closing::Done;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the head in pieces of every size; the verdict may not depend on it.
    fn faults(head: &str) -> u8 {
        let mut verdicts = (1..=head.len()).map(|size| {
            let mut scan = Scan::default();
            let done = head.as_bytes().chunks(size).any(|piece| scan.feed(piece));
            assert!(done, "{head:?} in pieces of {size}");
            scan.faults
        });
        let first = verdicts.next().unwrap();
        assert!(verdicts.all(|v| v == first), "{head:?}");
        first
    }

    #[test]
    fn framing_faults_are_seen() {
        assert_eq!(faults("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
        assert_eq!(faults("\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), 0);
        assert_eq!(
            faults("POST / HTTP/1.1\r\nContent-Length: 5\r\ntransfer-ENCODING: chunked\r\n\r\n"),
            fault::AMBIGUOUS
        );
        assert_eq!(
            faults("POST / HTTP/1.1\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
            fault::AMBIGUOUS
        );
        assert_eq!(faults("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"), fault::AMBIGUOUS);
        assert_eq!(faults("GET / HTTP/1.1\nHost: a\r\n\r\n"), fault::BARE_LF);
        assert_eq!(faults("GET / HTTP/1.1\r\nHost: a\r\n\n"), fault::BARE_LF);
        assert_eq!(
            faults("GET / HTTP/1.1\r\nX: content-length: 1\r\nContent-Lengthy: 1\r\nContent-Length: 0\r\n\r\n"),
            0
        );
    }
}
