//! Documents that two people signed and that are active: the chain, people and compartments, settings, models, the host's kit. Whether the
//! site can use one is decided before it becomes active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use casemate_bundle::{DocumentKind, Verified, VerifiedBundle, VerifiedDocument, World};
use casemate_engine::Plugin;
use casemate_types::{CompartmentName, Digest, PluginName, UserName};
use serde::Deserialize;

use crate::GateError;
use crate::combine::Combining;
use crate::config::{ChainConfig, CompartmentRule, Mode, UserConfig, entitled};
use crate::site::Gate;

/// The active documents of one generation, read.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    chain: Option<(PluginName, ChainConfig, Digest)>,
    people: Option<(Digest, Arc<People>)>,
    all: BTreeMap<PluginName, (Digest, Arc<VerifiedDocument>)>,
}

/// Who may be a user of the site and with which attributes at most, and whom its compartments admit at most.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct People {
    #[serde(default)]
    users: BTreeMap<UserName, UserConfig>,
    #[serde(default)]
    compartments: BTreeMap<CompartmentName, CompartmentRule>,
}

impl People {
    /// The attributes that the document and `other` agree on; nothing for somebody whom it does not name.
    pub(crate) fn both(&self, user: &UserName, other: &UserConfig) -> Option<UserConfig> {
        self.users.get(user).map(|approved| approved.both(other))
    }

    /// Whether the document gives a user all of these.
    pub(crate) fn allows(&self, user: &UserName, attributes: &UserConfig) -> bool {
        self.both(user, attributes).as_ref() == Some(attributes)
    }

    /// The compartments that admit a user by the document's rules.
    pub(crate) fn compartments_of(&self, user: &UserConfig) -> BTreeSet<CompartmentName> {
        entitled(&self.compartments, user)
    }
}

impl Documents {
    pub(crate) fn read(bundles: Vec<Verified>) -> Result<(Self, Vec<VerifiedBundle>), GateError> {
        let (mut documents, mut components) = (Self::default(), Vec::new());
        for bundle in bundles {
            let (name, digest) = (bundle.name().clone(), bundle.bundle_digest());
            match bundle {
                Verified::Component(bundle) => components.push(*bundle),
                Verified::Document(document) => {
                    match document.manifest().kind {
                        DocumentKind::PolicySet => documents.chain = Some((name.clone(), chain(&document)?, digest)),
                        DocumentKind::People => documents.people = Some((digest, Arc::new(people(&document)?))),
                        _ => {}
                    }
                    documents.all.insert(name, (digest, Arc::from(document)));
                }
            }
        }
        Ok((documents, components))
    }

    /// The chain that two people signed, with name and digest of its bundle.
    pub(crate) fn chain(&self) -> Option<(&PluginName, &ChainConfig, Digest)> {
        self.chain.as_ref().map(|(name, chain, digest)| (name, chain, *digest))
    }

    /// The settings that were signed for this very component, with the name and the digest of their bundle.
    pub(crate) fn settings_of(&self, bundle: &VerifiedBundle) -> Option<(PluginName, Digest, &VerifiedDocument)> {
        self.all.iter().find_map(|(name, (digest, document))| {
            let manifest = document.manifest();
            let meant = manifest.kind == DocumentKind::Settings
                && manifest.subject.as_ref() == Some(&bundle.manifest().name)
                && manifest.component == Some(bundle.component_digest());
            meant.then(|| (name.clone(), *digest, document.as_ref()))
        })
    }
}

fn chain(document: &VerifiedDocument) -> Result<ChainConfig, GateError> {
    let chain: ChainConfig = parse(document)?;
    chain.check().map_err(|problem| unusable(document, problem))?;
    let enforced: Vec<PluginName> =
        chain.policies.iter().filter(|entry| entry.mode == Mode::Enforce).map(|entry| entry.plugin.clone()).collect();
    Combining::parse(&chain.combining, &enforced).map_err(GateError::Combining)?;
    Ok(chain)
}

fn people(document: &VerifiedDocument) -> Result<People, GateError> {
    parse(document)
}

fn parse<T: serde::de::DeserializeOwned>(document: &VerifiedDocument) -> Result<T, GateError> {
    let text = std::str::from_utf8(document.document()).map_err(|error| unusable(document, error.to_string()))?;
    toml::from_str(text).map_err(|error| unusable(document, error.to_string()))
}

fn unusable(document: &VerifiedDocument, problem: impl Into<String>) -> GateError {
    GateError::Document { kind: document.manifest().kind.as_str(), problem: problem.into() }
}

impl Gate {
    /// Whether the site could use this bundle now. Nothing becomes active before.
    pub(crate) async fn try_any(&self, bundle: &Verified) -> Result<(), GateError> {
        match bundle {
            Verified::Component(bundle) => self.try_load(bundle).await.map(drop),
            Verified::Document(document) => self.try_document(document).await,
        }
    }

    async fn try_document(&self, document: &VerifiedDocument) -> Result<(), GateError> {
        match document.manifest().kind {
            DocumentKind::HostKit => Ok(()),
            DocumentKind::Model => crate::Model::from_bytes(document.document()).map(drop),
            DocumentKind::People => people(document).map(drop),
            DocumentKind::PolicySet => {
                let chain = chain(document)?;
                let active = self.components()?;
                let policies = chain.policies.iter().map(|entry| (&entry.plugin, World::Policy));
                let others = [(&chain.agent, World::AgentHandler), (&chain.strategy, World::RetrievalStrategy)];
                for (name, world) in policies.chain(others) {
                    let is =
                        |bundle: &VerifiedBundle| bundle.manifest().name == *name && bundle.manifest().world == world;
                    if !active.iter().any(is) {
                        return Err(unusable(
                            document,
                            format!("it names `{name}`, and no {world} of that name is active"),
                        ));
                    }
                }
                Ok(())
            }
            DocumentKind::Settings => {
                let manifest = document.manifest();
                let active = self.components()?;
                let is = |bundle: &&VerifiedBundle| Some(&bundle.manifest().name) == manifest.subject.as_ref();
                let bundle = active.iter().find(is).ok_or_else(|| unusable(document, "its component is not active"))?;
                if manifest.component != Some(bundle.component_digest()) {
                    let active = bundle.component_digest();
                    return Err(unusable(
                        document,
                        format!("it is for another component than the active one, {active}"),
                    ));
                }
                self.load_plugin(bundle, Some(document)).await.map(drop)
            }
        }
    }

    /// The active components, verified anew.
    fn components(&self) -> Result<Vec<VerifiedBundle>, GateError> {
        let bundles = self.changes()?.load_all(&self.trust()?, self.trusted_now())?;
        Ok(Documents::read(bundles)?.1)
    }

    pub(crate) async fn load_plugin(
        &self,
        bundle: &VerifiedBundle,
        settings: Option<&VerifiedDocument>,
    ) -> Result<Plugin, GateError> {
        let settings = settings.map(VerifiedDocument::settings);
        Ok(Plugin::load_with(self.engine(), bundle, settings.as_ref().unwrap_or_else(|| bundle.settings())).await?)
    }

    /// The people that two officers approved; nothing at a site whose log has seen no such document.
    ///
    /// # Errors
    /// [`GateError::Document`] when there is one and it is not in force: expired, not loaded, stopped or revoked. Then nobody is let in.
    pub(crate) fn approved_people(&self) -> Result<Option<Arc<People>>, GateError> {
        let standing = self.standing();
        let name = standing.active.entries.iter().find(|(name, _)| name.as_str() == PEOPLE);
        let Some((name, entry)) = name else { return Ok(None) };
        let active = self.active();
        match &active.documents.people {
            Some((digest, people)) if *digest == entry.bundle_digest && !standing.denies(name, *digest) => {
                Ok(Some(Arc::clone(people)))
            }
            _ => Err(GateError::Document {
                kind: DocumentKind::People.as_str(),
                problem: "the approved one is not in force; see `casemate change status`".to_owned(),
            }),
        }
    }

    /// The payload of an active document, for instance `site-model-NAME`; nothing where there is none, or where it may not be used.
    pub fn document(&self, name: &PluginName) -> Option<Arc<VerifiedDocument>> {
        let (digest, document) = self.active().documents.all.get(name).cloned()?;
        (!self.standing().denies(name, digest)).then_some(document)
    }
}

/// How the document about people is called.
const PEOPLE: &str = "site-people";
