"""The files of examples/scaling, against stand-ins.

Slurm, Kubernetes and Docker are not run: small scripts in this file stand in for them
and for Python. In the last test, network namespaces stand in for a cluster's nodes, and
the training on them is real.
"""

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "scaling"
SECONDS = 60
FLAGS = ["--flagfile=flags/cifar.cfg", "--data_dir=/a folder/of data", "--peers=a,b"]

# Writes down how it was called, then behaves as OUTCOME says.
PYTHON = f"""#!{sys.executable}
import json, os, pathlib, signal, sys
config = json.loads(os.environ["TF_CONFIG"])
call = {{"config": config, "arguments": sys.argv[1:], "process": os.getpid()}}
note = pathlib.Path(f"call_{{config['task']['index']}}.json")
outcome = os.environ.get("OUTCOME")
if outcome == "end":
    pathlib.Path(sys.argv[-1].removeprefix("--run_dir="), "summary.json").touch()
if outcome == "wait":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
note.with_suffix(".part").write_text(json.dumps(call))
note.with_suffix(".part").rename(note)
if outcome == "wait":
    signal.sigwait([signal.SIGTERM])
    note.with_suffix(".signaled").touch()
sys.exit(1 if outcome == "fail" else 0)
"""

# Runs the command that follows its options on two nodes at the same time.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> srun_options; shift; done
for number in 0 1; do
  SLURM_PROCID=$number ${ON_NODE:+"$ON_NODE"} "$@" &
  processes[number]=$!
done
code=0
for process in "${processes[@]}"; do
  wait "$process" || code=$?
done
echo "${processes[@]}" > srun_processes
exit "$code"
"""

SCONTROL = """#!/bin/bash
case $1,$2 in
  show,hostnames) [[ $3 == "$NODE_LIST" ]] && printf '%s\\n' $NODES ;;
  requeue,*) echo "$2" >> requeued ;;
  *) exit 1 ;;
esac
"""

# With OUTCOME=late, the chief's summary appears while a pod waits for it.
SLEEP = """#!/bin/bash
echo "$1" >> slept
[[ $OUTCOME == late ]] && touch "$RUN_DIR/summary.json"
exit 0
"""

# Runs a command on a node: number 1 is in another network than number 0.
ON_NODE = """#!/bin/bash
((SLURM_PROCID == 0)) && exec "$@"
exec nsenter --net=/proc/"$OTHER_NODE"/ns/net "$@"
"""

# Makes two networks with a cable between them and runs a command in the first.
NETWORKS = """
set -e
ip link set lo up
# The other node's first process speaks when its network is its own. Until then it is in
# this one, and the cable's other end would be given to this one.
coproc NODE { exec unshare --net bash -c 'echo here; read -r'; }
export OTHER_NODE=$NODE_PID
trap 'kill "$OTHER_NODE"' EXIT
read -r <&"${NODE[0]}"
on_the_other() { nsenter --net=/proc/"$OTHER_NODE"/ns/net "$@"; }
ip link add cable0 type veth peer name cable1
ip link set cable1 netns "$OTHER_NODE"
for ((looks = 0; looks < 300; looks++)); do
  on_the_other ip link show cable1 > /dev/null 2>&1 && break
  sleep 0.1
done
ip address add 10.0.0.1/24 dev cable0
ip link set cable0 up
on_the_other ip link set lo up
on_the_other ip address add 10.0.0.2/24 dev cable1
on_the_other ip link set cable1 up
"$@"
"""
IN_NETWORKS = ("unshare", "--net", "--map-root-user", "bash", "-c", NETWORKS, "bash")


@pytest.fixture
def stand_ins(tmp_path):
    """Returns a folder for the PATH, into which a test writes programs by name."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash on the PATH")
    folder = tmp_path / "programs"
    folder.mkdir()
    return folder


def write_programs(folder, **texts):
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def start(command, stand_ins, variables):
    """Starts a command in the folder that takes its notes, with the stand-ins' PATH."""
    environment = {**os.environ, "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("TF_CONFIG", None)
    return subprocess.Popen(
        command,
        cwd=stand_ins.parent,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, which can be killed with all that it has started.
        start_new_session=True,
    )


def finish(process, seconds=SECONDS):
    """Returns the exit code and the text on stderr."""
    try:
        _, stderr = process.communicate(timeout=seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, stderr


def calls(folder):
    """Returns the calls of Python, in the order of the tasks."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("call_?.json"))]


# Slurm.


def submit(stand_ins, run_dir, *flags, job=1234567, outcome="stop"):
    write_programs(stand_ins, python=PYTHON)
    return start_script(
        stand_ins,
        [run_dir, *flags],
        {"SLURM_JOB_ID": str(job), "OUTCOME": outcome, "NODES": "gpu-07 gpu-12"},
    )


def start_script(stand_ins, arguments, variables, before=()):
    """Starts slurm.sh as a job's script, behind the command `before`."""
    write_programs(stand_ins, srun=SRUN, scontrol=SCONTROL)
    allocation = {
        "SLURM_JOB_NODELIST": "gpu-[07,12]",
        "NODE_LIST": "gpu-[07,12]",
        "SLURM_CPUS_PER_TASK": "8",
    }
    command = [*before, "bash", EXAMPLE / "slurm.sh", *arguments]
    return start(list(map(str, command)), stand_ins, allocation | variables)


def test_every_slurm_task_is_one_worker(stand_ins, tmp_path):
    run_dir = tmp_path / "a run"
    ports = []
    for job in (1234567, 1234568):
        assert finish(submit(stand_ins, run_dir, *FLAGS, job=job))[0] == 0
        tasks = calls(tmp_path)
        workers = tasks[0]["config"]["cluster"]["worker"]
        assert [address.split(":")[0] for address in workers] == ["gpu-07", "gpu-12"]
        (port,) = {int(address.split(":")[1]) for address in workers}
        ports.append(port)
        for index, task in zip((0, 1), tasks, strict=True):
            assert task["config"] == {
                "cluster": {"worker": workers},
                "task": {"type": "worker", "index": index},
            }
            expected = ["-m", "afd_tf.train", *FLAGS, f"--run_dir={run_dir}"]
            assert task["arguments"] == expected
    assert ports[0] != ports[1]
    assert all(1024 < port < 32768 for port in ports)
    # The signal goes to the process that srun has started: Python, no shell around it.
    processes = (tmp_path / "srun_processes").read_text().split()
    assert processes == [str(task["process"]) for task in tasks]


@pytest.mark.parametrize(
    ("outcome", "code", "requeued"),
    [("stop", 0, True), ("end", 0, False), ("fail", 1, False)],
)
def test_a_slurm_job_is_requeued_until_there_is_a_summary(
    outcome, code, requeued, stand_ins, tmp_path
):
    result, stderr = finish(submit(stand_ins, tmp_path, outcome=outcome))
    assert result == code, stderr
    assert (tmp_path / "summary.json").exists() == (outcome == "end")
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "1234567\n"


def test_slurm_is_told_what_the_script_relies_on(stand_ins, tmp_path):
    text = (EXAMPLE / "slurm.sh").read_text()
    options = re.findall(r"^#SBATCH (\S+)$", text, re.M)
    # To the tasks: "B:" would send it to the script, which ends by it.
    assert {"--ntasks-per-node=1", "--signal=TERM@120", "--requeue"} <= set(options)
    # Slurm reads no option after the first command.
    assert text.rindex("#SBATCH") < text.index("set -euo pipefail")
    finish(submit(stand_ins, tmp_path))
    given = (tmp_path / "srun_options").read_text().split()
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=8"} <= set(given)


def test_a_slurm_script_without_a_run_directory_says_so(stand_ins):
    code, stderr = finish(start_script(stand_ins, [], {"SLURM_JOB_ID": "1"}))
    assert code != 0
    assert "slurm.sh RUN_DIR [flags]" in stderr


# Kubernetes.


@pytest.fixture(scope="module")
def service_and_job():
    text = (EXAMPLE / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    return service, job


def container(job):
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


def variables(job):
    return {each["name"]: each["value"] for each in container(job)["env"]}


def start_pod(job, stand_ins, index, outcome):
    """Starts the command of a pod's container, with a run directory of its own."""
    write_programs(stand_ins, python=PYTHON, sleep=SLEEP)
    here = {
        "RUN_DIR": str(stand_ins.parent),
        "JOB_COMPLETION_INDEX": str(index),
        "OUTCOME": outcome,
    }
    command = container(job)["command"] + container(job)["args"]
    return start(command, stand_ins, variables(job) | here)


def test_service_and_job_agree(service_and_job):
    service, job = service_and_job
    name, pods = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"job-name": name}
    assert pods["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed"
    workers = int(variables(job)["WORKERS"])
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == workers
    # A podFailurePolicy is for restartPolicy Never.
    assert pods["restartPolicy"] == "OnFailure"
    assert "podFailurePolicy" not in job["spec"]
    (volume,) = pods["volumes"]
    (mount,) = container(job)["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert volume["persistentVolumeClaim"]["claimName"]
    assert variables(job)["RUN_DIR"].startswith(mount["mountPath"] + "/")
    (flagfile,) = [
        flag.removeprefix("--flagfile=")
        for flag in container(job)["args"]
        if flag.startswith("--flagfile=")
    ]
    assert (ROOT / flagfile).exists()
    # Kubernetes would replace both.
    script = container(job)["command"][2]
    assert "$$" not in script
    assert not re.search(r"\$\((?!\()", script)


def test_every_pod_is_one_worker(service_and_job, stand_ins, tmp_path):
    service, job = service_and_job
    for index in (0, 1):
        finish(start_pod(job, stand_ins, index, "stop"))
    (port,) = service["spec"]["ports"]
    names = [
        f"{job['metadata']['name']}-{index}.{service['metadata']['name']}:{port['port']}"
        for index in range(job["spec"]["completions"])
    ]
    flags = container(job)["args"]
    for index, call in zip((0, 1), calls(tmp_path), strict=True):
        assert call["config"] == {
            "cluster": {"worker": names},
            "task": {"type": "worker", "index": index},
        }
        expected = ["-m", "afd_tf.train", *flags, f"--run_dir={tmp_path}"]
        assert call["arguments"] == expected


@pytest.mark.parametrize(
    ("outcome", "succeeds"),
    # Late: the other worker is the chief, and has not written it yet.
    [("end", True), ("late", True), ("stop", False), ("fail", False)],
)
def test_a_pod_succeeds_only_with_a_summary(
    outcome, succeeds, service_and_job, stand_ins, tmp_path
):
    _, job = service_and_job
    code, stderr = finish(start_pod(job, stand_ins, 1, outcome))
    assert (code == 0) == succeeds, stderr
    assert (tmp_path / "slept").exists() == (outcome in ("late", "stop"))
    # Once more, as after a restart.
    (tmp_path / "call_1.json").unlink()
    code, stderr = finish(start_pod(job, stand_ins, 1, outcome))
    assert (code == 0) == succeeds, stderr
    assert (tmp_path / "call_1.json").exists() != succeeds


def test_a_pod_passes_its_signal_on_and_waits(service_and_job, stand_ins, tmp_path):
    _, job = service_and_job
    process = start_pod(job, stand_ins, 0, "wait")
    until = time.monotonic() + SECONDS
    while not calls(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, stderr = finish(process)
    assert (tmp_path / "call_0.signaled").exists()
    assert code not in (0, 128 + signal.SIGTERM), stderr
    # Kubernetes gives it the time to look for the summary, and as much to save.
    slept = sum(map(int, (tmp_path / "slept").read_text().split()))
    pods = job["spec"]["template"]["spec"]
    assert 2 * slept < pods["terminationGracePeriodSeconds"]


# Docker.


def test_the_dockerfile_fits_the_rest(service_and_job):
    lines = (EXAMPLE / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and line[0] != "#"]
    by_name = {name: rest for name, rest in steps}
    copied = [rest.split()[:-1] for name, rest in steps if name == "COPY"]
    copied = [path for paths in copied for path in paths]
    assert copied
    ignore = (EXAMPLE / "Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in ignore if line and line[0] != "#"]
    for path in copied:
        assert (ROOT / path).exists()
        assert sent(path, patterns)
    assert not any(sent(path, patterns) for path in ("runs", ".git", ".venv", "tests"))
    # A list: Docker starts it without a shell.
    assert json.loads(by_name["ENTRYPOINT"]) == ["python", "-m", "afd_tf.train"]
    assert '__name__ == "__main__"' in (ROOT / "afd_tf" / "train.py").read_text()
    (version,) = re.findall(r"python:3\.(\d+)-slim$", by_name["FROM"])
    supported = re.search(
        r"Python 3\.(\d+) to 3\.(\d+)", (ROOT / "requirements.txt").read_text()
    )
    assert int(supported[1]) <= int(version) <= int(supported[2])
    # The user of the image is also the owner of what the pods write.
    _, job = service_and_job
    pods = job["spec"]["template"]["spec"]
    assert by_name["USER"] == str(pods["securityContext"]["fsGroup"])
    assert f"--uid={by_name['USER']} " in (EXAMPLE / "Dockerfile").read_text()
    (mount,) = container(job)["volumeMounts"]
    assert by_name["VOLUME"] == mount["mountPath"]


def sent(path, patterns):
    """Returns whether a path of the root is sent to Docker; the last pattern counts."""
    kept = True
    for pattern in patterns:
        if fnmatch.fnmatch(path, pattern.removeprefix("!")):
            kept = pattern.startswith("!")
    return kept


# A real training.


def require_networks():
    for name in ("unshare", "nsenter", "ip"):
        if not shutil.which(name):
            pytest.skip(f"there is no {name} on the PATH")
    result = subprocess.run([*IN_NETWORKS, "true"], capture_output=True, check=False)
    if result.returncode:
        pytest.skip("this system does not let a user make networks")


def test_the_slurm_script_trains_on_two_nodes(stand_ins, tmp_path):
    """Both listen on the same port, each in a network of its own."""
    require_networks()
    run_dir = tmp_path / "run"
    python = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    write_programs(stand_ins, on_node=ON_NODE, python=python)
    process = start_script(
        stand_ins,
        [
            *(run_dir, "--dataset=digits", "--method=independent", "--peers=resnet8"),
            *("--batch_size=128", "--epochs=1"),
        ],
        {
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": "1234567",
            "NODES": "10.0.0.1 10.0.0.2",
            "ON_NODE": "on_node",
        },
        before=IN_NETWORKS,
    )
    code, stderr = finish(process, seconds=600)
    assert code == 0, stderr[-3000:]
    assert "on 2 replica(s)" in stderr
    assert json.loads((run_dir / "summary.json").read_text())["epochs"] == 1
    assert not (tmp_path / "requeued").exists()
