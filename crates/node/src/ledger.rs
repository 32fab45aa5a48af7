//! A file in the data directory for what must not be lost: SQLite, written by one thread that lets everything that waits share
//! one sync (group commit). The queue has one (`queue.db`), durable executions another (`executions.db`).
//!
//! A write that returned is on stable storage. A damaged or newer file is refused with what to do: nothing here repairs or
//! throws away. It knows no function, no clock and no policy; whoever has a ledger has its tables and statements.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use offshoot_model::{Error, ErrorKind};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Writes that share one sync, at most.
const BATCH: usize = 512;
/// Writes that may wait for the disk; whoever comes later waits to be taken in.
const BACKLOG: usize = 1024;

/// What a ledger holds.
#[derive(Debug)]
pub struct Layout {
    /// The file's name in the data directory.
    pub file: &'static str,
    /// What it is called towards people: `queue`.
    pub noun: &'static str,
    /// The tables of a new file.
    pub tables: &'static str,
    /// Changes whenever the tables do. A file with a higher number was written by a newer server.
    pub schema: i64,
}

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
    layout: &'static Layout,
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
            self.end(Err(self.layout.gone()));
        }
    }
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
        let layout = self.layout;
        let unrun = || Err(Error::new(ErrorKind::Internal, format!("the {} lost a piece of work", layout.noun)));
        let ran = self.result.take();
        self.end(committed.and_then(|()| ran.map_or_else(unrun, |r| r.map_err(|e| layout.failed(e)))));
    }
}

/// The file. Dropping it ends the thread once everything that waits is written.
pub struct Ledger {
    layout: &'static Layout,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Opens the ledger of a data directory and does this first, durably. A file that is not there yet is made with the first piece of work: a
    /// server that never needs it has none.
    pub fn open<T: Default>(
        data_dir: &Path,
        layout: &'static Layout,
        first: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(Ledger, T), Error> {
        let path = data_dir.join(layout.file);
        let failed = |e| layout.failed(e);
        let (connection, done) = match path.exists() {
            false => (None, T::default()),
            true => {
                let mut connection = layout.connect(&path)?;
                let verdict: String =
                    connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
                if verdict != "ok" {
                    return Err(layout.damaged(&verdict));
                }
                give_back(&connection).map_err(failed)?;
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
                let done = first(&tx).map_err(failed)?;
                tx.commit().map_err(failed)?;
                (Some(connection), done)
            }
        };
        let (jobs, inbox) = mpsc::channel(BACKLOG);
        let work = move || serve(connection, &path, layout, inbox);
        let thread = std::thread::Builder::new().name(layout.noun.into()).spawn(work).map_err(|e| {
            Error::new(ErrorKind::Internal, format!("the thread of the {} cannot start", layout.noun)).caused_by(e)
        })?;
        Ok((Ledger { layout, jobs: Some(jobs), thread: Some(thread) }, done))
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
        let layout = self.layout;
        let work = Work { writes, work: Some(work), after: Some(after), result: None, answer: Some(answer), layout };
        let place = match &self.jobs {
            Some(jobs) => jobs.reserve().await.map_err(|_| layout.gone()),
            None => Err(layout.gone()),
        };
        match place {
            Ok(place) => place.send(Box::new(work)),
            Err(e) => Box::new(work).done(Err(e)),
        }
        answered.await.unwrap_or_else(|_| Err(layout.gone()))
    }
}

impl Drop for Ledger {
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
fn serve(mut open: Option<Connection>, path: &Path, layout: &'static Layout, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
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
            None => match layout.connect(path) {
                Ok(made) => open.insert(made),
                Err(error) => {
                    batch.into_iter().for_each(|job| job.done(Err(error.clone())));
                    continue;
                }
            },
        };
        let (mut writes, mut reads): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.writes());
        if !writes.is_empty() {
            let committed =
                if broken { Err((layout.unwritable(), true)) } else { layout.commit(connection, &mut writes) };
            broken |= committed.as_ref().is_err_and(|(_, lasting)| *lasting);
            let committed = committed.map_err(|(error, _)| error);
            writes.into_iter().for_each(|job| job.done(committed.clone()));
        }
        reads.iter_mut().for_each(|job| job.run(connection));
        reads.into_iter().for_each(|job| job.done(Ok(())));
    }
}

impl Layout {
    fn gone(&self) -> Error {
        Error::new(ErrorKind::ShuttingDown, format!("the {} has been closed", self.noun))
    }

    /// A connection to the file, which is made if it is not there.
    fn connect(&self, path: &Path) -> Result<Connection, Error> {
        // SQLite gives its side files the mode of this one. What callers sent is in it.
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        file.map_err(|e| {
            let message = format!("the {} ({} in the data directory) cannot be opened", self.noun, self.file);
            Error::new(ErrorKind::Store, message).caused_by(e)
        })?;
        let mut connection = Connection::open(path).map_err(|e| self.failed(e))?;
        self.set_up(&connection)?;
        self.migrate(&mut connection)?;
        Ok(connection)
    }

    /// One transaction for all. The second value of an error says that the file cannot be trusted any more.
    fn commit(&self, connection: &mut Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), (Error, bool)> {
        let done = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|tx| {
            jobs.iter_mut().for_each(|job| job.run(&tx));
            tx.commit()
        });
        // After a failed sync, what the kernel has in memory is not what the disk has: nothing more is acknowledged.
        done.map_err(|e| {
            let lasting = e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
            (self.failed(e), lasting)
        })
    }

    fn unwritable(&self) -> Error {
        let noun = self.noun;
        let message =
            format!("the {noun} could not be written and takes nothing more: check the disk, then restart the server");
        Error::new(ErrorKind::Store, message)
    }

    /// Sets what durability depends on, and reads it back.
    fn set_up(&self, connection: &Connection) -> Result<(), Error> {
        let failed = |e| self.failed(e);
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        // Only a new file takes this in: it lets pages that are free be given back.
        let lock = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA locking_mode = EXCLUSIVE;";
        connection.execute_batch(lock).map_err(failed)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).map_err(failed)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;").map_err(failed)?;
        let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |r| r.get(0)).map_err(failed)?;
        if mode != "wal" || synchronous != 2 {
            let found = format!("journal_mode {mode}, synchronous {synchronous}");
            let message = format!(
                "the data directory lies on a file system that cannot keep the {} durable: put it on a local disk",
                self.noun
            );
            return Err(Error::new(ErrorKind::Store, message).caused_by(found));
        }
        Ok(())
    }

    fn migrate(&self, connection: &mut Connection) -> Result<(), Error> {
        let failed = |e| self.failed(e);
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).map_err(failed)?;
        if tables == 0 {
            tx.execute_batch("CREATE TABLE schema (version INTEGER NOT NULL) STRICT;").map_err(failed)?;
            tx.execute_batch(self.tables).map_err(failed)?;
            tx.execute("INSERT INTO schema VALUES (?1)", [self.schema]).map_err(failed)?;
            return tx.commit().map_err(failed);
        }
        let version = tx.query_row("SELECT version FROM schema", [], |r| r.get::<_, i64>(0)).optional();
        match version.map_err(failed)? {
            Some(ours) if ours == self.schema => Ok(()),
            Some(newer) if newer > self.schema => Err(Error::new(
                ErrorKind::Store,
                format!(
                    "the {} was written by a newer Offshoot (format {newer}, this one reads {}): start that version, or \
                     restore the copy of the data directory that was made before the upgrade",
                    self.noun, self.schema
                ),
            )),
            _ => Err(self.damaged("it has no valid format number")),
        }
    }

    /// The error of a file that does not hold what it should.
    pub fn damaged(&self, what: &str) -> Error {
        let Layout { file, noun, .. } = self;
        let message = format!(
            "the {noun} ({file} in the data directory) is damaged: stop the server, keep a copy of the data directory, and \
             restore {file} with its -wal file from a backup, or move both away to start with an empty {noun}; nothing was changed"
        );
        Error::new(ErrorKind::Store, message).caused_by(what)
    }

    fn failed(&self, e: rusqlite::Error) -> Error {
        let Layout { file, noun, .. } = self;
        match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => self.damaged(&e.to_string()),
            _ if matches!(
                e,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
            ) =>
            {
                self.damaged(&e.to_string())
            }
            Some(ErrorCode::DiskFull) => {
                let message = format!("the {noun} cannot be written: the disk is full; free some room and try again");
                Error::new(ErrorKind::Store, message).caused_by(e)
            }
            _ => {
                let message = format!("the {noun} ({file} in the data directory) failed: see the server's log");
                Error::new(ErrorKind::Store, message).caused_by(e)
            }
        }
    }
}

/// Gives the disk back what earlier contents took.
fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    Ok(())
}
