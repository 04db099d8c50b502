//! Templates and mechanisms as C sees them. Pointers are made here and followed by the module only, while the value they
//! belong to lives.

use std::ptr::null_mut;

use cryptoki_sys::*;

/// One attribute of a template.
#[derive(Clone)]
pub(crate) struct Attr(pub(crate) CK_ATTRIBUTE_TYPE, pub(crate) Value);

/// The value of an attribute.
#[derive(Clone)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Flag(bool),
    Number(CK_ULONG),
    Numbers(Vec<CK_ULONG>),
    Template(Vec<Attr>),
}

/// A mechanism with its parameter.
pub(crate) enum Mech {
    /// AES-CBC-ENCRYPT-DATA: derivation by encrypting public data.
    CbcData {
        iv: [u8; 16],
        data: Vec<u8>,
    },
    /// SP 800-108 in counter mode with HMAC-SHA-256: 32-bit counter, fixed input, 32-bit length in bits, all big-endian.
    CounterKdf {
        fixed: Vec<u8>,
    },
    /// Derivation from public data (`CK_KEY_DERIVATION_STRING_DATA`).
    Data(CK_MECHANISM_TYPE, Vec<u8>),
    /// EXTRACT_KEY_FROM_KEY from the first bit.
    Extract,
    Gcm {
        iv: [u8; 12],
        aad: Vec<u8>,
    },
    /// A mechanism whose parameter is an initialisation vector.
    Iv(CK_MECHANISM_TYPE, [u8; 16]),
    Oaep {
        hash: CK_MECHANISM_TYPE,
        mgf: CK_RSA_PKCS_MGF_TYPE,
    },
    Plain(CK_MECHANISM_TYPE),
    /// CONCATENATE_BASE_AND_KEY.
    WithKey(CK_OBJECT_HANDLE),
}

impl Mech {
    pub(crate) fn kind(&self) -> CK_MECHANISM_TYPE {
        match self {
            Self::CbcData { .. } => CKM_AES_CBC_ENCRYPT_DATA,
            Self::CounterKdf { .. } => CKM_SP800_108_COUNTER_KDF,
            Self::Data(kind, _) | Self::Iv(kind, _) | Self::Plain(kind) => *kind,
            Self::Extract => CKM_EXTRACT_KEY_FROM_KEY,
            Self::Gcm { .. } => CKM_AES_GCM,
            Self::Oaep { .. } => CKM_RSA_PKCS_OAEP,
            Self::WithKey(_) => CKM_CONCATENATE_BASE_AND_KEY,
        }
    }

    /// Builds the C structure, whose parameters live until `call` returns.
    pub(super) fn with<T>(&self, call: impl FnOnce(*mut CK_MECHANISM) -> T) -> T {
        fn run<P, T>(kind: CK_MECHANISM_TYPE, parameter: &mut P, call: impl FnOnce(*mut CK_MECHANISM) -> T) -> T {
            let mut mechanism = CK_MECHANISM {
                mechanism: kind,
                pParameter: std::ptr::from_mut(parameter).cast(),
                ulParameterLen: size_of::<P>() as CK_ULONG,
            };
            call(&mut mechanism)
        }
        let kind = self.kind();
        match self {
            Self::CbcData { iv, data } => {
                let mut data = data.clone();
                let length = data.len() as CK_ULONG;
                run(kind, &mut CK_AES_CBC_ENCRYPT_DATA_PARAMS { iv: *iv, pData: data.as_mut_ptr(), length }, call)
            }
            Self::CounterKdf { fixed } => {
                let mut counter = CK_SP800_108_COUNTER_FORMAT { bLittleEndian: CK_FALSE, ulWidthInBits: 32 };
                let mut length = CK_SP800_108_DKM_LENGTH_FORMAT {
                    dkmLengthMethod: CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
                    bLittleEndian: CK_FALSE,
                    ulWidthInBits: 32,
                };
                let mut fixed = fixed.clone();
                let fixed_length = fixed.len() as CK_ULONG;
                let mut parts = [
                    CK_PRF_DATA_PARAM {
                        type_: CK_SP800_108_ITERATION_VARIABLE,
                        pValue: std::ptr::from_mut(&mut counter).cast(),
                        ulValueLen: size_of::<CK_SP800_108_COUNTER_FORMAT>() as CK_ULONG,
                    },
                    CK_PRF_DATA_PARAM {
                        type_: CK_SP800_108_BYTE_ARRAY,
                        pValue: fixed.as_mut_ptr().cast(),
                        ulValueLen: fixed_length,
                    },
                    CK_PRF_DATA_PARAM {
                        type_: CK_SP800_108_DKM_LENGTH,
                        pValue: std::ptr::from_mut(&mut length).cast(),
                        ulValueLen: size_of::<CK_SP800_108_DKM_LENGTH_FORMAT>() as CK_ULONG,
                    },
                ];
                let mut parameter = CK_SP800_108_KDF_PARAMS {
                    prfType: CKM_SHA256_HMAC,
                    ulNumberOfDataParams: parts.len() as CK_ULONG,
                    pDataParams: parts.as_mut_ptr(),
                    ulAdditionalDerivedKeys: 0,
                    pAdditionalDerivedKeys: null_mut(),
                };
                run(kind, &mut parameter, call)
            }
            Self::Data(_, data) => {
                let mut data = data.clone();
                let length = data.len() as CK_ULONG;
                run(kind, &mut CK_KEY_DERIVATION_STRING_DATA { pData: data.as_mut_ptr(), ulLen: length }, call)
            }
            Self::Extract => run(kind, &mut (0 as CK_ULONG), call),
            Self::Gcm { iv, aad } => {
                let (mut iv, mut aad) = (*iv, aad.clone());
                let mut parameter = CK_GCM_PARAMS {
                    pIv: iv.as_mut_ptr(),
                    ulIvLen: iv.len() as CK_ULONG,
                    ulIvBits: 8 * iv.len() as CK_ULONG,
                    pAAD: aad.as_mut_ptr(),
                    ulAADLen: aad.len() as CK_ULONG,
                    ulTagBits: 128,
                };
                run(kind, &mut parameter, call)
            }
            Self::Iv(_, iv) => run(kind, &mut { *iv }, call),
            Self::Oaep { hash, mgf } => {
                let mut parameter = CK_RSA_PKCS_OAEP_PARAMS {
                    hashAlg: *hash,
                    mgf: *mgf,
                    source: CKZ_DATA_SPECIFIED,
                    pSourceData: null_mut(),
                    ulSourceDataLen: 0,
                };
                run(kind, &mut parameter, call)
            }
            Self::Plain(_) => call(&mut CK_MECHANISM { mechanism: kind, pParameter: null_mut(), ulParameterLen: 0 }),
            Self::WithKey(handle) => run(kind, &mut { *handle }, call),
        }
    }
}

/// A template as C sees it. Values lie in words, so that a module may read them as `CK_ULONG`.
pub(super) struct Encoded {
    list: Vec<CK_ATTRIBUTE>,
    values: Vec<Vec<CK_ULONG>>,
    nested: Vec<Self>,
}

impl Encoded {
    pub(super) fn new(template: &[Attr]) -> Self {
        let mut encoded = Self { list: Vec::new(), values: Vec::new(), nested: Vec::new() };
        for Attr(kind, value) in template {
            let (words, length) = match value {
                Value::Bytes(bytes) => (to_words(bytes), bytes.len()),
                Value::Flag(flag) => (to_words(&[u8::from(*flag)]), 1),
                Value::Number(number) => (vec![*number], size_of::<CK_ULONG>()),
                Value::Numbers(numbers) => (numbers.clone(), size_of_val(numbers.as_slice())),
                Value::Template(inner) => {
                    let mut inner = Self::new(inner);
                    let length = size_of_val(inner.list.as_slice()) as CK_ULONG;
                    let value = inner.list.as_mut_ptr().cast();
                    encoded.list.push(CK_ATTRIBUTE { type_: *kind, pValue: value, ulValueLen: length });
                    encoded.nested.push(inner);
                    continue;
                }
            };
            encoded.values.push(words);
            let value = encoded.values.last_mut().map_or(null_mut(), |words| words.as_mut_ptr().cast());
            encoded.list.push(CK_ATTRIBUTE { type_: *kind, pValue: value, ulValueLen: length as CK_ULONG });
        }
        encoded
    }

    pub(super) fn pointer(&mut self) -> (*mut CK_ATTRIBUTE, CK_ULONG) {
        (self.list.as_mut_ptr(), self.list.len() as CK_ULONG)
    }
}

fn to_words(bytes: &[u8]) -> Vec<CK_ULONG> {
    bytes
        .chunks(size_of::<CK_ULONG>())
        .map(|chunk| {
            let mut word = [0; size_of::<CK_ULONG>()];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            CK_ULONG::from_ne_bytes(word)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_bytes_and_lengths() {
        let template = Encoded::new(&[
            Attr(CKA_LABEL, Value::Bytes(b"eleven byte".to_vec())),
            Attr(CKA_WRAP, Value::Flag(true)),
            Attr(CKA_UNWRAP_TEMPLATE, Value::Template(vec![Attr(CKA_SENSITIVE, Value::Flag(true))])),
            Attr(CKA_ALLOWED_MECHANISMS, Value::Numbers(vec![CKM_AES_ECB, CKM_AES_GCM])),
        ]);
        let lengths: Vec<usize> = template.list.iter().map(|attribute| attribute.ulValueLen as usize).collect();
        assert_eq!(lengths, [11, 1, size_of::<CK_ATTRIBUTE>(), 2 * size_of::<CK_ULONG>()]);
        assert!(template.list.iter().all(|attribute| !attribute.pValue.is_null() && attribute.pValue.is_aligned()));
        assert_eq!(to_words(b"abc").first().map(|word| word.to_ne_bytes()[..3].to_vec()), Some(b"abc".to_vec()));
    }
}
