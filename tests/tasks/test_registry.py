from __future__ import annotations

import sys

import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DatasetError
from dmlf.tasks import TASKS, NumpyTask, TorchTask, resolve_task

USER_MODULE = """
from dmlf.errors import DatasetError
from dmlf.tasks import NumpyTask

not_a_function = 3

def regression(config):
    return NumpyTask(name=config.task, load=list, initial_parameters=dict, loss_and_gradients=max)

def returns_nothing(config):
    pass

def refuses(config):
    raise DatasetError("mine", "is gone", "look for it")
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Write a module of the user's into the current directory, away from Python's own path."""
    (tmp_path / "my_own_tasks.py").write_text(USER_MODULE)
    (tmp_path / "my_broken_tasks.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "my_unparsable_tasks.py").write_text("def task(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "my_own_tasks"
    sys.modules.pop("my_own_tasks", None)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_shipped_names_resolve_without_their_data(name, tmp_path):
    task = resolve_task(RunConfig(task=name, data_dir=str(tmp_path / "absent")))
    assert isinstance(task, NumpyTask if name == "synthetic" else TorchTask)
    assert task.name == name
    assert not (tmp_path / "absent").exists()


def test_users_own_task_is_found_in_the_current_directory(user_module):
    task = resolve_task(RunConfig(task=f"{user_module}:regression"))
    assert isinstance(task, NumpyTask)
    assert task.name == f"{user_module}:regression"


def test_a_shipped_task_is_reached_by_module_and_function_too():
    assert isinstance(resolve_task(RunConfig(task="dmlf.tasks.digits:digits")), TorchTask)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("digit", "digits, mnist, fashion_mnist, kmnist, synthetic, or module:function"),
        ("..", "module:function"),
        (":", "module:function"),
        ("my_own_tasks:", "module:function"),
        (":regression", "module:function"),
        ("my_absent_tasks:task", "No module named 'my_absent_tasks'"),
        ("my_broken_tasks:task", "No module named 'a_package_that_is_not_there'"),
        ("my_unparsable_tasks:task", "SyntaxError"),
        (".relative:task", "module:function"),
        ("my_own_tasks:absent", "no 'absent'"),
        ("my_own_tasks:not_a_function", "function of module my_own_tasks"),
        ("my_own_tasks:returns_nothing", "it returned NoneType"),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(user_module, task, reason):
    with pytest.raises(ConfigError) as caught:
        resolve_task(RunConfig(task=task))
    assert caught.value.key == "task"
    assert caught.value.value == task
    assert reason in caught.value.allowed
    assert "\n" not in str(caught.value)


def test_an_error_of_the_users_task_passes_through(user_module):
    with pytest.raises(DatasetError):
        resolve_task(RunConfig(task=f"{user_module}:refuses"))
