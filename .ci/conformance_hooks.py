"""Makes the requests of a run meet something.

A made-up id is nobody's, so half of the requests with a valid id, and all with
a valid name, get that of a thing that was made for the purpose, and that is
made again when a request has deleted it. The key, session and project of the run
itself are spared: such a request goes to what nothing has.
"""

import itertools
import os
from urllib.parse import parse_qsl, urlsplit

import requests
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData

NOBODYS = 987_654_321
RUNTIME = {"runtimeVersion": "1.0.0", "platform": "ios"}
count = itertools.count(1)


class World:
    """One of each thing, by the collection that it is in."""

    def __init__(self) -> None:
        token, self.project = os.environ["SLUICE_TOKEN"], os.environ["SLUICE_PROJECT"]
        # Of somebody with a session; none: the token is an API key.
        self.account = os.environ.get("SLUICE_ACCOUNT")
        self.base = os.environ["SLUICE_BASE"]
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"
        self.session.headers["X-Project"] = self.project
        keys = self.session.get(f"{self.base}/auth/api-keys", timeout=10).json()
        self.own_keys = [str(k["id"]) for k in keys if token.startswith(k["keyPrefix"])]
        self.known = {"projectSlug": self.project, "channelName": "production"}
        for collection in ("branches", "channels", "builds", "updates", "flags", "rules",
                           "segments", "webhooks", "contexts", "user-overrides", "api-keys"):
            self.make(collection)
        if self.account:
            self.make("projects")

    def login(self) -> dict:
        return {"email": f"{self.account}@example.test", "password": self.account}

    def accept(self) -> dict:
        guest = {"name": "guest", "email": f"guest-{os.getpid()}-{next(count)}@example.test"}
        invited = self.post("auth/invite", json=guest)
        return {"inviteToken": invited["inviteToken"], "password": "long enough"}

    def post(self, path: str, **arguments) -> dict:
        answer = self.session.post(f"{self.base}/{path}", timeout=10, **arguments)
        assert answer.status_code == 201, (path, answer.status_code, answer.text)
        return answer.json()

    def make(self, collection: str) -> None:
        name = f"conformance-{os.getpid()}-{next(count)}"
        match collection:
            case "branches" | "channels":
                branch = {"branchName": "main"} if collection == "channels" else {}
                self.known[collection] = self.post(collection, json={"name": name, **branch})["name"]
                return
            case "builds":
                files = {"assets": (f"{name}.bundle", name)}
                made = self.post("builds", data=RUNTIME, files=files)
            case "updates":
                build = self.known["builds"]
                body = {"channel": "production"}
                made = {"id": self.post(f"builds/{build}/publish", json=body)["updateId"]}
                # Builds that an update came from stay: the next one can be deleted.
                self.make("builds")
            case "flags":
                made = self.post("flags", json={"name": name, "key": name})
                self.known["variations"] = made["variations"][0]["id"]
                self.known["flags"] = made["id"]
                self.make("rules")
            case "rules":
                body = {"ruleType": "user_list", "variantValue": True, "ruleConfig": {"userIds": [name]}}
                made = self.post(f"flags/{self.known['flags']}/rules", json=body)
            case "segments":
                body = {"name": name, "key": name, "matchType": "all", "conditions": []}
                made = self.post("segments", json=body)
            case "webhooks":
                body = {"url": "https://nowhere.invalid/", "events": ["branch.deleted"]}
                made = self.post("webhooks", json=body)
            case "contexts":
                made = self.post("contexts", json={"kind": "user", "targetingKey": name})
            case "user-overrides":
                made = self.post("user-overrides", json={"userId": name, "branchName": "main"})
            case "api-keys":
                made = self.post("auth/api-keys", json={"name": name})
            case "projects":
                self.known["projects"] = self.post("projects", json={"name": name, "slug": name})["slug"]
                return
        self.known[collection] = made["id"]


world = World()
NAMED = ("branches", "channels", "channelName", "projectSlug", "projects")


def collections(path: str) -> dict[str, str]:
    """What each parameter of a path names: the segment before it, or a name of its own."""
    parts = path.split("/")
    pairs = ((before, part.strip("{}")) for before, part in itertools.pairwise(parts) if part.startswith("{"))
    return {name: name if name in world.known else before for before, name in pairs}


@schemathesis.hook
def before_call(context, case, kwargs):
    # Stateful testing has ids of its own, from earlier answers.
    if case.meta is None or case.meta.phase.name.value != "stateful":
        for name, collection in collections(case.path).items():
            given = case.path_parameters.get(name)
            is_id = isinstance(given, int) and not isinstance(given, bool)
            is_name = isinstance(given, str) and collection in NAMED
            if (is_id or is_name) and collection in world.known and next(count) % 2:
                case.path_parameters[name] = world.known[collection]
    parameters = case.path_parameters or {}
    if "/auth/api-keys/" in case.path and str(parameters.get("id")) in world.own_keys:
        parameters["id"] = NOBODYS
    if "/projects/" in case.path and parameters.get("slug") == world.project:
        parameters["slug"] = "nobodys"
    # A made-up password or token is nobody's either.
    is_right = case.meta is None or case.meta.generation.mode.is_positive
    bodies = {"/auth/login": world.login, "/auth/accept-invite": world.accept}
    body = next((body for path, body in bodies.items() if case.path.endswith(path)), None)
    if world.account and is_right and body and next(count) % 2:
        case.body = body()


@schemathesis.hook
def after_call(context, case, response):
    if case.method == "DELETE" and response.status_code == 204:
        for name, collection in collections(case.path).items():
            if world.known.get(collection) == case.path_parameters.get(name) and collection != "flags":
                world.make(collection)
            elif collection == "flags" and world.known["flags"] == case.path_parameters[name]:
                # A rule's deletion names its flag too.
                if "/rules/" not in case.path:
                    world.make("flags")


@schemathesis.hook
def filter_failure(context, failure, case, response) -> bool:
    # An empty value in a query is an absent one, whatever its type.
    query = parse_qsl(urlsplit(response.request.url).query, keep_blank_values=True)
    has_empty = any(not value for _, value in query)
    return not (has_empty and isinstance(failure, AcceptedNegativeData))
