//! Calls whose answer is taken as it comes. The call itself is the same as any other: it runs in `serve`, under its deadline,
//! to its account; only the pieces go to their reader while it runs.
//!
//! It never holds more of an answer than its window, and looks into none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use offshoot_model::{Error, ErrorKind, HttpReply, Invocation, Outcome, RequestId, RuntimeName, StartKind};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Invoker, lost};
use crate::pool::instance::{Answered, Instance};
use crate::pool::stream::{Begun, Pieces};

/// The beginning of an answer in pieces.
#[derive(Debug)]
pub(super) struct Head {
    http: Option<HttpReply>,
    start: StartKind,
    version: Option<u64>,
    runtime: RuntimeName,
    pieces: Pieces,
}

/// An answer: all of it, or its beginning.
#[derive(Debug)]
pub enum Streamed {
    /// It came whole, or the function failed before it answered.
    Whole(Outcome<Bytes>),
    /// It comes in pieces.
    Stream(Box<ReplyStream>),
}

/// An answer that comes in pieces. Whoever drops it wants nothing more: the call is given up, and its instance ends, unless
/// it serves others too.
#[derive(Debug)]
pub struct ReplyStream {
    /// Status and headers, where the function gave some; a status of 0 where it gave none.
    pub http: Option<HttpReply>,
    /// How the instance came to be.
    pub start: StartKind,
    /// The published version that runs; `None` is `$LATEST`.
    pub version: Option<u64>,
    /// Which runtime serves it.
    pub runtime: RuntimeName,
    pieces: Pieces,
    end: End,
}

/// How the call ends.
#[derive(Debug)]
enum End {
    /// It runs; given up when nobody wants it, or not.
    Running(JoinHandle<Result<Outcome<Bytes>, Error>>, bool),
    /// It has ended.
    Known(Box<Result<Outcome<Bytes>, Error>>),
    /// That has been told.
    Told,
}

impl ReplyStream {
    fn begun(head: Head, end: End) -> Streamed {
        let Head { http, start, version, runtime, pieces } = head;
        Streamed::Stream(Box::new(ReplyStream { http, start, version, runtime, pieces, end }))
    }

    /// The next piece; `None` when no more come, and the outcome says why.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.pieces.poll(cx)
    }

    /// The next piece.
    pub async fn piece(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }

    /// How the call ended, once; its reply has no bytes, since they came in pieces. To be asked when no more come.
    pub fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome<Bytes>, Error>> {
        if let End::Running(task, _) = &mut self.end {
            let Poll::Ready(ended) = Pin::new(task).poll(cx) else { return Poll::Pending };
            self.end = End::Known(Box::new(ended.unwrap_or_else(lost)));
        }
        match std::mem::replace(&mut self.end, End::Told) {
            End::Known(outcome) => Poll::Ready(*outcome),
            _ => Poll::Ready(Err(Error::new(ErrorKind::Internal, "an invocation was asked twice how it ended"))),
        }
    }

    /// How the call ended.
    pub async fn outcome(&mut self) -> Result<Outcome<Bytes>, Error> {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }

    /// Lets the call run to its end, and throws away what it answers.
    pub fn discard(mut self: Box<Self>) {
        tokio::spawn(async move {
            while self.piece().await.is_some() {}
            self.outcome().await.ok();
        });
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if let End::Running(task, true) = &self.end {
            task.abort();
        }
    }
}

impl Invoker {
    /// Calls a function and takes its answer as it comes. `Ok` is an answer or its beginning, also when the function failed;
    /// `Err` is the platform's.
    pub async fn invoke_streaming(self: &Arc<Self>, invocation: Invocation<Bytes>) -> Result<Streamed, Error> {
        let arrived = Instant::now();
        let (pool, held) = self.enter(&invocation).await?;
        let alone = pool.version.config.max_concurrency == 1;
        let (tell, mut head) = oneshot::channel();
        let this = self.clone();
        let mut serving = Box::pin(async move {
            let _held = held;
            this.serve(pool, invocation, arrived, Some(tell)).await
        });
        if !alone {
            // As in `invoke`: an instance that serves several callers must not die because one of them goes away.
            let mut task = tokio::spawn(serving);
            return tokio::select! {
                biased;
                Ok(head) = &mut head => Ok(ReplyStream::begun(head, End::Running(task, false))),
                ended = &mut task => ended.unwrap_or_else(lost).map(Streamed::Whole),
            };
        }
        // An answer that comes whole costs no task of its own.
        tokio::select! {
            biased;
            ended = serving.as_mut() => match head.try_recv() {
                // It had its beginning and its end at once.
                Ok(head) => Ok(ReplyStream::begun(head, End::Known(Box::new(ended)))),
                Err(_) => ended.map(Streamed::Whole),
            },
            // From here on it runs by itself: its deadline is kept also while its reader does not read.
            Ok(head) = &mut head => Ok(ReplyStream::begun(head, End::Running(tokio::spawn(serving), true))),
        }
    }
}

/// Hands the beginning of an answer to whoever waits for it, gives its worker the window back as pieces are taken, and comes
/// back with how it ended.
pub(super) async fn carry(
    instance: &Instance,
    id: &RequestId,
    begun: Begun,
    waiter: Option<oneshot::Sender<Head>>,
    about: (StartKind, Option<u64>, RuntimeName),
) -> Result<Answered, oneshot::error::RecvError> {
    let Begun { http, pieces, mut end } = begun;
    let taken = pieces.taken();
    let (start, version, runtime) = about;
    let head = Head { http, start, version, runtime, pieces };
    // Without a waiter the pieces are dropped here, and with them whatever still comes.
    waiter.map(|waiter| waiter.send(head).ok());
    loop {
        tokio::select! {
            biased;
            answered = &mut end => return answered,
            bytes = taken.enough() => instance.more(id, bytes).await,
        }
    }
}
