"""Who a request comes from: the holder of a key, or an address on a server without keys.

A tenant's requests count together: for its limits, for its share of the queue and of the engine.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_STATE = "tenant"  # where a guard leaves the tenant it has found, in the scope's state


@dataclass(frozen=True, slots=True)
class Tenant:
    """`name` is the key's name, or the address. Of the limits, None is for the server's default and
    0 for none at all. `has_key` says that prompts are nobody else's business."""

    name: str
    has_key: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def set_tenant(scope: Scope, tenant: Tenant) -> None:
    """Let the request that `scope` belongs to be this tenant's."""
    scope.setdefault("state", {})[_STATE] = tenant


def tenant_of(scope: Scope) -> Tenant:
    """Whose request it is; without a key, that of everybody at its address."""
    state: dict[str, Any] = scope.get("state", {})
    tenant: Tenant | None = state.get(_STATE)
    return tenant or Tenant(_network(client_address(scope)))


def client_address(scope: Scope) -> Address | None:
    """The client's, or the one that a trusted proxy names in X-Forwarded-For.

    None where that is no address: proxies pass on what clients have made up, of any length.
    """
    client = scope.get("client")
    try:
        return ipaddress.ip_address(client[0].partition("%")[0]) if client else None
    except ValueError:
        return None


def _network(address: Address | None) -> str:
    """The address; of IPv6 the first 64 bits, because one host may use all those that begin so."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address), 64), strict=False))
    return "" if address is None else str(address)
