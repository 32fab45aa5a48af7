//! Answers that go on to the pool as the runtime sends them: `Lambda-Runtime-Function-Response-Mode: streaming`. What the pool
//! has not taken is bounded by the call's window; beyond it the runtime waits, since its body is not read.
//!
//! It never looks into a piece, and passes nothing on for a call that somebody else has answered.

use std::sync::PoisonError;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use offshoot_model::HttpReply;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::http::{Reply, accepted, too_large, truncated};
use super::{Answering, Environment, body, finish};
use crate::pool::stream::{PIECE, cost};

/// The `more` frame.
#[derive(Deserialize)]
struct More {
    id: String,
    bytes: usize,
}

impl Environment {
    /// The pool gives back some of a call's window.
    pub(super) fn more(&self, header: Bytes) {
        let Ok(more) = serde_json::from_slice::<More>(&header) else { return };
        if let Some(call) = self.lock().calls.get(&more.id) {
            call.window.add_permits(more.bytes);
        }
        // A worker of ours counts by itself.
        if let Some(worker) = &*self.worker.lock().unwrap_or_else(PoisonError::into_inner) {
            worker.send(header).ok();
        }
    }

    /// From now on such frames go to a worker too. They are few: each stands for a part of a window.
    pub(super) fn frames_for_worker(&self) -> mpsc::UnboundedReceiver<Bytes> {
        let (send, receive) = mpsc::unbounded_channel();
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
        receive
    }
}

impl Answering {
    /// Whether the caller takes the answer in pieces.
    pub(super) fn streams(&self) -> bool {
        let call = self.environment.as_ref().and_then(|e| e.lock().calls.get(&self.id).cloned());
        call.is_some_and(|call| call.streams)
    }

    /// Passes a frame on that does not end the answer.
    pub(super) async fn pass_on_part(&self, header: &Value, body: &[u8]) {
        let Some(environment) = &self.environment else { return };
        if environment.lock().calls.contains_key(&self.id) {
            environment.send(header, body).await;
        }
    }

    async fn begin(&self, http: Option<&HttpReply>) {
        let mut frame = json!({"t": "stream", "id": self.id});
        if let Some(http) = http {
            frame["http"] = json!(http);
        }
        self.pass_on_part(&frame, &[]).await;
    }

    /// Waits for room, and sends. `false`: the call has been answered by somebody else, or the environment is over.
    async fn piece(&self, piece: Bytes) -> bool {
        let Some(environment) = &self.environment else { return false };
        let Some(call) = environment.lock().calls.get(&self.id).cloned() else { return false };
        let Ok(cost) = u32::try_from(cost(piece.len())) else { return false };
        let mut ended = environment.process.ended();
        let room = tokio::select! {
            biased;
            room = call.window.acquire_many(cost) => room,
            // Nobody takes anything any more.
            _ = ended.wait_for(Option::is_some) => return false,
        };
        let Ok(room) = room else { return false };
        room.forget();
        self.pass_on_part(&json!({"t": "chunk", "id": self.id}), &piece).await;
        true
    }

    async fn end(mut self, bytes: usize) {
        let Some(environment) = self.environment.take() else { return };
        finish(&environment, &self.id, &json!({"t": "end", "id": self.id}), &[], bytes).await;
    }
}

/// Passes an answer on as it comes, and says how that went.
pub(super) async fn pass_on(open: Answering, headers: &HeaderMap, mut incoming: Incoming, limit: u64) -> Reply {
    open.begin(body::head(headers).as_ref()).await;
    let mut size = 0usize;
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else {
            open.truncated().await;
            return truncated();
        };
        match frame.into_data() {
            Ok(mut data) => {
                size = size.saturating_add(data.len());
                if size as u64 > limit {
                    let message =
                        format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
                    open.fail("too_large", Bytes::from(body::error("Function.ResponseSizeTooLarge", &message))).await;
                    return too_large(usize::try_from(limit).unwrap_or(usize::MAX));
                }
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE));
                    if !open.piece(piece).await {
                        return accepted();
                    }
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    match trailers.as_ref().and_then(body::trailing_error) {
        Some(error) => open.fail("handler", error).await,
        None => open.end(size).await,
    }
    accepted()
}
