"""Which addresses are everybody's, and which lead into a private network.

Written down here because `ipaddress` answers by the release of Python. Sources: IANA's special-purpose
registries, https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry.
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
            "168.63.129.16/32",  # Azure's metadata and agents, though the address is a public one
            "169.254.0.0/16",  # link-local, most clouds' metadata among it
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
"""All that is assigned to hosts; mapped, translated, unique-local and link-local addresses lie outside."""
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # Teredo among it, which holds an IPv4 address
            "2001:db8::/32",
            "2002::/16",  # 6to4, likewise
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether a literal address, as the resolver writes it, is one that anybody on the Internet may reach."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return _is_public_6(found) if mapped is None else _is_public_4(mapped)
    return _is_public_4(found)


def _is_public_4(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC_4)


def _is_public_6(address: IPv6Address) -> bool:
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)
