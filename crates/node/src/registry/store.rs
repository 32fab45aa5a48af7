//! The durable store of what is deployed: one SQLite file, `registry.db` in the data directory.
//!
//! A verb that returned is on stable storage (WAL, `synchronous=FULL`, read back at open). Each function's row carries a
//! checksum, since SQLite's pages have none. A damaged or newer store is refused with what to do: nothing here repairs,
//! skips or deletes data that it does not understand. It knows no code, no instance and no other table in memory.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offshoot_model::{CodeDigest, Error, ErrorKind, FunctionConfig, FunctionName};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, named_params};
use sha2::{Digest, Sha256};

use super::archive::hex;

/// Changes whenever the tables do. A store with a higher number was written by a newer server.
const SCHEMA: i64 = 2;

const TABLES: &str = "
    CREATE TABLE schema (version INTEGER NOT NULL) STRICT;
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE functions (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL UNIQUE,
        config_json TEXT NOT NULL,
        code TEXT NOT NULL,
        code_bytes INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL,
        invocations INTEGER NOT NULL,
        last_invoked_ms INTEGER NOT NULL,
        checksum TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO counters VALUES ('next_revision', 1);
";

/// What format 2 added: documents of the catalogue, each with its checksum.
const DOCUMENTS: &str = "
    CREATE TABLE documents (
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        doc TEXT NOT NULL,
        checksum TEXT NOT NULL,
        PRIMARY KEY (kind, key)
    ) STRICT, WITHOUT ROWID;
";

/// One document to write; without a text it is removed.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub kind: &'static str,
    pub key: String,
    pub text: Option<String>,
}

/// One document as it was stored.
#[derive(Debug)]
pub(crate) struct StoredDocument {
    pub kind: String,
    pub key: String,
    pub text: String,
}

/// What one change writes; the store adds the revision.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub config: FunctionConfig,
    pub code: CodeDigest,
    pub code_bytes: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// One stored function.
#[derive(Debug)]
pub(crate) struct Stored {
    pub draft: Draft,
    pub revision: u64,
    pub invocations: u64,
    pub last_invoked_ms: u64,
}

/// The counters of one function, to be written. `created_ms` tells it from a later function of the same name.
#[derive(Debug)]
pub(crate) struct Count<'a> {
    pub name: &'a FunctionName,
    pub created_ms: u64,
    pub invocations: u64,
    pub last_invoked_ms: u64,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Mutex<Connection>,
    /// A write or sync failed. What the kernel then has in memory is not what the disk has, so nothing more is acknowledged.
    broken: AtomicBool,
}

impl Store {
    /// Opens the store. Where there is none, makes a new one if it `may_create`, and otherwise says that it was lost.
    pub fn open(path: &Path, may_create: bool) -> Result<Store, Error> {
        // SQLite gives its side files the mode of this one. Environments of functions are in it.
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        file.map_err(|e| {
            Error::new(ErrorKind::Store, "the registry's store (registry.db in the data directory) cannot be opened")
                .caused_by(e)
        })?;
        let mut connection = Connection::open(path).map_err(failed)?;
        set_up(&connection)?;
        migrate(&mut connection, may_create)?;
        check(&connection)?;
        Ok(Store { connection: Mutex::new(connection), broken: AtomicBool::new(false) })
    }

    /// Every function.
    pub fn load(&self) -> Result<Vec<Stored>, Error> {
        let connection = self.lock();
        let mut query = connection.prepare("SELECT * FROM functions ORDER BY name").map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        let mut functions = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            functions.push(read_row(row)?);
        }
        Ok(functions)
    }

    /// Every document.
    pub fn documents(&self) -> Result<Vec<StoredDocument>, Error> {
        let connection = self.lock();
        let mut query =
            connection.prepare("SELECT kind, key, doc, checksum FROM documents ORDER BY kind, key").map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        let mut documents = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let text = |at: usize| row.get::<_, String>(at).map_err(failed);
            let document = StoredDocument { kind: text(0)?, key: text(1)?, text: text(2)? };
            if text(3)? != document_checksum(&document.kind, &document.key, &document.text) {
                let which = format!("the document '{}' does not match its checksum", document.key.escape_debug());
                return Err(damaged(&which));
            }
            documents.push(document);
        }
        Ok(documents)
    }

    /// Writes documents, all or none.
    pub fn write(&self, documents: &[Document]) -> Result<(), Error> {
        self.change(|tx| write_documents(tx, documents))
    }

    /// Writes a function, new or changed, with documents that belong to the change, and answers its revision, which no other
    /// change ever had.
    pub fn put(&self, draft: &Draft, documents: &[Document]) -> Result<u64, Error> {
        let config = serde_json::to_string(&draft.config)
            .map_err(|e| Error::new(ErrorKind::Internal, "the configuration cannot be written").caused_by(e))?;
        self.change(|tx| {
            let revision: u64 = tx.query_row("SELECT value FROM counters WHERE name = 'next_revision'", [], |r| r.get(0))?;
            tx.execute("UPDATE counters SET value = value + 1 WHERE name = 'next_revision'", [])?;
            tx.execute(
                "INSERT INTO functions VALUES (:name, :revision, :config, :code, :bytes, :created, :updated, 0, 0, :checksum)
                 ON CONFLICT (name) DO UPDATE SET revision = :revision, config_json = :config, code = :code, code_bytes = :bytes,
                     created_ms = :created, updated_ms = :updated, checksum = :checksum",
                named_params! {
                    ":name": draft.config.name.as_str(), ":revision": revision, ":config": config, ":code": draft.code.as_str(),
                    ":bytes": draft.code_bytes, ":created": draft.created_ms, ":updated": draft.updated_ms,
                    ":checksum": checksum(draft, revision, &config),
                },
            )?;
            write_documents(tx, documents)?;
            Ok(revision)
        })
    }

    /// Writes a row as `put` does, without waiting for the disk: for tests that need many.
    #[cfg(test)]
    pub fn put_unsynced(&self, draft: &Draft, documents: &[Document]) {
        self.lock().execute_batch("PRAGMA synchronous = OFF").unwrap();
        self.put(draft, documents).unwrap();
    }

    /// Removes a function, with these documents. Its name is free again; its revisions are not.
    pub fn remove(&self, name: &FunctionName, documents: &[Document]) -> Result<(), Error> {
        self.change(|tx| {
            tx.execute("DELETE FROM functions WHERE name = ?1", [name.as_str()])?;
            write_documents(tx, documents)
        })
    }

    /// Writes counters, all or none.
    pub fn count(&self, counts: &[Count]) -> Result<(), Error> {
        self.change(|tx| {
            let mut update = tx.prepare_cached(
                "UPDATE functions SET invocations = ?3, last_invoked_ms = ?4 WHERE name = ?1 AND created_ms = ?2",
            )?;
            for c in counts {
                update.execute((c.name.as_str(), c.created_ms, c.invocations, c.last_invoked_ms))?;
            }
            Ok(())
        })
    }

    fn change<T>(&self, work: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T, Error> {
        let mut connection = self.lock();
        if self.broken.load(Ordering::Relaxed) {
            let message = "the registry's store could not be written and takes no more changes: check the disk, then restart the server";
            return Err(Error::new(ErrorKind::Store, message));
        }
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let done = tx.and_then(|tx| {
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        });
        done.map_err(|e| {
            let broke = e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
            self.broken.fetch_or(broke, Ordering::Relaxed);
            failed(e)
        })
    }

    /// A panic inside a transaction rolled it back, so the connection behind the lock is still good.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_documents(tx: &Transaction, documents: &[Document]) -> rusqlite::Result<()> {
    for document in documents {
        match &document.text {
            None => tx.execute("DELETE FROM documents WHERE kind = ?1 AND key = ?2", (document.kind, &document.key))?,
            Some(text) => tx.execute(
                "INSERT INTO documents VALUES (?1, ?2, ?3, ?4) ON CONFLICT (kind, key) DO UPDATE SET doc = ?3, checksum = ?4",
                (document.kind, &document.key, text, document_checksum(document.kind, &document.key, text)),
            )?,
        };
    }
    Ok(())
}

fn document_checksum(kind: &str, key: &str, text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {kind} {key} ", kind.len(), key.len()));
    hash.update(text);
    hex(&hash.finalize())
}

/// Sets what durability depends on, and reads it back: a file system that cannot do it must not be trusted with data.
fn set_up(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    // One process uses the directory anyway. Without a shared index file, the store opens on a full disk too.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE;").map_err(failed)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).map_err(failed)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;").map_err(failed)?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |r| r.get(0)).map_err(failed)?;
    if mode != "wal" || synchronous != 2 {
        let found = format!("journal_mode {mode}, synchronous {synchronous}");
        let message =
            "the data directory lies on a file system that cannot keep the registry durable: put it on a local disk";
        return Err(Error::new(ErrorKind::Store, message).caused_by(found));
    }
    Ok(())
}

/// Makes the tables of a new store, adds those that an older one lacks, and refuses a newer one.
fn migrate(connection: &mut Connection, may_create: bool) -> Result<(), Error> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).map_err(failed)?;
    if tables == 0 && !may_create {
        let message = "the registry's store (registry.db in the data directory) is missing or empty, but deployed code is there: \
                       restore the store from a backup, or move the directories code and code.meta away to start anew";
        return Err(Error::new(ErrorKind::Store, message));
    }
    if tables == 0 {
        tx.execute_batch(TABLES).map_err(failed)?;
        tx.execute_batch(DOCUMENTS).map_err(failed)?;
        tx.execute("INSERT INTO schema VALUES (?1)", [SCHEMA]).map_err(failed)?;
        tx.commit().map_err(failed)?;
        return Ok(());
    }
    let version = tx.query_row("SELECT version FROM schema", [], |r| r.get::<_, i64>(0)).optional().map_err(failed)?;
    match version {
        Some(SCHEMA) => Ok(()),
        Some(1) => {
            tx.execute_batch(DOCUMENTS).map_err(failed)?;
            tx.execute("UPDATE schema SET version = ?1", [SCHEMA]).map_err(failed)?;
            tx.commit().map_err(failed)
        }
        Some(newer) if newer > SCHEMA => Err(Error::new(
            ErrorKind::Store,
            format!(
                "the registry's store was written by a newer Offshoot (format {newer}, this one reads {SCHEMA}): start that \
                 version, or restore the copy of the data directory that was made before the upgrade"
            ),
        )),
        _ => Err(damaged("it has no valid format number")),
    }
}

/// Looks at the whole file once: it is small, and a damaged store must not be found in the middle of a day.
fn check(connection: &Connection) -> Result<(), Error> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
    if verdict != "ok" {
        return Err(damaged(&verdict));
    }
    let behind: bool = connection
        .query_row(
            "SELECT coalesce((SELECT value FROM counters WHERE name = 'next_revision'), 0) <= coalesce((SELECT max(revision) FROM functions), 0)",
            [],
            |r| r.get(0),
        )
        .map_err(failed)?;
    if behind { Err(damaged("its revision counter is behind its rows")) } else { Ok(()) }
}

fn read_row(row: &Row) -> Result<Stored, Error> {
    let name: String = row.get("name").map_err(failed)?;
    let bad = |what: &str| damaged(&format!("the row of the function '{}' {what}", name.escape_debug()));
    let config_json: String = row.get("config_json").map_err(failed)?;
    let code: String = row.get("code").map_err(failed)?;
    let number = |column: &str| row.get::<_, u64>(column).map_err(failed);
    let revision = number("revision")?;
    let draft = Draft {
        config: serde_json::from_str(&config_json).map_err(|e| bad(&format!("cannot be read: {e}")))?,
        code: CodeDigest::try_from(code).map_err(|_| bad("names no code"))?,
        code_bytes: number("code_bytes")?,
        created_ms: number("created_ms")?,
        updated_ms: number("updated_ms")?,
    };
    let sum: String = row.get("checksum").map_err(failed)?;
    if sum != checksum(&draft, revision, &config_json) || draft.config.name.as_str() != name {
        return Err(bad("does not match its checksum"));
    }
    Ok(Stored { draft, revision, invocations: number("invocations")?, last_invoked_ms: number("last_invoked_ms")? })
}

/// Over everything in a row that decides how a function runs. The configuration goes in as the text that is stored.
fn checksum(draft: &Draft, revision: u64, config_json: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{revision} {} {} {} {} ", draft.code, draft.code_bytes, draft.created_ms, draft.updated_ms));
    hash.update(config_json);
    hex(&hash.finalize())
}

fn damaged(what: &str) -> Error {
    let message = "the registry's store (registry.db in the data directory) is damaged: stop the server, keep a copy of the \
                   data directory, and restore registry.db with its -wal file from a backup; nothing was changed";
    Error::new(ErrorKind::Store, message).caused_by(what)
}

fn failed(e: rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(&e.to_string()),
        Some(ErrorCode::DiskFull) => Error::new(
            ErrorKind::Store,
            "the registry's store cannot be written: the disk is full; free some room and try again",
        )
        .caused_by(e),
        _ if matches!(
            e,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        ) =>
        {
            damaged(&e.to_string())
        }
        _ => Error::new(
            ErrorKind::Store,
            "the registry's store (registry.db in the data directory) failed: see the server's log",
        )
        .caused_by(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        drop(Store::open(&path, true).unwrap());
        Connection::open(&path).unwrap().execute("UPDATE schema SET version = 3", []).unwrap();
        let error = Store::open(&path, true).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Store);
        assert!(error.message.contains("newer Offshoot"), "{error}");
    }

    #[test]
    fn a_store_of_format_1_gains_its_documents_and_keeps_its_functions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(TABLES).unwrap();
        old.execute("INSERT INTO schema VALUES (1)", []).unwrap();
        old.execute("UPDATE counters SET value = 8", []).unwrap();
        drop(old);
        let store = Store::open(&path, false).unwrap();
        assert!(store.documents().unwrap().is_empty());
        let document =
            |text: Option<&str>| Document { kind: "function", key: "f".into(), text: text.map(str::to_owned) };
        store.write(&[document(Some("{}"))]).unwrap();
        store.write(&[document(Some("{\"a\":1}"))]).unwrap();
        drop(store);
        let store = Store::open(&path, false).unwrap();
        assert_eq!(store.documents().unwrap()[0].text, "{\"a\":1}");
        let next: i64 = store.lock().query_row("SELECT value FROM counters", [], |r| r.get(0)).unwrap();
        assert_eq!(next, 8);
        store.write(&[document(None)]).unwrap();
        assert!(store.documents().unwrap().is_empty());
    }

    #[test]
    fn a_document_that_was_changed_by_hand_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let store = Store::open(&path, true).unwrap();
        store.write(&[Document { kind: "function", key: "f".into(), text: Some("{}".into()) }]).unwrap();
        drop(store);
        Connection::open(&path).unwrap().execute("UPDATE documents SET doc = '[]'", []).unwrap();
        let error = Store::open(&path, true).unwrap().documents().unwrap_err();
        assert!(error.source.unwrap().contains("checksum"));
    }

    #[test]
    fn it_is_durable_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let store = Store::open(&path, true).unwrap();
        let sync: i64 = store.lock().query_row("PRAGMA synchronous", [], |r| r.get(0)).unwrap();
        let mode: String = store.lock().query_row("PRAGMA journal_mode", [], |r| r.get(0)).unwrap();
        assert_eq!((sync, mode.as_str()), (2, "wal"));
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }
}
