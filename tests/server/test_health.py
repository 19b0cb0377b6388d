"""The health service, without a server."""

import asyncio

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from lemmse.server.health import Health

SERVING, NOT_SERVING, UNKNOWN = (
    HealthCheckResponse.SERVING,
    HealthCheckResponse.NOT_SERVING,
    HealthCheckResponse.SERVICE_UNKNOWN,
)


async def settle():
    """Let all tasks go on until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_watchers_see_all_statuses_change_in_one_step():
    async def watched():
        health, seen = Health(), []

        async def watch(service):
            async for said in health.Watch(HealthCheckRequest(service=service), None):
                one = service, said.status, dict(health._statuses)
                seen.append(one)

        health.update({"index/a": True, "index/b": True, "": True})
        tasks = [asyncio.ensure_future(watch(service)) for service in ("index/a", "index/b", "")]
        await settle()
        first, seen[:] = [(service, status) for service, status, _ in seen], []
        assert first == [("index/a", SERVING), ("index/b", SERVING), ("", SERVING)]
        health.update({"index/b": False, "": False}, gone=["index/a"])
        after = {"index/b": NOT_SERVING, "": NOT_SERVING}
        await settle()
        told, seen[:] = list(seen), []
        assert told == [
            ("index/a", UNKNOWN, after),
            ("index/b", NOT_SERVING, after),
            ("", NOT_SERVING, after),
        ]
        health.update({"index/b": False, "": False})
        await settle()
        assert not seen
        health.update({"index/b": True})
        health.stop()
        health.update({"index/b": True})
        await settle()
        assert seen == []  # it was NOT_SERVING before and after
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(watched())


def test_nobody_is_woken_where_nothing_changes():
    woken = []

    class Counted(Health):
        def _put(self, statuses):
            before = self._changed
            super()._put(statuses)
            woken.append(before.is_set())

    async def updated():
        health = Counted()
        for serving in (True, True, False, False):
            health.update({"": serving})

    asyncio.run(updated())
    assert woken == [True, False, True, False]
