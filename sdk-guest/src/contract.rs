use crate::{
    CapabilityError, Decision, Denial, Description, Level, Obligation, Request, SettingKind, SettingSpec, Span,
};

impl Decision {
    /// Go on unchanged.
    pub fn allow() -> Self {
        Self::Allow
    }

    /// Stop. `reason` is machine-readable (`a-z 0-9 - : .`, at most 64 characters), `message` one sentence for the user (at
    /// most 512 characters) that must not repeat protected text.
    pub fn deny(reason: &str, message: &str) -> Self {
        Self::Deny(Denial { reason: reason.to_owned(), message: message.to_owned() })
    }

    /// Go on, provided the host carries these out; at most 16 obligations.
    pub fn transform(obligations: impl IntoIterator<Item = Obligation>) -> Self {
        Self::Transform(obligations.into_iter().collect())
    }

    /// Go on with these ranges of the text masked, at most 4,096; allow when there are none.
    pub fn mask(spans: Vec<Span>) -> Self {
        if spans.is_empty() { Self::Allow } else { Self::Transform(vec![Obligation::MaskSpans(spans)]) }
    }
}

impl Description {
    /// A description without settings. `summary` is one line.
    pub fn new(summary: &str) -> Self {
        Self { summary: summary.to_owned(), settings: Vec::new() }
    }

    /// Declares a setting that the site may leave out.
    #[must_use]
    pub fn optional(self, name: &str, kind: SettingKind, summary: &str) -> Self {
        self.with(name, kind, false, summary)
    }

    /// Declares a setting without which the host refuses to load the component.
    #[must_use]
    pub fn required(self, name: &str, kind: SettingKind, summary: &str) -> Self {
        self.with(name, kind, true, summary)
    }

    fn with(mut self, name: &str, kind: SettingKind, required: bool, summary: &str) -> Self {
        self.settings.push(SettingSpec { name: name.to_owned(), kind, required, summary: summary.to_owned() });
        self
    }
}

impl Request {
    /// The first attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|field| field.name == name).map(|field| field.value.as_str())
    }
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Public, Self::Internal, Self::Confidential, Self::Secret];

    /// The name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Secret => "secret",
        }
    }
}

impl CapabilityError {
    /// The reason code, the broken rule or the missing name: whatever the host said.
    pub fn detail(&self) -> &str {
        match self {
            Self::Denied(text) | Self::Invalid(text) | Self::NotFound(text) | Self::Unavailable(text) => text,
        }
    }

    /// `denied`, `invalid`, `not-found` or `unavailable`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::NotFound(_) => "not-found",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// For an operator: what was tried, and what the host said. Without `format!`, which would cost a guest 10 KB.
    pub fn explain(&self, action: &str) -> String {
        [action, ": ", self.kind(), ": ", self.detail()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_lowest_first() {
        assert!(Level::ALL.is_sorted());
        assert!(Level::Secret > Level::Confidential && Level::Internal > Level::Public);
        assert_eq!(Level::ALL.map(Level::as_str), ["public", "internal", "confidential", "secret"]);
    }

    #[test]
    fn masking_nothing_is_allow() {
        assert_eq!(Decision::mask(Vec::new()), Decision::allow());
        let span = Span { start: 0, end: 1, kind: "x".to_owned() };
        assert_eq!(Decision::mask(vec![span.clone()]), Decision::transform([Obligation::MaskSpans(vec![span])]));
    }

    #[test]
    fn an_error_is_explained_with_its_kind() {
        let error = CapabilityError::NotFound("alpha".to_owned());
        assert_eq!(error.explain("opening a collection"), "opening a collection: not-found: alpha");
    }
}
