"""What the tests against a faulty upstream ask, and what must become of its connection."""

from tests.testbed.aos import TARGET, Answer, ScriptedAos
from tests.testbed.client import RawResponse, TruncatedResponse, fetch
from tests.testbed.gateway import RunningGateway

OTHER = "/v2/stacks"
TARGETS = (TARGET, OTHER)
OWN = Answer(404, body=b"own")
BROKEN = (TruncatedResponse, ConnectionError)


async def get(gateway: RunningGateway, target: str = TARGET) -> RawResponse:
    """Ask as the one caller of these tests."""
    return await fetch(gateway.address, target, token="alice")


async def assert_not_used_again(aos: ScriptedAos, gateway: RunningGateway, target: str) -> None:
    """Ask twice: both responses are the upstream's own, over another connection than the first request's."""
    aos.answer(OWN)
    for _ in range(2):
        assert (await get(gateway, target)).body == b"own"
    assert {received.connection for received in aos.received} == {1, 2}
