use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use casemate_gate::GateError;
use casemate_types::Reason;
use serde_json::{Value, json};

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Only loopback addresses are served: there is no TLS here.
    #[error("refusing to listen on {0}: only loopback addresses are served")]
    NotLoopback(std::net::SocketAddr),
    /// The socket failed.
    #[error("cannot serve")]
    Socket(#[from] std::io::Error),
}

/// An error as a caller sees it: a status, a reason code, and a sentence without internal detail.
pub(crate) struct ApiError {
    status: StatusCode,
    reason: String,
    message: String,
}

impl ApiError {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "bad-request".to_owned(), message: message.into() }
    }

    pub(crate) fn not_found() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            reason: "not-found".to_owned(),
            message: "There is no such route; see docs/operating.md.".to_owned(),
        }
    }

    pub(crate) fn token_silent() -> Self {
        tracing::error!("the token did not answer a question about its health");
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: Reason::token_unavailable().to_string(),
            message: "The token does not answer.".to_owned(),
        }
    }

    pub(crate) fn too_slow() -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: "too-slow".to_owned(),
            message: "The body did not arrive in time.".to_owned(),
        }
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, reason: "too-large".to_owned(), message: message.into() }
    }
}

impl From<GateError> for ApiError {
    fn from(error: GateError) -> Self {
        let status = match &error {
            GateError::SessionEnded | GateError::Unauthenticated => StatusCode::UNAUTHORIZED,
            GateError::Approval(_)
            | GateError::Bundle(_)
            | GateError::Ingest(_)
            | GateError::Question(_)
            | GateError::Refused(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let message = match &error {
            GateError::SessionEnded
            | GateError::Unauthenticated
            | GateError::Approval(_)
            | GateError::Bundle(_)
            | GateError::Ingest(_)
            | GateError::Question(_)
            | GateError::Refused(_) => error.to_string(),
            // What failed inside is in the operator's log.
            _ => "The gate cannot decide now, so nothing is allowed.".to_owned(),
        };
        // Strangers cannot fill the operator's log.
        if !matches!(error, GateError::Unauthenticated) {
            tracing::warn!(%error, "request refused");
        }
        Self { status, reason: error.reason().to_string(), message }
    }
}

impl ApiError {
    /// Status and body.
    pub(crate) fn into_parts(self) -> (StatusCode, Json<Value>) {
        (self.status, Json(json!({ "error": self.reason, "message": self.message })))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, body) = self.into_parts();
        let mut response = (status, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(axum::http::header::WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
