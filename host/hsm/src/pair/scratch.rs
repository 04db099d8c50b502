use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{DrillPlan, DrillReport, Manifest, ManifestKey, Pair, PairMember, PairOptions, Role, TokenSigner, drill};
use crate::pair::manifest::ManifestSigner;
use crate::{Destruction, HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Login, Module};

/// A drill with a key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScratchDrill {
    /// How it went.
    #[serde(flatten)]
    pub report: DrillReport,
    /// The drill's key, destroyed in both tokens.
    pub destroyed: Vec<Destruction>,
}

/// Every key of a drill has this label, and no other key has it.
const LABEL: &str = "casemate drill";

/// A drill on two tokens that may hold anything: a key is made for both, the primary is cut off in mid-batch, and everything the
/// drill made is destroyed again. Site keys and the tokens' mark of the site's manifest are not touched.
///
/// # Errors
/// As [`Keyring::admit`], [`Pair::open`] and [`drill`].
pub fn drill_with_scratch_key(
    primary: impl Fn() -> PairMember,
    backup: impl Fn() -> PairMember,
    values: usize,
    patience: Duration,
) -> Result<ScratchDrill, HsmError> {
    let mut made = Vec::new();
    // A drill that was killed left its keys behind.
    for member in [primary(), backup()] {
        open(&member)?.destroy_labelled(LABEL)?;
    }
    let outcome = prepare(&primary(), &backup(), &mut made).and_then(|(key, manifest)| {
        let options = PairOptions { interval: patience.max(Duration::from_secs(1)), writes: true, marks: false };
        let pair = Pair::open(primary(), backup(), manifest, options)?;
        let plan = DrillPlan { key, batches: 10, values: values.div_ceil(10), kill_in: 4, patience };
        let report = drill(&pair, &plan, &mut || pair.cut_off(Role::Primary), &mut || Ok(()))?;
        let destroyed = pair.destroy(key)?.to_vec();
        Ok(ScratchDrill { report, destroyed })
    });
    // Whatever happened, nothing of the drill stays; the first error is the one to report.
    let cleaned = clean(&[primary(), backup()], &made);
    let done = outcome?;
    cleaned.map(|()| done)
}

/// Makes a key for both tokens. Whatever is stored on the way is noted in `made`, with the token's place in the pair.
fn prepare(
    primary: &PairMember,
    backup: &PairMember,
    made: &mut Vec<(usize, KeyRef)>,
) -> Result<(KeyId, super::VerifiedManifest), HsmError> {
    let rings = [primary, backup].map(open);
    let [first, second] = rings;
    let rings = [first?, second?];
    let mut transports: Vec<Key> = Vec::new();
    for (index, ring) in rings.iter().enumerate() {
        let transport = ring.generate(KeyClass::Transport, LABEL)?;
        made.push((index, transport.clone()));
        transports.push(ring.find(&transport)?);
    }
    let birth = rings[0].birth(KeyClass::FpeFf1, LABEL)?;
    for (index, ring) in rings.iter().enumerate() {
        let package = rings[0].wrap_for(&birth, &ring.transport_key(&transports[index])?)?;
        made.push((index, ring.admit(&transports[index], &package)?));
    }
    let signing = rings[0].generate(KeyClass::CustodianSigning, LABEL)?;
    made.push((0, signing.clone()));
    let signer = TokenSigner::new(Arc::clone(&rings[0]), rings[0].find(&signing)?)?;
    let key = birth.reference();
    let keys = vec![ManifestKey::new(&key, 1)];
    let signed = Manifest::after(None, rings[0].serial(), rings[1].serial(), keys).sign(&signer)?;
    Ok((key.id, signed.verify(&[signer.public_key()], None)?))
}

fn clean(members: &[PairMember; 2], made: &[(usize, KeyRef)]) -> Result<(), HsmError> {
    let mut outcome = Ok(());
    for (index, member) in members.iter().enumerate() {
        let cleaned = open(member).and_then(|ring| {
            for (_, key) in made.iter().filter(|(place, _)| *place == index) {
                match ring.find(key) {
                    Ok(found) => drop(ring.destroy(found)?),
                    Err(HsmError::KeyMissing { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            // And what was made before its reference came back.
            ring.destroy_labelled(LABEL)
        });
        outcome = outcome.and(cleaned);
    }
    outcome
}

fn open(member: &PairMember) -> Result<Arc<Keyring>, HsmError> {
    let pin = (member.pin)()?;
    let login = Login { pin: pin.as_ref(), native_ff1: member.native_ff1 };
    Keyring::open_with(Module::load(&member.module)?, &member.token_label, &login)
}
