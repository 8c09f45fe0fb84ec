"""Real NVIDIA GPUs: what is told of them, who sees them, and that one job's memory is free for the next. Skipped without
a driver."""

import json
import subprocess
import unittest
from pathlib import Path

import quadtest

# What a program sees through the driver alone: no framework is needed. With a number, it also takes so much of the first
# GPU's memory, in parts of 256, and holds it.
LOOK = """
import ctypes, json, os, sys, time

cuda = ctypes.CDLL("libcuda.so.1")
code, count, uuids = cuda.cuInit(0), ctypes.c_int(0), []
if code == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
    for number in range(count.value):
        device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
        cuda.cuDeviceGet(ctypes.byref(device), number)
        cuda.cuDeviceGetUuid_v2(uuid, device)
        uuids.append(bytes(uuid).hex())
print(json.dumps({"code": code, "uuids": uuids, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}), flush=True)
if len(sys.argv) > 1:
    context, total, free, memory = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    cuda.cuCtxSetCurrent(context)
    cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    part = total.value // 256 * int(sys.argv[1])
    print("memory", cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(part)), flush=True)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.05)
"""


def real_gpus():
    """[{name, uuid, MiB}] in the order of the bus, by nvidia-smi."""
    asked = ["nvidia-smi", "--query-gpu=name,uuid,memory.total,pci.bus_id", "--format=csv,noheader,nounits"]
    rows = [line.split(", ") for line in subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.splitlines()]
    rows.sort(key=lambda row: row[3])
    return [{"name": row[0], "uuid": row[1].removeprefix("GPU-").replace("-", ""), "mib": int(row[2])} for row in rows]


@unittest.skipUnless(Path("/proc/driver/nvidia/version").exists(), "this machine has no NVIDIA GPU")
class RealGpus(quadtest.TestCase):
    def setUp(self):
        self.gpus = real_gpus()
        self.assertTrue(self.gpus, "nvidia-smi shows none")

    def machine(self, *prefix):
        """A server of this machine as it is."""
        server = self.server(nodes=0, gpus="", start=False)
        server.prefix = list(prefix)
        return server.start()

    @staticmethod
    def node(server):
        (node,) = server.json("node", "list")["nodes"]
        return node

    def look(self, server, *args, gpus=0):
        """A job that looks at its GPUs."""
        script = server.folder / "look.py"
        script.write_text(LOOK)
        task = {"run": " ".join(["exec python3", str(script), *map(str, args)])}
        if gpus:
            task["resources"] = {"accelerators": f"{self.node(server)['gpu_model']}:{gpus}"}
        return server.launch(task)

    @staticmethod
    def seen(server, job):
        server.wait_for_status(job, "SUCCEEDED")
        return json.loads(server.ok("logs", job, "--no-follow").splitlines()[0])

    def test_the_machines_gpus_are_told(self):
        server = self.machine()
        node = self.node(server)
        self.assertIn(node["gpu_model"], self.gpus[0]["name"])
        self.assertEqual(node["gpus"], sum(gpu["name"] == self.gpus[0]["name"] for gpu in self.gpus))
        told = server.ok("check")
        self.assertIn(node["gpu_model"], told)
        self.assertIn("NVML", told)
        self.assertIn(node["gpu_model"], server.ok("gpus", "list"))

    def test_a_job_sees_the_gpus_that_it_asked_for_and_no_others(self):
        server = self.machine()
        with_one, without = self.look(server, gpus=1), self.look(server)
        seen = self.seen(server, with_one)
        self.assertEqual((seen["code"], len(seen["uuids"])), (0, 1), seen)
        self.assertIn(seen["uuids"][0], [gpu["uuid"] for gpu in self.gpus])
        seen = self.seen(server, without)
        self.assertEqual((seen["visible"], seen["uuids"]), ("", []), "a job without GPUs must see none")

    def test_who_asks_for_more_than_there_are_is_refused(self):
        server = self.machine()
        task = {"run": "true", "resources": {"accelerators": f"{self.node(server)['gpu_model']}:{len(self.gpus) + 1}"}}
        path = server.folder / "more.yaml"
        path.write_text(json.dumps(task))
        code, _, err = server.quad("launch", "-d", "-y", path)
        self.assertNotEqual(code, 0)
        self.assertIn(str(len(self.gpus) + 1), err)

    def test_the_next_job_waits_and_then_has_the_whole_memory(self):
        server = self.machine()
        flag = server.folder / "go-on"
        first = self.look(server, 230, flag, gpus=len(self.gpus))
        quadtest.wait_until(lambda: "memory 0" in server.ok("logs", first, "--no-follow"), 60, "the first holds the memory")
        second = self.look(server, 230, flag, gpus=len(self.gpus))
        self.assertIn(self.node(server)["gpu_model"], server.ok("why", second))
        self.assertEqual(server.job(second)["status"], "PENDING")
        server.ok("cancel", "-y", first)
        quadtest.wait_until(lambda: "memory" in server.ok("logs", second, "--no-follow"), 60, "the second has looked")
        self.assertIn("memory 0", server.ok("logs", second, "--no-follow"), "the first job's memory was not free")
        flag.touch()
        server.wait_for_status(second, "SUCCEEDED")

    def test_a_killed_rank_leaves_its_next_attempt_the_whole_memory(self):
        server = self.machine()
        flag = server.folder / "go-on"
        job = self.look(server, 230, flag, gpus=1)
        quadtest.wait_until(lambda: "memory 0" in server.ok("logs", job, "--no-follow"), 60, "the rank holds the memory")
        server.kill_runners()
        quadtest.wait_until(lambda: server.ok("logs", job, "--no-follow").count("memory") == 2, 60, "the next attempt has looked")
        self.assertEqual(server.ok("logs", job, "--no-follow").count("memory 0"), 2, server.describe(job))
        flag.touch()
        server.wait_for_status(job, "SUCCEEDED")

    def test_a_server_offers_what_it_was_given(self):
        for given, offered in {"": 0, "0": 1, f"GPU-{self.gpus[0]['uuid'][:8]}": 1}.items():
            with self.subTest(given=given):
                server = self.machine("env", f"CUDA_VISIBLE_DEVICES={given}")
                self.assertEqual(self.node(server)["gpus"], offered)


if __name__ == "__main__":
    unittest.main()
