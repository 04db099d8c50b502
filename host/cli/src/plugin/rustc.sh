#!/bin/sh
# Stands between cargo and rustc: what is compiled depends on sources and toolchain alone, not on where they, caches and registries lie.
[ -n "$CARGO_PKG_NAME" ] || exec "$@"
name=$CARGO_PKG_NAME-$CARGO_PKG_VERSION
features=
for word; do
    case $word in 'feature="'*) features=$features+$word ;; esac
done
for word; do
    shift
    # Cargo hashes the absolute path of a path dependency into this; symbols and their order follow from it.
    case $word in metadata=*) word=metadata=$name$features ;; esac
    set -- "$@" "$word"
done
set -- "$@" "--remap-path-prefix=$CARGO_MANIFEST_DIR=/src/$name"
# Sources of a workspace are named relative to its root.
here=$(pwd -P)
case $CARGO_MANIFEST_DIR in
"$here") set -- "$@" "--remap-path-prefix=src=/src/$name/src" ;;
"$here"/*) set -- "$@" "--remap-path-prefix=${CARGO_MANIFEST_DIR#"$here"/}=/src/$name" ;;
esac
[ -z "$OUT_DIR" ] || set -- "$@" "--remap-path-prefix=$OUT_DIR=/src/$name/out"
exec "$@"
