"""Runs an Open MPI program over the nodes of a job, without ssh: `python3 mpi.py [MPIRUN OPTIONS] PROGRAM [ARGS]`.

Start it on every node, as a task's `run` does. The head (node 0) runs mpirun. Where mpirun would start its daemon on
another node through ssh, it is given this script instead, which hands the daemon's command to the mpi.py that waits
there. Nodes connect to MASTER_ADDR:MASTER_PORT, so a node runs only what its own head tells it.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time

AGENT = "QUAD_MPI_AGENT"  # in mpirun's environment: the address where its agents find the head


def read_message(stream):
    line = stream.readline()
    return json.loads(line) if line else None


def send_message(connection, message):
    connection.sendall(json.dumps(message).encode() + b"\n")


def run_agent(host, command):
    """What mpirun starts in place of `ssh HOST COMMAND`: has the node run it, and ends as it ended."""
    with socket.create_connection(("127.0.0.1", int(os.environ[AGENT]))) as head:
        send_message(head, {"host": host, "command": command})
        answer = read_message(head.makefile())
    return answer["code"] if answer else 1


def run_command(command):
    return subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL).returncode


def serve_node(rank, head_address, head_port):
    """On every node but the head: runs the daemon that mpirun wants here."""
    deadline = time.monotonic() + 60
    while True:
        try:
            head = socket.create_connection((head_address, head_port), timeout=5)
            break
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"mpi.py: the head does not answer at {head_address}:{head_port}")
            time.sleep(0.1)
    head.settimeout(None)
    send_message(head, {"rank": rank})
    order = read_message(head.makefile())
    if order is None:
        return 0  # the head has ended without needing this node
    code = run_command(order["command"])
    send_message(head, {"code": code})
    return code


def serve_agent(agent, nodes):
    """Carries one daemon's command from mpirun's agent to its node, and the exit code back."""
    request = read_message(agent.makefile())
    rank = int(request["host"].removeprefix("node-"))
    if rank == 0:
        answer = {"code": run_command(request["command"])}
    else:
        send_message(nodes[rank], {"command": request["command"]})
        answer = read_message(nodes[rank].makefile()) or {"code": 1}
    send_message(agent, answer)


def run_head(size, slots, address, port, arguments):
    nodes = {}
    with socket.create_server((address, port), backlog=size) as server:
        server.settimeout(60)
        while len(nodes) < size - 1:
            connection, _ = server.accept()
            nodes[read_message(connection.makefile())["rank"]] = connection
    agents = socket.create_server(("127.0.0.1", 0), backlog=size)

    def accept_agents():
        while True:
            agent, _ = agents.accept()
            threading.Thread(target=serve_agent, args=(agent, nodes), daemon=True).start()

    threading.Thread(target=accept_agents, daemon=True).start()
    hosts = ",".join(f"node-{rank}:{slots}" for rank in range(size))
    command = ["mpirun", "--host", hosts, "-np", str(size * slots), "--bind-to", "none"]
    command += ["--mca", "plm", "rsh", "--mca", "plm_rsh_agent", shlex.join([sys.executable, os.path.abspath(__file__)])]
    command += ["--mca", "plm_rsh_no_tree_spawn", "1", "--leave-session-attached"]
    if address.startswith("127."):
        # Pretend nodes of one machine meet on its loopback interface. They have one host name, by which Open MPI would
        # name their shared memory alike, so they do without.
        command += ["--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo", "--mca", "btl", "tcp,self"]
    if os.geteuid() == 0:
        command += ["--allow-run-as-root"]
    return subprocess.run(command + arguments, env=os.environ | {AGENT: str(agents.getsockname()[1])}).returncode


def main():
    # Open MPI keeps its files in a folder named by process numbers, which repeat where ranks have their own and share
    # a machine's /tmp, as on pretend nodes.
    os.environ["TMPDIR"] = os.path.expanduser("~/tmp")
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    if AGENT in os.environ:
        return run_agent(sys.argv[1], " ".join(sys.argv[2:]))
    rank, size = int(os.environ["SKYPILOT_NODE_RANK"]), int(os.environ["SKYPILOT_NUM_NODES"])
    slots = max(1, int(os.environ.get("SKYPILOT_NUM_GPUS_PER_NODE") or 0))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank > 0:
        return serve_node(rank, address, port)
    return run_head(size, slots, address, port, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
