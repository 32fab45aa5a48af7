//! The statements: how executions, their operations and their history are put into the ledger and read. Each works inside a
//! transaction that its caller owns.
//!
//! It decides nothing; every moment and every state is given.

use offshoot_model::FunctionName;
use rusqlite::types::{Type, Value as Sql};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::machine::{Execution, Fresh, Head};
use super::types::{Operation, Status};
use crate::ledger::Layout;

/// The file of durable executions.
pub(super) const LAYOUT: Layout =
    Layout { file: "executions.db", noun: "store of durable executions", tables: TABLES, schema: 1 };

const TABLES: &str = "
    CREATE TABLE executions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        function TEXT NOT NULL,
        version TEXT NOT NULL,
        status TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        expires_ms INTEGER,
        written INTEGER NOT NULL,
        head TEXT NOT NULL
    ) STRICT;
    CREATE INDEX by_function ON executions (function, seq);
    CREATE INDEX by_end ON executions (expires_ms) WHERE expires_ms IS NOT NULL;
    CREATE INDEX open ON executions (seq) WHERE status = 'RUNNING';
    CREATE TABLE operations (
        seq INTEGER NOT NULL, at INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (seq, at)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        seq INTEGER NOT NULL, id INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (seq, id)
    ) STRICT, WITHOUT ROWID;
";

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// What is written of an execution at once.
pub(super) struct Write {
    head: Head,
    text: String,
    operations: Vec<(usize, String)>,
    events: Vec<(u64, String)>,
}

impl Write {
    /// What is fresh of an execution, which is not fresh any more then.
    pub fn of(execution: &mut Execution) -> rusqlite::Result<Write> {
        let Fresh { operations, events } = std::mem::take(&mut execution.fresh);
        let all = execution.operations();
        let operation = |at: usize| all.get(at).map(|o| Ok((at, text(o.as_ref())?)));
        let operations = operations.into_iter().filter_map(operation).collect::<rusqlite::Result<_>>()?;
        let events = events.into_iter().map(|(id, event)| (id, event.to_string())).collect();
        Ok(Write { text: text(&execution.head)?, head: execution.head.clone(), operations, events })
    }
}

fn text<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
}

fn read<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, e.into()))
}

fn expires(head: &Head) -> Option<i64> {
    let ended = head.ended_ms?;
    i64::try_from(ended.saturating_add(u64::from(head.retention_days) * DAY_MS)).ok()
}

/// Stores a new execution, unless its name is taken: then the answer is the execution that has it.
pub(super) fn insert(db: &Connection, new: &Write) -> rusqlite::Result<Option<Head>> {
    let mut taken = db.prepare_cached("SELECT head FROM executions WHERE name = ?1")?;
    if let Some(head) = taken.query_row([&new.head.name], |row| read(row, 0)).optional()? {
        return Ok(Some(head));
    }
    let head = &new.head;
    db.prepare_cached(
        "INSERT INTO executions (id, name, function, version, status, started_ms, expires_ms, written, head)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        head.id,
        head.name,
        head.function.as_str(),
        head.version,
        head.status.name(),
        head.started_ms,
        expires(head),
        head.written,
        new.text
    ])?;
    parts(db, db.last_insert_rowid(), new)?;
    Ok(None)
}

/// Stores what changed.
pub(super) fn update(db: &Connection, write: &Write) -> rusqlite::Result<()> {
    let head = &write.head;
    let seq: i64 = db
        .prepare_cached(
            "UPDATE executions SET status = ?2, expires_ms = ?3, written = ?4, head = ?5 WHERE id = ?1 RETURNING seq",
        )?
        .query_row(params![head.id, head.status.name(), expires(head), head.written, write.text], |r| r.get(0))?;
    parts(db, seq, write)
}

fn parts(db: &Connection, seq: i64, write: &Write) -> rusqlite::Result<()> {
    let mut operation = db.prepare_cached("INSERT OR REPLACE INTO operations VALUES (?1, ?2, ?3)")?;
    for (at, data) in &write.operations {
        operation.execute(params![seq, *at as i64, data])?;
    }
    let mut event = db.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3)")?;
    for (id, data) in &write.events {
        event.execute(params![seq, *id as i64, data])?;
    }
    Ok(())
}

/// An execution's own part.
pub(super) fn head(db: &Connection, id: &str) -> rusqlite::Result<Option<Head>> {
    db.prepare_cached("SELECT head FROM executions WHERE id = ?1")?.query_row([id], |row| read(row, 0)).optional()
}

/// An execution with its operations.
pub(super) fn load(db: &Connection, id: &str) -> rusqlite::Result<Option<Execution>> {
    let mut found = db.prepare_cached("SELECT head, seq FROM executions WHERE id = ?1")?;
    let found: Option<(Head, i64)> = found.query_row([id], |row| Ok((read(row, 0)?, row.get(1)?))).optional()?;
    let Some((head, seq)) = found else { return Ok(None) };
    let mut operations = db.prepare_cached("SELECT data FROM operations WHERE seq = ?1 ORDER BY at")?;
    let operations = operations.query_map([seq], |row| read::<Operation>(row, 0))?.collect::<rusqlite::Result<_>>()?;
    Ok(Some(Execution::restored(head, operations)))
}

/// What an execution has written, in bytes.
pub(super) fn size(db: &Connection, id: &str) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("SELECT written FROM executions WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

/// What an execution was begun with: its first operation has it.
pub(super) fn input(db: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    let mut first = db
        .prepare_cached("SELECT o.data FROM operations o JOIN executions x USING (seq) WHERE x.id = ?1 AND o.at = 0")?;
    let first = first.query_row([id], |row| read::<Operation>(row, 0)).optional()?;
    Ok(first.and_then(|operation| operation.input))
}

/// The ids of executions that are not over, oldest first, and whose they are.
pub(super) fn open(db: &Connection) -> rusqlite::Result<Vec<(String, FunctionName)>> {
    let mut found = db.prepare("SELECT id, function FROM executions WHERE expires_ms IS NULL ORDER BY seq")?;
    let name = |row: &Row<'_>| {
        let text = row.get_ref(1)?.as_str()?;
        FunctionName::parse(text).map_err(|e| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, e.into()))
    };
    found.query_map([], |row| Ok((row.get(0)?, name(row)?)))?.collect()
}

/// Bytes of everything that is kept.
pub(super) fn written(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(written), 0) FROM executions", [], |row| row.get(0))
}

/// One page of an execution's history: events behind this number, or before it, at most so many, and at most so many bytes, but one in
/// any case. The second value is the number of the last one where there are more.
pub(super) fn events(
    db: &Connection,
    id: &str,
    after: Option<u64>,
    reverse: bool,
    (limit, bytes): (usize, usize),
) -> rusqlite::Result<(Vec<Value>, Option<u64>)> {
    let from = after.unwrap_or(if reverse { i64::MAX as u64 } else { 0 });
    let select = |compare: &str, order: &str| {
        format!(
            "SELECT e.id, e.data FROM events e JOIN executions x USING (seq)
             WHERE x.id = ?1 AND e.id {compare} ?2 ORDER BY e.id {order}"
        )
    };
    let mut select = db.prepare_cached(&if reverse { select("<", "DESC") } else { select(">", "ASC") })?;
    let mut rows = select.query(params![id, from as i64])?;
    let (mut found, mut size, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        size += row.get_ref(1)?.as_str()?.len();
        if found.len() >= limit || (size > bytes && !found.is_empty()) {
            return Ok((found, last));
        }
        found.push(read(row, 1)?);
        last = Some(row.get(0)?);
    }
    Ok((found, None))
}

/// Which executions are asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this function.
    pub function: Option<FunctionName>,
    /// Of this version of it.
    pub version: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// In one of these states; none is all.
    pub statuses: Vec<Status>,
    /// Begun after this moment, ms since 1970.
    pub started_after: Option<u64>,
    /// Begun before it.
    pub started_before: Option<u64>,
    /// Oldest first; else newest first.
    pub oldest_first: bool,
    /// Where the last page ended.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// Executions, with their place in the order, and without what came of them: a thousand results would be too much at once.
pub(super) fn list(db: &Connection, filter: &Filter) -> rusqlite::Result<Vec<(i64, Head)>> {
    let mut clauses = vec!["1".to_owned()];
    let mut values: Vec<Sql> = Vec::new();
    let mut add = |clause: &str, value: Sql| {
        values.push(value);
        clauses.push(format!("{clause} ?{}", values.len()));
    };
    let ms = |at: u64| Sql::Integer(i64::try_from(at).unwrap_or(i64::MAX));
    if let Some(function) = &filter.function {
        add("function =", Sql::Text(function.as_str().to_owned()));
    }
    if let Some(version) = &filter.version {
        add("version =", Sql::Text(version.clone()));
    }
    if let Some(name) = &filter.name {
        add("name =", Sql::Text(name.clone()));
    }
    if let Some(at) = filter.started_after {
        add("started_ms >", ms(at));
    }
    if let Some(at) = filter.started_before {
        add("started_ms <", ms(at));
    }
    if let Some(after) = filter.after {
        add(if filter.oldest_first { "seq >" } else { "seq <" }, Sql::Integer(after));
    }
    if !filter.statuses.is_empty() {
        // Words of our own, not the caller's text.
        let names: Vec<String> = filter.statuses.iter().map(|s| format!("'{}'", s.name())).collect();
        clauses.push(format!("status IN ({})", names.join(", ")));
    }
    let order = if filter.oldest_first { "ASC" } else { "DESC" };
    let select = format!(
        "SELECT seq, json_remove(head, '$.result', '$.error') FROM executions WHERE {} ORDER BY seq {order} LIMIT {}",
        clauses.join(" AND "),
        filter.limit
    );
    let mut rows = db.prepare(&select)?;
    rows.query_map(params_from_iter(values), |row| Ok((row.get(0)?, read(row, 1)?)))?.collect()
}

fn remove(db: &Connection, seq: i64) -> rusqlite::Result<()> {
    for statement in [
        "DELETE FROM operations WHERE seq = ?1",
        "DELETE FROM events WHERE seq = ?1",
        "DELETE FROM executions WHERE seq = ?1",
    ] {
        db.prepare_cached(statement)?.execute([seq])?;
    }
    Ok(())
}

/// Removes an execution that is over. The answer is its bytes; `None`: there is none.
pub(super) fn delete(db: &Connection, id: &str) -> rusqlite::Result<Option<u64>> {
    let mut found =
        db.prepare_cached("SELECT seq, written FROM executions WHERE id = ?1 AND expires_ms IS NOT NULL")?;
    let found: Option<(i64, u64)> = found.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((seq, written)) = found else { return Ok(None) };
    remove(db, seq)?;
    Ok(Some(written))
}

/// Removes executions whose time of being kept is over, at most so many. The answer is their bytes and their number.
pub(super) fn sweep(db: &Connection, now: u64, limit: usize) -> rusqlite::Result<(u64, usize)> {
    let mut old = db.prepare_cached("SELECT seq, written FROM executions WHERE expires_ms <= ?1 LIMIT ?2")?;
    let found: Vec<(i64, u64)> = old
        .query_map(params![i64::try_from(now).unwrap_or(i64::MAX), limit as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, _) in &found {
        remove(db, *seq)?;
    }
    Ok((found.iter().map(|(_, written)| written).sum(), found.len()))
}
