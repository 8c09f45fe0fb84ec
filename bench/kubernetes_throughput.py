"""On 100 kwok nodes of 8 GPUs: 800 jobs of one GPU, and gangs of 100 ranks, beside the same pods from `kubectl create`.

kwok's pods have no process; bench/pod_runners.cc speaks for their ranks. Bare pods are counted until they run. Jobs are
counted until they have SUCCEEDED, with every state of theirs durable; gangs until the pods of all ranks run.
"""

import argparse
import statistics
import time

import harness
import kubebench

NODES, JOBS, RANKS = harness.count((100, 800, 100), (4, 16, 4))


def bare(bed, count):
    """Seconds until so many bare pods run."""
    with kubebench.running_pods(bed, "bench%3Dbare") as pods:
        began = time.perf_counter()
        creating = kubebench.create_bare(bed, [kubebench.bare_pod(f"bare-{index:04}") for index in range(count)])
        took = pods.wait_for(count, 300) - began
        assert creating.wait(60) == 0, "kubectl create failed"
    kubebench.remove_bare(bed)
    return took


def jobs(bed, server, round):
    """Seconds until all jobs have SUCCEEDED, and what was asked of the API server meanwhile and after."""
    requests = kubebench.Requests(server)
    began = time.perf_counter()
    kubebench.submit(server, [kubebench.task("one") for _ in range(JOBS)])
    took = kubebench.wait_for_jobs(server, JOBS * round, "SUCCEEDED", 300) - began
    kubebench.wait_until_empty(bed)
    return took, requests.all()


def gang(bed, server, done):
    """Seconds until the pods of all ranks run. Only then somebody speaks for them, so that pods are all that is made.
    `done` jobs have SUCCEEDED after it."""
    with kubebench.running_pods(bed, "quad.io%2Fserver") as pods:
        began = time.perf_counter()
        kubebench.submit(server, [kubebench.task("gang", RANKS)])
        took = pods.wait_for(RANKS, 120) - began
    with kubebench.runners(bed):
        kubebench.wait_for_jobs(server, done, "SUCCEEDED", 120)
        kubebench.wait_until_empty(bed)
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=harness.count(3, 1))
    rounds = parser.parse_args().rounds
    with kubebench.testbed(kwok=NODES, gpus=8, timing="stock") as bed, kubebench.server(bed) as server:
        bare(bed, RANKS)  # everything has been used once
        rates, job_rates, writes, lists = [], [], 0, 0
        with kubebench.runners(bed):
            for round in range(1, rounds + 1):
                rates.append(JOBS / bare(bed, JOBS))
                took, requests = jobs(bed, server, round)
                job_rates.append(JOBS / took)
                writes += sum(verb in kubebench.WRITES for verb, _ in requests)
                lists += sum(verb == "list" for verb, _ in requests)
        floors, gangs = [], []
        for round in range(1, rounds + 1):
            floors.append(bare(bed, RANKS))
            gangs.append(gang(bed, server, JOBS * rounds + round))

    def ratio(ours, theirs):
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))

    harness.report(f"kubernetes: {JOBS} bare pods, kubectl create to Running", harness.median(rates), "pods/s")
    harness.report(f"kubernetes: {JOBS} one-GPU jobs on {NODES} nodes, submit to SUCCEEDED", harness.median(job_rates), "jobs/s")
    harness.report("kubernetes: the rate of jobs over that of bare pods", ratio(job_rates, rates), "", ">= 0.9")
    harness.report("kubernetes: API writes per job", writes / (JOBS * rounds), "", "<= 4")
    harness.report("kubernetes: lists after the start", lists, "", "<= 0")
    harness.report(f"kubernetes: {RANKS} bare pods, kubectl create to Running", harness.median(floors), "s")
    harness.report(f"kubernetes: a gang of {RANKS} ranks, submit to all Running", harness.median(gangs), "s")
    harness.report("kubernetes: the gang's time over that of bare pods", ratio(gangs, floors), "", "<= 1.2")


if __name__ == "__main__":
    main()
