//! Bounds what the server holds of requests that it has not decided about: their heads, and bodies that anybody may send. What a
//! program sends lies outside the memory limit of its box, so it has to be little.
//!
//! A connection may send so much between two answers. For more, as clients do that put the cause of an error into a header, it needs one
//! of a few places, and waits unread until there is one. The body of an answer to a call is not counted: calls are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// What a connection may send for one request without a place, in bytes.
pub const SMALL: usize = 64 << 10;
/// Connections of one environment that may be in the middle of more at once.
pub const LARGE: usize = 2;
/// What is read at once, in bytes. hyper makes its buffer twice as large as what last came.
const READ: usize = 64 << 10;

/// What one connection has sent since its last answer.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicUsize,
    /// It is not counted now: it answers a call.
    free: AtomicBool,
    /// It has sent so much once that its buffer is large. It is closed after the answer, and the buffer with it.
    large: AtomicBool,
}

impl Meter {
    /// From here to the next answer nothing is counted.
    pub fn free(&self) {
        self.free.store(true, Ordering::Relaxed);
    }

    /// The request is answered. Whether the connection has to end with that.
    pub fn answered(&self) -> bool {
        self.sent.store(0, Ordering::Relaxed);
        self.free.store(false, Ordering::Relaxed);
        self.large.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        if !self.free.load(Ordering::Relaxed) {
            self.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        !self.free.load(Ordering::Relaxed) && self.sent.load(Ordering::Relaxed) >= SMALL
    }
}

type Place = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// A connection that is read within its bounds.
pub struct Bounded<S> {
    stream: S,
    meter: Arc<Meter>,
    places: Arc<Semaphore>,
    waiting: Option<Place>,
    /// Kept to the end of the connection, as its buffer is.
    place: Option<OwnedSemaphorePermit>,
}

impl<S> Bounded<S> {
    /// `places` are those of its environment.
    pub fn new(stream: S, meter: Arc<Meter>, places: Arc<Semaphore>) -> Self {
        Bounded { stream, meter, places, waiting: None, place: None }
    }

    /// Waits for a place, where one is needed.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.place.is_some() || !self.meter.is_over() {
            // A place that comes now would be nobody's.
            self.waiting = None;
            return Poll::Ready(Ok(()));
        }
        let places = &self.places;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(places.clone().acquire_owned()));
        let place = ready!(waiting.as_mut().poll(cx)).map_err(io::Error::other)?;
        self.waiting = None;
        self.place = Some(place);
        self.meter.large.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_place(cx))?;
        let room = buf.remaining().min(READ);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        self.meter.count(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What is read of a connection that sends two MiB, until it waits.
    async fn read(one: &mut Bounded<tokio::io::DuplexStream>) -> usize {
        let mut buffer = vec![0; 256 << 10];
        let mut all = 0;
        while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(100), one.read(&mut buffer)).await {
            assert!((1..=READ).contains(&n));
            all += n;
        }
        all
    }

    fn connection(places: &Arc<Semaphore>) -> (Bounded<tokio::io::DuplexStream>, Arc<Meter>) {
        let (ours, mut theirs) = tokio::io::duplex(16 << 10);
        tokio::spawn(async move {
            theirs.write_all(&vec![b'x'; 2 << 20]).await.ok();
            std::future::pending::<()>().await;
        });
        let meter = Arc::new(Meter::default());
        (Bounded::new(ours, meter.clone(), places.clone()), meter)
    }

    #[tokio::test]
    async fn only_a_few_are_read_beyond_what_is_small() {
        let places = Arc::new(Semaphore::new(1));
        let (mut first, large) = connection(&places);
        let (mut second, small) = connection(&places);
        assert_eq!(read(&mut first).await, 2 << 20);
        let taken = read(&mut second).await;
        assert!((SMALL..SMALL + READ).contains(&taken), "{taken}");
        assert!(large.answered() && !small.answered(), "the connection with the large buffer ends");
        // Its answer begins a new count, and the end of the other one makes room.
        assert!(read(&mut second).await >= SMALL);
        drop(first);
        assert!(read(&mut second).await > 1 << 20);
    }

    #[tokio::test]
    async fn answers_to_calls_are_not_counted() {
        let places = Arc::new(Semaphore::new(0));
        let (mut one, meter) = connection(&places);
        meter.free();
        assert_eq!(read(&mut one).await, 2 << 20);
        assert!(!meter.answered());
    }
}
