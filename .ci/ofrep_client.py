"""Evaluates flags with OpenFeature's published OFREP provider, which we did not write.

Takes the path of the credentials.json of a running standalone; exits non-zero
at the first difference.
"""

import json
import sys
import time

import requests
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

FLAG = "ofrep-probe"
# A change reaches every replica within this.
PROPAGATION_S = 5.0


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        credentials = json.load(file)
    headers = {"Authorization": f"Bearer {credentials['apiKey']}"}
    make_flag(credentials, headers)
    api.set_provider(OFREPProvider(credentials["baseUrl"], headers_factory=lambda: headers))
    client = api.get_client()

    def boolean(user: str):
        return client.get_boolean_details(FLAG, False, EvaluationContext(user, {"plan": "pro"}))

    deadline = time.monotonic() + PROPAGATION_S
    while not boolean("user-1").value and time.monotonic() < deadline:
        time.sleep(0.05)
    expect("listed user", boolean("user-1"), True, "TARGETING_MATCH")
    expect("other user", boolean("user-2"), False, "DEFAULT")
    expect("text", client.get_string_details("theme", ""), "system", "DEFAULT")
    expect("number", client.get_integer_details("max-cart-items", 0), 10, "DEFAULT")
    layout = {"layout": "single", "maxRetries": 3}
    expect("object", client.get_object_details("checkout-config", {}), layout, "DEFAULT")
    unknown = client.get_boolean_details("no-such-flag", True)
    expect("unknown flag", unknown, True, "ERROR")
    assert unknown.error_code == "FLAG_NOT_FOUND", unknown

    api.set_provider(OFREPProvider(credentials["baseUrl"]))
    expect("no key", api.get_client().get_boolean_details(FLAG, False), False, "ERROR")
    print("the OFREP provider evaluates as expected")


def make_flag(credentials: dict, headers: dict) -> None:
    """A boolean flag that is true for user-1; made anew on each run."""
    base = f"{credentials['baseUrl']}/v1/ota/flags"
    session = requests.Session()
    session.headers.update({**headers, "X-Project": credentials["projectSlug"]})
    for flag in session.get(base, timeout=5).json():
        if flag["key"] == FLAG:
            session.delete(f"{base}/{flag['id']}", timeout=5).raise_for_status()
    made = session.post(base, json={"name": FLAG, "key": FLAG}, timeout=5)
    made.raise_for_status()
    rule = {"ruleType": "user_list", "variantValue": True, "ruleConfig": {"userIds": ["user-1"]}}
    session.post(f"{base}/{made.json()['id']}/rules", json=rule, timeout=5).raise_for_status()


def expect(what: str, details, value, reason: str) -> None:
    assert (details.value, details.reason) == (value, reason), f"{what}: {details}"


if __name__ == "__main__":
    main(sys.argv[1])
