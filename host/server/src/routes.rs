use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use casemate_gate::{ChangeLine, Gate, GateError, MAX_TEXT, Question, Reply, Session};
use casemate_types::{Level, Phase};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connections;
use crate::error::{ApiError, ServerError};
use crate::sessions::Sessions;

/// Serves an open gate on an already bound loopback listener until the process is asked to stop.
pub async fn serve(gate: Arc<Gate>, listener: TcpListener) -> Result<(), ServerError> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(ServerError::NotLoopback(address));
    }
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let app = Arc::new(App { gate, sessions: Sessions::default() });
    tokio::spawn(sweep(Arc::downgrade(&app)));
    tokio::spawn(revocations(Arc::downgrade(&app)));
    tokio::spawn(orders(Arc::downgrade(&app)));
    tokio::spawn(bundles(Arc::downgrade(&app)));
    tokio::spawn(changes(Arc::downgrade(&app)));
    connections::serve(listener, router(Arc::clone(&app)), stop()).await;
    app.sessions.end_all(&app.gate).await;
    Ok(())
}

async fn stop() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}

/// The routes.
///
/// | route | body | answer |
/// |---|---|---|
/// | `GET /healthz` | | 200 `{"status":"ok"}`; the only call without a token |
/// | `GET /v1/health` | | token, generation, embedder; `tokens`: the state of a pair |
/// | `POST /v1/ask` | `{"question", "filter": {name: value}}` | answer with citations, or a denial |
/// | `POST /v1/changes` | a signed bundle | the change that the user asks for, and where it stands |
/// | `POST /v1/policy/evaluate` | `{"phase", "action", "text", "attributes", "passage"}` | the chain's decision |
fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { ([(header::CONNECTION, "close")], Json(json!({ "status": "ok" }))) }))
        .route("/v1/health", get(health))
        .route("/v1/ask", post(ask))
        .route("/v1/policy/evaluate", post(evaluate))
        .route("/v1/changes", post(receive))
        .fallback(|| async { ApiError::not_found() })
        .layer(middleware::map_response(close_unless_served))
        .with_state(app)
}

/// Only who is served keeps a connection: strangers cannot hold the places of users.
async fn close_unless_served(mut response: Response) -> Response {
    if response.status() != StatusCode::OK {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The token must answer a question about its health this soon.
const TOKEN_TIME: Duration = Duration::from_secs(10);

/// A body must be there this soon after its head.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Largest body: a text of the largest size, escaped, and its attributes.
const MAX_BODY: usize = MAX_TEXT * 2;

/// Largest bundle.
const MAX_BUNDLE: usize = 64 << 20;

/// A bundle must be there this soon after its head.
const BUNDLE_TIME: Duration = Duration::from_secs(60);

/// Ends idle sessions once a minute, as long as the server lives.
async fn sweep(app: Weak<App>) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let Some(app) = app.upgrade() else { return };
        app.sessions.sweep(&app.gate).await;
    }
}

/// Carries out, as long as the server lives, what `casemate keys revoke` asks for beside it.
async fn revocations(app: Weak<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(app) = app.upgrade() else { return };
        let gate = Arc::clone(&app.gate);
        let done = tokio::task::spawn_blocking(move || gate.carry_out_revocations()).await.unwrap_or_default();
        for (user, result) in &done {
            match result {
                Ok(()) => tracing::info!(%user, "revoked"),
                Err(error) => tracing::warn!(%user, %error, "not revoked"),
            }
        }
        if !done.is_empty() {
            app.sessions.end_revoked(&app.gate).await;
        }
    }
}

/// Carries out, as long as the server lives, the orders that custodians give beside it.
async fn orders(app: Weak<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Some(app) = app.upgrade() else { return };
        for result in app.gate.carry_out_orders().await {
            match result {
                Ok(done) => tracing::warn!(action = %done.action, what = %done.what, "an order was carried out"),
                Err(error) => tracing::warn!(%error, "an order was refused"),
            }
        }
    }
}

/// Activates, as long as the server lives, the bundles that are offered beside it. Apart from orders: compiling takes its time.
async fn bundles(app: Weak<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(app) = app.upgrade() else { return };
        for result in app.gate.carry_out_bundles().await {
            match result {
                Ok(done) => tracing::info!(name = %done.name, generation = %done.generation, "a bundle is active"),
                Err(error) => tracing::warn!(%error, "a bundle was refused"),
            }
        }
    }
}

/// Stages and activates, as long as the server lives, the changes that are asked for beside it.
async fn changes(app: Weak<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(app) = app.upgrade() else { return };
        for (what, result) in app.gate.carry_out_changes().await {
            match result {
                Ok(()) => tracing::info!(?what, "a change went on"),
                Err(error) => tracing::warn!(?what, %error, "a change was refused"),
            }
        }
    }
}

struct App {
    gate: Arc<Gate>,
    sessions: Sessions,
}

impl App {
    /// Authenticates before the body is looked at.
    async fn session(&self, headers: &HeaderMap) -> Result<Arc<Session>, GateError> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(GateError::Unauthenticated)?;
        self.sessions.get(&self.gate, token.trim()).await
    }
}

/// Reads a body of bounded size. Called after authentication, so that strangers cannot make the server hold their bytes.
async fn body<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let bytes = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(request.into_body(), MAX_BODY))
        .await
        .map_err(|_| ApiError::too_slow())?
        .map_err(|_| ApiError::too_large(format!("a body has at most {MAX_BODY} bytes")))?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::bad_request(format!("malformed body: {error}")))
}

async fn health(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    app.session(&headers).await?;
    let gate = Arc::clone(&app.gate);
    let asked = tokio::task::spawn_blocking(move || gate.health());
    match tokio::time::timeout(TOKEN_TIME, asked).await {
        Ok(Ok(Err(error))) => {
            // An operator wants to know which token of a pair is missing, most of all when both are.
            let tokens = app.gate.tokens();
            let (status, Json(mut body)) = ApiError::from(error).into_parts();
            if let (Some(tokens), Some(fields)) = (tokens, body.as_object_mut()) {
                fields.insert("tokens".to_owned(), json!(tokens));
            }
            return Ok((status, Json(body)).into_response());
        }
        Ok(Ok(Ok(()))) => {}
        Ok(Err(_)) | Err(_) => return Err(ApiError::token_silent()),
    }
    Ok(Json(json!({
        "status": "ok",
        "generation": app.gate.active().generation,
        "embedder": app.gate.embedder_name(),
        "tokens": app.gate.tokens(),
        "rehearsal": app.gate.journal().rehearsal(),
    }))
    .into_response())
}

async fn receive(State(app): State<Arc<App>>, request: Request) -> Result<Json<ChangeLine>, ApiError> {
    let session = app.session(request.headers()).await?;
    let bytes = tokio::time::timeout(BUNDLE_TIME, axum::body::to_bytes(request.into_body(), MAX_BUNDLE))
        .await
        .map_err(|_| ApiError::too_slow())?
        .map_err(|_| ApiError::too_large(format!("a bundle has at most {MAX_BUNDLE} bytes")))?;
    Ok(Json(app.gate.receive_change(&session, &bytes).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskBody {
    question: String,
    #[serde(default)]
    filter: BTreeMap<String, String>,
}

async fn ask(State(app): State<Arc<App>>, request: Request) -> Result<Json<Reply>, ApiError> {
    let session = app.session(request.headers()).await?;
    let ask: AskBody = body(request).await?;
    Ok(Json(app.gate.ask(&session, &ask.question, fields(ask.filter)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvaluateBody {
    #[serde(default = "request_phase")]
    phase: Phase,
    #[serde(default = "evaluate_action")]
    action: String,
    text: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    passage: Option<PassageBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PassageBody {
    compartment: String,
    label: Level,
    #[serde(default)]
    title: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

fn request_phase() -> Phase {
    Phase::Request
}

fn evaluate_action() -> String {
    "evaluate".to_owned()
}

async fn evaluate(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let session = app.session(request.headers()).await?;
    let body: EvaluateBody = body(request).await?;
    let question = Question {
        phase: body.phase,
        action: body.action,
        text: body.text,
        passage: body.passage.map(|passage| casemate_gate::wit::PassageInfo {
            collection: passage.compartment.clone(),
            document: String::new(),
            title: passage.title,
            source: passage.source,
            compartment: passage.compartment,
            label: passage.label.into(),
            metadata: fields(passage.metadata),
        }),
        attributes: fields(body.attributes),
    };
    let (id, decided) = app.gate.evaluate(&session, question).await?;
    Ok(Json(json!({ "id": id, "decision": decided.decision, "policy": decided.policy })))
}

fn fields(map: BTreeMap<String, String>) -> Vec<casemate_gate::wit::Field> {
    map.into_iter().map(|(name, value)| casemate_gate::wit::Field { name, value }).collect()
}
