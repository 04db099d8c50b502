//! Queries to models, and models that the tier cannot read.

use casemate_fhe::{EncryptedQuery, EncryptedScores, Params, PlainModel, TierModel};
use zeroize::Zeroizing;

use crate::{CANARIES_PER_GROUP, Canaries, GroupPlace, OwnerError, OwnerKey, QuerySecret};

/// What the owner of a model needs to ask it. No `Debug`, no `Clone`.
pub struct ModelKey {
    owner: OwnerKey,
    rows: usize,
    canaries: Option<(Canaries, GroupPlace)>,
}

/// Opens the logits of one query, once.
pub struct ModelSecret<'a> {
    key: &'a ModelKey,
    asked: Zeroizing<Vec<f32>>,
    secret: QuerySecret,
}

impl ModelKey {
    /// For a model of `rows` rows whose weights are in clear: drawn now and kept by nobody, since no secret but a query's own protects it.
    ///
    /// # Errors
    /// No entropy.
    pub fn passing(params: Params, rows: usize) -> Result<Self, OwnerError> {
        Ok(Self { owner: OwnerKey::ephemeral(params)?, rows, canaries: None })
    }

    /// For a model whose weights are encrypted: derived from a seed, and with canaries among its classes, whose slots and vectors
    /// follow from seed, `name` and the model's own `number`.
    ///
    /// # Errors
    /// [`OwnerError::Fhe`] when the cryptographic library fails.
    pub fn kept(
        seed: &Zeroizing<[u8; 32]>,
        name: &str,
        number: u64,
        params: Params,
        rows: usize,
    ) -> Result<Self, OwnerError> {
        let canaries = Canaries::new(seed, &format!("model/{name}"), params);
        let place = GroupPlace { group: 0, version: number, count: rows.saturating_add(CANARIES_PER_GROUP) };
        Ok(Self { owner: OwnerKey::for_models(seed, params)?, rows, canaries: Some((canaries, place)) })
    }

    /// Encrypts the weights of a model, canaries among them.
    ///
    /// # Errors
    /// [`OwnerError::NoCanaries`] for a model with so many classes that canaries have no room, or under a passing key;
    /// [`OwnerError::ParamsMismatch`].
    pub fn encrypt(&self, model: &PlainModel) -> Result<TierModel, OwnerError> {
        let none = OwnerError::NoCanaries { group: 0, count: self.rows };
        let (canaries, place) = self.canaries.as_ref().ok_or(none)?;
        if model.params() != self.owner.params() {
            let (expected, actual) = (*self.owner.params(), *model.params());
            return Err(OwnerError::ParamsMismatch { expected, actual });
        }
        let mut rows: Vec<Vec<f32>> = model.rows().map(<[f32]>::to_vec).collect();
        // By rising slot, so that each lands where it belongs.
        for canary in canaries.of(*place)? {
            rows.insert(canary.slot.min(rows.len()), canary.vector);
        }
        let slices: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        Ok(TierModel::encrypted(self.owner.encrypt_group(&slices)?))
    }

    /// Encrypts a vector, with the one that the bias meets, under a secret for this query alone.
    ///
    /// # Errors
    /// As [`OwnerKey::query`].
    pub fn query(&self, vector: &[f32]) -> Result<(EncryptedQuery, ModelSecret<'_>), OwnerError> {
        let mut asked = Zeroizing::new(Vec::with_capacity(vector.len() + 1));
        asked.extend_from_slice(vector);
        asked.push(1.0);
        let (query, secret) = self.owner.query(&asked)?;
        Ok((query, ModelSecret { key: self, asked, secret }))
    }
}

impl ModelSecret<'_> {
    /// How far an honest logit may be from the exact one: ten times the RMS error of the noise budget.
    pub fn tolerance(&self) -> f32 {
        self.secret.tolerance()
    }

    /// The logit of each row.
    ///
    /// # Errors
    /// As [`QuerySecret::decrypt`]; [`OwnerError::CanaryMissed`] where the tier did not compute with the encrypted weights it was given.
    pub fn decrypt(self, reply: &EncryptedScores) -> Result<Vec<f32>, OwnerError> {
        let Self { key, asked, secret } = self;
        let tolerance = secret.tolerance();
        let Some((canaries, place)) = &key.canaries else {
            return Ok(secret.decrypt(reply, &[key.rows])?.into_iter().flatten().collect());
        };
        let scores = secret.decrypt(reply, &[place.count])?;
        let hidden: Vec<usize> = canaries.check(&asked, &[*place], &scores, tolerance)?.into_iter().flatten().collect();
        let logits = scores.into_iter().flatten().enumerate();
        Ok(logits.filter(|(slot, _)| !hidden.contains(slot)).map(|(_, logit)| logit).collect())
    }
}
