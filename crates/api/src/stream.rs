//! Answers of functions that are sent as they come: as HTTP, or as messages of an event stream.
//!
//! An answer that breaks off in the middle cannot take its status back: as HTTP its connection is broken off too, so that nobody
//! takes it for whole; an event stream says it in its last message. It never holds more than a piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use offshoot_model::{Answer, FunctionError, HttpReply, Outcome};
use offshoot_node::ReplyStream;
use offshoot_node::prelude::{self, Prelude};
use serde_json::{Value, json};

use crate::body::{BrokenOff, ReplyBody};
use crate::reply::{self, Reply};
use crate::{eventstream, text};

/// A function's answer on its way to a caller.
pub(crate) struct FunctionBody {
    stream: Box<ReplyStream>,
    form: Form,
    state: State,
}

enum Form {
    /// The pieces as they are.
    Plain,
    /// As messages; whether the last one carries the log's tail.
    Events(bool),
}

enum State {
    /// This comes first.
    First(Bytes),
    Pieces,
    Outcome,
    Over,
}

impl FunctionBody {
    /// The pieces as they are, after these.
    fn plain(stream: Box<ReplyStream>, first: Bytes) -> Self {
        FunctionBody { stream, form: Form::Plain, state: State::First(first) }
    }

    /// The pieces as messages of an event stream, then how it ended.
    pub fn events(stream: Box<ReplyStream>, tail: bool) -> Self {
        FunctionBody { stream, form: Form::Events(tail), state: State::Pieces }
    }
}

impl Body for FunctionBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::First(first) => {
                    let first = std::mem::take(first);
                    this.state = State::Pieces;
                    if !first.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(first))));
                    }
                }
                State::Pieces => match ready!(this.stream.poll_piece(cx)) {
                    None => this.state = State::Outcome,
                    Some(piece) => {
                        let data = if matches!(this.form, Form::Plain) { piece } else { eventstream::chunk(&piece) };
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                },
                State::Outcome => {
                    let outcome = ready!(this.stream.poll_outcome(cx));
                    this.state = State::Over;
                    return Poll::Ready(match (&this.form, outcome) {
                        (_, Err(_)) => Some(Err(BrokenOff)),
                        (Form::Plain, Ok(outcome)) => failed(&outcome).map(|_| Err(BrokenOff)),
                        (Form::Events(tail), Ok(outcome)) => {
                            Some(Ok(Frame::data(eventstream::complete(ending(&outcome, *tail).to_string().as_bytes()))))
                        }
                    });
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn failed(outcome: &Outcome<Bytes>) -> Option<&FunctionError> {
    match &outcome.result {
        Answer::Failed(error) => Some(error),
        Answer::Reply { .. } => None,
    }
}

/// How a call ended, as the last message of an event stream says it.
pub(crate) fn ending(outcome: &Outcome<Bytes>, tail: bool) -> Value {
    let mut end = json!({});
    if tail {
        end["LogResult"] = json!(text::base64(&outcome.log_tail));
    }
    if let Some(error) = failed(outcome) {
        let (kind, _) = crate::invoke::describe(error);
        end["ErrorCode"] = json!(kind);
        end["ErrorDetails"] = json!(error.body);
    }
    end
}

/// What the beginning of an answer makes of it.
pub(crate) enum Begun {
    /// An HTTP answer, whose body is still to come.
    Reply(Reply),
    /// The function failed before it had said what its answer is.
    Failed(FunctionError),
    /// It cannot be sent: why not.
    Unsendable(String),
}

/// The HTTP answer that a stream is: its own status and headers, those of its prelude, or 200.
pub(crate) async fn http(mut stream: Box<ReplyStream>) -> Begun {
    let (head, first) = match prelude::expected(stream.http.as_ref()) {
        true => match split(&mut stream).await {
            Split::Done(head, first) => (head, first),
            Split::Failed(error) => return Begun::Failed(error),
            Split::Broken => {
                stream.discard();
                return Begun::Unsendable(
                    "it does not begin with JSON and eight NUL bytes, as its type says".to_owned(),
                );
            }
        },
        false => (stream.http.take().unwrap_or_default(), Bytes::new()),
    };
    let mut answer = match reply::from_function(head, Bytes::new()) {
        Ok(answer) => answer,
        Err(why) => {
            stream.discard();
            return Begun::Unsendable(why);
        }
    };
    if reply::is_bodiless(answer.status()) {
        stream.discard();
        return Begun::Reply(answer);
    }
    answer
        .headers_mut()
        .entry(header::CONTENT_TYPE)
        .or_insert_with(|| HeaderValue::from_static("application/octet-stream"));
    *answer.body_mut() = ReplyBody::function(FunctionBody::plain(stream, first));
    Begun::Reply(answer)
}

enum Split {
    Done(HttpReply, Bytes),
    Failed(FunctionError),
    Broken,
}

/// Reads a stream's prelude.
async fn split(stream: &mut ReplyStream) -> Split {
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.piece().await {
        bytes.extend_from_slice(&piece);
        match prelude::read(&bytes) {
            Prelude::Unfinished => {}
            Prelude::Whole(head, at) => return Split::Done(head, bytes.freeze().slice(at..)),
            Prelude::Broken => return Split::Broken,
        }
    }
    match stream.outcome().await.map(|outcome| outcome.result) {
        Ok(Answer::Failed(error)) => Split::Failed(error),
        _ => Split::Broken,
    }
}

/// A whole answer whose bytes begin with a prelude, as its type says: what the prelude says, and the rest. Any other: as it is.
pub(crate) fn unfold(http: Option<HttpReply>, body: Bytes) -> (Option<HttpReply>, Bytes) {
    if !prelude::expected(http.as_ref()) {
        return (http, body);
    }
    match prelude::read(&body) {
        Prelude::Whole(head, at) => (Some(head), body.slice(at..)),
        Prelude::Unfinished | Prelude::Broken => (http, body),
    }
}

/// Whether a whole answer to an event said more of itself than its bytes: then it is HTTP, and nothing in it is interpreted.
pub(crate) fn is_http(http: Option<&HttpReply>) -> bool {
    http.is_some_and(|http| http.status != 0)
}

/// An event stream.
pub(crate) fn event_stream(body: ReplyBody) -> Reply {
    let mut answer = http::Response::new(body);
    *answer.status_mut() = StatusCode::OK;
    let kind = HeaderValue::from_static("application/vnd.amazon.eventstream");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
