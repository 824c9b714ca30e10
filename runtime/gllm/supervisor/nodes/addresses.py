"""Addresses of host names, and the network interface of an address."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

Resolver = Callable[[str], str]
"""Returns the address of a host name; raises OSError while it has none."""

_RETRY_SECONDS = 0.5
_SIOCGIFADDR = 0x8915


def resolve(host: str) -> str:
    """Return an address of `host`, IPv4 if it has one. Raises OSError if the name is unknown."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


async def resolve_by(host: str, deadline: float, resolver: Resolver = resolve) -> str:
    """Wait until `host` has an address, and return it: a pod's name may appear in DNS long after the pod.

    Raises OSError at `deadline` (time.monotonic()).
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await loop.run_in_executor(None, resolver, host)
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS >= deadline:
                raise OSError(
                    f"--master-addr {host} has no address: {error.strerror or error}; it was looked up until "
                    f"--join-timeout was over"
                ) from None
        await asyncio.sleep(_RETRY_SECONDS)


def address_towards(address: str) -> str:
    """Return this machine's own address on the route to `address`; sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])


def is_wildcard(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False


def interface_of(address: str) -> str | None:
    """Return the name of the network interface with an address of this machine; None if it is not found."""
    try:
        target = ipaddress.ip_address(address)
    except ValueError:
        return None
    if target.is_loopback:
        return "lo"
    if target.version == 6:
        return _interface_of_ipv6(target.packed.hex())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # It has no IPv4 address.
            if answer[20:24] == target.packed:
                return name
    return None


def _interface_of_ipv6(packed: str) -> str | None:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if line.startswith(packed)), None)
