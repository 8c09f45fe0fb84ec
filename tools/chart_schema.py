#!/usr/bin/python3
"""Writes deploy/helm/quad/values.schema.json: what may stand in the Helm chart's values. Run it after a change of the keys of
the configuration or of the chart's values; a test tells when it is due.

usage: tools/chart_schema.py [QUAD]      QUAD is the program (default: build/release/bin/quad), which knows the keys of `config`
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "deploy" / "helm" / "quad" / "values.schema.json"
SET_BY_THE_CHART = ("port", "tls")

TEXT = {"type": "string"}
YES_OR_NO = {"type": "boolean"}
DURATION = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}
# What Kubernetes itself checks.
MAPPING = {"type": "object"}
MAPPINGS = {"type": "array", "items": MAPPING}
TEXTS = {"type": "array", "items": TEXT}
LABELS = {"type": "object", "additionalProperties": TEXT}
DNS_LABEL = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$"}


def open_group(**properties):
    return {"type": "object", "properties": properties, "additionalProperties": False}


def group(**properties):
    """All of these have a default, so one that is missing was set to null, which no template expects."""
    return open_group(**properties) | {"required": sorted(properties)}


def one_of(*values):
    return {"type": "string", "enum": list(values)}


def whole(least, most=None):
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


def filled(schema):
    return schema | {"minLength": 1}


def config_schema(quad):
    """Of the file that the server reads, less what only the chart can say."""
    schema = json.loads(subprocess.run([quad, "config", "schema"], check=True, capture_output=True, text=True).stdout)
    for key in SET_BY_THE_CHART:
        del schema["properties"][key]
    del schema["$schema"], schema["title"]
    return schema


def make(quad):
    schema = group(
        nameOverride=TEXT,
        fullnameOverride=TEXT,
        image=group(
            repository=TEXT,
            tag=TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy=one_of("Always", "IfNotPresent", "Never"),
        ),
        imagePullSecrets={"type": "array", "items": group(name=filled(TEXT))},
        jobs=group(
            namespace=DNS_LABEL,
            createNamespace=YES_OR_NO,
            namespaceLabels=LABELS,
            # "local" is this machine's own engine.
            engine={"type": "string", "pattern": "^[A-Za-z0-9][-._A-Za-z0-9]*$", "not": {"const": "local"}},
        ),
        config=config_schema(quad),
        persistence=group(
            existingClaim=TEXT,
            storageClass=TEXT,
            accessModes={
                "type": "array",
                # Not ReadWriteMany: on storage that all nodes reach, a server that is cut off would go on writing.
                "items": one_of("ReadWriteOnce", "ReadWriteOncePod"),
                "minItems": 1,
            },
            size={"type": "string", "pattern": "^[0-9.]+(Mi|Gi|Ti|M|G|T)$"},
            annotations=LABELS,
        ),
        tls=group(
            secretName=TEXT,
            secretHasCa=YES_OR_NO,
            certManager=group(
                enabled=YES_OR_NO,
                issuerRef=open_group(name=TEXT, kind=TEXT, group=TEXT),
                duration=DURATION,
                renewBefore=DURATION,
            ),
            extraNames=TEXTS,
            days=whole(1),
        ),
        service=group(
            type=one_of("ClusterIP", "NodePort", "LoadBalancer"),
            port=whole(1, 65535),
            nodePort=whole(0, 65535),
            loadBalancerSourceRanges=TEXTS,
            annotations=LABELS,
        ),
        ingress=group(enabled=YES_OR_NO, className=TEXT, host=TEXT, annotations=LABELS, tlsSecretName=TEXT),
        networkPolicy=group(
            enabled=YES_OR_NO,
            **{"from": MAPPINGS},
            apiServer=group(ports={"type": "array", "items": whole(1, 65535), "minItems": 1}, cidrs=TEXTS),
            extraEgress=MAPPINGS,
        ),
        serviceAccount=group(create=YES_OR_NO, name=TEXT, annotations=LABELS),
        rbac=group(create=YES_OR_NO),
        podDisruptionBudget=group(enabled=YES_OR_NO),
        serviceMonitor=group(
            enabled=YES_OR_NO, interval=DURATION, labels=LABELS, tokenSecret=group(name=TEXT, key=filled(TEXT))
        ),
        resources=open_group(requests=MAPPING, limits=MAPPING, claims=MAPPINGS),
        priorityClassName=TEXT,
        nodeSelector=LABELS,
        tolerations=MAPPINGS,
        affinity=MAPPING,
        podLabels=LABELS,
        podAnnotations=LABELS,
        runAsUser=whole(1),
        runAsGroup=whole(1),
        extraEnv=MAPPINGS,
        extraVolumes=MAPPINGS,
        extraVolumeMounts=MAPPINGS,
        clusterDomain=filled(TEXT),
    )
    # What Helm itself may pass; and a `config:` with all below it commented out.
    schema["properties"]["global"] = MAPPING
    schema["required"].remove("config")
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the Helm chart of Quad"} | schema


def text(quad):
    return json.dumps(make(quad), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "release" / "bin" / "quad"))
