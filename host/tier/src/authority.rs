//! The site's own certificate authority, in a folder that stays offline.
//!
//! ```text
//! ca.pem        certificate of the authority           to every gate and tier
//! revoked.pem   RFC 5280 list of revoked certificates  to every gate and tier, anew after each revocation
//! ca.key        P-256 private key, mode 0600           stays
//! ca.json       name, issued certificates              stays
//! ```

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde::{Deserialize, Serialize};

use crate::TierError;

pub(crate) const AUTHORITY: &str = "ca.pem";
pub(crate) const REVOKED: &str = "revoked.pem";
const KEY: &str = "ca.key";
const RECORD: &str = "ca.json";

/// How long the authority's own certificate holds.
const AUTHORITY_YEARS: i64 = 10;

/// What a certificate is for. It stands in the certificate as a name that no machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A gate: it may do everything with the store.
    Gate,
    /// A tier: it answers gates, and reads groups from the tier that keeps the store.
    Tier,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate.casemate.invalid",
            Self::Tier => "tier.casemate.invalid",
        }
    }
}

/// `NAME.pem` of a folder.
pub(crate) fn certificate_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pem"))
}

/// `NAME.key` of a folder.
pub(crate) fn key_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.key"))
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RecordFile {
    name: String,
    made: Timestamp,
    issued: Vec<Issued>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Issued {
    name: String,
    role: Role,
    serial: String,
    until: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<Timestamp>,
}

/// A certificate authority in its folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    record: RecordFile,
}

impl Authority {
    /// Makes an authority in an empty or new folder.
    ///
    /// # Errors
    /// [`TierError::Authority`] where there is one already.
    pub fn create(folder: &Path, name: &str) -> Result<Self, TierError> {
        if folder.join(KEY).exists() || folder.join(AUTHORITY).exists() {
            let reason = format!("{} holds an authority already", folder.display());
            return Err(TierError::Authority { reason });
        }
        make_folder(folder)?;
        let made = Timestamp::now();
        let key = KeyPair::generate().map_err(authority)?;
        let certificate = own_params(name, made)?.self_signed(&key).map_err(authority)?;
        write(&folder.join(KEY), key.serialize_pem().as_bytes(), 0o600)?;
        write(&folder.join(AUTHORITY), certificate.pem().as_bytes(), 0o644)?;
        let authority =
            Self { folder: folder.to_owned(), record: RecordFile { name: name.to_owned(), made, issued: Vec::new() } };
        authority.save()?;
        Ok(authority)
    }

    /// Opens the authority of a folder.
    ///
    /// # Errors
    /// [`TierError::File`], [`TierError::Authority`] for a record that does not parse.
    pub fn open(folder: &Path) -> Result<Self, TierError> {
        let path = folder.join(RECORD);
        let text = fs::read(&path).map_err(|source| TierError::File { action: "read", path: path.clone(), source })?;
        let record = serde_json::from_slice(&text)
            .map_err(|error| TierError::Authority { reason: format!("{}: {error}", path.display()) })?;
        Ok(Self { folder: folder.to_owned(), record })
    }

    /// Issues a certificate for `days` days and writes `NAME.pem`, `NAME.key`, `ca.pem` and `revoked.pem` into `to`. A tier's `hosts` are
    /// the names and addresses that gates reach it by.
    ///
    /// # Errors
    /// [`TierError::Authority`] for a name that is issued and neither revoked nor expired, or for a host that is none.
    pub fn issue(&mut self, role: Role, name: &str, hosts: &[String], days: u32, to: &Path) -> Result<(), TierError> {
        let now = Timestamp::now();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name == "ca" || name == "revoked" || name.starts_with('.') || !name.chars().all(plain) {
            let reason = format!("`{name}` is no name for a certificate; use letters, digits, dots and dashes");
            return Err(TierError::Authority { reason });
        }
        if self.record.issued.iter().any(|issued| issued.name == name && issued.revoked.is_none() && issued.until > now)
        {
            let reason = format!("`{name}` has a certificate; revoke it first, or take another name");
            return Err(TierError::Authority { reason });
        }
        let until = now + jiff::SignedDuration::from_hours(24 * i64::from(days));
        let names = std::iter::once(role.name().to_owned()).chain(hosts.iter().cloned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).map_err(authority)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let serial = random_serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        (params.not_before, params.not_after) = (date(now - 24.hours())?, date(until + 24.hours())?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A gate's certificate must not let anybody play a tier.
        params.extended_key_usages = match role {
            Role::Gate => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Tier => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(authority)?;
        let certificate = params.signed_by(&key, &self.issuer()?).map_err(authority)?;
        self.record.issued.push(Issued {
            name: name.to_owned(),
            role,
            serial: hex::encode(serial),
            until,
            revoked: None,
        });
        // Known before it is out: what is issued can always be revoked.
        self.save()?;
        make_folder(to)?;
        write(&key_file(to, name), key.serialize_pem().as_bytes(), 0o600)?;
        write(&certificate_file(to, name), certificate.pem().as_bytes(), 0o644)?;
        self.hand_out(to)
    }

    /// Revokes every certificate of a name. The new `revoked.pem` must be carried to every gate and tier.
    ///
    /// # Errors
    /// [`TierError::Authority`] where none is in force.
    pub fn revoke(&mut self, name: &str) -> Result<(), TierError> {
        let now = Timestamp::now();
        let held = self.record.issued.iter_mut().filter(|issued| issued.name == name && issued.revoked.is_none());
        if held.map(|issued| issued.revoked = Some(now)).count() == 0 {
            return Err(TierError::Authority { reason: format!("no certificate of `{name}` is in force") });
        }
        self.save()
    }

    /// Writes `ca.pem` and `revoked.pem` into a folder of a gate or tier.
    ///
    /// # Errors
    /// [`TierError::File`].
    pub fn hand_out(&self, to: &Path) -> Result<(), TierError> {
        for file in [AUTHORITY, REVOKED] {
            let (from, to) = (self.folder.join(file), to.join(file));
            if from == to {
                continue;
            }
            let bytes = fs::read(&from).map_err(|source| TierError::File { action: "read", path: from, source })?;
            write(&to, &bytes, 0o644)?;
        }
        Ok(())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, TierError> {
        let path = self.folder.join(KEY);
        let pem = fs::read_to_string(&path).map(zeroize::Zeroizing::new).map_err(|source| TierError::File {
            action: "read",
            path,
            source,
        })?;
        let key = KeyPair::from_pem(&pem).map_err(authority)?;
        Ok(Issuer::new(own_params(&self.record.name, self.record.made)?, key))
    }

    /// Writes the list of revoked certificates, then the record: a crash between them leaves a list that is too long.
    fn save(&self) -> Result<(), TierError> {
        let now = Timestamp::now();
        let revoked = self.record.issued.iter().filter_map(|issued| issued.revoked.map(|at| (issued, at)));
        let revoked_certs = revoked
            .map(|(issued, at)| {
                let serial = hex::decode(&issued.serial).map_err(authority)?;
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&serial),
                    revocation_time: date(at)?,
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<Vec<_>, TierError>>()?;
        let list = CertificateRevocationListParams {
            this_update: date(now - 24.hours())?,
            next_update: date(end(self.record.made)?)?,
            crl_number: SerialNumber::from(u64::try_from(now.as_millisecond()).unwrap_or_default()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer()?).map_err(authority)?;
        write(&self.folder.join(REVOKED), list.pem().map_err(authority)?.as_bytes(), 0o644)?;
        let record = serde_json::to_vec_pretty(&self.record).map_err(authority)?;
        write(&self.folder.join(RECORD), &record, 0o600)
    }
}

fn own_params(name: &str, made: Timestamp) -> Result<CertificateParams, TierError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(authority)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date(made - 24.hours())?, date(end(made)?)?);
    Ok(params)
}

fn end(made: Timestamp) -> Result<Timestamp, TierError> {
    made.checked_add(jiff::SignedDuration::from_hours(24 * 365 * AUTHORITY_YEARS)).map_err(authority)
}

/// Certificates here are dated by days.
fn date(time: Timestamp) -> Result<time::OffsetDateTime, TierError> {
    let day = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (month, day_of_month) = (u8::try_from(day.month()), u8::try_from(day.day()));
    match (month, day_of_month) {
        (Ok(month), Ok(day_of_month)) => Ok(date_time_ymd(day.year().into(), month, day_of_month)),
        _ => Err(TierError::Authority { reason: format!("{day} is no date of a certificate") }),
    }
}

/// 128 random bits, positive in DER.
fn random_serial() -> Result<[u8; 16], TierError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| TierError::Authority { reason: "no random numbers".to_owned() })?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn make_folder(folder: &Path) -> Result<(), TierError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| TierError::File {
        action: "make",
        path: folder.to_owned(),
        source,
    })
}

/// Whole or not at all, and never readable by others meanwhile.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TierError> {
    let partial = path.with_extension("partial");
    let put = || {
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    put().map_err(|source| TierError::File { action: "write", path: path.to_owned(), source })
}

fn authority(error: impl std::fmt::Display) -> TierError {
    TierError::Authority { reason: error.to_string() }
}
