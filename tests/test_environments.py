"""Any machine: encodings, interpreter flags, signals, folders and packages out of the usual."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

from analyzer.commands import COMMANDS, cli
from analyzer.commands.options import SessionOptions
from analyzer.errors import InputError, NotFoundError
from analyzer.images import _opencv, write_png
from analyzer.runtime import Session, environment, resolve
from tests.models import small_cnn

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    onnx.save(small_cnn(), folder / "m.onnx")
    card = 'labels = ["Kätzchen", "猫", "🐈", "plain"]\n[preprocess]\npreset = "0-1"\nsize = [12, 12]\n'
    (folder / "m.toml").write_text(card, encoding="utf-8")
    (folder / "labels.txt").write_text("Möwe\n鳥\n🐦\nplain\n", encoding="utf-8")
    write_png(folder / "0.png", np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8))
    return folder


def program(place: Path, *asked: str, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """The program in a process of its own, the Python code `before` run first.

    -P, as the program has no folder "" on its path: with it, CPython 3.13 imports nothing in a deleted folder.
    """
    code = (
        f"import sys\nsys.argv = {['onnx-analyzer', *asked]!r}\n{before}\nfrom analyzer.commands import main\nmain()\n"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ONNX_ANALYZER_CACHE": "", **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )


def said(done: subprocess.CompletedProcess) -> str:
    text = done.stderr.decode(errors="replace")
    assert "Traceback" not in text and "Exception ignored" not in text, text
    return text


# ---- Encodings ----


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_every_help_in_encodings_that_lack_its_characters(place, encoding):
    before = (
        "from analyzer.commands import COMMANDS, main\n"
        "for asked in [*([name, '--help'] for name in COMMANDS), ['methods'], ['ops']]:\n"
        "    sys.argv = ['onnx-analyzer', *asked]\n"
        "    try: main()\n"
        "    except SystemExit as stopped: assert not stopped.code, (asked, stopped.code)\n"
    )
    done = program(place, "--version", before=before, PYTHONIOENCODING=encoding)
    said(done)
    assert done.returncode == 0
    assert done.stdout.decode(encoding).count("Usage: onnx-analyzer") == len(COMMANDS)


def test_files_are_utf8_whatever_the_locale(place):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for given, words in ((), "Kätzchen 猫 🐈 plain"), (("--labels", "labels.txt"), "Möwe 鳥 🐦 plain"):
        done = program(place, "explain", "m.onnx", "0.png", "--format", "json", *given, **plain)
        said(done)
        assert {row["label"] for row in json.loads(done.stdout)["results"][0]["top"]} == set(words.split())


def test_every_text_file_is_opened_with_an_encoding():
    """Else what it means depends on the machine."""
    for path in (ROOT / "analyzer").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            text = name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
            text |= name == "open" and len(call.args) < 2 and texts in (["r"], ["w"], ["a"], ["x"])
            text |= name == "open" and not texts and isinstance(call.func, ast.Name)
            named = any(k.arg == "encoding" for k in call.keywords)
            system = any(str(path).endswith(p) for p in ("runtime/pool.py", "runtime/host.py"))  # /proc: ASCII
            assert not text or named or system, f"{path.name}:{call.lineno}"


# ---- The interpreter ----


def test_without_docstrings_everything_is_as_ever(place):
    """PYTHONOPTIMIZE=2 drops docstrings (the formulas, the equations and every help text) and assertions."""
    before = (
        "from analyzer.commands import main\n"
        "for asked in (['methods'], ['ops'], ['--help'], ['explain', '--help']):\n"
        "    sys.argv = ['onnx-analyzer', *asked]\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "sys.argv = ['onnx-analyzer', 'explain', 'm.onnx', '0.png', '-m', 'guided-backprop']\n"
    )
    usual, without = (program(place, before=before, PYTHONOPTIMIZE=level) for level in ("0", "2"))
    assert not said(without) and without.returncode == 0
    assert without.stdout == usual.stdout and b"L = ReLU" in usual.stdout and b"guided-backprop" in usual.stdout


def test_methods_are_there_at_the_first_look():
    code = (
        "import sys, analyzer\n"
        "assert not {'numpy', 'onnx', 'onnxruntime', 'cv2'} & set(sys.modules)\n"
        "assert len(analyzer.METHODS) > 20 and 'grad-cam' in analyzer.METHODS\n"
        "assert not {'onnxruntime', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# ---- Folders ----


def test_no_home_and_no_user_entry(place):
    before = (
        "import os\nfor name in ('HOME', 'USERPROFILE', 'XDG_CACHE_HOME', 'USER', 'LOGNAME', 'ONNX_ANALYZER_CACHE'):\n"
        "    os.environ.pop(name, None)\n"
        "try:\n"
        "    import pwd\n"
        "    def nobody(*_): raise KeyError('uid not found')\n"
        "    pwd.getpwuid = pwd.getpwnam = nobody\n"
        "except ImportError: pass\n"
    )
    for asked in (["explain", "m.onnx", "0.png", "-o", "no-home.png"], ["doctor"]):
        done = program(place, *asked, before=before)
        said(done)
        assert done.returncode == 0


@POSIX
def test_the_working_directory_was_deleted(place, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    before = f"import os\nos.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
    model, picture = str(place / "m.onnx"), str(place / "0.png")
    assert program(place, "explain", model, picture, before=before).returncode == 0
    gone.mkdir()
    done = program(place, "explain", model, picture, "-o", "a.png", before=before)
    assert done.returncode == 2 and "the working directory was deleted" in said(done)


@POSIX
def test_a_pipe_that_is_closed_early(place):
    for asked in ("ops", "ops --format json", "explain m.onnx 0.png --format json", "explain --help"):
        line = f"{sys.executable} {ROOT / 'cli.py'} {asked} | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, check=False)
        said(done)
        assert done.returncode in (0, 141), asked


# ---- Signals ----


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_end_leaves_no_file(place, tmp_path, name):
    """In the middle of an export, after the weights are written beside the model."""
    number = getattr(signal, name)
    before = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and so does what nohup runs
        "import analyzer.graph.save as save\n"
        "save.PROTOBUF_LIMIT = 0\n"
        "def ended(file, proto):\n"
        "    assert list(file.parent.glob('*.data'))\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "save._write = ended\n"
    )
    done = program(place, "export", "m.onnx", "-o", str(tmp_path / "out.onnx"), before=before)
    words = "interrupted" if name == "SIGINT" else "terminated"
    assert (done.returncode, said(done).strip()) == (128 + number, words)
    assert not list(tmp_path.iterdir())


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_something_is_imported(place, name):
    """What is imported makes another error of it; a second signal does not cut the end short."""
    before = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Ends:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        f"            try: os.kill(os.getpid(), signal.{name})\n"
        "            except BaseException as error:\n"
        f"                if {name == 'SIGTERM'}: os.kill(os.getpid(), signal.SIGHUP)\n"
        "                raise RuntimeError('Error calling __set_name__') from error\n"
        "sys.meta_path.insert(0, Ends())\n"
    )
    done = program(place, "explain", "m.onnx", "0.png", before=before)
    expected = (143, "terminated") if name == "SIGTERM" else (130, "interrupted")
    assert (done.returncode, said(done).strip()) == expected


@POSIX
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_from_outside(place, tmp_path, name, code):
    """As a user sends it: to the process that was started, while another one does the work."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(1000):
        os.link(place / "0.png", pictures / f"{number}.png")
    command = [sys.executable, str(ROOT / "cli.py"), "explain", "m.onnx", str(pictures), "-o", str(tmp_path / "out")]
    restore = (  # see above
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{restore}\nimport os, sys\nos.execv(sys.argv[1], sys.argv[1:])", *command],
        cwd=place,
        env={**os.environ, "ONNX_ANALYZER_CACHE": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not any((tmp_path / "out").glob("[0-9]*.png")):
        time.sleep(0.005)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    words = "interrupted" if name == "SIGINT" else "terminated"
    # The first picture may be written an instant before the journal knows of it.
    assert err.decode().strip() in (words, f"{words}; run the same command again to continue")
    left = [p.name for p in (tmp_path / "out").iterdir() if p.suffix not in (".png", ".journal") or p.name[0] == "."]
    assert not left


@POSIX
def test_a_hangup_that_the_parent_ignores_is_ignored(place):
    before = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as `nohup` does
        "def hang_up(event, given):\n"
        "    if event == 'open' and str(given[0]).endswith('0.png'): os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.addaudithook(hang_up)\n"
    )
    assert program(place, "explain", "m.onnx", "0.png", before=before).returncode == 0


# ---- Values ----

AS_TYPED = {
    "python -m analyzer": ("{python} -m analyzer --version", 0, "onnx-analyzer, version"),
    "threads": ("{cli} explain m.onnx 0.png --threads 100000", 0, "plain"),
    "no number": ("{cli} explain m.onnx 0.png --memory-limit nan", 2, "'nan' is not a number above 0"),
    "no finite number": ("{cli} explain m.onnx 0.png --memory-limit=inf", 2, "inf is not a finite number"),
    "no time": ("{cli} explain m.onnx 0.png --time-limit nan", 2, "'nan' is not a number above 0"),
    "gpu": ("{cli} explain m.onnx 0.png -p gpu", 2, "did you mean 'cuda'?"),
    "long name": (f"{{cli}} explain m.onnx 0.png -o {'x' * 300}.png", 2, "File name too long"),
    "no folder to write to": ("{cli} export m.onnx -o /proc/nowhere/out.onnx", 2, "rror: "),
    "no folder for temporary files": ("TMPDIR=/nowhere {cli} compare m.onnx m.onnx -d 0.png -m gradient", 0, "pass"),
    "nohup": ("nohup {cli} methods", 0, "grad-cam"),
    "latin-1": ("PYTHONIOENCODING=latin-1 {cli} methods", 0, "--------"),
    "no environment": ("env -i {cli} explain m.onnx 0.png", 0, "plain"),
}


@POSIX
@pytest.mark.parametrize("name", AS_TYPED)
def test_as_it_is_typed(place, name):
    """In a shell, with all processes that the program is made of."""
    line, code, words = AS_TYPED[name]
    line = line.format(python=sys.executable, cli=f"{sys.executable} {ROOT / 'cli.py'}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ONNX_ANALYZER_CACHE": ""}
    done = subprocess.run(["bash", "-c", line], cwd=place, env=environment, capture_output=True, check=False)
    assert (done.returncode, words in said(done) + done.stdout.decode("latin-1")) == (code, True), done.stderr


def float_options() -> list[tuple[str, click.Option]]:
    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in COMMANDS}
    kinds = click.types.FloatParamType
    return [(n, p) for n, c in commands.items() for p in c.params if isinstance(p.type, kinds)]


def test_numbers_are_finite():
    found = float_options()
    assert {"--memory-limit", "--alpha"} <= {o for _, p in found for o in p.opts}
    for name, parameter in found:
        for value in ("nan", "inf", "-inf"):
            with pytest.raises(click.BadParameter):
                given = (value,) if parameter.multiple else value
                parameter.type_cast_value(click.Context(cli), given)
                raise AssertionError(f"{name} {parameter.opts} takes {value}")


def test_threads_are_bounded_by_the_machine(monkeypatch, tmp_path):
    seen: list[int] = []

    @SessionOptions.command("probe")
    def command(given: SessionOptions) -> None:
        seen.append(given.threads or 0)

    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        monkeypatch.setenv(name, "1")
    command(["--threads", "100000"], standalone_mode=False)
    assert seen == [os.cpu_count()] and os.environ["OMP_NUM_THREADS"] == str(os.cpu_count())


def test_the_threads_that_are_recorded_are_those_that_run():
    cpus = os.cpu_count() or 1
    assert environment("cpu", threads=cpus + 20)["threads"] == str(cpus)
    assert environment("cpu", threads=1)["threads"] == "1"
    assert environment("cpu")["threads"].startswith("as the runtime chooses")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_sessions_have_no_more_threads_than_the_machine():
    before = len(os.listdir("/proc/self/task"))
    session = Session(small_cnn(), threads=before + (os.cpu_count() or 1) + 20)
    assert len(os.listdir("/proc/self/task")) - before <= (os.cpu_count() or 1) + 2
    del session


@pytest.mark.parametrize(("name", "words"), [("gpu", "'cuda'"), ("CUDAExecutionProvider", "'cuda'"), ("x", "choose")])
def test_providers_that_do_not_exist(name, words):
    with pytest.raises(NotFoundError, match=words) as refused:
        resolve(name)
    assert refused.value.exit_code == 2
    with pytest.raises(InputError, match="device index"):
        resolve("cuda:x")


# ---- Systems without POSIX ----


def test_what_only_posix_has_is_not_needed(place):
    """Windows: no fcntl, resource or pwd, no SIGHUP, no scheduler affinity, no C library without a name."""
    before = (
        "import ctypes, os, signal\n"
        "import subprocess, importlib.metadata, tempfile, threading\n"  # Python's own modules as they are here
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        "for name in ('sched_getaffinity', 'getuid', 'geteuid', 'fork'): delattr(os, name)\n"
        "for name in ('SIGHUP', 'SIGPIPE'): delattr(signal, name)\n"
        "class Library(ctypes.CDLL):\n"
        "    def __init__(self, name, *given, **named):\n"
        "        if name is None: raise TypeError('LoadLibrary() argument 1 must be str, not None')\n"
        "        super().__init__(name, *given, **named)\n"
        "ctypes.CDLL = Library\n"
    )
    for asked in (
        ["explain", "m.onnx", "0.png", "-o", "w.png"],
        ["mine", "m.onnx", "0.png", "-l", "r1", "-o", "mined"],
    ):
        done = program(place, *asked, before=before)
        assert done.returncode == 0, said(done)
    from analyzer.runtime.pool import give_back

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctypes.CDLL", lambda *_: (_ for _ in ()).throw(TypeError("LoadLibrary()")))
        give_back()


# ---- Packages ----

# The module as it is left when one of two builds is removed: a folder without files.
EMPTY = """
import importlib.machinery, os, tempfile
folder = tempfile.mkdtemp(); os.mkdir(os.path.join(folder, {module!r}))
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            return importlib.machinery.PathFinder.find_spec(name, [folder])
sys.meta_path.insert(0, Finder())
"""
MISSING_LIBRARY = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError("libxcb.so.1: cannot open shared object file: No such file or directory")
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("module", ["cv2", "onnxruntime"])
def test_a_build_that_took_the_files_of_another(place, module):
    for asked in (["explain", "m.onnx", "0.png"], ["doctor"]):
        done = program(place, *asked, before=EMPTY.format(module=module))
        text = said(done) + done.stdout.decode()
        assert done.returncode == 2
        assert f"package {module} is empty" in text
    assert "pip install --force-reinstall" in text


def test_the_library_says_that_opencv_is_empty(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    _opencv.opencv.cache_clear()
    try:
        with pytest.raises(InputError, match="cv2 is empty"):
            _opencv.opencv()
    finally:
        _opencv.opencv.cache_clear()


def test_doctor_imports_what_it_reports(place):
    done = program(place, "doctor", before=MISSING_LIBRARY)
    said(done)
    assert done.returncode == 2 and b"problem: cv2 cannot be imported: libxcb.so.1" in done.stdout
    done = program(place, "explain", "m.onnx", "0.png", before=MISSING_LIBRARY)
    assert done.returncode == 2 and "opencv-python-headless" in said(done)


@pytest.mark.parametrize(
    ("have", "problem"),
    [
        ({"onnxruntime": "1.31.1"}, ""),  # the plain build in place of the GPU build: nothing to complain of
        ({"onnxruntime-gpu": "1.31.1"}, ""),
        ({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "onnxruntime"),
        ({"opencv-python": "5", "opencv-python-headless": "5"}, "opencv-python"),
    ],
)
def test_two_builds_side_by_side(monkeypatch, have, problem):
    from analyzer.runtime import installed

    monkeypatch.setattr(
        installed, "installed", lambda module: {n: have[n] for n in installed.BUILDS[module] if n in have}
    )
    found = dict(installed.problems())
    assert len(found) == (1 if problem else 0)
    for text, advice in found.items():
        assert all(name in text and name in advice for name in have) and "uninstall" in advice
