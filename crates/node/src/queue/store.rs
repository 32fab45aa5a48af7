//! The queue on disk: one SQLite file, `queue.db` in the data directory, written by one thread that lets everything that
//! waits share one sync (group commit).
//!
//! A write that returned is on stable storage. A damaged or newer file is refused with what to do: nothing here repairs or
//! throws away. It knows no function, no clock and no policy; `rows` has the statements.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use offshoot_model::{Error, ErrorKind};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Changes whenever the tables do. A file with a higher number was written by a newer server.
const SCHEMA: i64 = 1;
/// Writes that share one sync, at most.
const BATCH: usize = 512;
/// Writes that may wait for the disk; whoever comes later waits to be taken in.
const BACKLOG: usize = 1024;

const TABLES: &str = "
    CREATE TABLE schema (version INTEGER NOT NULL) STRICT;
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

/// A piece of work for the thread that owns the file.
trait Job: Send {
    /// Whether it changes anything: such jobs run in the transaction, the others after it.
    fn writes(&self) -> bool;
    /// Does it, inside a savepoint of its own.
    fn run(&mut self, connection: &Connection);
    /// Says how it went, once that is durable.
    fn done(self: Box<Self>, committed: Result<(), Error>);
}

struct Work<F, A: FnOnce(Result<&T, &Error>), T> {
    writes: bool,
    work: Option<F>,
    after: Option<A>,
    result: Option<rusqlite::Result<T>>,
    answer: Option<oneshot::Sender<Result<T, Error>>>,
}

impl<F, A: FnOnce(Result<&T, &Error>), T> Work<F, A, T> {
    fn end(&mut self, result: Result<T, Error>) {
        if let Some(after) = self.after.take() {
            after(result.as_ref());
        }
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(result);
        }
    }
}

/// Work that is given up on its way, with the caller that waited to hand it in, has failed: `after` is told.
impl<F, A: FnOnce(Result<&T, &Error>), T> Drop for Work<F, A, T> {
    fn drop(&mut self) {
        if self.after.is_some() {
            self.end(Err(gone()));
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::ShuttingDown, "the queue has been closed")
}

impl<F, A, T> Job for Work<F, A, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    A: FnOnce(Result<&T, &Error>) + Send,
    T: Send,
{
    fn writes(&self) -> bool {
        self.writes
    }
    fn run(&mut self, connection: &Connection) {
        let Some(work) = self.work.take() else { return };
        if !self.writes {
            self.result = Some(work(connection));
            return;
        }
        let inside = || {
            connection.execute_batch("SAVEPOINT job")?;
            let done = work(connection);
            let end = if done.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
            connection.execute_batch(end)?;
            done
        };
        self.result = Some(inside());
    }
    fn done(mut self: Box<Self>, committed: Result<(), Error>) {
        let unrun = || Err(Error::new(ErrorKind::Internal, "the queue lost a piece of work"));
        let ran = self.result.take();
        self.end(committed.and_then(|()| ran.map_or_else(unrun, |r| r.map_err(failed))));
    }
}

/// The store. Dropping it ends the thread once everything that waits is written.
pub(super) struct Store {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store and does this first, durably. A file that is not there yet is made with the first piece of work: a
    /// server that is never called asynchronously has none.
    pub fn open<T: Default>(
        path: &Path,
        first: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(Store, T), Error> {
        let (connection, done) = match path.exists() {
            false => (None, T::default()),
            true => {
                let mut connection = connect(path)?;
                let verdict: String =
                    connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
                if verdict != "ok" {
                    return Err(damaged(&verdict));
                }
                give_back(&connection).map_err(failed)?;
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
                let done = first(&tx).map_err(failed)?;
                tx.commit().map_err(failed)?;
                (Some(connection), done)
            }
        };
        let (jobs, inbox) = mpsc::channel(BACKLOG);
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("queue".into()).spawn(move || serve(connection, &path, inbox));
        let thread =
            thread.map_err(|e| Error::new(ErrorKind::Internal, "the queue's thread cannot start").caused_by(e))?;
        Ok((Store { jobs: Some(jobs), thread: Some(thread) }, done))
    }

    /// Changes the store. Returns when the change is durable; `after` is called by then, also when nobody waits any more.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(Result<&T, &Error>) + Send + 'static,
    ) -> Result<T, Error> {
        self.hand_in(true, work, after).await
    }

    /// Reads from the store.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.hand_in(false, work, |_| {}).await
    }

    async fn hand_in<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(Result<&T, &Error>) + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let work = Work { writes, work: Some(work), after: Some(after), result: None, answer: Some(answer) };
        let place = match &self.jobs {
            Some(jobs) => jobs.reserve().await.map_err(|_| gone()),
            None => Err(gone()),
        };
        match place {
            Ok(place) => place.send(Box::new(work)),
            Err(e) => Box::new(work).done(Err(e)),
        }
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// The thread: takes what is there, does all of it in one transaction, and answers when that is durable.
fn serve(mut open: Option<Connection>, path: &Path, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
    let mut broken = false;
    while let Some(first) = inbox.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = inbox.try_recv()
        {
            batch.push(next);
        }
        let connection = match &mut open {
            Some(connection) => connection,
            None => match connect(path) {
                Ok(made) => open.insert(made),
                Err(error) => {
                    batch.into_iter().for_each(|job| job.done(Err(error.clone())));
                    continue;
                }
            },
        };
        let (mut writes, mut reads): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.writes());
        if !writes.is_empty() {
            let committed = if broken { Err(unwritable()) } else { commit(connection, &mut writes) };
            broken |= committed.as_ref().is_err_and(|(_, lasting)| *lasting);
            let committed = committed.map_err(|(error, _)| error);
            writes.into_iter().for_each(|job| job.done(committed.clone()));
        }
        reads.iter_mut().for_each(|job| job.run(connection));
        reads.into_iter().for_each(|job| job.done(Ok(())));
    }
}

/// A connection to the file, which is made if it is not there.
fn connect(path: &Path) -> Result<Connection, Error> {
    // SQLite gives its side files the mode of this one. Events are in it.
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    file.map_err(|e| {
        Error::new(ErrorKind::Store, "the queue (queue.db in the data directory) cannot be opened").caused_by(e)
    })?;
    let mut connection = Connection::open(path).map_err(failed)?;
    set_up(&connection)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// One transaction for all. The second value of an error says that the file cannot be trusted any more.
fn commit(connection: &mut Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), (Error, bool)> {
    let done = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|tx| {
        jobs.iter_mut().for_each(|job| job.run(&tx));
        tx.commit()
    });
    // After a failed sync, what the kernel has in memory is not what the disk has: nothing more is acknowledged.
    done.map_err(|e| {
        let lasting = e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
        (failed(e), lasting)
    })
}

fn unwritable() -> (Error, bool) {
    let message = "the queue could not be written and takes nothing more: check the disk, then restart the server";
    (Error::new(ErrorKind::Store, message), true)
}

/// Gives the disk back what earlier events took.
fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    Ok(())
}

/// Sets what durability depends on, and reads it back.
fn set_up(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    // Only a new file takes this in: it lets pages that are free be given back.
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA locking_mode = EXCLUSIVE;").map_err(failed)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).map_err(failed)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;").map_err(failed)?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |r| r.get(0)).map_err(failed)?;
    if mode != "wal" || synchronous != 2 {
        let found = format!("journal_mode {mode}, synchronous {synchronous}");
        let message =
            "the data directory lies on a file system that cannot keep the queue durable: put it on a local disk";
        return Err(Error::new(ErrorKind::Store, message).caused_by(found));
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).map_err(failed)?;
    if tables == 0 {
        tx.execute_batch(TABLES).map_err(failed)?;
        tx.execute("INSERT INTO schema VALUES (?1)", [SCHEMA]).map_err(failed)?;
        return tx.commit().map_err(failed);
    }
    match tx.query_row("SELECT version FROM schema", [], |r| r.get::<_, i64>(0)).optional().map_err(failed)? {
        Some(SCHEMA) => Ok(()),
        Some(newer) if newer > SCHEMA => Err(Error::new(
            ErrorKind::Store,
            format!(
                "the queue was written by a newer Offshoot (format {newer}, this one reads {SCHEMA}): start that version, or \
                 restore the copy of the data directory that was made before the upgrade"
            ),
        )),
        _ => Err(damaged("it has no valid format number")),
    }
}

pub(super) fn damaged(what: &str) -> Error {
    let message = "the queue (queue.db in the data directory) is damaged: stop the server, keep a copy of the data directory, and \
                   restore queue.db with its -wal file from a backup, or move both away to start with an empty queue; nothing was changed";
    Error::new(ErrorKind::Store, message).caused_by(what)
}

pub(super) fn failed(e: rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(&e.to_string()),
        _ if matches!(
            e,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        ) =>
        {
            damaged(&e.to_string())
        }
        Some(ErrorCode::DiskFull) => {
            let message = "the queue cannot be written: the disk is full; free some room and try again";
            Error::new(ErrorKind::Store, message).caused_by(e)
        }
        _ => Error::new(ErrorKind::Store, "the queue (queue.db in the data directory) failed: see the server's log")
            .caused_by(e),
    }
}
