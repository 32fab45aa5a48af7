//! Bounds what the server holds of requests that it has not decided about: their heads, and bodies that anybody may send. What a
//! program sends lies outside the memory limit of its box, so it has to be little.
//!
//! A connection may send so much between two answers. For more, as clients do that put the cause of an error into a header, it needs one
//! of a few places, and waits unread until there is one. The body of an answer to a call is not counted: calls are.
//!
//! It also knows which call was written to a connection last, and whether that was read before the connection ended.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// What a connection may send for one request without a place, in bytes.
pub const SMALL: usize = 64 << 10;
/// Connections of one environment that may be in the middle of more at once.
pub const LARGE: usize = 2;
/// What is read at once, in bytes. hyper makes its buffer twice as large as what last came.
const READ: usize = 64 << 10;
/// How long a client may take to hang up after an answer that ends its connection, until the answer counts as read.
const HANG_UP_WAIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to tell that the other side has read everything, or has not.
const LAST_WORD_WAIT: Duration = Duration::from_millis(200);

/// What one connection has sent since its last answer.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicUsize,
    /// It is not counted now: it answers a call.
    free: AtomicBool,
    /// It has sent so much once that its buffer is large. It is closed after the answer, and the buffer with it.
    large: AtomicBool,
    /// The call that is the last answer. Whoever says something after it has read it.
    call: Mutex<Option<String>>,
    /// Reading has failed. hyper takes that for an end in good order between two requests.
    broken: AtomicBool,
}

impl Meter {
    /// The answer that follows is this call.
    pub fn give(&self, call: &str) {
        *self.call() = Some(call.to_owned());
    }

    /// The call that was the last answer, if nothing has been said after it.
    pub fn given(&self) -> Option<String> {
        self.call().take()
    }

    /// Whether the connection ended by an error.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn call(&self) -> MutexGuard<'_, Option<String>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        if bytes > 0 {
            *self.call() = None;
        }
        if !self.free.load(Ordering::Relaxed) {
            self.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        !self.free.load(Ordering::Relaxed) && self.sent.load(Ordering::Relaxed) >= SMALL
    }
}

/// Whether the last answer on this connection, whose writing side is shut, was lost with the other side. A program that hangs up before
/// it has read everything makes its kernel answer with a reset; one that has read everything ends the connection in good order.
pub async fn is_lost(mut stream: TcpStream) -> bool {
    match tokio::time::timeout(HANG_UP_WAIT, stream.read(&mut [0])).await {
        Ok(Ok(0)) => {}
        Ok(Err(_)) => return true,
        Ok(Ok(_)) | Err(_) => return false,
    }
    let decided = async {
        loop {
            // In this order: what closes a connection sets its error before.
            let closed = stream.peer_addr().is_err();
            match stream.take_error() {
                Ok(None) if closed => return false,
                Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    };
    tokio::time::timeout(LAST_WORD_WAIT, decided).await.unwrap_or(false)
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

    /// The connection, as it is.
    pub fn into_inner(self) -> S {
        self.stream
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
        let done = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part));
        done.inspect_err(|_| self.meter.broken.store(true, Ordering::Relaxed))?;
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

    /// A connection of two ends: ours, and a program's.
    async fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().await.unwrap().0, theirs)
    }

    #[tokio::test]
    async fn an_answer_is_lost_that_nobody_read() {
        use std::io::Read;
        for size in [1usize, 100 << 10] {
            let answer = vec![b'x'; size];
            // Read, and then hung up.
            let (mut ours, mut theirs) = pair().await;
            ours.write_all(&answer).await.unwrap();
            ours.shutdown().await.unwrap();
            theirs.read_to_end(&mut Vec::new()).unwrap();
            drop(theirs);
            assert!(!is_lost(ours).await, "{size} bytes were read");
            // Hung up before it was written: nothing tells us of that before.
            let (mut ours, theirs) = pair().await;
            drop(theirs);
            ours.write_all(&answer).await.ok();
            ours.shutdown().await.ok();
            assert!(is_lost(ours).await, "{size} bytes were written to nobody");
            // Hung up with the answer in its buffer.
            let (mut ours, theirs) = pair().await;
            ours.write_all(&answer).await.unwrap();
            ours.shutdown().await.unwrap();
            drop(theirs);
            assert!(is_lost(ours).await, "{size} bytes were not read");
        }
    }

    #[tokio::test]
    async fn who_speaks_again_has_read_its_call() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let meter = Arc::new(Meter::default());
        let mut one = Bounded::new(ours, meter.clone(), Arc::new(Semaphore::new(1)));
        meter.give("a");
        theirs.write_all(b"x").await.unwrap();
        one.read_exact(&mut [0]).await.unwrap();
        assert_eq!(meter.given(), None);
        meter.give("b");
        drop(theirs);
        assert_eq!(one.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(meter.given().as_deref(), Some("b"));
    }
}
