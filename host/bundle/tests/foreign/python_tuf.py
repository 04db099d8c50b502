"""python-tuf as judge of our bundles, and as the maker of attacks on them: metadata that is signed and spelled by software not ours.

    python_tuf.py judge TIME BUNDLE ROOT [NEXT...]    verifies a bundle from a pinned root; prints `ok VERSION TARGETS`, or the error's name
    python_tuf.py make FOLDER                         reads FOLDER/input.json, writes FOLDER/CASE/{root,snapshot,targets,timestamp}.json

Uses the set of trusted metadata inside python-tuf's client, because a bundle has no server.
"""

import copy
import datetime
import hashlib
import json
import pathlib
import sys
import tarfile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

SPEC = "1.0.34"
PIN = "x-casemate-signed-sha256"
ROLES = ["root", "snapshot", "targets", "timestamp"]


def date(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def judge(now, bundle, roots):
    with tarfile.open(bundle, "r:") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    roots = [pathlib.Path(root).read_bytes() for root in roots]
    trusted = TrustedMetadataSet(roots[0], EnvelopeType.METADATA)
    trusted.reference_time = date(now)
    for root in roots[1:]:
        trusted.update_root(root)
    trusted.update_timestamp(files.pop("tuf/timestamp.json"))
    trusted.update_snapshot(files.pop("tuf/snapshot.json"))
    targets = trusted.update_targets(files.pop("tuf/targets.json"))
    for name, target in targets.targets.items():
        target.verify_length_and_hashes(files.pop(name))
    if files:
        raise ValueError(f"no targets: {sorted(files)}")
    print("ok", targets.version, len(targets.targets))


def person(name, p256=False, secret=None):
    signer = CryptoSigner.generate_ecdsa() if p256 else CryptoSigner(secret or Ed25519PrivateKey.generate())
    signer.public_key.unrecognized_fields["x-casemate-approver"] = name
    return signer


def write(path, signed, signers):
    """Signs, and writes sorted, compact JSON, as python-tuf does."""
    signed.spec_version = SPEC
    metadata = Metadata(signed)
    for signer in sorted(signers, key=lambda signer: signer.public_key.keyid):
        metadata.sign(signer, append=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(metadata.to_bytes(JSONSerializer(compact=True)))


def root_of(people, version=1, until="2030-01-01T00:00:00Z"):
    root = Root(version=version, expires=date(until), consistent_snapshot=False)
    for someone in sorted(people, key=lambda someone: someone.public_key.keyid):
        for role in ROLES:
            root.add_key(someone.public_key, role)
    for role in root.roles.values():
        role.threshold = 2
    return root


def pin(signed, version):
    signed.spec_version = SPEC
    digest = hashlib.sha256(encode_canonical(signed.to_dict()).encode()).hexdigest()
    return MetaFile(version, unrecognized_fields={PIN: digest})


class Bundle:
    """The three signed parts for these files, to be spoiled before they are written."""

    def __init__(self, given, version=1, expires=None):
        self.expires = date(expires or given["expires"])
        self.targets = Targets(version=version, expires=self.expires)
        for name, body in given["files"].items():
            target = TargetFile.from_data(name, bytes.fromhex(body), ["sha256"])
            if name == given["component"]:
                target.unrecognized_fields["custom"] = copy.deepcopy(given["custom"])
            self.targets.targets[name] = target
        self.snapshot = Snapshot(version=version, expires=self.expires)
        self.timestamp = Timestamp(version=version, expires=self.expires)
        self.bind()

    def bind(self):
        self.snapshot.meta = {"targets.json": pin(self.targets, self.targets.version)}
        self.timestamp.snapshot_meta = pin(self.snapshot, self.snapshot.version)

    def write(self, folder, signers):
        for name in ("targets", "snapshot", "timestamp"):
            write(folder / f"{name}.json", getattr(self, name), signers)


def make(folder):
    given = json.loads((folder / "input.json").read_text())
    secret = Ed25519PrivateKey.generate()
    ada, ben, cyd, dee, eve = person("ada", secret=secret), person("ben", True), person("cyd"), person("dee"), person("ada")
    two = [ada, ben]
    write(folder / "root.json", root_of([ada, ben, cyd]), [ada, ben, cyd])

    Bundle(given).write(folder / "right", two)
    Bundle(given).write(folder / "all-three", [ada, ben, cyd])
    Bundle(given).write(folder / "one-signature", [ada])
    Bundle(given).write(folder / "arbitrary-software", [eve, person("ben")])
    Bundle(given, expires="2026-12-31T00:00:00Z").write(folder / "freeze", two)

    # The key of one approver signs a second time under another id.
    twin = CryptoSigner(secret, SSlibKey.from_crypto(secret.public_key(), keyid="0" * 64))
    twin.public_key.unrecognized_fields["x-casemate-approver"] = "mallory"
    Bundle(given).write(folder / "one-key-two-ids", [ada, twin])
    write(folder / "one-key-two-ids" / "root.json", root_of([ada, twin]), [ada, twin])

    # TUF's own pins are versions; two bundles of one version are told apart by ours.
    other = copy.deepcopy(given)
    other["files"]["settings.json"] = b"{}".hex()
    mixed = Bundle(given)
    mixed.targets = Bundle(other).targets
    mixed.write(folder / "mix-and-match", two)
    wrong = Bundle(given, version=2)
    wrong.snapshot.meta["targets.json"].version = 3
    wrong.timestamp.snapshot_meta = pin(wrong.snapshot, 2)
    wrong.write(folder / "wrong-targets-version", two)
    wrong = Bundle(given, version=2)
    wrong.timestamp.snapshot_meta.version = 3
    wrong.write(folder / "wrong-snapshot-version", two)

    # What TUF allows and a bundle does not.
    delegating = Bundle(given)
    role = DelegatedRole("elsewhere", [eve.public_key.keyid], 1, False, paths=["*"])
    delegating.targets.delegations = Delegations({eve.public_key.keyid: eve.public_key}, {"elsewhere": role})
    delegating.bind()
    delegating.write(folder / "delegation", two)
    hashed = Bundle(given)
    for name, body in given["files"].items():
        hashed.targets.targets[name].hashes["sha512"] = hashlib.sha512(bytes.fromhex(body)).hexdigest()
    hashed.bind()
    hashed.write(folder / "second-hash", two)
    endless = Bundle(given)
    for number in range(4000):
        name = f"evidence/{number:060}"
        endless.targets.targets[name] = TargetFile.from_data(name, b"", ["sha256"])
    endless.bind()
    endless.write(folder / "endless-data", two)

    # Cyd's key is lost: the next root, by old and new keys; what Cyd signed counts no more.
    write(folder / "rotated" / "root.json", root_of([ada, ben, dee], 2), [ada, ben, dee])
    Bundle(given).write(folder / "rotated", [ben, dee])
    Bundle(given).write(folder / "signed-before-the-rotation", [ben, cyd])
    write(folder / "seized" / "root.json", root_of([eve, cyd], 2), [eve, cyd])
    write(folder / "skipped" / "root.json", root_of([ada, ben, dee], 3), [ada, ben, dee])


if sys.argv[1] == "make":
    make(pathlib.Path(sys.argv[2]))
else:
    try:
        judge(sys.argv[2], sys.argv[3], sys.argv[4:])
    except Exception as error:
        print(type(error).__name__, error)
        sys.exit(1)
