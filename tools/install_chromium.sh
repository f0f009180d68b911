#!/bin/sh
# Debian's Chromium, for the tests that drive a browser. Needs root.
set -e
[ "$(id -u)" = 0 ] || exit 1
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core >/dev/null
