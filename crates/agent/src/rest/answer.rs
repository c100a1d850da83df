//! An answer, before it is HTTP.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

/// A code and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Content type and text; None for an empty body.
    pub body: Option<(&'static str, String)>,
    /// Ask for a password.
    pub challenge: bool,
}

impl Answer {
    /// Only a code.
    #[must_use]
    pub fn empty(code: u16) -> Answer {
        Answer { code, body: None, challenge: false }
    }

    /// A JSON document.
    #[must_use]
    pub fn json(code: u16, value: &Value) -> Answer {
        Answer { code, body: Some(("application/json", value.to_string())), challenge: false }
    }

    /// A sentence. Patroni sends these as `text/html`, and so does this.
    #[must_use]
    pub fn text(code: u16, text: impl Into<String>) -> Answer {
        Answer { code, body: Some(("text/html", text.into())), challenge: false }
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(text: String) -> Answer {
        Answer { code: 200, body: Some(("text/plain; version=0.0.4; charset=utf-8", text)), challenge: false }
    }

    /// 401 with the challenge.
    #[must_use]
    pub fn unauthorized(why: &str) -> Answer {
        Answer { challenge: true, ..Answer::text(401, why) }
    }

    /// The response.
    #[must_use]
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let (kind, body) = self.body.unzip();
        let mut response = Response::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(kind) = kind {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if self.challenge {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"quorate\""));
        }
        response
    }
}
