import subprocess
import sys

import pytest
import torch

from stlib.training import checkpoints


def test_what_is_written_is_read(tmp_path):
    x = torch.randn(3, 4)
    checkpoints.write(tmp_path / "deep" / "a.safetensors", {"x": x, "view": x.T, "n": torch.tensor(3)}, {"epoch": 2})
    tensors, facts = checkpoints.read(tmp_path / "deep" / "a.safetensors")
    assert (
        torch.equal(tensors["x"], x)
        and torch.equal(tensors["view"], x.T)
        and tensors["n"] == 3
        and facts == {"epoch": 2}
    )


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoints.write(path, {"x": torch.ones(1)}, {"epoch": 1})
    with pytest.raises(TypeError):
        checkpoints.write(path, {"x": torch.zeros(1)}, {"epoch": object()})
    assert checkpoints.read(path)[1] == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_kill_during_the_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoints.write(path, {"x": torch.ones(1)}, {"epoch": 1})
    script = f"""
import os, signal, torch
from stlib.training import checkpoints
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
checkpoints.write({str(path)!r}, {{"x": torch.zeros(1)}}, {{"epoch": 2}})
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert checkpoints.read(path)[1] == {"epoch": 1}


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x10\0\0\0\0\0\0\0{}"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.safetensors is not a checkpoint"):
        checkpoints.read(path)


def test_an_optimizer_round_trip():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    restored = checkpoints.restore_optimizer(*checkpoints.flatten_optimizer(state))
    assert restored["param_groups"] == state["param_groups"]
    for index, entry in state["state"].items():
        for name, value in entry.items():
            assert torch.equal(restored["state"][index][name], value)
