#!/bin/sh
# Verifies this kit and builds it with networking cut off.
#
#   sh install.sh --key ana.pem --key bo.pem [--verify-only | --plugins-only] [--to FOLDER]
#
# --key         public key of an approver (PEM), from a place you trust and not from this kit; two different ones at least
# --verify-only stop after signatures and sums
# --plugins-only build the SDK and the plugins, not the host
# --to          where to build and what to leave the programs in; `casemate-build` otherwise
#
# Needs sh, coreutils, findutils, OpenSSL 3 and unshare (util-linux); to build: what toolchain/NOTES.md says.
# Exit codes: 0 done; 1 failed; 2 wrong usage; 4 verification failed.
set -u
LC_ALL=C
export LC_ALL
fail() { printf 'error: %s\n' "$2" >&2; exit "$1"; }

kit=$(cd "$(dirname "$0")" && pwd -P) || fail 1 "cannot find the kit's folder"
to=$PWD/casemate-build
what=all
keys=0
work=$(mktemp -d) || fail 1 "cannot make a temporary folder"
trap 'rm -rf "$work"' EXIT
while [ $# -gt 0 ]; do
    case $1 in
    --key)
        [ $# -ge 2 ] || fail 2 "--key needs a file"
        [ -f "$2" ] || fail 2 "$2 is no file"
        # Compared as keys: one key in two files, or in two spellings, is one key.
        openssl pkey -pubin -in "$2" -outform DER -out "$work/der" 2>/dev/null || fail 2 "$2 is no public key in PEM"
        mv "$work/der" "$work/$(sha256sum <"$work/der" | cut -d' ' -f1).key" || fail 1 "cannot keep $2"
        shift 2
        ;;
    --to)
        [ $# -ge 2 ] || fail 2 "--to needs a folder"
        mkdir -p "$2" && to=$(cd "$2" && pwd -P) || fail 1 "cannot make $2"
        shift 2
        ;;
    --verify-only) what=verify; shift ;;
    --plugins-only) what=plugins; shift ;;
    *) fail 2 "unknown option $1; see the first lines of $0" ;;
    esac
done
cd "$kit" || fail 1 "cannot enter $kit"

verify() {
    [ -f SHA256SUMS ] && [ ! -L SHA256SUMS ] || fail 4 "there is no SHA256SUMS"
    # What was signed: the pre-authentication encoding of DSSE v1.
    type=application/vnd.casemate.kit.sha256sums
    { printf 'DSSEv1 %d %s %d ' "${#type}" "$type" "$(($(wc -c <SHA256SUMS)))" && cat SHA256SUMS; } >"$work/message"
    for key in "$work"/*.key; do
        [ -f "$key" ] || break
        for signature in signatures/*.sig; do
            [ -f "$signature" ] || break
            if openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey "$key" -sigfile "$signature" -in "$work/message" >/dev/null 2>&1; then
                keys=$((keys + 1))
                break
            fi
        done
    done
    [ "$keys" -ge 2 ] || fail 4 "$keys of the keys given have signed this kit; two must have"
    odd=$(find . ! -type f ! -type d -print | head -n 1)
    [ -z "$odd" ] || fail 4 "$odd is a link or a device: a kit holds files and folders only"
    sha256sum --check --strict --quiet SHA256SUMS >"$work/sums" 2>&1 || fail 4 "sums differ: $(head -n 3 "$work/sums")"
    cut -c67- SHA256SUMS | sort >"$work/listed"
    find . -type f ! -path ./SHA256SUMS ! -path './signatures/*' | cut -c3- | sort >"$work/found"
    more=$(comm -13 "$work/listed" "$work/found" | head -n 3)
    [ -z "$more" ] || fail 4 "not in SHA256SUMS: $more"
    echo "signed by $keys, and every one of $(($(wc -l <SHA256SUMS))) files is as signed"
}

# Second round, in a network namespace of its own.
if [ "${CASEMATE_KIT_CUT_OFF:-}" != "$kit" ]; then
    verify
    [ "$what" != verify ] || exit 0
    set -- --to "$to"
    [ "$what" != plugins ] || set -- "$@" --plugins-only
    user=
    [ "$(id -u)" = 0 ] || user=--map-root-user
    # shellcheck disable=SC2086
    unshare --net $user true 2>/dev/null ||
        fail 1 "no network namespace can be made: run this as root, or allow user namespaces"
    # shellcheck disable=SC2086
    CASEMATE_KIT_CUT_OFF=$kit unshare --net $user sh "$kit/install.sh" "$@"
    exit $?
fi

# Nothing but a loopback that is down: no interface, no route.
[ "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ')" = lo ] && [ -z "$(tail -n +2 /proc/net/route)" ] ||
    fail 1 "this process can still reach a network"
echo "networking is cut off: no interface but a loopback, no route"

wanted=$(head -n 1 toolchain/rustc.txt)
found=$(rustc --version) || fail 1 "there is no rustc; toolchain/NOTES.md says which one is needed"
[ "$found" = "$wanted" ] || fail 1 "this is $found; the kit was made for $wanted, see toolchain/NOTES.md"
library=$(rustc --print sysroot)/lib/rustlib
if [ ! -d "$library/wasm32-unknown-unknown" ]; then
    cp -R toolchain/rust-std/wasm32-unknown-unknown "$library/" ||
        fail 1 "cannot put the library for wasm32-unknown-unknown into $library"
    echo "the library for wasm32-unknown-unknown is now in $library"
fi

# A cache of its own: nothing that this machine already has is used.
CARGO_HOME=$to/cargo-home
CARGO_TARGET_DIR=$to/target
CARGO_NET_OFFLINE=true
export CARGO_HOME CARGO_TARGET_DIR CARGO_NET_OFFLINE
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER CARGO_BUILD_TARGET
mkdir -p "$CARGO_HOME" || fail 1 "cannot make $CARGO_HOME"
path=$(printf '%s' "$kit/registry" | sed 's/[\\"]/\\&/g')
cat >"$CARGO_HOME/config.toml" <<END
[source.crates-io]
replace-with = "kit"
[source.kit]
local-registry = "$path"
END
cd source || fail 1 "the kit has no sources"
if [ "$what" = plugins ]; then
    cargo build --locked --offline --profile plugin --target wasm32-unknown-unknown \
        -p casemate-sdk -p clearance -p clustered -p disclosure -p diverse -p filtered -p hybrid -p librarian -p nearest || fail 1 "the plugins do not build"
    echo "the plugins are built in $CARGO_TARGET_DIR/wasm32-unknown-unknown/plugin"
    exit 0
fi
cargo build --release --workspace --locked --offline || fail 1 "the host does not build"
# What others built and signed is what the sources give here.
for plugin in clearance clustered disclosure diverse filtered hybrid librarian nearest; do
    "$CARGO_TARGET_DIR/release/casemate" plugin rebuild "$kit/plugins/$plugin.wasm" "plugins/$plugin" ||
        fail 4 "the component of $plugin is not what its source gives"
done
echo "built: $CARGO_TARGET_DIR/release/casemate"
