"""The training job for Kubernetes: a JobSet (sigs.k8s.io/jobset) of one indexed job, a pod per node."""

from __future__ import annotations

import wingspan
from wingspan.errors import InputError
from wingspan.launch.cluster import Ranks, dns_name

_JOB_RESTARTS = 100  # of the whole set, after which it is marked failed
_PORT = 29500
_SAVE_S = 300  # between being asked to leave and being killed: a step, and a checkpoint
_RESOURCES = {
    "tpu": "google.com/tpu",
    "mi": "amd.com/gpu",
    "trainium": "aws.amazon.com/neuron",
    "gaudi": "habana.ai/gaudi",
}


def jobset_manifest(ranks: Ranks) -> str:
    """YAML for `kubectl apply`; set the image and the claim of the shared volume to your own."""
    name = dns_name(ranks.name)
    return f"""# Trains {ranks.name} on {ranks.nodes * ranks.per_node} x {ranks.device}.
# Needs the JobSet controller, and a volume claim 'wingspan' with the project folder on storage all nodes share.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
spec:
  failurePolicy:
    maxRestarts: {_JOB_RESTARTS}
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  network:
    enableDNSHostnames: true
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: {ranks.nodes}
          completions: {ranks.nodes}
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [{InputError.exit_code}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: {_SAVE_S}
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              containers:
                - name: train
                  image: wingspan:{wingspan.__version__}
                  workingDir: /project
                  command: [wingspan, launch, node, {ranks.project}]
                  env:
                    - name: MASTER_ADDR
                      value: {name}-workers-0-0.{name}
                    - name: MASTER_PORT
                      value: "{_PORT}"
                    - name: WINGSPAN_LAUNCH
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['jobset.sigs.k8s.io/restart-attempt']
                  ports:
                    - containerPort: {_PORT}
                  resources:
                    limits:
                      {_resource(ranks.device)}: {ranks.per_node}
                  volumeMounts:
                    - name: project
                      mountPath: /project
                    - name: shared-memory
                      mountPath: /dev/shm
              volumes:
                - name: project
                  persistentVolumeClaim:
                    claimName: wingspan
                - name: shared-memory
                  emptyDir:
                    medium: Memory
"""


def _resource(device: str) -> str:
    """The name under which the cluster counts a kind of device."""
    for start, resource in _RESOURCES.items():
        if device.lower().startswith(start):
            return resource
    return "nvidia.com/gpu"
