"""Read the desired state from this device's shadow, and report it as the current state.

The shadow client of AWS's own SDK (awsiotsdk) runs on hsm-enroll's connection, so the key stays in the token.
On an enrolled device, run: python shadow.py

The local cloud has no shadow service: there the program says after some seconds that nothing answers.
"""

from awscrt.mqtt_request_response import ClientOptions
from awsiot import V2ServiceException
from awsiot.iotshadow import GetShadowRequest, IotShadowClientV2, ShadowState, UpdateShadowRequest

from hsm_enroll import Identity, connect

TIMEOUT_SECONDS = 5
# A request needs up to two subscriptions; this program sends one request at a time and uses no event streams.
OPTIONS = ClientOptions(
    max_request_response_subscriptions=2, max_streaming_subscriptions=1, operation_timeout_in_seconds=TIMEOUT_SECONDS
)
NOT_FOUND = 404


def main() -> None:
    """Read the desired state and report it."""
    identity = Identity.load()
    with connect(identity) as connection:
        shadows = IotShadowClientV2(connection.awscrt_client, OPTIONS)
        desired = desired_state(shadows, identity.thing_name)
        print("desired:", desired)
        # A real device would now apply the desired state.
        update = UpdateShadowRequest(thing_name=identity.thing_name, state=ShadowState(reported=desired))
        print("reported, version", shadows.update_shadow(update).result().version)


def desired_state(shadows: IotShadowClientV2, thing_name: str) -> dict[str, object]:
    """Return the desired state, which is empty if the Thing has no shadow yet."""
    try:
        shadow = shadows.get_shadow(GetShadowRequest(thing_name=thing_name)).result()
    except V2ServiceException as error:
        if error.modeled_error is None:
            message = f"the shadow service did not answer within {TIMEOUT_SECONDS} s ({error.inner_error})"
            raise SystemExit(f"{message}; the local cloud has none") from error
        if error.modeled_error.code != NOT_FOUND:
            raise
        return {}
    return shadow.state.desired or {}


if __name__ == "__main__":
    main()
