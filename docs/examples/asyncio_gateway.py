"""Send measurements and carry out commands at the same time, with asyncio.

No thread waits for a message or an acknowledgement, so a program may have any number of coroutines that do.
On an enrolled device, run: python asyncio_gateway.py
"""

import asyncio
import itertools

from hsm_enroll import HsmEnrollError, Identity, aio

INTERVAL_SECONDS = 1.0


async def main() -> None:
    """Measure until a command says "stop"."""
    identity = Identity.load()
    topics = f"device/{identity.thing_name}"
    async with aio.connect(identity, reconnect=True) as connection:
        commands = await connection.subscribe(f"{topics}/commands")
        measuring = asyncio.create_task(measure(connection, f"{topics}/temperature"))
        async for command in commands:
            print("command:", command.payload.decode())
            if command.payload == b"stop":
                break
        measuring.cancel()


async def measure(connection: aio.Connection, topic: str) -> None:
    """Publish a value at every interval; a real device would read a sensor."""
    for tenths in itertools.count(210):
        await connection.publish(topic, str(tenths / 10).encode())
        await asyncio.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except HsmEnrollError as error:
        raise SystemExit(f"{error.code}: {error.message}. {error.hint}") from error
