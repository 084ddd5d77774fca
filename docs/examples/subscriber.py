"""Carry out commands for as long as this device runs, whatever happens to the network or the broker.

The connection comes back by itself, with its subscription. What was published while it was away is published then; what
others published meanwhile is not received. If the device vanishes, the broker publishes its will.
On an enrolled device, run: python subscriber.py
"""

from hsm_enroll import ConnectionEvent, HsmEnrollError, Identity, Will, connect


def tell(event: ConnectionEvent) -> None:
    """Say what has become of the connection; a real device would light a lamp."""
    why = f": {event.error.message}" if event.error else ""
    print(f"{event.state}{why}", flush=True)


def main() -> None:
    """Answer every command, until one says "stop"."""
    identity = Identity.load()
    topics = f"device/{identity.thing_name}"
    will = Will(f"{topics}/status", b"lost")
    with connect(identity, reconnect=True, on_connection=tell, will=will) as connection:
        commands = connection.subscribe(f"{topics}/commands")
        connection.publish(f"{topics}/status", b"online")
        for command in commands:
            if command.payload == b"stop":
                break
            connection.publish(f"{topics}/done", command.payload)
        connection.publish(f"{topics}/status", b"offline")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except HsmEnrollError as error:
        raise SystemExit(f"{error.code}: {error.message}. {error.hint}") from error
