"""Leader election: only the holder of a Lease writes. A leader that loses it stops at once, and its process ends."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable

from gllm_operator.kube.api import Api, ApiError
from gllm_operator.objects import Object

_log = logging.getLogger(__name__)


class Elector:
    """`acquire` returns once this process holds the lease; `keep` returns when it has lost it.

    The clocks of other machines are never compared with this one: a lease is taken over when it has not changed for
    its whole duration, measured here.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        renew_every: float = 4.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._duration = duration
        self._renew_every = renew_every
        self._monotonic = monotonic
        self._valid_until = -1.0
        self._lease: Object | None = None

    @property
    def leads(self) -> bool:
        """Whether a write may begin now: the lease is held, with time left for the write to arrive."""
        return self._monotonic() < self._valid_until

    async def acquire(self) -> None:
        seen, since = "", self._monotonic()
        while True:
            try:
                lease = await self._read()
                version = lease["metadata"]["resourceVersion"] if lease is not None else ""
                if version != seen:
                    seen, since = version, self._monotonic()
                if await self._try(lease, stale=self._monotonic() - since > self._duration):
                    _log.info("is the leader", extra={"identity": self.identity})
                    return
            except ApiError as error:
                _log.warning("cannot read or take the lease", extra={"error": str(error)})
            await asyncio.sleep(self._renew_every / 2)

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every)
            try:
                # Others may write to the Lease, such as tools that apply the chart. Only its holder counts.
                if not (await self._try(self._lease, stale=False) or await self._try(await self._read(), stale=False)):
                    break
            except ApiError as error:
                _log.warning("cannot renew the lease", extra={"error": str(error)})
            if not self.leads:
                break
        self._valid_until = -1.0
        _log.error("lost the lease", extra={"identity": self.identity})

    async def release(self) -> None:
        """Give the lease up, so that another operator need not wait for its end."""
        if self.leads and self._lease is not None:
            self._valid_until = -1.0
            spec = self._lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
            version = self._lease["metadata"]["resourceVersion"]
            try:
                await self._api.patch(
                    "coordination.k8s.io/v1",
                    "Lease",
                    self._namespace,
                    self._name,
                    {"metadata": {"resourceVersion": version}, "spec": spec},
                )
            except ApiError as error:
                _log.warning("cannot release the lease", extra={"error": str(error)})

    async def _read(self) -> Object | None:
        try:
            return await self._api.get("coordination.k8s.io/v1", "Lease", self._namespace, self._name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _try(self, lease: Object | None, *, stale: bool) -> bool:
        """Take or renew the lease. Returns False if another operator holds it."""
        asked = self._monotonic()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self._duration),
            "renewTime": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            if lease is None:
                body = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name, "namespace": self._namespace},
                    "spec": spec,
                }
                self._lease = await self._api.create(body)
            else:
                holder = (lease.get("spec") or {}).get("holderIdentity")
                if holder not in ("", None, self.identity) and not stale:
                    return False
                version = lease["metadata"]["resourceVersion"]
                self._lease = await self._api.patch(
                    "coordination.k8s.io/v1",
                    "Lease",
                    self._namespace,
                    self._name,
                    {"metadata": {"resourceVersion": version}, "spec": spec},
                )
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        # A write that begins in time may arrive late: a third of the lease is left for it.
        self._valid_until = asked + self._duration * 2 / 3
        return True
