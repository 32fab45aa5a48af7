//! A worker of ours in a box with a Runtime API, because an extension runs beside it or a wrapper around it: its frames go
//! through here, so that the state knows of its calls as if it had asked for them over HTTP.
//!
//! A wrapper may run something else than the worker that it was given. Then nobody ever says `ready` here, and what runs
//! speaks HTTP. It never looks into a payload.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offshoot_sandbox::channel::{Reader, Writer};
use offshoot_sandbox::{Channel, ChannelError};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::life::Abort;
use super::state::Event;
use super::{Answering, Environment, Told};

/// The frames of a worker, as far as they matter here.
#[derive(Deserialize)]
struct Said {
    t: String,
    #[serde(default)]
    id: String,
}

/// Passes frames on until the worker is gone. `load` is the pool's.
pub fn start(environment: Arc<Environment>, channel: Channel, load: Bytes) -> Abort {
    Abort(tokio::spawn(async move {
        match run(&environment, channel, &load).await {
            // It never spoke: whatever runs speaks HTTP, or has ended, which others see.
            Ok(End::Silent) => {}
            Ok(End::Nonsense) => {
                let message = "the worker broke its protocol";
                environment.fail_all("protocol", |_| super::body::error("Runtime.ProtocolError", message)).await;
            }
            Ok(End::Failed) => {}
            Err(error) => {
                tracing::debug!(%error, "a worker's channel is closed");
                // Its process is ending, and how it ends says more. If it is not, it is of no use any more.
                tokio::time::sleep(END_WAIT).await;
                environment.over();
            }
        }
    }))
}

/// How a conversation with a worker ended.
enum End {
    /// It never began.
    Silent,
    /// The worker could not load the function, which has been told.
    Failed,
    /// The worker said what it may not say.
    Nonsense,
}

/// How long a process may take to end once its channel is closed.
const END_WAIT: Duration = Duration::from_millis(500);

async fn run(environment: &Arc<Environment>, channel: Channel, load: &[u8]) -> Result<End, ChannelError> {
    let Channel { mut reader, mut writer } = channel;
    let mut header: Value = serde_json::from_slice(load).unwrap_or_default();
    // It was started with its environment, which a wrapper may have changed since.
    header["keep_env"] = Value::Bool(true);
    let calls = header.get("max_concurrency").and_then(Value::as_u64).unwrap_or(1);
    writer.send(header.to_string().as_bytes(), &[]).await?;
    let Ok(frame) = reader.next().await else { return Ok(End::Silent) };
    match serde_json::from_slice::<Said>(&frame.header) {
        Ok(said) if said.t == "ready" => {}
        Ok(said) if said.t == "init_error" => {
            if environment.on(Event::InitError).is_ok() {
                environment.init_failed(frame.body).await;
            }
            return Ok(End::Failed);
        }
        _ => return Ok(End::Nonsense),
    }
    let places = Arc::new(Semaphore::new(usize::try_from(calls).unwrap_or(1).max(1)));
    let mut frames = environment.frames_for_worker();
    let writer = Mutex::new(writer);
    tokio::select! {
        done = give(environment, &writer, &places) => done,
        done = take(environment, &mut reader, &places) => done,
        done = pass(&writer, &mut frames) => done,
    }
}

/// Passes on what the pool says to the worker besides calls.
async fn pass(writer: &Mutex<Writer>, frames: &mut mpsc::UnboundedReceiver<Bytes>) -> Result<End, ChannelError> {
    while let Some(header) = frames.recv().await {
        writer.lock().await.send(&header, &[]).await?;
    }
    Ok(End::Silent)
}

/// Asks for calls on the worker's behalf, as many as it may have.
async fn give(environment: &Environment, writer: &Mutex<Writer>, places: &Semaphore) -> Result<End, ChannelError> {
    loop {
        let Ok(place) = places.acquire().await else { return Ok(End::Silent) };
        place.forget();
        // Somebody else of this box has spoken over HTTP in between, and the state does not let both go on.
        let Ok(Told::Call(call)) = environment.wait(Event::Next).await else { return Ok(End::Nonsense) };
        writer.lock().await.send(&call.frame, &call.payload).await?;
    }
}

/// Takes the worker's answers, whole ones and those that come in pieces.
async fn take(environment: &Arc<Environment>, reader: &mut Reader, places: &Semaphore) -> Result<End, ChannelError> {
    // As many as there are calls.
    let mut begun: HashMap<String, Answering> = HashMap::new();
    loop {
        let frame = reader.next().await?;
        let Ok(said) = serde_json::from_slice::<Said>(&frame.header) else { return Ok(End::Nonsense) };
        let Ok(header) = serde_json::from_slice::<Value>(&frame.header) else { return Ok(End::Nonsense) };
        let open = match (said.t.as_str(), begun.remove(&said.id)) {
            ("chunk" | "end" | "error", Some(open)) => open,
            ("reply" | "error" | "stream", None) if environment.on(Event::Respond(said.id.clone())).is_ok() => {
                environment.answering(&said.id)
            }
            _ => return Ok(End::Nonsense),
        };
        if matches!(said.t.as_str(), "stream" | "chunk") {
            open.pass_on_part(&header, &frame.body).await;
            begun.insert(said.id, open);
        } else {
            open.pass_on(&header, &frame.body).await;
            places.add_permits(1);
        }
    }
}
