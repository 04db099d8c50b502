use std::collections::BTreeSet;
use std::fmt;

use casemate_types::{Digest, Phase, PluginName};
use serde::{Deserialize, Serialize};

use crate::BundleError;

/// The whole authority of a plugin, as its `manifest.toml` says it. Nothing is granted by default.
///
/// ```
/// let manifest = casemate_bundle::Manifest::parse(r#"
///     name = "clearance"
///     version = "1.0.0"
///     world = "policy"
///     summary = "No read up."
///     capabilities = ["session", "log"]
///     phases = ["request", "retrieval"]
///
///     [limits]
///     time-ms = 20
/// "#)?;
/// assert_eq!(manifest.limits.time_ms, 20);
/// assert!(manifest.keys.is_empty());
/// # Ok::<(), casemate_bundle::BundleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Manifest {
    /// The plugin's name at the site.
    pub name: PluginName,
    /// The plugin author's version, `MAJOR.MINOR.PATCH` with an optional `-PRERELEASE`. For people; the site orders
    /// bundles by the bundle's version.
    pub version: String,
    /// What the component is.
    pub world: World,
    /// One line for people, at most 200 characters.
    pub summary: String,
    /// What the component may call.
    pub capabilities: BTreeSet<Capability>,
    /// Those of them whose every call is put to the policies first (phase `action`). Empty unless said; never for a policy,
    /// which would be asked about itself.
    pub ask_policy: BTreeSet<Capability>,
    /// The names of the site's keys that `fpe` and `hsm` may use, sorted. Empty unless said.
    pub keys: Vec<String>,
    /// When a policy is asked: all four phases unless said. Empty for the other worlds.
    pub phases: BTreeSet<Phase>,
    /// What a call may use up.
    pub limits: Limits,
}

impl Manifest {
    /// Parses a manifest of at most 64 KiB; unknown keys are errors.
    pub fn parse(toml: &str) -> Result<Self, BundleError> {
        if toml.len() > MAX_MANIFEST {
            let (size, max) = (toml.len() as u64, MAX_MANIFEST as u64);
            return Err(BundleError::EntryTooLarge { entry: "manifest.toml".to_owned(), size, max });
        }
        let raw: RawManifest = toml::from_str(toml).map_err(|error| BundleError::Manifest(Box::new(error)))?;
        if !is_version(&raw.version) {
            return Err(rule("version", "must be MAJOR.MINOR.PATCH, optionally with -PRERELEASE"));
        }
        if raw.summary.is_empty() || raw.summary.chars().count() > 200 || raw.summary.chars().any(is_deceptive) {
            return Err(rule("summary", "must be 1 to 200 characters on one line, without control characters"));
        }
        for capability in &raw.capabilities {
            if !raw.world.offers(*capability) {
                let (world, capability) = (raw.world.as_str(), capability.as_str());
                return Err(BundleError::CapabilityOutsideWorld { world, capability });
            }
        }
        if let Some(extra) = raw.ask_policy.difference(&raw.capabilities).next() {
            return Err(rule("ask-policy", format!("names `{extra}`, which is not among the capabilities")));
        }
        if raw.world == World::Policy && !raw.ask_policy.is_empty() {
            return Err(rule("ask-policy", "must be empty for a policy: policies are not asked about policies"));
        }
        // Their answers are settled before the component runs, so there is no call to ask about.
        if let Some(fixed) = raw.ask_policy.iter().find(|c| matches!(c, Capability::Clock | Capability::Session)) {
            return Err(rule("ask-policy", format!("cannot name `{fixed}`: it gives what the request already holds")));
        }
        let keys: BTreeSet<String> = raw.keys.iter().cloned().collect();
        if keys.len() != raw.keys.len() || keys.iter().any(|key| key.parse::<PluginName>().is_err()) {
            return Err(rule("keys", "must be distinct names: a lower-case letter, then `a-z 0-9 -`, at most 63"));
        }
        let phases = match (raw.world, raw.phases) {
            (World::Policy, None) => [Phase::Request, Phase::Retrieval, Phase::Action, Phase::Response].into(),
            (World::Policy, Some(phases)) if phases.is_empty() => {
                return Err(rule("phases", "must not be empty: the policy would never be asked"));
            }
            (World::Policy, Some(phases)) => phases,
            (_, None) => BTreeSet::new(),
            (_, Some(_)) => return Err(rule("phases", "is for policies only; remove it")),
        };
        Ok(Self {
            limits: raw.limits.check(raw.world)?,
            name: raw.name,
            version: raw.version,
            world: raw.world,
            summary: raw.summary,
            capabilities: raw.capabilities,
            ask_policy: raw.ask_policy,
            keys: keys.into_iter().collect(),
            phases,
        })
    }
}

/// What a component exports: one of the worlds of package `casemate:plugin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Answers questions with the passages it may read.
    AgentHandler,
    /// Decides.
    Policy,
    /// Finds passages.
    RetrievalStrategy,
}

impl World {
    /// The name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AgentHandler => "agent-handler",
            Self::Policy => "policy",
            Self::RetrievalStrategy => "retrieval-strategy",
        }
    }

    /// The world with its package, as components name it.
    pub fn target(self) -> String {
        format!("casemate:plugin/{self}@0.1.0")
    }

    /// Whether the world of the contract (`wit/worlds.wit`) imports the capability at all.
    pub fn offers(self, capability: Capability) -> bool {
        match capability {
            Capability::Hsm => self != Self::RetrievalStrategy,
            Capability::Records | Capability::Retrieval => self == Self::AgentHandler,
            Capability::Vectors => self == Self::RetrievalStrategy,
            _ => true,
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names the contract with plugins, `wit/`, of this program: SHA-256 over its files in alphabetical order without comments, each run of
/// white space as one space.
///
/// A bundle says against which contract its component was built. Whether it fits is decided by its types, when it is loaded.
pub fn contract_digest() -> Digest {
    let files = [
        include_str!("../../../wit/capabilities.wit"),
        include_str!("../../../wit/types.wit"),
        include_str!("../../../wit/worlds.wit"),
    ];
    let lines = files.iter().flat_map(|file| file.lines()).map(|line| line.split("//").next().unwrap_or_default());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    Digest::of(words.join(" ").as_bytes())
}

macro_rules! capabilities {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// Something a component may call: one interface of package `casemate:plugin`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Capability {
            $($(#[$doc])* $variant,)*
        }

        impl Capability {
            /// Every capability, in alphabetical order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in manifests.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The interface it grants, as the component imports it.
            pub fn interface(self) -> &'static str {
                match self { $(Self::$variant => concat!("casemate:plugin/", $text, "@0.1.0"),)* }
            }
        }
    };
}

capabilities! {
    /// Annotate the audit record of the decision.
    Audit = "audit";
    /// The time at which the request was accepted.
    Clock = "clock";
    /// Format-preserving encryption with keys inside the HSM.
    Fpe = "fpe";
    /// Sign, MAC and key information, by handle.
    Hsm = "hsm";
    /// The local model.
    Inference = "inference";
    /// Small scoped state.
    Kv = "kv";
    /// The site's operational log.
    Log = "log";
    /// Randomness.
    Random = "random";
    /// Open a sealed passage.
    Records = "records";
    /// Ask the site's retrieval strategy.
    Retrieval = "retrieval";
    /// The claims of the user.
    Session = "session";
    /// Encrypted collections and scored search.
    Vectors = "vectors";
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one call of a component may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Limits {
    /// Linear memory, in bytes, all memories together. Default 4 MiB, at least 64 KiB, at most 256 MiB.
    pub memory_bytes: u64,
    /// Table elements, all tables together. Default 1,024, at most 100,000.
    pub table_elements: u32,
    /// Wall-clock time of the whole call, in milliseconds. Default 50 for a policy and 5,000 for the others, at least 1,
    /// at most 60,000.
    pub time_ms: u64,
    /// The returned value, in bytes. Default 64 KiB, at least 1, at most 4 MiB.
    pub output_bytes: u64,
    /// Calls of host functions. Default 64, at most 100,000.
    pub host_calls: u32,
    /// Arguments and answers of host functions together, in bytes. Default 1 MiB, at most 64 MiB.
    pub host_bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawManifest {
    name: PluginName,
    version: String,
    world: World,
    summary: String,
    capabilities: BTreeSet<Capability>,
    #[serde(default)]
    ask_policy: BTreeSet<Capability>,
    #[serde(default)]
    keys: Vec<String>,
    phases: Option<BTreeSet<Phase>>,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawLimits {
    memory_bytes: Option<u64>,
    table_elements: Option<u64>,
    time_ms: Option<u64>,
    output_bytes: Option<u64>,
    host_calls: Option<u64>,
    host_bytes: Option<u64>,
}

impl RawLimits {
    fn check(&self, world: World) -> Result<Limits, BundleError> {
        let time_ms = if world == World::Policy { 50 } else { 5_000 };
        Ok(Limits {
            memory_bytes: limit("memory-bytes", self.memory_bytes, 4 << 20, 64 << 10, 256 << 20)?,
            table_elements: limit("table-elements", self.table_elements, 1024, 0, 100_000)? as u32,
            time_ms: limit("time-ms", self.time_ms, time_ms, 1, 60_000)?,
            output_bytes: limit("output-bytes", self.output_bytes, 64 << 10, 1, 4 << 20)?,
            host_calls: limit("host-calls", self.host_calls, 64, 0, 100_000)? as u32,
            host_bytes: limit("host-bytes", self.host_bytes, 1 << 20, 0, 64 << 20)?,
        })
    }
}

fn limit(limit: &'static str, asked: Option<u64>, default: u64, min: u64, max: u64) -> Result<u64, BundleError> {
    let value = asked.unwrap_or(default);
    if (min..=max).contains(&value) { Ok(value) } else { Err(BundleError::LimitOutOfRange { limit, value, min, max }) }
}

fn rule(key: &'static str, rule: impl Into<String>) -> BundleError {
    BundleError::ManifestRule { key, rule: rule.into() }
}

fn is_version(text: &str) -> bool {
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    text.len() <= 64
        && core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(word))
}

/// Characters that could make a terminal show an approver something else than what is signed.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

const MAX_MANIFEST: usize = 64 << 10;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HEAD: &str = "name='p'\nversion='1.2.3'\nsummary='s'\n";

    fn parse(rest: &str) -> Result<Manifest, BundleError> {
        Manifest::parse(&format!("{HEAD}{rest}"))
    }

    #[test]
    fn defaults_grant_nothing_and_are_as_documented() {
        let manifest = parse("world='policy'\ncapabilities=[]").unwrap();
        assert!(manifest.capabilities.is_empty() && manifest.ask_policy.is_empty() && manifest.keys.is_empty());
        assert_eq!(manifest.phases.len(), 4);
        let limits = manifest.limits;
        assert_eq!((limits.memory_bytes, limits.table_elements, limits.time_ms), (4 << 20, 1024, 50));
        assert_eq!((limits.output_bytes, limits.host_calls, limits.host_bytes), (64 << 10, 64, 1 << 20));
        let agent = parse("world='agent-handler'\ncapabilities=['records']\nask-policy=['records']").unwrap();
        assert!(agent.phases.is_empty() && agent.limits.time_ms == 5_000);
    }

    #[test]
    fn unknown_key_is_named() {
        for rest in
            ["world='policy'\ncapabilities=[]\nnetwork=true", "world='policy'\ncapabilities=[]\n[limits]\nfuel=1"]
        {
            let Err(BundleError::Manifest(error)) = parse(rest) else { panic_here(rest) };
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn unknown_capability_is_named() {
        let Err(BundleError::Manifest(error)) = parse("world='policy'\ncapabilities=['socket']") else {
            panic_here("socket")
        };
        assert!(error.to_string().contains("socket"), "{error}");
    }

    #[test]
    fn missing_capabilities_is_an_error_and_not_everything() {
        assert!(matches!(parse("world='policy'"), Err(BundleError::Manifest(_))));
    }

    #[test]
    fn limit_above_the_maximum_or_useless_is_named() {
        for (key, bad) in [
            ("memory-bytes", (256 << 20) + 1),
            ("memory-bytes", 0),
            ("table-elements", 100_001),
            ("time-ms", 60_001),
            ("time-ms", 0),
            ("output-bytes", (4 << 20) + 1),
            ("host-calls", 100_001),
            ("host-calls", u64::from(u32::MAX) + 2),
            ("host-bytes", (64 << 20) + 1),
        ] {
            let text = format!("world='policy'\ncapabilities=[]\n[limits]\n{key}={bad}");
            let error = parse(&text);
            assert!(
                matches!(error, Err(BundleError::LimitOutOfRange { limit, .. }) if limit == key),
                "{key} {error:?}"
            );
        }
        assert!(parse("world='policy'\ncapabilities=[]\n[limits]\nmemory-bytes=268435456").is_ok());
        assert!(parse("world='policy'\ncapabilities=[]\n[limits]\ntime-ms=-1").is_err());
    }

    #[test]
    fn ask_policy_outside_the_capabilities_is_named() {
        let error = parse("world='agent-handler'\ncapabilities=['log']\nask-policy=['records']");
        assert!(matches!(error, Err(BundleError::ManifestRule { key: "ask-policy", .. })));
    }

    #[test]
    fn ask_policy_that_would_never_be_asked_is_refused() {
        for fixed in ["clock", "session"] {
            let error = parse(&format!("world='agent-handler'\ncapabilities=['{fixed}']\nask-policy=['{fixed}']"));
            assert!(matches!(error, Err(BundleError::ManifestRule { key: "ask-policy", .. })), "{fixed}");
        }
    }

    #[test]
    fn policy_that_asks_policies_is_refused() {
        let error = parse("world='policy'\ncapabilities=['log']\nask-policy=['log']");
        assert!(matches!(error, Err(BundleError::ManifestRule { key: "ask-policy", .. })));
    }

    #[test]
    fn capability_outside_the_world_is_refused() {
        for (world, capability) in [("policy", "vectors"), ("policy", "records"), ("retrieval-strategy", "hsm")] {
            let error = parse(&format!("world='{world}'\ncapabilities=['{capability}']"));
            assert!(matches!(error, Err(BundleError::CapabilityOutsideWorld { .. })), "{world} {capability}");
        }
    }

    #[test]
    fn phases_must_make_sense() {
        for rest in
            ["world='policy'\ncapabilities=[]\nphases=[]", "world='agent-handler'\ncapabilities=[]\nphases=['request']"]
        {
            assert!(matches!(parse(rest), Err(BundleError::ManifestRule { key: "phases", .. })), "{rest}");
        }
    }

    #[test]
    fn terminal_escapes_in_the_summary_are_refused() {
        for summary in [r"\u001b[2K", r"\u202e", r"a\nb", ""] {
            let text = format!("name='p'\nversion='1.0.0'\nworld='policy'\ncapabilities=[]\nsummary=\"{summary}\"");
            assert!(
                matches!(Manifest::parse(&text), Err(BundleError::ManifestRule { key: "summary", .. })),
                "{summary}"
            );
        }
    }

    #[test]
    fn versions_are_semver_shaped() {
        assert!(["0.0.1", "1.2.3-rc.1", "10.0.0"].into_iter().all(is_version));
        assert!(!["1", "1.2", "1.2.3.4", "01.0.0", "1.0.0-", "1.0.x", "", "v1.0.0"].into_iter().any(is_version));
    }

    #[test]
    fn duplicate_or_hostile_key_names_are_refused() {
        for keys in ["['a','a']", "['../a']", "['']"] {
            let error = parse(&format!("world='policy'\ncapabilities=['fpe']\nkeys={keys}"));
            assert!(matches!(error, Err(BundleError::ManifestRule { key: "keys", .. })), "{keys}");
        }
    }

    #[test]
    fn interfaces_are_spelled_as_in_the_contract() {
        assert_eq!(Capability::ALL.len(), 12);
        assert!(Capability::ALL.is_sorted());
        for capability in Capability::ALL {
            assert_eq!(capability.interface(), format!("casemate:plugin/{capability}@0.1.0"));
            assert_eq!(serde_json::to_value(capability).unwrap(), capability.as_str());
        }
    }

    #[allow(clippy::panic, reason = "tests")]
    fn panic_here(what: &str) -> ! {
        panic!("accepted: {what}")
    }
}
