"""What Python's kubernetes client does with the server: client.py KUBECONFIG."""

import os
import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(config_file=sys.argv[1])
core = client.CoreV1Api()
custom = client.CustomObjectsApi()
name = f"strait-clients-py-{os.getpid()}"


def check(what, holds):
    if not holds:
        sys.exit(f"Python's client: {what}")


core.create_namespace({"metadata": {"name": name}})
try:
    for n in range(5):
        core.create_namespaced_config_map(name, {"metadata": {"name": f"m{n}", "labels": {"n": str(n)}}})
    listed = core.list_namespaced_config_map(name, label_selector="n in (1,3)")
    check("labels select", [m.metadata.name for m in listed.items] == ["m1", "m3"])
    first = core.list_namespaced_config_map(name, label_selector="n", limit=2)
    check("a page holds two", len(first.items) == 2)
    rest = core.list_namespaced_config_map(name, label_selector="n", _continue=first.metadata._continue)
    check("the next page holds the rest", len(rest.items) == 3)

    version = core.list_namespaced_config_map(name).metadata.resource_version
    seen = []

    def follow():
        stream = watch.Watch().stream(
            core.list_namespaced_config_map, name, resource_version=version, timeout_seconds=20
        )
        for event in stream:
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                return

    follower = threading.Thread(target=follow)
    follower.start()
    patched = core.patch_namespaced_config_map("m0", name, {"data": {"a": "b"}})
    check("a patch changes", patched.data == {"a": "b"})
    patched.data = {"a": "c"}
    replaced = core.replace_namespaced_config_map("m0", name, patched)
    check("an update replaces", replaced.data == {"a": "c"})
    try:
        core.replace_namespaced_config_map("m0", name, patched)
        check("an old version conflicts", False)
    except ApiException as e:
        check("an old version is a 409", e.status == 409)
    core.delete_namespaced_config_map("m0", name)
    follower.join(30)
    check(f"a watch sees it all: {seen}", seen == [("MODIFIED", "m0"), ("MODIFIED", "m0"), ("DELETED", "m0")])

    try:
        core.read_namespaced_config_map("m0", name)
        check("what is deleted is gone", False)
    except ApiException as e:
        check("what is gone is a 404", e.status == 404)

    group = f"{name}.test.dev"
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }
    extensions = client.ApiextensionsV1Api()
    extensions.create_custom_resource_definition(crd)
    established = watch.Watch()
    for event in established.stream(
        extensions.list_custom_resource_definition, field_selector=f"metadata.name=things.{group}", timeout_seconds=30
    ):
        conditions = event["object"].status.conditions or []
        if any(c.type == "Established" and c.status == "True" for c in conditions):
            established.stop()
    thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"a": [1, {"b": 2}]}}
    custom.create_namespaced_custom_object(group, "v1", name, "things", thing)
    found = custom.get_namespaced_custom_object(group, "v1", name, "things", "t")
    check("a custom object comes back", found["spec"] == thing["spec"])
    custom.patch_namespaced_custom_object(group, "v1", name, "things", "t", {"spec": {"c": True}})
    found = custom.list_namespaced_custom_object(group, "v1", name, "things")
    check("a custom object is patched", found["items"][0]["spec"]["c"] is True)
    extensions.delete_custom_resource_definition(f"things.{group}")
    check("the version is told", client.VersionApi().get_code().major == "1")
finally:
    core.delete_namespace(name)
print(f"Python's client {client.__version__}: all well")
