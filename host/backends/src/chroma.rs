//! Chroma, by version 2 of its HTTP interface: records whose id is a key and whose metadata holds the value. Every record has the same
//! embedding, because it must have one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::BackendError;
use crate::http::Http;
use crate::journaled::{Entry, Records, Scope};

const PAGE: usize = 1000;

/// A collection of records.
pub(crate) struct Chroma {
    http: Http,
    path: String,
}

impl Chroma {
    /// Makes the collection if it is not there.
    pub(crate) fn open(http: Http, tenant: &str, database: &str, collection: &str) -> Result<Self, BackendError> {
        let path = format!("/api/v2/tenants/{tenant}/databases/{database}/collections");
        let made = http.call("POST", &path, Some(&json!({ "name": collection, "get_or_create": true })))?;
        let id =
            made["id"].as_str().filter(|id| id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')).ok_or(MALFORMED)?;
        Ok(Self { path: format!("{path}/{id}"), http })
    }

    fn post(&self, action: &str, body: &Value) -> Result<Value, BackendError> {
        self.http.call("POST", &format!("{}/{action}", self.path), Some(body))
    }
}

impl Records for Chroma {
    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Entry>, BackendError> {
        let ids: Vec<String> = keys.iter().map(hex::encode).collect();
        let answer = self.post("get", &json!({ "ids": ids, "include": ["metadatas"] }))?;
        let found = ids_of(&answer)?;
        let metadatas = answer["metadatas"].as_array().map(Vec::as_slice).unwrap_or_default();
        if metadatas.len() != found.len() {
            return Err(MALFORMED);
        }
        let value = |metadata: &Value| metadata["value"].as_str().and_then(|text| BASE64.decode(text).ok());
        found.into_iter().zip(metadatas).map(|(key, metadata)| Ok((key, value(metadata).ok_or(MALFORMED)?))).collect()
    }

    fn keys(&self, scope: &Scope) -> Result<Vec<Vec<u8>>, BackendError> {
        let mut keys = Vec::new();
        loop {
            let (field, value) = (scope.field, &scope.value);
            let asked = json!({ "where": { field: value }, "limit": PAGE, "offset": keys.len(), "include": [] });
            let page = ids_of(&self.post("get", &asked)?)?;
            let last = page.len() < PAGE;
            keys.extend(page);
            if last {
                return Ok(keys);
            }
        }
    }

    fn put(&self, entries: &[Entry]) -> Result<(), BackendError> {
        let ids: Vec<String> = entries.iter().map(|(key, _)| hex::encode(key)).collect();
        let metadatas: Vec<Value> = entries
            .iter()
            .map(|(key, value)| {
                let scopes = Scope::all(key).into_iter().map(|scope| (scope.field.to_owned(), scope.value.into()));
                let mut metadata: Map<String, Value> = scopes.collect();
                metadata.insert("value".to_owned(), BASE64.encode(value).into());
                Value::Object(metadata)
            })
            .collect();
        let embeddings = vec![[0.0]; entries.len()];
        self.post("upsert", &json!({ "ids": ids, "embeddings": embeddings, "metadatas": metadatas })).map(drop)
    }

    fn remove(&self, keys: &[Vec<u8>]) -> Result<(), BackendError> {
        if keys.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = keys.iter().map(hex::encode).collect();
        self.post("delete", &json!({ "ids": ids })).map(drop)
    }
}

const MALFORMED: BackendError = BackendError::Http { what: "an answer without the fields that belong in it" };

fn ids_of(answer: &Value) -> Result<Vec<Vec<u8>>, BackendError> {
    let ids = answer["ids"].as_array().ok_or(MALFORMED)?.iter();
    ids.map(|id| id.as_str().and_then(|id| hex::decode(id).ok()).ok_or(MALFORMED)).collect()
}
