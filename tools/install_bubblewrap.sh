#!/bin/sh
# Debian's bubblewrap, for the tests that start a server as its manifest says: as another user, on a read-only root.
set -e
[ "$(id -u)" = 0 ] || exit 1
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends bubblewrap >/dev/null
