//! One end of a copy: one connection, one transaction.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, query};

use super::{lease, schema};
use crate::error::StoreError;
use crate::table::{CopyError, Table, Value};
use crate::url::StoreUrl;

const NAME: &str = "copy the store";
/// What has no meaning elsewhere: what is known of this database's gateways.
const OWN_TABLES: &str = "('palatine', 'gateways', 'news')";
const OWN_COLUMN: &str = "claim_epoch";

/// How a column is typed.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Boolean,
    Text,
    Bytes,
}

/// A PostgreSQL database that no gateway uses.
pub(crate) struct PostgresEnd {
    conn: PgConnection,
    /// By table and column.
    kinds: BTreeMap<(String, String), Kind>,
    /// Columns that number rows by themselves.
    numbered: Vec<(String, String)>,
}

impl PostgresEnd {
    /// Opens it, and keeps gateways out until this is dropped.
    pub(crate) async fn open(options: &PgConnectOptions, url: &StoreUrl) -> Result<Self, CopyError> {
        let mut conn = PgConnection::connect_with(options).await.map_err(sql)?;
        schema::migrate(&mut conn, &url.to_string(), |_| Ok::<_, StoreError>(None)).await?;
        if !lease::begin_alone(&mut conn).await.map_err(sql)? {
            return Err(CopyError::InUse(url.to_string()));
        }
        let mut end = Self { conn, kinds: BTreeMap::new(), numbered: Vec::new() };
        end.look().await?;
        Ok(end)
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let columns = format!(
            "SELECT table_name::text, column_name::text, data_type::text, is_identity::text \
             FROM information_schema.columns WHERE table_schema = current_schema() \
             AND table_name NOT IN {OWN_TABLES} AND column_name <> '{OWN_COLUMN}'"
        );
        for row in query(AssertSqlSafe(columns)).fetch_all(&mut self.conn).await.map_err(sql)? {
            let text = |at: usize| row.try_get::<String, _>(at).map_err(sql);
            let key = (text(0)?, text(1)?);
            let kind = match text(2)?.as_str() {
                "bigint" => Kind::Integer,
                "boolean" => Kind::Boolean,
                "text" => Kind::Text,
                "bytea" => Kind::Bytes,
                _ => return Err(StoreError::Value("a column of a type that no version uses")),
            };
            if text(3)? == "YES" {
                self.numbered.push(key.clone());
            }
            self.kinds.insert(key, kind);
        }
        Ok(())
    }

    pub(crate) fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for (name, column) in self.kinds.keys() {
            match tables.last_mut().filter(|table| table.name == *name) {
                Some(table) => table.columns.push(column.clone()),
                None => tables.push(Table { name: name.clone(), columns: vec![column.clone()] }),
            }
        }
        tables
    }

    fn kinds(&self, table: &Table) -> Vec<Kind> {
        let key = |column: &String| (table.name.clone(), column.clone());
        table.columns.iter().filter_map(|column| self.kinds.get(&key(column)).copied()).collect()
    }

    pub(crate) async fn each(
        &mut self,
        table: &Table,
        mut give: impl AsyncFnMut(Vec<Value>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let kinds = self.kinds(table);
        let select = format!("SELECT {} FROM \"{}\"", quoted(&table.columns), table.name);
        let mut rows = query(AssertSqlSafe(select)).fetch(&mut self.conn);
        while let Some(row) = rows.try_next().await.map_err(sql)? {
            let values = kinds.iter().enumerate().map(|(at, kind)| read(&row, at, *kind));
            give(values.collect::<sqlx::Result<_>>().map_err(sql)?).await?;
        }
        Ok(())
    }

    pub(crate) async fn insert(&mut self, table: &Table, row: Vec<Value>) -> Result<(), StoreError> {
        let kinds = self.kinds(table);
        let places: Vec<_> = (1..=row.len()).map(|at| format!("${at}")).collect();
        let columns = quoted(&table.columns);
        let insert = format!("INSERT INTO \"{}\" ({columns}) VALUES ({})", table.name, places.join(", "));
        let mut insert = query(AssertSqlSafe(insert));
        for (value, kind) in row.into_iter().zip(kinds) {
            insert = match (kind, value) {
                (Kind::Integer, Value::Integer(number)) => insert.bind(number),
                (Kind::Boolean, Value::Integer(number @ (0 | 1))) => insert.bind(number == 1),
                (Kind::Text, Value::Text(text)) => insert.bind(text),
                (Kind::Bytes, Value::Bytes(bytes)) => insert.bind(bytes),
                (Kind::Integer, Value::Null) => insert.bind(None::<i64>),
                (Kind::Boolean, Value::Null) => insert.bind(None::<bool>),
                (Kind::Text, Value::Null) => insert.bind(None::<String>),
                (Kind::Bytes, Value::Null) => insert.bind(None::<Vec<u8>>),
                (Kind::Integer | Kind::Boolean | Kind::Text | Kind::Bytes, _) => {
                    return Err(StoreError::Value("a value of another type than its column"));
                }
            };
        }
        insert.execute(&mut self.conn).await.map(drop).map_err(sql)
    }

    /// New numbers follow those that were copied; then everything is there at once.
    pub(crate) async fn keep(mut self) -> Result<(), StoreError> {
        for (table, column) in &self.numbered {
            let next = format!(
                "SELECT setval(pg_get_serial_sequence('\"{table}\"', '{column}'), \
                 coalesce((SELECT max(\"{column}\") FROM \"{table}\"), 0) + 1, false)"
            );
            query(AssertSqlSafe(next)).execute(&mut self.conn).await.map_err(sql)?;
        }
        query("COMMIT").execute(&mut self.conn).await.map_err(sql)?;
        self.conn.close().await.map_err(sql)
    }
}

fn sql(error: sqlx::Error) -> StoreError {
    StoreError::postgres(NAME, error)
}

/// Names from the database's own schema.
fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn read(row: &PgRow, at: usize, kind: Kind) -> sqlx::Result<Value> {
    let value = match kind {
        Kind::Integer => row.try_get::<Option<i64>, _>(at)?.map(Value::Integer),
        Kind::Boolean => row.try_get::<Option<bool>, _>(at)?.map(|yes| Value::Integer(i64::from(yes))),
        Kind::Text => row.try_get::<Option<String>, _>(at)?.map(Value::Text),
        Kind::Bytes => row.try_get::<Option<Vec<u8>>, _>(at)?.map(Value::Bytes),
    };
    Ok(value.unwrap_or(Value::Null))
}
