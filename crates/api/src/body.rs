//! Bodies: how one is read from a caller within its size and its time, and the two forms in which one is sent.
//!
//! A body that is too large is refused before it is read when its length is announced, and at the limit otherwise; one
//! that comes too slowly is given up.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use crate::stream::FunctionBody;

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// Larger than this many bytes.
    TooLarge(u64),
    /// It came slower than a caller may be.
    TooSlow,
    /// It ended early, or its framing is broken.
    Broken,
}

/// A caller that sends a body must bring `MIN_BODY` bytes in each window, or the rest.
const MIN_BODY: usize = 4 << 10;
/// Chunks that a body may have before their average size counts, and that size.
const FREE_CHUNKS: usize = 65_536;
const MIN_CHUNK: usize = 8;

/// A request's body, read frame by frame within a size and a pace.
pub struct Inflow {
    body: From,
    left: u64,
    limit: u64,
    window: Duration,
    until: Option<Pin<Box<Sleep>>>,
    moved: usize,
    frames: usize,
    total: usize,
}

/// Where a body comes from.
enum From {
    Wire(Incoming),
    /// It was read already; `None` when it has been given out.
    Memory(Option<Bytes>),
}

impl From {
    fn is_end_stream(&self) -> bool {
        match self {
            From::Wire(body) => body.is_end_stream(),
            From::Memory(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
        }
    }
    fn exact(&self) -> Option<u64> {
        match self {
            From::Wire(body) => body.size_hint().exact(),
            From::Memory(bytes) => bytes.as_ref().map(|b| b.len() as u64),
        }
    }
}

impl Inflow {
    /// A body that was read already.
    pub fn of_bytes(bytes: Bytes, limit: u64) -> Result<Self, BodyError> {
        if bytes.len() as u64 > limit {
            return Err(BodyError::TooLarge(limit));
        }
        let body = From::Memory(Some(bytes));
        Ok(Inflow { body, left: limit, limit, window: Duration::MAX, until: None, moved: 0, frames: 0, total: 0 })
    }

    /// A body of at most `limit` bytes. An announced length beyond it is refused here.
    pub fn new(body: Incoming, limit: u64, window: Duration) -> Result<Self, BodyError> {
        if body.size_hint().lower() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        let body = From::Wire(body);
        Ok(Inflow { body, left: limit, limit, window, until: None, moved: 0, frames: 0, total: 0 })
    }

    /// Whether everything was read.
    pub fn at_end(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let Some(frame) = poll_fn(|cx| self.poll_frame(cx)).await? else { return Ok(None) };
            let Ok(data) = frame.into_data() else { continue };
            self.left = self.left.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge(self.limit))?;
            self.moved = self.moved.saturating_add(data.len());
            self.total = self.total.saturating_add(data.len());
            self.frames += 1;
            if self.frames > FREE_CHUNKS && self.total / self.frames < MIN_CHUNK {
                return Err(BodyError::Broken);
            }
            return Ok(Some(data));
        }
    }

    /// The whole body. One that came in one piece is handed on without a copy.
    pub async fn collect(mut self) -> Result<Bytes, BodyError> {
        if self.at_end() {
            return Ok(Bytes::new());
        }
        let expected = self.body.exact().and_then(|n| usize::try_from(n).ok());
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if self.at_end() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(expected.unwrap_or(first.len() * 2));
        whole.extend_from_slice(&first);
        while let Some(data) = self.next().await? {
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        let body = match &mut self.body {
            From::Wire(body) => body,
            From::Memory(bytes) => {
                return Poll::Ready(Ok(bytes.take().filter(|b| !b.is_empty()).map(Frame::data)));
            }
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Some(frame))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Err(BodyError::Broken)),
            Poll::Pending => self.poll_pace(cx),
        }
    }

    fn poll_pace<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, BodyError>> {
        let window = self.window;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(window)));
        while until.as_mut().poll(cx).is_ready() {
            if self.moved < MIN_BODY {
                return Poll::Ready(Err(BodyError::TooSlow));
            }
            self.moved = 0;
            until.as_mut().reset(Instant::now() + window);
        }
        Poll::Pending
    }
}

/// An answer's body.
pub struct ReplyBody(Form);

enum Form {
    Whole(Bytes),
    Stream(mpsc::Receiver<Bytes>),
    Function(Box<FunctionBody>),
}

/// An answer that cannot be brought to its end: its connection is broken off, so that its reader notices.
#[derive(Debug, Clone, Copy)]
pub struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the function failed in the middle of its answer")
    }
}

impl std::error::Error for BrokenOff {}

impl ReplyBody {
    /// Bytes that are all there.
    pub fn whole(bytes: Bytes) -> Self {
        ReplyBody(Form::Whole(bytes))
    }
    /// Bytes as they come; the answer ends when the sender is dropped.
    pub fn stream(bytes: mpsc::Receiver<Bytes>) -> Self {
        ReplyBody(Form::Stream(bytes))
    }
    /// What a function answers, as it comes.
    pub fn function(body: FunctionBody) -> Self {
        ReplyBody(Form::Function(Box::new(body)))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.0 {
            Form::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Form::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Form::Stream(receiver) => receiver.poll_recv(cx).map(|data| data.map(|d| Ok(Frame::data(d)))),
            Form::Function(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Form::Whole(bytes) => bytes.is_empty(),
            Form::Stream(_) => false,
            Form::Function(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Form::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Form::Stream(_) | Form::Function(_) => SizeHint::default(),
        }
    }
}
