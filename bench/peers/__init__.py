"""The other servers: how each is installed, configured, started and asked. One folder a peer.

The servers themselves run in environments of their own and import from here, so this module imports nothing.
"""
