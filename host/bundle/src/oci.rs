//! The component as an OCI image layout (image-spec 1.1 `image-layout.md`) with the media types of the CNCF Wasm OCI artifact layout, so
//! that registries and their tools read it.
//!
//! Every byte is a function of component and manifest: the layout is rebuilt and compared, so nothing can hide in it.

use std::collections::BTreeMap;

use casemate_types::Digest;
use serde_json::{Value, json};
use wasmparser::{Parser, Payload};

use crate::json::{canonical, malformed, parse_canonical};
use crate::{BundleError, Manifest};

pub(crate) const LAYOUT: &str = "oci-layout";
pub(crate) const INDEX: &str = "index.json";
pub(crate) const BLOBS: &str = "blobs/sha256/";

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const LAYER_TYPE: &str = "application/wasm";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const MAX_DOCUMENT: usize = 256 << 10;

/// The name of a blob in the bundle.
pub(crate) fn blob(digest: Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// The five files of the layout, by their names in the bundle.
///
/// Errors: [`BundleError::NotAComponent`].
pub(crate) fn layout(manifest: &Manifest, component: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
    check_preamble(component)?;
    let (imports, exports) = interface(component)?;
    let layer = Digest::of(component);
    let config = canonical(
        "the OCI config",
        &json!({
            "architecture": "wasm",
            "component": {"exports": exports, "imports": imports, "target": manifest.world.target()},
            // The field must be there; a real date would make two builders' bytes differ.
            "created": "1970-01-01T00:00:00Z",
            "layerDigests": [layer.to_string()],
            "os": "wasip2",
        }),
    )?;
    let image = canonical(
        "the OCI manifest",
        &json!({
            "annotations": {
                "org.opencontainers.image.title": manifest.name.as_str(),
                "org.opencontainers.image.version": manifest.version,
            },
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": [descriptor(LAYER_TYPE, component)],
            "mediaType": MANIFEST_TYPE,
            "schemaVersion": 2,
        }),
    )?;
    let mut entry = descriptor(MANIFEST_TYPE, &image);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": manifest.version});
    let index = canonical(INDEX, &json!({"manifests": [entry], "mediaType": INDEX_TYPE, "schemaVersion": 2}))?;
    Ok([
        (LAYOUT.to_owned(), b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec()),
        (INDEX.to_owned(), index),
        (blob(Digest::of(&image)), image),
        (blob(Digest::of(&config)), config),
        (blob(layer), component.to_vec()),
    ]
    .into())
}

/// The name of the blob that holds the component, by way of index and manifest. Nothing is believed: [`layout`] is compared afterwards.
///
/// Errors: [`BundleError::MissingEntry`], [`BundleError::MalformedJson`].
pub(crate) fn find_component(files: &BTreeMap<String, Vec<u8>>) -> Result<String, BundleError> {
    let read = |name: &str| {
        let bytes = files.get(name).ok_or_else(|| BundleError::MissingEntry { entry: name.to_owned() })?;
        parse_canonical(name, bytes, MAX_DOCUMENT)
    };
    let image = reference(INDEX, read(INDEX)?.pointer("/manifests/0/digest"))?;
    let component = reference(&image, read(&image)?.pointer("/layers/0/digest"))?;
    if files.contains_key(&component) { Ok(component) } else { Err(BundleError::MissingEntry { entry: component }) }
}

/// The component in a bundle's file, whoever signed it, for comparison with one that was built anew. Implies no trust.
///
/// Errors: those of the container, [`BundleError::MissingEntry`], [`BundleError::MalformedJson`], and [`BundleError::AlteredEntry`] for
/// a component that is not the one its layout names.
pub fn component_of(bundle: &[u8]) -> Result<Vec<u8>, BundleError> {
    let mut files = crate::ustar::read(bundle)?;
    let entry = find_component(&files)?;
    let component = files.remove(&entry).unwrap_or_default();
    if blob(Digest::of(&component)) == entry { Ok(component) } else { Err(BundleError::AlteredEntry { entry }) }
}

fn reference(file: &str, digest: Option<&Value>) -> Result<String, BundleError> {
    let digest = digest.and_then(Value::as_str).and_then(|text| text.parse().ok());
    digest.map(blob).ok_or_else(|| malformed(file, "it names no blob by `sha256:` and 64 hexadecimal digits"))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"digest": Digest::of(bytes).to_string(), "mediaType": media_type, "size": bytes.len()})
}

/// What the component imports and exports, in its own order.
fn interface(component: &[u8]) -> Result<(Vec<String>, Vec<String>), BundleError> {
    let broken = |_| BundleError::NotAComponent { reason: "a component that is cut off or malformed" };
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0usize);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(broken)? {
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// The preamble of a component binary: magic, version 13, layer 1 (component-model `Binary.md`, "Component Definitions").
fn check_preamble(bytes: &[u8]) -> Result<(), BundleError> {
    let reason = match bytes.first_chunk::<8>() {
        Some(b"\0asm\x0d\0\x01\0") => return Ok(()),
        // What `wasmtime compile` makes: native code, which would escape every limit.
        Some([0x7f, b'E', b'L', b'F', ..]) => "native code (an ELF image, as an ahead-of-time compiler makes)",
        Some(b"\0asm\x01\0\0\0") => "a core module; make a component of it first",
        Some([0, b'a', b's', b'm', ..]) => "WebAssembly of another version or layer",
        Some(_) => "not WebAssembly at all",
        None => "shorter than the eight bytes a component starts with",
    };
    Err(BundleError::NotAComponent { reason })
}
