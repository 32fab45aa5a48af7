//! How far each shard of each mapping has been read, on the disk: `sources.db` in the data directory. A position that was saved is
//! synced; what lies behind it is never read again, what lies before it may be.
//!
//! The file is made with the first position. It knows no stream and decides nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use offshoot_model::{Error, ErrorKind};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS positions (
        mapping TEXT NOT NULL,
        shard TEXT NOT NULL,
        position TEXT NOT NULL,
        PRIMARY KEY (mapping, shard)
    ) STRICT, WITHOUT ROWID;
";

/// How far a shard has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// Not at all: the oldest record is next.
    Oldest,
    /// What came at this moment or later is next, milliseconds since 1970.
    Since(u64),
    /// Up to this sequence number.
    After(String),
    /// To its end: it has been closed.
    Closed,
}

/// The positions of a data directory.
#[derive(Clone)]
pub struct Positions {
    path: PathBuf,
    open: Arc<Mutex<Option<Connection>>>,
}

fn failed(error: rusqlite::Error) -> Error {
    let message =
        "the positions in streams (sources.db in the data directory) cannot be read or written: check the disk";
    Error::new(ErrorKind::Store, message).caused_by(error)
}

impl Positions {
    /// Those of this data directory.
    pub fn new(data_dir: &Path) -> Positions {
        Positions { path: data_dir.join("sources.db"), open: Arc::default() }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut open = this.open.lock().unwrap_or_else(PoisonError::into_inner);
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => connect(&this.path)?,
            };
            let done = work(&mut connection);
            *open = Some(connection);
            done
        });
        let lost = |e| Error::new(ErrorKind::Internal, "a write to sources.db was lost").caused_by(e);
        done.await.map_err(lost)?.map_err(failed)
    }

    /// Everything that is known of a mapping's shards.
    pub async fn of(&self, mapping: &str) -> Result<BTreeMap<String, Position>, Error> {
        let mapping = mapping.to_owned();
        self.with(move |db| {
            let mut statement = db.prepare("SELECT shard, position FROM positions WHERE mapping = ?1")?;
            let rows =
                statement.query_map([&mapping], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.map(|row| {
                let (shard, text) = row?;
                let unreadable = |e: serde_json::Error| {
                    rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(e))
                };
                Ok((shard, serde_json::from_str(&text).map_err(unreadable)?))
            })
            .collect()
        })
        .await
    }

    /// Saves positions of a mapping's shards, all or none.
    pub async fn save(&self, mapping: &str, positions: Vec<(String, Position)>) -> Result<(), Error> {
        let mapping = mapping.to_owned();
        self.with(move |db| {
            let tx = db.transaction()?;
            for (shard, position) in &positions {
                let text = serde_json::to_string(position).unwrap_or_default();
                tx.execute(
                    "INSERT INTO positions (mapping, shard, position) VALUES (?1, ?2, ?3)
                     ON CONFLICT (mapping, shard) DO UPDATE SET position = excluded.position",
                    params![mapping, shard, text],
                )?;
            }
            tx.commit()
        })
        .await
    }

    /// Forgets a shard that is gone, or all of a mapping's.
    pub async fn forget(&self, mapping: &str, shard: Option<&str>) -> Result<(), Error> {
        if !self.path.exists() {
            return Ok(());
        }
        let (mapping, shard) = (mapping.to_owned(), shard.map(str::to_owned));
        let sql = "DELETE FROM positions WHERE mapping = ?1 AND (?2 IS NULL OR shard = ?2)";
        self.with(move |db| db.execute(sql, params![mapping, shard]).map(drop)).await
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(TABLES)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn positions_survive_and_go_with_their_mapping() {
        let dir = tempfile::tempdir().unwrap();
        let here = Positions::new(dir.path());
        here.forget("none", None).await.unwrap();
        assert!(!dir.path().join("sources.db").exists());
        let after = |n: &str| Position::After(n.to_owned());
        here.save("m", vec![("a".into(), after("1")), ("b".into(), Position::Oldest)]).await.unwrap();
        here.save("m", vec![("a".into(), after("2"))]).await.unwrap();
        here.save("n", vec![("a".into(), Position::Since(5))]).await.unwrap();
        let again = Positions::new(dir.path());
        let known = again.of("m").await.unwrap();
        assert_eq!(known, BTreeMap::from([("a".into(), after("2")), ("b".into(), Position::Oldest)]));
        again.forget("m", Some("b")).await.unwrap();
        assert_eq!(again.of("m").await.unwrap().len(), 1);
        again.forget("m", None).await.unwrap();
        assert_eq!((again.of("m").await.unwrap().len(), again.of("n").await.unwrap().len()), (0, 1));
    }
}
