//! By what means two people are needed, and what a profile accepts.

use std::fmt;

use casemate_hsm::TokenInfo;
use casemate_types::Profile;
use serde::{Deserialize, Serialize};

use crate::CustodyError;

/// What enforces that one person is not enough. In ascending order of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuorumBackend {
    /// Signed statements that software checks. Good evidence, no force.
    ApprovalsOnly,
    /// Packages and the custody token's PINs are split: without enough custodians there is nothing to open.
    SplitPackageAndPin,
    /// The HSM asks for its own quorum (cards, PED, signed tokens) over its protected authentication path.
    Vendor,
}

impl QuorumBackend {
    /// The weakest means that a profile accepts.
    pub fn lowest_for(profile: Profile) -> Self {
        match profile {
            Profile::Government | Profile::Enterprise => Self::SplitPackageAndPin,
            Profile::Rehearsal | Profile::Development => Self::ApprovalsOnly,
        }
    }

    /// What is in force for a token whose PINs are split or not.
    ///
    /// PKCS#11 shows a vendor's quorum only as `CKF_PROTECTED_AUTHENTICATION_PATH`, which a card reader with a keypad sets as
    /// well. So the operator has to state it (`vendor_quorum`), and the token must not contradict.
    ///
    /// # Errors
    /// [`CustodyError::NoVendorQuorum`] when it is stated and the token takes its PIN from the host.
    pub fn of(token: &TokenInfo, vendor_quorum: bool, pins_split: bool) -> Result<Self, CustodyError> {
        match (vendor_quorum, token.protected_authentication_path) {
            (true, true) => Ok(Self::Vendor),
            (true, false) => Err(CustodyError::NoVendorQuorum { serial: token.serial.clone() }),
            (false, _) if pins_split => Ok(Self::SplitPackageAndPin),
            (false, _) => Ok(Self::ApprovalsOnly),
        }
    }
}

impl fmt::Display for QuorumBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApprovalsOnly => "approvals-only",
            Self::SplitPackageAndPin => "split-package-and-pin",
            Self::Vendor => "vendor",
        })
    }
}
