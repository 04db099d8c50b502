//! Qdrant, by its REST interface: points without vectors, whose payload is an entry.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::BackendError;
use crate::http::Http;
use crate::journaled::{Entry, Records, Scope};

const PAGE: usize = 4096;

/// A collection of points.
pub(crate) struct Qdrant {
    http: Http,
    path: String,
}

impl Qdrant {
    /// Makes the collection if it is not there.
    pub(crate) fn open(http: Http, collection: &str) -> Result<Self, BackendError> {
        let path = format!("/collections/{collection}");
        match http.ask("GET", &path, None)? {
            (200, _) => {}
            (404, _) => {
                http.call("PUT", &path, Some(&json!({ "vectors": {}, "on_disk_payload": true })))?;
                for field in ["s1", "s2", "s3"] {
                    let index = json!({ "field_name": field, "field_schema": "keyword" });
                    http.call("PUT", &format!("{path}/index?wait=true"), Some(&index))?;
                }
            }
            (status, words) => {
                return Err(BackendError::Answer { status, words: words.to_string().chars().take(512).collect() });
            }
        }
        Ok(Self { http, path })
    }
}

impl Records for Qdrant {
    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Entry>, BackendError> {
        let ids: Vec<String> = keys.iter().map(|key| id(key)).collect();
        let asked = json!({ "ids": ids, "with_payload": ["key", "value"], "with_vector": false });
        let answer = self.http.call("POST", &format!("{}/points", self.path), Some(&asked))?;
        let points = answer["result"].as_array().ok_or(MALFORMED)?;
        points.iter().map(|point| Ok((field(point, "key")?, field(point, "value")?))).collect()
    }

    fn keys(&self, scope: &Scope) -> Result<Vec<Vec<u8>>, BackendError> {
        let mut keys = Vec::new();
        let mut from = Value::Null;
        loop {
            let mut asked = json!({
                "filter": { "must": [{ "key": scope.field, "match": { "value": scope.value } }] },
                "limit": PAGE, "with_payload": ["key"], "with_vector": false,
            });
            if !from.is_null() {
                asked["offset"] = from;
            }
            let answer = self.http.call("POST", &format!("{}/points/scroll", self.path), Some(&asked))?;
            for point in answer["result"]["points"].as_array().ok_or(MALFORMED)? {
                keys.push(field(point, "key")?);
            }
            from = answer["result"]["next_page_offset"].clone();
            if from.is_null() {
                return Ok(keys);
            }
        }
    }

    fn put(&self, entries: &[Entry]) -> Result<(), BackendError> {
        let points: Vec<Value> = entries
            .iter()
            .map(|(key, value)| {
                let mut payload: Map<String, Value> =
                    Scope::all(key).into_iter().map(|scope| (scope.field.to_owned(), scope.value.into())).collect();
                payload.insert("key".to_owned(), BASE64.encode(key).into());
                payload.insert("value".to_owned(), BASE64.encode(value).into());
                json!({ "id": id(key), "vector": {}, "payload": payload })
            })
            .collect();
        let path = format!("{}/points?wait=true&ordering=strong", self.path);
        self.http.call("PUT", &path, Some(&json!({ "points": points }))).map(drop)
    }

    fn remove(&self, keys: &[Vec<u8>]) -> Result<(), BackendError> {
        if keys.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = keys.iter().map(|key| id(key)).collect();
        let path = format!("{}/points/delete?wait=true&ordering=strong", self.path);
        self.http.call("POST", &path, Some(&json!({ "points": ids }))).map(drop)
    }
}

const MALFORMED: BackendError = BackendError::Http { what: "an answer without the fields that belong in it" };

fn field(point: &Value, name: &str) -> Result<Vec<u8>, BackendError> {
    point["payload"][name].as_str().and_then(|text| BASE64.decode(text).ok()).ok_or(MALFORMED)
}

/// A key's point: its SHA-256, cut to the form of a UUID.
fn id(key: &[u8]) -> String {
    let hash = hex::encode(digest(&SHA256, key).as_ref());
    let part = |from, to| hash.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}
