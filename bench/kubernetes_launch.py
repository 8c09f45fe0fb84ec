"""`quad launch` on a real node, its images there: to the first line of the user's output; and the floor beside it, a bare
pod of the same image from `kubectl create` until the line that it prints is in its log, on the node's own disk (`kubectl
logs` shows it only once the kubelet has taken note of the container, up to a second later).

In turn, so that whatever else the machine does meets both. The difference is what Quad's pod has more: the container that
brings the runner, and the hook that lets the kubelet go on.
"""

import argparse
import time

import harness
import kubebench
import quadtest

IMAGE = "quad.test/bash:1"


def floor(bed, number):
    """Seconds from the start of kubectl to the pod's first line."""
    name = f"bare-{number}"
    pod = kubebench.bare_pod(name, IMAGE, ["bash", "-c", f"echo {name}"], gpus=0, cpu="500m", memory="256Mi")
    began = time.perf_counter()
    creating = kubebench.create_bare(bed, [pod])

    logs = bed.folder / "nodes" / "n1" / "disk" / "var" / "log" / "pods"

    def printed():
        return any(name in log.read_text() for log in logs.glob(f"default_{name}_*/main/*.log"))

    quadtest.wait_until(printed, 60, "the bare pod's line is in its log", every=0.005)
    took = time.perf_counter() - began
    assert creating.wait(30) == 0, "kubectl create failed"
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=harness.count(9, 1))
    rounds = parser.parse_args().rounds
    with kubebench.testbed(nodes=1, gpus=0, timing="stock") as bed, kubebench.server(bed) as server:
        floors, launches = [], []
        for number in range(rounds + 1):  # the first of each is not counted
            floors.append(floor(bed, number))
            kubebench.remove_bare(bed)
            launches.append(harness.launch(server, number, "--cpus", "0.5", "--memory", "0.25")[0])
            kubebench.wait_until_empty(bed)
    floors, launches = floors[1:], launches[1:]
    harness.report("kubernetes: bare pod, kubectl create to its first line, p50", harness.median(floors), "s")
    harness.report("kubernetes: launch to the first line of output, p50", harness.median(launches), "s")
    harness.report("kubernetes: launch, beyond the bare pod", harness.median(launches) - harness.median(floors), "s", "<= 0.5 s")


if __name__ == "__main__":
    main()
