"""Which addresses an outgoing connection may end at."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.act.network import refusal

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1",
    "::1", "fc00::1", "fd12:3456::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1",
    "::127.0.0.1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "100.100.100.200", "0.0.0.0", "::", "0.1.2.3", "224.0.0.1", "ff02::1",
    "255.255.255.255", "240.0.0.1", "not an address", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_reached_only_where_allowed_however_they_are_wrapped(address: str) -> None:
    assert refusal(address, allow_private=False)
    assert not refusal(address, allow_private=True)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_what_is_no_host_are_never_reached(address: str) -> None:
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public_addresses_are_reached_unless_the_connection_is_in_the_clear(address: str) -> None:
    assert not refusal(address, allow_private=False)
    assert refusal(address, allow_private=True, only_private=True)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_inside_ipv6(address: ipaddress.IPv4Address) -> None:
    plain = refusal(str(address), allow_private=False)
    for wrapped in (f"::ffff:{address}", str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address)))):
        assert refusal(wrapped, allow_private=False) == plain


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_whatever_is_not_global_is_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not address.is_global:
        assert refusal(str(address), allow_private=False) or _inner_is_global(address)


def _inner_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return False
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if inner is None and (int(address) >> 32 == 0 or int(address) >> 32 == 0x64FF9B << 64):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner is not None and inner.is_global
