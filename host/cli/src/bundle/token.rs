//! An approver's key in a token of the approver's own. The key file says where it is, and holds no secret.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_attest::{SignerError, ecdsa_der};
use casemate_bundle::{ApproverKey, PublicKey, Signer};
use casemate_hsm::{HsmError, Key, KeyClass, KeyRef, Keyring, Module, Pin};
use serde::{Deserialize, Serialize};

use super::args::NewKeyOptions;
use super::passphrase;
use crate::failure::{Failure, code};
use crate::{environment, init};

/// The file: which token, which key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TokenKeyFile {
    name: String,
    token: Token,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Token {
    module: PathBuf,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    label: String,
    key: KeyRef,
}

/// Makes a key in the token, Ed25519 or on P-256, and writes the file that finds it again. Nothing secret leaves the token.
pub fn new_key(options: &NewKeyOptions, module: &Path, label: &str) -> Result<ApproverKey, Failure> {
    let module = if module == Path::new("embedded") { init::embedded_module()? } else { module.to_owned() };
    let variables = options.module_env.iter().map(|text| environment::pair(text)).collect::<Result<_, _>>()?;
    // Before a key is made that no file would name.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&options.out)
        .map_err(|error| Failure::caused_by(format!("cannot create {}", options.out.display()), &error))?;
    let keyring = log_in(&module, &variables, label, options.passphrase_fd)?;
    let class = if options.p256 { KeyClass::ApproverSigning } else { KeyClass::CustodianSigning };
    let made = keyring.generate(class, "approver").map_err(|error| failed(&error))?;
    let key = held(&options.name, keyring, &made)?;
    let token = Token { module, environment: variables, label: label.to_owned(), key: made };
    let text = serde_json::to_vec_pretty(&TokenKeyFile { name: options.name.clone(), token });
    text.map_err(std::io::Error::other)
        .and_then(|text| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|error| Failure::caused_by(format!("cannot write {}", options.out.display()), &error))?;
    Ok(key)
}

/// The key of this file, if it is one in a token; the PIN is asked for like a passphrase.
pub fn open(path: &Path, pin_fd: Option<u32>) -> Option<Result<ApproverKey, Failure>> {
    let TokenKeyFile { name, token } = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let keyring = log_in(&token.module, &token.environment, &token.label, pin_fd);
    let key = keyring.and_then(|keyring| held(&name, keyring, &token.key));
    Some(key.map_err(|failure| failure.about(path)))
}

fn log_in(
    module: &Path,
    variables: &BTreeMap<String, String>,
    label: &str,
    pin_fd: Option<u32>,
) -> Result<Arc<Keyring>, Failure> {
    let pin = Pin::new(passphrase(pin_fd, &format!("PIN of the token `{label}`"))?).map_err(|error| failed(&error))?;
    environment::set_variables(variables.clone());
    let module = Module::load(module).map_err(|error| failed(&error))?;
    Keyring::open(module, label, &pin).map_err(|error| failed(&error))
}

fn held(name: &str, keyring: Arc<Keyring>, key: &KeyRef) -> Result<ApproverKey, Failure> {
    let key = keyring.find(key).map_err(|error| failed(&error))?;
    let public = match key.class() {
        KeyClass::ApproverSigning => keyring.public_point(&key).map(PublicKey::EcdsaP256),
        _ => keyring.public_key(&key).map(PublicKey::Ed25519),
    };
    let public = public.map_err(|error| failed(&error))?;
    Ok(ApproverKey::held(name, InToken { keyring, key, public })?)
}

struct InToken {
    keyring: Arc<Keyring>,
    key: Key,
    public: PublicKey,
}

impl Signer for InToken {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature = match self.public {
            PublicKey::EcdsaP256(_) => self.keyring.sign_p256(&self.key, message).map(|fixed| ecdsa_der(&fixed)),
            PublicKey::Ed25519(_) => self.keyring.sign(&self.key, message).map(|signature| signature.to_vec()),
        };
        signature.map_err(|error| SignerError(Box::new(error)))
    }
}

fn failed(error: &HsmError) -> Failure {
    Failure::caused_by("cannot use the approver's token", error).with_code(code::FAILED)
}
