"""GKE: the manifest is valid by Kubernetes' and JobSet's schemas, and says what restarts and what does not."""

import copy
import re
from typing import Any

import pytest
from jobset_schema import SCHEMA
from launchers import LINES, ROOT, WORDS

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

RUN = ("--name=planner", "--image=eu.gcr.io/p/tracelift:tpu", "--topology=v5e:4x4", "--claim=runs")
VERSION = "1.32"


def validate(manifest: dict[str, Any]) -> None:
    """Raises where either schema does."""
    jsonschema.validate(manifest, SCHEMA)
    for job in manifest["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        kubernetes_validate.validate(whole, VERSION, strict=True)


def manifest_of(stand_ins, *flags: str) -> dict[str, Any]:
    """What kubectl was given, valid."""
    done = stand_ins.launch("gke", *flags)
    assert done.code == 0, done.err
    call = stand_ins.calls("kubectl")[-1]
    assert call["argv"] == ["create", "--filename=-"]
    manifest = yaml.safe_load(call["stdin"])
    validate(manifest)
    return manifest


def job_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (job,) = manifest["spec"]["replicatedJobs"]
    return job["template"]["spec"]


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return job_of(manifest)["template"]["spec"]


def expanded(words: list[str]) -> list[str]:
    """What Kubernetes makes of a container's arguments: $$ is $, and $(NAME) of a variable that exists its value."""
    return [re.sub(r"\$(\$|\(\w+\))", lambda m: "$" if m[1] == "$" else "<its value>", word) for word in words]


def test_a_slice_of_four_hosts(stand_ins):
    manifest = manifest_of(stand_ins, *RUN, "--", *WORDS)
    assert manifest["metadata"]["name"] == "planner"
    assert manifest["metadata"]["namespace"] == "default"
    job, pod = job_of(manifest), pod_of(manifest)
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["tolerations"] == []
    assert pod["serviceAccountName"] == "default"
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
    (container,) = pod["containers"]
    assert container["image"] == "eu.gcr.io/p/tracelift:tpu"
    assert "command" not in container  # the image's own: tracelift
    assert expanded(container["args"]) == list(WORDS)
    assert container["resources"] == {"requests": {"google.com/tpu": 4}, "limits": {"google.com/tpu": 4}}
    assert container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]


def test_a_bucket_and_spot_machines(stand_ins):
    flags = [flag for flag in RUN if not flag.startswith("--claim")]
    given = ("--bucket=my-runs", "--service_account=trainer", "--namespace=research", "--spot", "--grace=25")
    manifest = manifest_of(stand_ins, *flags, *given, "--max_restarts=3", "--", "train")
    assert manifest["metadata"]["namespace"] == "research"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert job_of(manifest)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    pod = pod_of(manifest)
    assert pod["serviceAccountName"] == "trainer"
    assert pod["terminationGracePeriodSeconds"] == 25
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    (toleration,) = pod["tolerations"]
    assert (toleration["key"], toleration["value"]) == ("cloud.google.com/gke-spot", "true")
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": "my-runs"}}
    assert pod["volumes"] == [{"name": "runs", "csi": csi}]


@pytest.mark.parametrize(
    ("topology", "per_host", "accelerator", "hosts", "chips"),
    [
        ("v5e:4x4", 4, "tpu-v5-lite-podslice", 4, 4),
        ("v5e:16x16", 4, "tpu-v5-lite-podslice", 64, 4),
        ("v5e:2x4", 8, "tpu-v5-lite-podslice", 1, 8),
        ("v5e:1x1", 4, "tpu-v5-lite-podslice", 1, 1),
        ("v5p:2x2x4", 4, "tpu-v5p-slice", 4, 4),
        ("v6e:8x8", 4, "tpu-v6e-slice", 16, 4),
    ],
)
def test_hosts_and_chips_follow_from_the_topology(stand_ins, topology, per_host, accelerator, hosts, chips):
    flags = ("--name=a", "--image=i", "--claim=c", f"--topology={topology}", f"--chips_per_host={per_host}")
    manifest = manifest_of(stand_ins, *flags, "--", "train")
    assert (job_of(manifest)["parallelism"], job_of(manifest)["completions"]) == (hosts, hosts)
    (container,) = pod_of(manifest)["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod_of(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
    }


def outcome(manifest: dict[str, Any], exit_code: int, *, disrupted: bool = False) -> str:
    """What becomes of the JobSet when a pod ends, by the rules as Kubernetes and JobSet document them."""
    if exit_code == 0 and not disrupted:
        return "done"
    job = job_of(manifest)
    (container,) = pod_of(manifest)["containers"]
    reason = "BackoffLimitExceeded"  # what a pod that counts leads to when no retry of it is allowed
    assert job["backoffLimit"] == 0
    for rule in job["podFailurePolicy"]["rules"]:  # the first that fits decides
        if "onPodConditions" in rule:
            fits = disrupted and {"type": "DisruptionTarget", "status": "True"} in rule["onPodConditions"]
        else:
            codes = rule["onExitCodes"]
            assert (codes["operator"], codes["containerName"]) == ("In", container["name"])
            fits = exit_code in codes["values"]
        if fits:
            reason = {"FailJob": "PodFailurePolicy", "Count": reason}[rule["action"]]
            break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("exit_code", "disrupted", "expected"),
    [
        (0, False, "done"),
        (75, False, "RestartJobSet"),
        (1, False, "FailJobSet"),
        (2, False, "FailJobSet"),
        (137, False, "RestartJobSet"),
        (134, False, "RestartJobSet"),
        (75, True, "RestartJobSet"),
        (1, True, "RestartJobSet"),
    ],
)
def test_what_restarts_and_what_does_not(stand_ins, exit_code, disrupted, expected):
    manifest = manifest_of(stand_ins, *RUN, "--", "train")
    assert pod_of(manifest)["restartPolicy"] == "Never"  # or Kubernetes refuses the policy
    assert outcome(manifest, exit_code, disrupted=disrupted) == expected


def test_the_schemas_refuse_what_is_wrong(stand_ins):
    manifest = manifest_of(stand_ins, *RUN, "--", "train")

    def put(value: object, *path: str | int) -> dict[str, Any]:
        changed = copy.deepcopy(manifest)
        place: Any = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return changed

    job: tuple[str | int, ...] = ("spec", "replicatedJobs", 0, "template", "spec")
    container = (*job, "template", "spec", "containers", 0)
    for wrong in (
        put("many", "spec", "failurePolicy", "maxRestarts"),
        put("Restart", "spec", "failurePolicy", "rules", 0, "action"),
        put("Preempted", "spec", "failurePolicy", "rules", 0, "onJobFailureReasons", 0),
        put(3, "spec", "restarts"),
        put("4", *job, "parallelism"),
        put({}, *job, "podFailurePolicys"),
        put("1", *job, "podFailurePolicy", "rules", 1, "onExitCodes", "values", 0),
        put([1], *container, "args"),
        put("x", *container, "arguments"),
    ):
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            validate(wrong)


def test_a_dry_run_prints_the_manifest_and_pasted_it_does_the_same(stand_ins):
    dry = stand_ins.launch("gke", *RUN, "--dry_run", "--", *WORDS)
    assert (dry.code, dry.err, stand_ins.calls()) == (0, "", [])
    manifest = manifest_of(stand_ins, *RUN, "--", *WORDS)
    assert stand_ins.paste(dry.out).code == 0
    first, second = stand_ins.calls("kubectl")
    assert (first["argv"], first["stdin"]) == (second["argv"], second["stdin"])
    assert yaml.safe_load(second["stdin"]) == manifest


def test_kubectl_s_refusal_is_the_script_s(stand_ins):
    stand_ins.plan("kubectl", {"code": 1})
    done = stand_ins.launch("gke", *RUN, "--", "train")
    assert (done.code, done.err) == (1, "")


def test_every_word_of_the_template_is_filled_in(stand_ins):
    manifest_of(stand_ins, *RUN, "--", "train")
    assert "@" not in stand_ins.calls("kubectl")[0]["stdin"]
    assert len(re.findall("@[A-Z_]+@", (ROOT / "launch" / "gke" / "jobset.yaml").read_text())) > 10


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--name=Planner",), "--name=Planner: at most 40 lower-case letters, digits and hyphens, a letter first"),
        (
            ("--name=" + "a" * 41,),
            f"--name={'a' * 41}: at most 40 lower-case letters, digits and hyphens, a letter first",
        ),
        (("--topology=4x4",), "--topology=4x4: give v5e:, v5p: or v6e: and the chips, as v5e:4x4"),
        (("--topology=v5p:4x4",), "--topology=v5p:4x4: v5p has 3 numbers, as 2x2x4"),
        (("--topology=v5e:2x3",), "--topology=v5e:2x3 has 6 chips: no whole number of hosts with 4"),
        (("--chips_per_host=0",), "--chips_per_host=0: give at least one"),
        (
            ("--bucket=b",),
            "give either --claim=... or --bucket=...: the run directory is at /runs, which all pods must see",
        ),
        (
            ("--claim=",),
            "give either --claim=... or --bucket=...: the run directory is at /runs, which all pods must see",
        ),
        (("--image=",), "give --image=...; see --help"),
        (("--grace=2m",), "--grace=2m is not a whole number"),
    ],
)
def test_wrong_flags_are_one_line(stand_ins, flags, message):
    done = stand_ins.launch("gke", *RUN, *flags, "--", "train")
    assert (done.code, done.out, done.err) == (2, "", f"gke.sh: {message}\n")
    assert stand_ins.calls() == []


def test_a_line_break_is_refused(stand_ins):
    done = stand_ins.launch("gke", *RUN, "--", "train", LINES)
    assert done.code == 2
    assert "no line breaks" in done.err
    assert stand_ins.calls() == []
