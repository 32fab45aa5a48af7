//! An answer that comes in pieces: the pieces on their way from a worker to whoever reads them, and how many may be.
//!
//! A worker has a window. Each piece takes its cost out of it, and gets it back once the piece has been taken. So a reader
//! that is slow makes its function wait, and nobody else: the channel itself is always read. (docs/design/002-channel.md,
//! "Streamed answers".) It never looks into a piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use offshoot_model::HttpReply;
use tokio::sync::{Notify, mpsc, oneshot};

use super::instance::{Answered, Breach};

/// What pieces may cost that have not been taken, for one answer, in bytes.
pub const WINDOW: usize = 256 << 10;
/// What a piece costs besides its length, in bytes: so many small ones are bounded too.
pub const OVERHEAD: usize = 256;
/// How much of the window is given back at once, at least, in bytes.
const RETURN: usize = WINDOW / 4;
/// The longest piece that whoever cuts an answer up makes, in bytes. Together with what is held back until it is worth giving
/// back, it fits into the window.
pub const PIECE: usize = WINDOW / 4;

/// Pieces shorter than this are copied, in bytes.
const COPY: usize = 16 << 10;

/// What a piece of this length takes of the window.
pub fn cost(length: usize) -> usize {
    length + OVERHEAD
}

/// The beginning of a streamed answer, as the instance tells of it.
#[derive(Debug)]
pub struct Begun {
    /// Status and headers, where the function gave some.
    pub http: Option<HttpReply>,
    /// The pieces.
    pub pieces: Pieces,
    /// How it ended.
    pub end: oneshot::Receiver<Answered>,
}

/// What has been taken and not been given back to the worker.
#[derive(Debug, Default)]
pub struct Taken {
    cost: AtomicUsize,
    enough: Notify,
}

impl Taken {
    fn add(&self, cost: usize) {
        if self.cost.fetch_add(cost, Ordering::Relaxed) + cost >= RETURN {
            self.enough.notify_one();
        }
    }

    /// Waits until it is worth it, and answers what is to be given back.
    pub async fn enough(&self) -> usize {
        loop {
            if self.cost.load(Ordering::Relaxed) >= RETURN {
                return self.cost.swap(0, Ordering::Relaxed);
            }
            self.enough.notified().await;
        }
    }
}

/// The reader's end. Whoever drops it wants nothing more; what still comes is thrown away.
#[derive(Debug)]
pub struct Pieces {
    queue: mpsc::UnboundedReceiver<Bytes>,
    taken: Arc<Taken>,
}

impl Pieces {
    /// The next piece; `None` when no more come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = self.queue.poll_recv(cx);
        if let Poll::Ready(Some(piece)) = &next {
            self.taken.add(cost(piece.len()));
        }
        next
    }

    /// What has been taken of it.
    pub fn taken(&self) -> Arc<Taken> {
        self.taken.clone()
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.queue.close();
        while let Ok(piece) = self.queue.try_recv() {
            self.taken.add(cost(piece.len()));
        }
    }
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Inlet {
    // Bounded by the window, whose end is the end of the conversation.
    queue: mpsc::UnboundedSender<Bytes>,
    taken: Arc<Taken>,
    window: usize,
    total: u64,
    limit: u64,
}

/// Both ends, for an answer of at most `limit` bytes.
pub(super) fn pipe(limit: u64) -> (Inlet, Pieces) {
    let (send, queue) = mpsc::unbounded_channel();
    let taken = Arc::new(Taken::default());
    let inlet = Inlet { queue: send, taken: taken.clone(), window: WINDOW, total: 0, limit };
    (inlet, Pieces { queue, taken })
}

impl Inlet {
    /// Passes a piece on.
    pub fn put(&mut self, piece: Bytes) -> Result<(), Breach> {
        let cost = cost(piece.len());
        let left = self.window.checked_sub(cost);
        self.window = left.ok_or_else(|| Breach::Protocol("a piece of an answer beyond its window".into()))?;
        self.total += piece.len() as u64;
        if self.total > self.limit {
            return Err(Breach::StreamTooLarge(self.limit));
        }
        // A small piece would keep the whole buffer that it was read into.
        let piece = if piece.len() < COPY { Bytes::copy_from_slice(&piece) } else { piece };
        if self.queue.send(piece).is_err() {
            self.taken.add(cost);
        }
        Ok(())
    }

    /// Gives back so much of the window.
    pub fn widen(&mut self, cost: usize) {
        self.window += cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(length: usize) -> Bytes {
        Bytes::from(vec![1; length])
    }

    #[test]
    fn a_piece_finds_room_when_everything_worth_it_has_been_given_back() {
        assert!(cost(PIECE) + RETURN <= WINDOW);
    }

    async fn next(pieces: &mut Pieces) -> Option<usize> {
        std::future::poll_fn(|cx| pieces.poll(cx)).await.map(|p| p.len())
    }

    #[tokio::test]
    async fn what_was_not_taken_is_bounded() {
        let (mut inlet, mut pieces) = pipe(1 << 30);
        let length = 64 << 10;
        for _ in 0..3 {
            inlet.put(piece(length)).unwrap();
        }
        assert!(matches!(inlet.put(piece(length)), Err(Breach::Protocol(_))), "four and their overhead are too many");
        assert_eq!(next(&mut pieces).await, Some(length));
        let back = pieces.taken().enough().await;
        assert_eq!(back, cost(length));
        inlet.widen(back);
        inlet.put(piece(length)).unwrap();
    }

    #[tokio::test]
    async fn small_pieces_are_bounded_too() {
        let (mut inlet, _pieces) = pipe(1 << 30);
        let put = (0..).take_while(|_| inlet.put(piece(1)).is_ok()).count();
        assert_eq!(put, WINDOW / (OVERHEAD + 1));
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_gives_everything_back() {
        let (mut inlet, mut pieces) = pipe(1 << 30);
        let taken = pieces.taken();
        inlet.put(piece(10_000)).unwrap();
        inlet.put(piece(20_000)).unwrap();
        assert_eq!(next(&mut pieces).await, Some(10_000));
        drop(pieces);
        inlet.put(piece(50_000)).unwrap();
        assert_eq!(taken.enough().await, 80_000 + 3 * OVERHEAD);
    }

    #[test]
    fn a_stream_has_a_largest_size() {
        let (mut inlet, _pieces) = pipe(100);
        inlet.put(piece(100)).unwrap();
        assert!(matches!(inlet.put(piece(1)), Err(Breach::StreamTooLarge(100))));
    }
}
