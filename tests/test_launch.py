"""The files in launch/: each is read as its tool would, and says what the program understands."""

import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
CONFIGS = {
    f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__"
}


def is_bash(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_shell_files_are_bash():
    for name in ("local.sh", "slurm.sbatch"):
        assert is_bash((LAUNCH / name).read_text()), name
    assert os.access(LAUNCH / "local.sh", os.X_OK)
    assert not is_bash("if then")


def test_configs_that_are_named_exist():
    for path in LAUNCH.iterdir():
        for name in re.findall(r"configs/[a-z]\w*\.py", path.read_text()):
            assert name in CONFIGS, f"{path.name} names {name}"


def local(*arguments: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [str(LAUNCH / "local.sh"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return sorted(done.stdout.splitlines()) if done.returncode == 0 else [done.stderr]


def test_local_starts_one_process_or_several(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$JAX_PROCESS_ID/$JAX_NUM_PROCESSES $@"\n')
    python.chmod(0o755)
    command = "-m hsd_jax.train --config c --workdir w --config.seed=1"
    arguments = ("c", "w", "--config.seed=1")
    assert local(*arguments, PYTHON=str(python)) == [f"/ {command}"]
    both = local(*arguments, PYTHON=str(python), PROCESSES="2")
    assert both == [f"0/2 {command}", f"1/2 {command}"]
    python.write_text("#!/bin/sh\nexit $JAX_PROCESS_ID\n")
    (said,) = local(*arguments, PYTHON=str(python), PROCESSES="2")
    assert "process 1" in said and "ended with status 1, and with it the run" in said
    python.write_text('#!/bin/sh\n[ "$JAX_PROCESS_ID" = 1 ] && kill -9 $$\nexec sleep 99\n')
    said = local(*arguments, PYTHON=str(python), PROCESSES="2")[-1]
    assert "process 1" in said and "ended by signal KILL" in said
    assert "name the folder of the run" in local("c")[0]


def test_slurm_asks_for_one_process_a_gpu():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and line[0] != "#")
    wanted = dict(
        re.fullmatch(r"#SBATCH --([\w-]+)(?:=(\S+))?", line).groups()  # type: ignore
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])
    assert wanted["ntasks-per-node"] == wanted["gpus-per-node"]
    # To the processes, not to this script ("B:"): they save and end.
    assert re.fullmatch(r"TERM@\d+", wanted["signal"]) and "requeue" in wanted


def test_sky_task():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert set(task) == {
        "name", "resources", "num_nodes", "workdir", "envs", "file_mounts", "setup", "run"
    }  # fmt: skip
    assert task["resources"]["use_spot"] is True
    assert isinstance(task["resources"]["accelerators"], str)
    assert is_bash(task["setup"]) and is_bash(task["run"])
    used = set(re.findall(r"\$\{?([A-Z_]+)", task["run"] + str(task["file_mounts"])))
    given = {name for name in used if name.startswith(("SKYPILOT_", "JAX_"))}
    assert used - given == set(task["envs"])
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        assert f"{name}=" in task["run"]
    schemas = pytest.importorskip("sky.utils.schemas", reason="SkyPilot is not installed")
    import jsonschema  # pyright: ignore[reportMissingModuleSource]

    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())


def test_jobset():
    text = (LAUNCH / "jobset.yaml").read_text()
    jobset = yaml.safe_load(text)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert math.prod(map(int, shape.split("x"))) == chips * job["parallelism"]
    assert container["command"] == ["python", "-m", "hsd_jax.train"]
    flags = [argument.split("=")[0] for argument in container["args"]]
    assert flags == ["--config", "--sweep", "--config.data.dir", "--workdir"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert set(re.findall(r"\$\{(\w+)\}", text)) == {"IMAGE", "CONFIG", "SWEEP", "RUN", "BUCKET"}
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0  # JobSet restarts all
