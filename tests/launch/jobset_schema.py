"""The fields of a JobSet that launch/gke/jobset.yaml uses, as a JSON schema.

Written after the custom resource definition of jobset.x-k8s.io/v1alpha2 in kubernetes-sigs/jobset
(config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml): names, types and choices as they are there, and nothing else
allowed. The template of the Job inside is Kubernetes' own, and validated as that.
"""

from typing import Any

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


RULE = fields(
    ("name", "action"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    # the reasons for which Kubernetes declares a Job failed
    onJobFailureReasons={
        "type": "array",
        "items": {
            "enum": [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
            ]
        },
    },
    targetReplicatedJobs={"type": "array", "items": {"type": "string"}},
)
REPLICATED_JOB = fields(
    ("name", "template"),
    name={"type": "string"},
    replicas={"type": "integer"},
    template=fields(("spec",), metadata={"type": "object"}, spec={"type": "object"}),
)
SCHEMA = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=fields(("name",), name={"type": "string"}, namespace={"type": "string"}, annotations=TEXTS, labels=TEXTS),
    spec=fields(
        failurePolicy=fields(
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={"type": "array", "items": RULE},
        ),
        replicatedJobs={"type": "array", "items": REPLICATED_JOB},
    ),
)
