"""Requests sent to a server over HTTP, and how long their answers take: closed and open loop."""
