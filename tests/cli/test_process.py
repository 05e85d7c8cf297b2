"""What only a process of its own shows: what gets imported, pipes, shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        env={**ENVIRONMENT, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("args", ["['inspect', PATH]", "['inspect', PATH, '--json']", "['--help']"])
def test_nothing_heavy_is_imported_to_look_at_headers(s4d, args):
    code = (
        f"import sys; from ssmtool.__main__ import main; PATH = {str(s4d)!r}; code = main({args}); "
        "heavy = {'torch', 'scipy', 'matplotlib', 'sklearn', 'transformers'} & set(sys.modules); "
        "sys.exit(f'{code} {sorted(heavy)}' if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_is_light():
    code = "import sys, ssmtool; sys.exit(1 if {'torch', 'numpy', 'rich', 'typer'} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0


def test_help_imports_neither_numpy_nor_rich():
    code = (
        "import sys; from ssmtool.__main__ import main; main(['--help']); "
        "sys.exit(1 if {'numpy', 'rich', 'pydantic'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0


def test_a_reader_that_leaves_early_is_no_error_of_ours(s4d):
    done = shell(f'"$PYTHON" -m ssmtool inspect {s4d} | true; echo "${{PIPESTATUS[0]}}"')
    assert done.stdout.split()[-1] in ("141", "0")  # 0 if the pipe took it all before `true` ended
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_an_error(s4d):
    done = shell(f'"$PYTHON" -m ssmtool inspect {s4d} > /dev/full')
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_ascii_terminal_gets_question_marks_instead_of_a_traceback(s4d):
    done = shell(f'"$PYTHON" -m ssmtool inspect {s4d}', PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "4?1?1" in done.stdout


def test_piped_output_has_no_colours_and_no_box(s4d):
    done = shell(f'"$PYTHON" -m ssmtool inspect {s4d}', FORCE_COLOR="1", COLUMNS="40")
    assert "\x1b" not in done.stdout
    assert not set("─│━┃") & set(done.stdout)
    assert any(len(line) > 60 and line.startswith("s4_layers.0") for line in done.stdout.splitlines())


def complete(*words: str) -> list[str]:
    line = " ".join(("ssmtool", *words))
    done = shell('"$PYTHON" -m ssmtool', _SSMTOOL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_completion_offers_commands_and_plug_in_names():
    assert complete("com") == ["compress"]
    assert complete("hsv", "model", "--family", "s5") == ["s5", "s5_pytorch"]
    assert complete("compress", "model", "--method", "b") == ["balanced", "band_limited"]
    assert complete("evaluate", "model", "--task", "d") == ["digits"]


def test_completion_script_can_be_shown():
    assert "_SSMTOOL_COMPLETE" in shell('"$PYTHON" -m ssmtool', _SSMTOOL_COMPLETE="source_bash").stdout


def test_a_warning_is_one_line(s4d, tmp_path):
    """Without a C compiler the scans run in PyTorch: said once, without a place in the source."""
    done = shell(
        f'"$PYTHON" -m ssmtool validate {s4d} {s4d} --length 20 --quiet',
        CC="no-such-compiler",
        SSMTOOL_CACHE=str(tmp_path),
    )
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("ssmtool: warning: no C compiler (no-such-compiler of CC cannot be run)")
