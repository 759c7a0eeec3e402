"""Distinguishes public IP addresses from private and special-purpose ones.

The networks are listed here because the answers of `ipaddress` depend on the release of Python. Sources:
IANA's special-purpose registries, https://www.iana.org/assignments/iana-ipv4-special-registry and
.../iana-ipv6-special-registry.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's metadata service, on a public address
            "169.254.0.0/16",  # link-local, including most clouds' metadata services
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
"""All addresses assigned to hosts; excludes mapped, translated, unique-local and link-local ones."""
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # including Teredo, which embeds an IPv4 address
            "2001:db8::/32",
            "2002::/16",  # 6to4, likewise
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether an address, as the resolver writes it, is reachable on the public Internet."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return _is_public_6(parsed) if mapped is None else _is_public_4(mapped)
    return _is_public_4(parsed)


def _is_public_4(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC_4)


def _is_public_6(address: IPv6Address) -> bool:
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)
