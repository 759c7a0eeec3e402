"""Classification of addresses as public or private."""

from __future__ import annotations

import pytest

from backend.outbound.addresses import is_public

NOT_PUBLIC = (
    *("0.0.0.1", "10.1.2.3", "100.100.100.200", "127.0.0.1", "127.8.8.8", "169.254.169.254", "172.31.0.1"),
    *("192.0.0.192", "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    "168.63.129.16",
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2001:0:1::", "2001:db8::1", "2002:7f00:1::", "3fff::1"),
    *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
)
PUBLIC = ("1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "::ffff:8.8.8.8", "2606:4700:4700::1111")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_lead_into_private_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_everybody_are_public(address: str) -> None:
    assert is_public(address)
