//! One end of a copy.

use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql, params_from_iter};

use super::connection::connect;
use super::files::{self, Files};
use super::handle::Sqlite;
use super::schema;
use crate::error::StoreError;
use crate::sealing;
use crate::table::{CopyError, Table, Value};
use crate::url::StoreUrl;

const NAME: &str = "copy the store";

/// A SQLite database that nobody else uses.
pub(crate) struct SqliteEnd {
    conn: Connection,
    files: Files,
    /// Where it is while it is filled, and where it is to be.
    filled: Option<(PathBuf, PathBuf)>,
}

impl SqliteEnd {
    /// The one that is copied.
    pub(crate) fn source(directory: &Path) -> Result<Self, CopyError> {
        Sqlite::find(directory)?;
        let files = files::take(directory)?;
        Ok(Self { conn: newest(&files)?, files, filled: None })
    }

    /// The one that is filled, beside its place until it is whole.
    pub(crate) fn target(directory: &Path, url: &StoreUrl) -> Result<Self, CopyError> {
        let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        match names.collect::<Vec<_>>().as_slice() {
            [] => {}
            [only] if only == sealing::NAME => return Err(CopyError::HoldsKey(directory.join(only))),
            [..] => return Err(CopyError::NotEmpty(url.to_string())),
        }
        let mut filling = directory.as_os_str().to_owned();
        filling.push(".copying");
        let filling = PathBuf::from(filling);
        // What is left of a copy that was broken off.
        match std::fs::remove_dir_all(&filling) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::file("remove", &filling, error).into());
            }
            Ok(()) | Err(_) => {}
        }
        let files = files::take(&filling)?;
        let conn = newest(&files)?;
        conn.execute_batch("BEGIN").map_err(sql)?;
        Ok(Self { conn, files, filled: Some((filling, directory.to_owned())) })
    }

    pub(crate) fn tables(&self) -> Result<Vec<Table>, StoreError> {
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let columns = "SELECT name FROM pragma_table_info(?1) ORDER BY name";
        let names: Vec<String> = self.column(names, ())?;
        let table = |name: String| Ok(Table { columns: self.column(columns, (&name,))?, name });
        names.into_iter().map(table).collect()
    }

    fn column(&self, query: &str, params: impl rusqlite::Params) -> Result<Vec<String>, StoreError> {
        let mut statement = self.conn.prepare(query).map_err(sql)?;
        let rows = statement.query_map(params, |row| row.get(0)).map_err(sql)?;
        rows.collect::<Result<_, _>>().map_err(sql)
    }

    pub(crate) async fn each(
        &self,
        table: &Table,
        mut give: impl AsyncFnMut(Vec<Value>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let query = format!("SELECT {} FROM {}", quoted(&table.columns), quoted(std::slice::from_ref(&table.name)));
        let mut statement = self.conn.prepare(&query).map_err(sql)?;
        let mut rows = statement.query(()).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            give(read(row, table.columns.len())?).await?;
        }
        Ok(())
    }

    pub(crate) fn insert(&self, table: &Table, row: &[Value]) -> Result<(), StoreError> {
        let places = vec!["?"; row.len()].join(", ");
        let name = quoted(std::slice::from_ref(&table.name));
        let insert = format!("INSERT INTO {name} ({}) VALUES ({places})", quoted(&table.columns));
        let mut insert = self.conn.prepare_cached(&insert).map_err(sql)?;
        insert.execute(params_from_iter(row)).map(drop).map_err(sql)
    }

    /// Gives it its name.
    pub(crate) fn keep(self) -> Result<(), StoreError> {
        let Some((filling, place)) = self.filled else { return Ok(()) };
        self.conn.execute_batch("COMMIT").map_err(sql)?;
        self.conn.close().map_err(|(_, error)| sql(error))?;
        self.files.note_made();
        durable::move_to("store.copied", &filling, &place)
            .map_err(|error| StoreError::file("put the copy in", &place, error))
    }
}

/// The database, with the newest schema.
fn newest(files: &Files) -> Result<Connection, StoreError> {
    let mut conn = connect(files)?;
    let found = schema::look(&conn, &files.database)?;
    schema::migrate(&mut conn, &found, None)?;
    Ok(conn)
}

fn sql(error: rusqlite::Error) -> StoreError {
    StoreError::sql(NAME, error)
}

/// Names from the database's own schema.
fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn read(row: &Row<'_>, columns: usize) -> Result<Vec<Value>, StoreError> {
    let value = |at| {
        Ok(match row.get_ref(at).map_err(sql)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Text(text) => {
                let text = str::from_utf8(text).map_err(|_| StoreError::Value("a text that is none"))?;
                Value::Text(text.to_owned())
            }
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_owned()),
            ValueRef::Real(_) => return Err(StoreError::Value("a broken number")),
        })
    };
    (0..columns).map(value).collect()
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Null => rusqlite::types::Null.to_sql(),
            Self::Integer(number) => number.to_sql(),
            Self::Text(text) => text.to_sql(),
            Self::Bytes(bytes) => bytes.to_sql(),
        }
    }
}
