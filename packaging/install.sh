#!/bin/sh
# Installs onelock, its man pages and completions below a prefix.
#
#   install.sh [--prefix DIR] [--uninstall] [ARCHIVE]
#
# ARCHIVE is onelock-VERSION-ARCH-linux.tar.gz; with ARCHIVE.sha256 beside it, the archive is
# checked. Without ARCHIVE the unpacked files beside this script are installed. The default prefix
# is /usr/local. Nothing is fetched from a network. DESTDIR is put before the prefix, for packagers.
set -eu

fail() { echo "install.sh: $1" >&2; exit 1; }

prefix=/usr/local uninstall='' archive=''
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) [ $# -gt 1 ] || fail "--prefix needs a directory"; prefix=$2; shift 2 ;;
    --prefix=*) prefix=${1#--prefix=}; shift ;;
    --uninstall) uninstall=1; shift ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) fail "there is no option $1; --help lists them" ;;
    *) [ -z "$archive" ] || fail "give one archive"; archive=$1; shift ;;
  esac
done
case $prefix in /*) ;; *) fail "the prefix must be an absolute path, not $prefix" ;; esac

source=$(cd "$(dirname "$0")" && pwd)
if [ -n "$archive" ]; then
  [ -f "$archive" ] || fail "there is no file $archive"
  if [ -f "$archive.sha256" ]; then
    wanted=$(cut -d ' ' -f 1 "$archive.sha256")
    found=$(sha256sum "$archive" | cut -d ' ' -f 1)
    [ "$wanted" = "$found" ] || fail "$archive does not have the checksum of $archive.sha256; fetch it again"
  fi
  source=$(mktemp -d)
  trap 'rm -rf "$source"' EXIT
  tar -xzf "$archive" -C "$source" --strip-components=1 || fail "$archive cannot be unpacked"
fi
[ -f "$source/bin/onelock" ] || fail "there is no bin/onelock beside install.sh; name the archive"

case ${DESTDIR-/} in
  /*) ;;
  *) fail "DESTDIR is $DESTDIR; give a path that begins with /" ;;
esac
target=${DESTDIR-}$prefix
if [ -z "$uninstall" ]; then
  # Before anything is changed: another processor or an older C library cannot run it.
  "$source/bin/onelock" -V >/dev/null || fail "this onelock does not run on this machine; take another archive"
fi
cd "$source"
find bin share -type f | while IFS= read -r file; do
  if [ -n "$uninstall" ]; then
    rm -f "$target/$file"
  else
    mkdir -p "$target/$(dirname "$file")"
    # A running onelock keeps its file: the new one takes its place by a rename.
    { cp -p "$file" "$target/$file.new" && mv -f "$target/$file.new" "$target/$file"; } || exit 1
  fi
done
if [ -n "$uninstall" ]; then
  echo "onelock was removed from $target"
else
  echo "$("$target/bin/onelock" -V) was installed in $target"
fi
