//! Perturbed vectors in PostgreSQL, by pgvector, with an HNSW index a collection. Made when the first ones come.

use aws_lc_rs::digest::{SHA256, digest};
use casemate_types::CollectionName;
use casemate_vectors::{Hints, Position};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::{BackendError, Postgres};

/// What pgvector's `hnsw.ef_search` goes up to.
const MOST: u32 = 1000;

/// Within the transaction of a change.
pub(crate) fn replace(store: &Postgres, client: &Client, all: Vec<Hints>) -> Result<(), BackendError> {
    if all.is_empty() || (all.iter().all(|hints| hints.vectors.is_empty()) && !there(store, client)?) {
        return Ok(());
    }
    for Hints { collection, group, vectors } in all {
        if let Some(dimension) = vectors.first().map(Vec::len) {
            prepare(store, client, &collection, dimension)?;
        }
        let (name, group) = (collection.as_str(), group.map(i64::from));
        let sql = "DELETE FROM casemate_hints_1 WHERE collection = $1 AND ($2::bigint IS NULL OR grp = $2)";
        store.run(client.query_typed(sql, &[(&name, Type::TEXT), (&group, Type::INT8)]))?;
        let texts: Vec<String> = vectors.iter().map(|vector| text(vector)).collect();
        if !texts.is_empty() {
            let sql = "INSERT INTO casemate_hints_1 (collection, grp, slot, hint)
                SELECT $1, $2, place - 1, hint::vector FROM unnest($3::text[]) WITH ORDINALITY AS given (hint, place)";
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
                [(&name, Type::TEXT), (&group, Type::INT8), (&texts, Type::TEXT_ARRAY)];
            store.run(client.query_typed(sql, &parameters))?;
        }
    }
    Ok(())
}

/// Within a transaction. Nothing where there are no hints at all.
pub(crate) fn nearest(
    store: &Postgres,
    client: &Client,
    collection: &CollectionName,
    hint: &[f32],
    count: u32,
) -> Result<Vec<Position>, BackendError> {
    if !there(store, client)? {
        return Ok(Vec::new());
    }
    let count = count.min(MOST);
    // What was deleted stays in the index for a while and takes places: the scan goes on until it has enough.
    let settings = format!(
        "SET LOCAL hnsw.ef_search = {}; SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL enable_seqscan = off",
        count.max(40)
    );
    store.run(client.batch_execute(&settings))?;
    // The index is found by these very words: no parameters for collection and dimension.
    let sql = format!(
        "SELECT grp, slot FROM casemate_hints_1 WHERE collection = '{}' ORDER BY hint::vector({}) <-> $1::text::vector LIMIT {count}",
        literal(collection)?,
        hint.len(),
    );
    let rows = store.run(client.query_typed(&sql, &[(&text(hint), Type::TEXT)]))?;
    let number = |value: i64| u32::try_from(value).map_err(|_| BackendError::Journal);
    rows.iter().map(|row| Ok(Position { group: number(row.try_get(0)?)?, slot: number(row.try_get(1)?)? })).collect()
}

fn there(store: &Postgres, client: &Client) -> Result<bool, BackendError> {
    let rows = store.run(client.query_typed("SELECT to_regclass('casemate_hints_1') IS NOT NULL", &[]))?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
}

fn prepare(
    store: &Postgres,
    client: &Client,
    collection: &CollectionName,
    dimension: usize,
) -> Result<(), BackendError> {
    let name = literal(collection)?;
    let index =
        hex::encode(digest(&SHA256, format!("{name} {dimension}").as_bytes()).as_ref().get(..12).unwrap_or_default());
    let sql = format!(
        "CREATE EXTENSION IF NOT EXISTS vector;
         CREATE TABLE IF NOT EXISTS casemate_hints_1 (collection text, grp bigint, slot bigint, hint vector NOT NULL,
            PRIMARY KEY (collection, grp, slot));
         CREATE INDEX IF NOT EXISTS casemate_hints_{index} ON casemate_hints_1 USING hnsw ((hint::vector({dimension})) vector_l2_ops)
            WHERE collection = '{name}'"
    );
    store.run(client.batch_execute(&sql))
}

/// A name that cannot end a literal.
fn literal(collection: &CollectionName) -> Result<&str, BackendError> {
    let name = collection.as_str();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if plain { Ok(name) } else { Err(BackendError::Http { what: "a collection whose name is no plain one" }) }
}

fn text(vector: &[f32]) -> String {
    let values: Vec<String> = vector.iter().map(ToString::to_string).collect();
    format!("[{}]", values.join(","))
}
