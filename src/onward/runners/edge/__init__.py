"""The edge runner: a package as a folder that answers on the device itself, with no server."""
