//! The statements: how items are put into the queue's tables, changed and read. Each works inside a transaction that its
//! caller owns, and keeps the counters exact: accepted = finished + purged + evicted + what is there.
//!
//! It decides nothing; every moment and every next state is given.

use offshoot_model::{FunctionName, HttpPart, RequestId};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use sha2::{Digest, Sha256};

use super::item::{Condition, Context, Delivery, EventInvokeConfig, State, View, Why};
use super::{Filter, Totals};
use crate::ledger::Layout;

/// The queue's file.
pub(super) const LAYOUT: Layout = Layout { file: "queue.db", noun: "queue", tables: TABLES, schema: 1 };

const TABLES: &str = "
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE items (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        function TEXT NOT NULL,
        qualifier TEXT,
        http TEXT,
        client_context TEXT,
        trace TEXT,
        settings TEXT,
        hops INTEGER NOT NULL,
        own_bytes INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        state INTEGER NOT NULL,
        accepted_ms INTEGER NOT NULL,
        born_ms INTEGER NOT NULL,
        due_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        setbacks INTEGER NOT NULL,
        interruptions INTEGER NOT NULL,
        condition TEXT,
        error TEXT,
        status INTEGER,
        deliveries TEXT NOT NULL
    ) STRICT;
    CREATE INDEX by_function ON items (function, seq);
    CREATE TABLE bodies (
        seq INTEGER NOT NULL,
        part INTEGER NOT NULL,
        data BLOB NOT NULL,
        checksum TEXT NOT NULL,
        PRIMARY KEY (seq, part)
    ) STRICT;
";

/// Parts of an item's bytes.
const EVENT: i64 = 0;
const RECORD: i64 = 1;

/// An item that is to be stored.
#[derive(Debug, Clone)]
pub(super) struct New {
    pub id: RequestId,
    pub function: FunctionName,
    pub context: Context,
    pub http: Option<HttpPart>,
    pub settings: Option<EventInvokeConfig>,
    pub hops: u32,
    pub payload: bytes::Bytes,
    pub now: u64,
}

impl New {
    /// Bytes that it takes: the event, and everything that the caller said besides.
    pub fn weight(&self) -> u64 {
        let http = self.http.as_ref().map_or(0, |h| serde_json::to_string(h).map_or(0, |t| t.len()));
        let settings = self.settings.as_ref().map_or(0, |s| serde_json::to_string(s).map_or(0, |t| t.len()));
        let said = [&self.context.qualifier, &self.context.client_context, &self.context.trace];
        let said: usize = said.into_iter().flatten().map(String::len).sum();
        (self.payload.len() + http + settings + said) as u64
    }
}

/// An item that is to run, or is to be delivered.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub seq: i64,
    pub id: RequestId,
    pub function: FunctionName,
    pub context: Context,
    pub http: Option<HttpPart>,
    pub settings: Option<EventInvokeConfig>,
    pub hops: u32,
    pub bytes: u64,
    pub born_ms: u64,
    pub attempts: u32,
    pub setbacks: u32,
    pub condition: Option<Condition>,
    pub error: Option<Why>,
    pub status: Option<u16>,
    pub deliveries: Vec<Delivery>,
    /// The event; `None`: it is not what was accepted.
    pub event: Option<Vec<u8>>,
}

/// What the schedule needs of an item.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub seq: i64,
    pub function: FunctionName,
    pub state: State,
    pub due_ms: u64,
    pub own_bytes: u64,
    pub bytes: u64,
    pub deliveries: Vec<Delivery>,
}

fn code(state: State) -> i64 {
    match state {
        State::Waiting => 0,
        State::Running => 1,
        State::Delivering => 2,
        State::Dead => 3,
    }
}

fn bad(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, what.into())
}

fn state_of(row: &Row) -> rusqlite::Result<State> {
    let code: i64 = row.get("state")?;
    usize::try_from(code).ok().and_then(|at| State::ALL.get(at).copied()).ok_or_else(|| bad("no such state"))
}

fn json_of<T: serde::de::DeserializeOwned>(row: &Row, column: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|t| serde_json::from_str(&t).map_err(bad)).transpose()
}

fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
}

fn name_of(row: &Row) -> rusqlite::Result<FunctionName> {
    FunctionName::parse(&row.get::<_, String>("function")?).map_err(bad)
}

fn checksum(seq: i64, part: i64, data: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(seq.to_le_bytes());
    hash.update(part.to_le_bytes());
    hash.update(data);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn put_body(db: &Connection, seq: i64, part: i64, data: &[u8]) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached("INSERT OR REPLACE INTO bodies VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![seq, part, data, checksum(seq, part, data)]).map(drop)
}

/// The bytes, if they are what was written.
fn body(db: &Connection, seq: i64, part: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut query = db.prepare_cached("SELECT data, checksum FROM bodies WHERE seq = ?1 AND part = ?2")?;
    let found: Option<(Vec<u8>, String)> = query.query_row([seq, part], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
    Ok(found.filter(|(data, sum)| *sum == checksum(seq, part, data)).map(|(data, _)| data))
}

fn count(db: &Connection, name: &str, n: u64) -> rusqlite::Result<()> {
    let mut add = db.prepare_cached(
        "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
    )?;
    add.execute(params![name, n]).map(drop)
}

/// Puts an item in; its place in the order of acceptance comes back.
pub(super) fn insert(db: &Connection, new: &New) -> rusqlite::Result<i64> {
    let mut insert = db.prepare_cached(
        "INSERT INTO items (id, function, qualifier, http, client_context, trace, settings, hops, own_bytes, bytes, state, accepted_ms,
             born_ms, due_ms, attempts, setbacks, interruptions, deliveries)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, 0, ?10, ?10, ?10, 0, 0, 0, '[]')",
    )?;
    let seq = insert.insert(params![
        new.id.as_str(),
        new.function.as_str(),
        new.context.qualifier,
        new.http.as_ref().map(to_json).transpose()?,
        new.context.client_context,
        new.context.trace,
        new.settings.as_ref().map(to_json).transpose()?,
        new.hops,
        new.weight(),
        new.now,
    ])?;
    put_body(db, seq, EVENT, &new.payload)?;
    count(db, "accepted", 1)?;
    Ok(seq)
}

/// Marks a waiting item as running and gives back what it is; `None`: it is not there any more.
pub(super) fn take(db: &Connection, seq: i64) -> rusqlite::Result<Option<Taken>> {
    let marked = db.prepare_cached("UPDATE items SET state = 1 WHERE seq = ?1 AND state = 0")?.execute([seq])?;
    if marked == 0 { Ok(None) } else { get(db, seq) }
}

/// An item that is being delivered; `None`: it is not there any more.
pub(super) fn undelivered(db: &Connection, seq: i64) -> rusqlite::Result<Option<(Taken, Option<Vec<u8>>)>> {
    let state = db.prepare_cached("SELECT state FROM items WHERE seq = ?1")?.query_row([seq], |r| r.get::<_, i64>(0));
    if state.optional()? != Some(code(State::Delivering)) {
        return Ok(None);
    }
    let Some(item) = get(db, seq)? else { return Ok(None) };
    Ok(Some((item, body(db, seq, RECORD)?)))
}

fn get(db: &Connection, seq: i64) -> rusqlite::Result<Option<Taken>> {
    let mut query = db.prepare_cached("SELECT * FROM items WHERE seq = ?1")?;
    let read = |row: &Row| {
        Ok(Taken {
            seq,
            id: RequestId::parse(&row.get::<_, String>("id")?).map_err(bad)?,
            function: name_of(row)?,
            context: Context {
                qualifier: row.get("qualifier")?,
                client_context: row.get("client_context")?,
                trace: row.get("trace")?,
            },
            http: json_of(row, "http")?,
            settings: json_of(row, "settings")?,
            hops: row.get("hops")?,
            bytes: row.get("bytes")?,
            born_ms: row.get("born_ms")?,
            attempts: row.get("attempts")?,
            setbacks: row.get("setbacks")?,
            condition: condition_of(row)?,
            error: why_of(row)?,
            status: row.get("status")?,
            deliveries: json_of(row, "deliveries")?.unwrap_or_default(),
            event: None,
        })
    };
    let Some(mut item) = query.query_row([seq], read).optional()? else { return Ok(None) };
    item.event = body(db, seq, EVENT)?;
    Ok(Some(item))
}

/// How an item goes on.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub state: State,
    pub due_ms: u64,
    pub attempts: u32,
    pub setbacks: u32,
    pub condition: Option<Condition>,
    pub error: Option<Why>,
    pub status: Option<u16>,
    pub deliveries: Vec<Delivery>,
    pub record: Option<Vec<u8>>,
}

/// Writes how an item goes on, and gives the bytes that it takes from then on; `None`: it is not there any more.
pub(super) fn change(db: &Connection, seq: i64, change: &Change) -> rusqlite::Result<Option<u64>> {
    let mut update = db.prepare_cached(
        "UPDATE items SET state = ?2, due_ms = ?3, attempts = ?4, setbacks = ?5, condition = ?6, error = ?7, status = ?8,
             deliveries = ?9, bytes = CASE WHEN ?10 IS NULL THEN bytes ELSE own_bytes + ?10 END
         WHERE seq = ?1 AND state <> 3 RETURNING bytes",
    )?;
    let values = params![
        seq,
        code(change.state),
        change.due_ms,
        change.attempts,
        change.setbacks,
        change.condition.map(Condition::name),
        change.error.as_ref().map(Why::to_stored),
        change.status,
        to_json(&change.deliveries)?,
        change.record.as_ref().map(|record| record.len() as u64),
    ];
    let bytes = update.query_row(values, |r| r.get(0)).optional()?;
    if let (Some(_), Some(record)) = (bytes, &change.record) {
        put_body(db, seq, RECORD, record)?;
    }
    Ok(bytes)
}

/// Removes an item that is done; `false`: it is not there any more.
pub(super) fn finish(db: &Connection, seq: i64) -> rusqlite::Result<bool> {
    let removed = remove(db, seq)?;
    if removed {
        count(db, "finished", 1)?;
    }
    Ok(removed)
}

fn remove(db: &Connection, seq: i64) -> rusqlite::Result<bool> {
    let gone = db.prepare_cached("DELETE FROM items WHERE seq = ?1")?.execute([seq])?;
    db.prepare_cached("DELETE FROM bodies WHERE seq = ?1")?.execute([seq])?;
    Ok(gone > 0)
}

/// Removes the oldest dead items, of one function or of all, until so many bytes and items are gone.
pub(super) fn evict(
    db: &Connection,
    of: Option<&FunctionName>,
    items: u64,
    bytes: u64,
) -> rusqlite::Result<Vec<(FunctionName, u64)>> {
    let mut query = db.prepare_cached(
        "SELECT seq, function, bytes FROM items WHERE state = 3 AND (?1 IS NULL OR function = ?1) ORDER BY seq",
    )?;
    let mut rows = query.query([of.map(FunctionName::as_str)])?;
    let mut gone = Vec::new();
    let mut freed = 0u64;
    while (gone.len() as u64) < items || freed < bytes {
        let Some(row) = rows.next()? else { break };
        let (seq, function, size): (i64, FunctionName, u64) = (row.get("seq")?, name_of(row)?, row.get("bytes")?);
        freed = freed.saturating_add(size);
        gone.push((seq, function, size));
    }
    drop(rows);
    for (seq, ..) in &gone {
        remove(db, *seq)?;
    }
    count(db, "evicted", gone.len() as u64)?;
    Ok(gone.into_iter().map(|(_, function, size)| (function, size)).collect())
}

/// Every item, as the schedule needs it. Items that ran when the last server ended wait again, and are counted.
pub(super) fn resume(db: &Connection, due: impl Fn(u32, i64) -> u64) -> rusqlite::Result<Vec<Place>> {
    let running: Vec<(i64, u32)> = {
        let mut query = db.prepare("SELECT seq, interruptions FROM items WHERE state = 1")?;
        query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?
    };
    for (seq, interruptions) in &running {
        let now = interruptions.saturating_add(1);
        let mut update =
            db.prepare_cached("UPDATE items SET state = 0, interruptions = ?2, due_ms = ?3 WHERE seq = ?1")?;
        update.execute(params![seq, now, due(now, *seq)])?;
    }
    if !running.is_empty() {
        count(db, "redelivered", running.len() as u64)?;
    }
    places(db, "1", [])
}

fn places<P: rusqlite::Params>(db: &Connection, which: &str, of: P) -> rusqlite::Result<Vec<Place>> {
    let columns = "seq, function, state, due_ms, own_bytes, bytes, deliveries";
    let mut query = db.prepare(&format!("SELECT {columns} FROM items WHERE {which} ORDER BY seq"))?;
    let read = |row: &Row| {
        Ok(Place {
            seq: row.get("seq")?,
            function: name_of(row)?,
            state: state_of(row)?,
            due_ms: row.get("due_ms")?,
            own_bytes: row.get("own_bytes")?,
            bytes: row.get("bytes")?,
            deliveries: json_of(row, "deliveries")?.unwrap_or_default(),
        })
    };
    query.query_map(of, read)?.collect()
}

/// Which items a change is about.
#[derive(Debug, Clone)]
pub enum Which {
    /// These invocations.
    Ids(Vec<String>),
    /// All of this function.
    Of(FunctionName),
}

fn chosen(db: &Connection, which: &Which, states: &str) -> rusqlite::Result<Vec<Place>> {
    match which {
        Which::Of(function) => places(db, &format!("function = ?1 AND {states}"), [function.as_str()]),
        Which::Ids(ids) => {
            let marks = vec!["?"; ids.len()].join(",");
            places(db, &format!("id IN ({marks}) AND {states}"), params_from_iter(ids))
        }
    }
}

/// Lets dead items begin again, with all their attempts.
pub(super) fn redrive(db: &Connection, which: &Which, now: u64) -> rusqlite::Result<Vec<Place>> {
    let dead = chosen(db, which, "state = 3")?;
    for item in &dead {
        let mut update = db.prepare_cached(
            "UPDATE items SET state = 0, due_ms = ?2, born_ms = ?2, attempts = 0, setbacks = 0, interruptions = 0, hops = 0,
                 bytes = own_bytes, condition = NULL, error = NULL, status = NULL, deliveries = '[]' WHERE seq = ?1",
        )?;
        update.execute(params![item.seq, now])?;
        db.prepare_cached("DELETE FROM bodies WHERE seq = ?1 AND part = ?2")?.execute([item.seq, RECORD])?;
    }
    Ok(dead)
}

/// Removes items that do not run.
pub(super) fn purge(db: &Connection, which: &Which) -> rusqlite::Result<Vec<Place>> {
    let gone = chosen(db, which, "state <> 1")?;
    for item in &gone {
        remove(db, item.seq)?;
    }
    count(db, "purged", gone.len() as u64)?;
    Ok(gone)
}

fn condition_of(row: &Row) -> rusqlite::Result<Option<Condition>> {
    let text: Option<String> = row.get("condition")?;
    Ok(text.as_deref().and_then(Condition::parse))
}

fn why_of(row: &Row) -> rusqlite::Result<Option<Why>> {
    Ok(row.get::<_, Option<String>>("error")?.map(Why::from_stored))
}

fn view(row: &Row) -> rusqlite::Result<View> {
    Ok(View {
        request_id: row.get("id")?,
        function: row.get("function")?,
        qualifier: row.get("qualifier")?,
        state: state_of(row)?,
        accepted_ms: row.get("accepted_ms")?,
        due_ms: row.get("due_ms")?,
        attempts: row.get("attempts")?,
        setbacks: row.get("setbacks")?,
        interruptions: row.get("interruptions")?,
        bytes: row.get("bytes")?,
        condition: condition_of(row)?,
        error: why_of(row)?.map(|why| why.to_string()),
        deliveries: json_of(row, "deliveries")?.unwrap_or_default(),
        trace: row.get("trace")?,
        seq: row.get("seq")?,
    })
}

/// A page of items, oldest first.
pub(super) fn list(db: &Connection, filter: &Filter, after: i64, limit: u64) -> rusqlite::Result<Vec<View>> {
    let mut query = db.prepare_cached(
        "SELECT * FROM items WHERE seq > ?1 AND (?2 IS NULL OR function = ?2) AND (?3 IS NULL OR state = ?3) ORDER BY seq LIMIT ?4",
    )?;
    let of = filter.function.as_ref().map(FunctionName::as_str);
    query.query_map(params![after, of, filter.state.map(code), limit], view)?.collect()
}

/// An item with its event and its record.
pub(super) type Shown = (View, Option<Vec<u8>>, Option<Vec<u8>>);

/// One item; `None`: it is not there.
pub(super) fn show(db: &Connection, id: &str) -> rusqlite::Result<Option<Shown>> {
    let found = db.prepare_cached("SELECT * FROM items WHERE id = ?1")?.query_row([id], view).optional()?;
    let Some(view) = found else { return Ok(None) };
    let (event, record) = (body(db, view.seq, EVENT)?, body(db, view.seq, RECORD)?);
    Ok(Some((view, event, record)))
}

/// The states of one function's items; what ever was is not known by function.
pub(super) fn counts_of(db: &Connection, function: &FunctionName) -> rusqlite::Result<Totals> {
    let mut totals = Totals::default();
    let mut query = db.prepare_cached("SELECT state, count(*) AS n FROM items WHERE function = ?1 GROUP BY state")?;
    for row in query.query_map([function.as_str()], |r| Ok((state_of(r)?, r.get::<_, u64>("n")?)))? {
        let (state, n) = row?;
        *totals.of_mut(state) = n;
    }
    Ok(totals)
}

/// The sum of everything, from the tables themselves.
pub(super) fn totals(db: &Connection) -> rusqlite::Result<Totals> {
    let mut totals = Totals::default();
    let mut query = db.prepare_cached("SELECT name, value FROM counters")?;
    for row in query.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u64>(1)?)))? {
        let (name, value) = row?;
        match name.as_str() {
            "accepted" => totals.accepted = value,
            "finished" => totals.finished = value,
            "purged" => totals.purged = value,
            "evicted" => totals.evicted = value,
            "redelivered" => totals.redelivered = value,
            _ => {}
        }
    }
    let mut query = db.prepare_cached("SELECT state, count(*) AS n FROM items GROUP BY state")?;
    for row in query.query_map([], |r| Ok((state_of(r)?, r.get::<_, u64>("n")?)))? {
        let (state, n) = row?;
        *totals.of_mut(state) = n;
    }
    Ok(totals)
}
