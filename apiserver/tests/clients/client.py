"""What Python's kubernetes client does with the server: client.py KUBECONFIG.

Each function is one thing that programs do; the last line says how many were done.
"""

import json
import os
import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(config_file=sys.argv[1])
core = client.CoreV1Api()
custom = client.CustomObjectsApi()
extensions = client.ApiextensionsV1Api()
name = f"strait-clients-py-{os.getpid()}"
group = f"{name}.test.dev"
checks = 0


def check(what, holds):
    global checks
    checks += 1
    if not holds:
        raise SystemExit(f"Python's client: {what}")


def refused(what, status, reason, call, *args, **more):
    try:
        call(*args, **more)
    except ApiException as e:
        told = json.loads(e.body)
        check(f"{what}: {status} {reason}, not {e.status} {told}", (e.status, told["reason"]) == (status, reason))
        return told
    check(f"{what} should be refused", False)


def configmap(named, **labels):
    return {"metadata": {"name": named, "labels": labels}}


def follow(source, *args, until, **more):
    """Watches in another thread; join() gives the events until the one that ends it."""
    seen, wrong = [], []

    def run():
        try:
            for event in watch.Watch().stream(source, *args, timeout_seconds=60, **more):
                seen.append(event)
                if until(event):
                    return
        except Exception as e:  # told to whoever joins
            wrong.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(70)
        check(f"a watch goes on: {wrong}", not wrong and not thread.is_alive())
        return seen

    return join


def lists():
    for n in range(5):
        core.create_namespaced_config_map(name, configmap(f"m{n}", n=str(n)))
    listed = core.list_namespaced_config_map(name, label_selector="n in (1,3)")
    check("labels select", [m.metadata.name for m in listed.items] == ["m1", "m3"])
    listed = core.list_config_map_for_all_namespaces(field_selector=f"metadata.name=m2,metadata.namespace={name}")
    check("fields select, in all namespaces", [m.metadata.name for m in listed.items] == ["m2"])
    refused("a selector that is none", 400, "BadRequest", core.list_namespaced_config_map, name, label_selector="a in (")


def pages():
    found, token, left = [], None, []
    while True:
        page = core.list_namespaced_config_map(name, label_selector="n", limit=2, _continue=token)
        check("a page holds two at most", len(page.items) <= 2)
        found += [m.metadata.name for m in page.items]
        token = page.metadata._continue
        if not token:
            break
    check(f"pages hold all, once, in order: {found}", found == [f"m{n}" for n in range(5)])
    everything = [m.metadata.name for m in core.list_namespaced_config_map(name).items]
    first = core.list_namespaced_config_map(name, limit=2)
    check("what is left is counted", first.metadata.remaining_item_count == len(everything) - 2)
    core.create_namespaced_config_map(name, configmap("m1a"))
    rest = core.list_namespaced_config_map(name, limit=9, _continue=first.metadata._continue)
    check("pages show one moment", [m.metadata.name for m in rest.items] == everything[2:])
    check("and its version", rest.metadata.resource_version == first.metadata.resource_version)
    core.delete_namespaced_config_map("m1a", name)
    refused("a token that is none", 400, "BadRequest", core.list_namespaced_config_map, name, limit=2, _continue="x")


def changes_are_watched():
    version = core.list_namespaced_config_map(name).metadata.resource_version
    join = follow(
        core.list_namespaced_config_map, name, resource_version=version, until=lambda e: e["type"] == "DELETED"
    )
    patched = core.patch_namespaced_config_map("m0", name, {"data": {"a": "b"}})
    check("a patch changes", patched.data == {"a": "b"})
    patched.data = {"a": "c"}
    replaced = core.replace_namespaced_config_map("m0", name, patched)
    check("an update replaces", replaced.data == {"a": "c"})
    refused("an old version", 409, "Conflict", core.replace_namespaced_config_map, "m0", name, patched)
    core.delete_namespaced_config_map("m0", name)
    seen = [(e["type"], e["object"].metadata.name) for e in join()]
    check(f"a watch sees it all: {seen}", seen == [("MODIFIED", "m0"), ("MODIFIED", "m0"), ("DELETED", "m0")])
    refused("what is gone", 404, "NotFound", core.read_namespaced_config_map, "m0", name)
    refused("what exists", 409, "AlreadyExists", core.create_namespaced_config_map, name, configmap("m1"))


def a_selector_watches_what_comes_and_goes():
    listed = core.list_namespaced_config_map(name, label_selector="in=yes")
    join = follow(
        core.list_namespaced_config_map,
        name,
        label_selector="in=yes",
        resource_version=listed.metadata.resource_version,
        until=lambda e: e["type"] == "DELETED",
    )
    core.patch_namespaced_config_map("m1", name, {"metadata": {"labels": {"in": "yes"}}})
    core.patch_namespaced_config_map("m1", name, {"metadata": {"labels": {"in": None}}})
    seen = [(e["type"], e["object"].metadata.name) for e in join()]
    check(f"labels that come and go: {seen}", seen == [("ADDED", "m1"), ("DELETED", "m1")])


def bookmarks():
    def initial_end(event):
        annotations = event["raw_object"]["metadata"].get("annotations") or {}
        return event["type"] == "BOOKMARK" and annotations.get("k8s.io/initial-events-end") == "true"

    listed = core.list_namespaced_config_map(name)
    seen = follow(
        core.list_namespaced_config_map,
        name,
        allow_watch_bookmarks=True,
        send_initial_events=True,
        resource_version_match="NotOlderThan",
        until=initial_end,
    )()
    names = [e["raw_object"]["metadata"]["name"] for e in seen[:-1]]
    check(f"all that is there comes first: {names}", names == [m.metadata.name for m in listed.items])
    mark = seen[-1]["raw_object"]["metadata"]["resourceVersion"]
    check("the bookmark has a version to go on from", int(mark) >= int(listed.metadata.resource_version))
    join = follow(core.list_namespaced_config_map, name, resource_version=mark, until=lambda e: True)
    core.create_namespaced_config_map(name, configmap("marked"))
    after = join()
    check("and is gone on from", [e["object"].metadata.name for e in after] == ["marked"])


def old_versions_are_gone():
    """What programs do with 410: list again, and watch from there."""
    page = core.list_namespaced_config_map(name, label_selector="n", limit=1)
    old, token = page.metadata.resource_version, page.metadata._continue
    for n in range(300):
        core.patch_namespaced_config_map("marked", name, {"data": {"n": str(n)}})
    try:
        core.list_namespaced_config_map(name, label_selector="n", limit=1, _continue=token)
        print("skipped: 410 in Python's client: this server remembers more than 300 changes")
        return
    except ApiException as e:
        told = json.loads(e.body)
        check(f"410 Expired, not {e.status} {told}", (e.status, told["reason"]) == (410, "Expired"))
    rest = core.list_namespaced_config_map(name, label_selector="n", limit=9, _continue=told["metadata"]["continue"])
    check("a list goes on where it was, as it is now", [m.metadata.name for m in rest.items] == ["m2", "m3", "m4"])
    refused(
        "a list of an old version",
        410,
        "Expired",
        core.list_namespaced_config_map,
        name,
        resource_version=old,
        resource_version_match="Exact",
    )
    seen, lists = [], 0
    version = old
    while not seen:
        try:
            for event in watch.Watch().stream(core.list_namespaced_config_map, name, resource_version=version):
                seen.append((event["type"], event["object"].metadata.name))
                break
        except ApiException as e:
            check(f"410 in the stream, not {e.status} {e.reason}", e.status == 410 and "too old" in e.reason)
            lists += 1
            check("a new list is not too old", lists == 1)
            version = core.list_namespaced_config_map(name).metadata.resource_version
            core.create_namespaced_config_map(name, configmap("again"))
    check(f"after a new list it is watched on: {seen}", (lists, seen) == (1, [("ADDED", "again")]))


def custom_objects():
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    extensions.create_custom_resource_definition(crd)

    def established(event):
        conditions = (event["object"].status and event["object"].status.conditions) or []
        return any(c.type == "Established" and c.status == "True" for c in conditions)

    follow(
        extensions.list_custom_resource_definition, field_selector=f"metadata.name=things.{group}", until=established
    )()
    where = (group, "v1", name, "things")
    version = custom.list_namespaced_custom_object(*where)["metadata"]["resourceVersion"]
    join = follow(
        custom.list_namespaced_custom_object,
        *where,
        resource_version=version,
        until=lambda e: e["type"] == "DELETED",
    )
    for n in range(3):
        thing = {
            "apiVersion": f"{group}/v1",
            "kind": "Thing",
            "metadata": {"name": f"t{n}", "labels": {"n": str(n)}},
            "spec": {"a": [n, {"b": 2}]},
        }
        custom.create_namespaced_custom_object(*where, thing)
    found = custom.get_namespaced_custom_object(*where, "t1")
    check("a custom object comes back", found["spec"] == {"a": [1, {"b": 2}]})
    custom.patch_namespaced_custom_object(*where, "t1", {"spec": {"c": True}})
    found = custom.list_namespaced_custom_object(*where, label_selector="n=1")
    check("it is patched, and found by label", [t["spec"]["c"] for t in found["items"]] == [True])
    found = custom.list_namespaced_custom_object(*where, limit=2)
    rest = custom.list_namespaced_custom_object(*where, limit=2, _continue=found["metadata"]["continue"])
    names = [t["metadata"]["name"] for t in found["items"] + rest["items"]]
    check(f"pages of custom objects: {names}", names == ["t0", "t1", "t2"])
    everywhere = custom.list_cluster_custom_object(group, "v1", "things")
    check("they are listed in all namespaces", len(everywhere["items"]) == 3)
    stale = found["items"][0] | {"spec": {"a": "new"}}
    custom.replace_namespaced_custom_object(*where, "t0", stale)
    refused("an old custom object", 409, "Conflict", custom.replace_namespaced_custom_object, *where, "t0", stale)
    custom.delete_namespaced_custom_object(*where, "t2")
    seen = join()
    check("custom objects are watched", (seen[-1]["type"], seen[-1]["object"]["metadata"]["name"]) == ("DELETED", "t2"))
    last = {e["object"]["metadata"]["name"]: e["object"]["spec"] for e in seen}
    check(f"with their changes: {last}", last["t0"] == {"a": "new"} and last["t1"]["c"] is True)


def dynamic_client():
    api = dynamic.DynamicClient(client.ApiClient())
    things = api.resources.get(api_version=f"{group}/v1", kind="Thing")
    check("a kind is discovered", things.namespaced and things.name == "things" and "watch" in things.verbs)
    deployments = api.resources.get(api_version="apps/v1", kind="Deployment")
    check("a built-in one too", "deployments/scale" in {f"deployments/{s}" for s in deployments.subresources})
    things.create(
        body={"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "dyn"}, "spec": {"d": 1}},
        namespace=name,
    )
    check("what it made is got", things.get(name="dyn", namespace=name).spec.d == 1)
    things.patch(
        name="dyn", namespace=name, body={"spec": {"d": 2}}, content_type="application/merge-patch+json"
    )
    applied = things.server_side_apply(
        name="dyn",
        namespace=name,
        body={"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "dyn"}, "spec": {"e": 3}},
        field_manager="py",
        force_conflicts=True,
    )
    check("it applies", (applied.spec.d, applied.spec.e) == (2, 3))
    check("it selects", [t.metadata.name for t in things.get(namespace=name, label_selector="n=1").items] == ["t1"])
    seen = []
    for event in things.watch(namespace=name, timeout=60):
        seen.append((event["type"], event["object"].metadata.name))
        if seen[-1] == ("ADDED", "dyn"):
            things.delete(name="dyn", namespace=name)
        if event["type"] == "DELETED":
            break
    check(f"it watches: {seen}", seen[-1] == ("DELETED", "dyn") and ("ADDED", "t0") in seen)
    try:
        things.get(name="dyn", namespace=name)
        check("what it deleted is gone", False)
    except dynamic.exceptions.NotFoundError:
        check("its errors have their kinds", True)


def typed_kinds():
    apps = client.AppsV1Api()
    spec = client.V1DeploymentSpec(
        selector=client.V1LabelSelector(match_labels={"a": "b"}),
        template=client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(labels={"a": "b"}),
            spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="x:1")]),
        ),
    )
    made = apps.create_namespaced_deployment(name, client.V1Deployment(metadata={"name": "d"}, spec=spec))
    check("defaults are set", made.spec.replicas == 1 and made.spec.strategy.type == "RollingUpdate")
    patched = apps.patch_namespaced_deployment(
        "d", name, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x:2"}]}}}}
    )
    check("a strategic patch merges by name", [c.image for c in patched.spec.template.spec.containers] == ["x:2"])
    scaled = apps.patch_namespaced_deployment_scale("d", name, {"spec": {"replicas": 4}})
    check("it is scaled", scaled.spec.replicas == 4)
    lease = client.CoordinationV1Api().create_namespaced_lease(
        name, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "py", "renewTime": "2026-01-01T00:00:00.000001Z"}}
    )
    check("times keep their microseconds", lease.spec.renew_time.microsecond == 1)
    review = client.AuthorizationV1Api().create_self_subject_access_review(
        {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": name}}}
    )
    check("rights are told", review.status.allowed)
    check("the version is told", client.VersionApi().get_code().major == "1")
    token = core.create_namespaced_service_account_token("default", name, {"spec": {"expirationSeconds": 600}})
    check("a token is made", token.status.token.startswith("ey"))


steps = [
    lists,
    pages,
    changes_are_watched,
    a_selector_watches_what_comes_and_goes,
    bookmarks,
    old_versions_are_gone,
    custom_objects,
    dynamic_client,
    typed_kinds,
]
core.create_namespace({"metadata": {"name": name}})
try:
    for step in steps:
        step()
finally:
    core.delete_namespace(name)
    try:
        extensions.delete_custom_resource_definition(f"things.{group}")
    except ApiException as e:
        if e.status != 404:
            raise
print(f"Python's client {client.__version__}: {len(steps)} programs, {checks} checks, 0 wrong")
